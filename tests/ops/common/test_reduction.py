import pytest
import torch

from kat_mm.ops.common import reduction

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
A_GROUPS, B_GROUPS, M, N, SLOTS, CHANNELS = 2, 4, 3, 2, 8, 40


def partial_sums(programs):
    width = CHANNELS + (M + 1 + N) * SLOTS
    return torch.randn(programs, width, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def truth(partial, denominator):
    total = partial.double().sum(dim=0)
    by_slot = total[CHANNELS:].view(M + 1 + N, SLOTS)
    a = by_slot[: M + 1].unflatten(1, (A_GROUPS, -1)).sum(dim=2).T
    b = by_slot[M + 1 :].unflatten(1, (B_GROUPS, -1)).sum(dim=2).T
    # |b| grows where b does, and so does the denominator.
    return total[:CHANNELS], a, b * torch.where(denominator < 0, 1.0, -1.0)


@pytest.mark.parametrize('programs', [1, 7, 300])
@pytest.mark.parametrize('in_two_steps', [False, True])
def test_sums_equal_float64_and_are_the_same_bits(programs, in_two_steps, monkeypatch):
    monkeypatch.setattr(reduction, '_MOST_SUMS', 0 if in_two_steps else 2**17)
    partial = partial_sums(programs)
    a = torch.zeros(A_GROUPS, M + 1, device=DEVICE)
    b = torch.tensor([[-1.0, 0.0], [1.0, -0.0], [2.0, -3.0], [0.5, 0.5]], device=DEVICE)
    got, again = (reduction.finish(partial, CHANNELS, a, b) for _ in range(2))
    for one, other, want in zip(got, again, truth(partial, b), strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one.double(), want, rtol=1e-5, atol=1e-4)


def test_rows_alone_have_no_coefficients():
    partial = partial_sums(9)
    sums, grad_a, grad_b = reduction.finish(partial, partial.shape[1], None, None)
    assert grad_a is None and grad_b is None
    assert torch.equal(sums, reduction.sum_rows(partial))
    torch.testing.assert_close(sums.double(), partial.double().sum(0), rtol=1e-5, atol=1e-4)
