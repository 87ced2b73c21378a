import pytest
import torch

from kat_mm.layers import DropPath


@pytest.mark.parametrize('rate', [0.1, 0.75])
def test_samples_are_left_out_whole_and_the_expectation_is_kept(rate):
    torch.manual_seed(0)
    drop_path, x = DropPath(rate), torch.ones(20_000, 2, 3)
    y = drop_path(x)
    assert torch.equal(y, y[:, :1, :1].expand_as(y))
    assert y.unique().tolist() == [0.0, pytest.approx(1 / (1 - rate))]
    assert y.mean() == pytest.approx(1, abs=0.05)


def test_what_is_drawn_is_what_scales():
    drop_path, x = DropPath(0.5), torch.randn(64, 4)
    torch.manual_seed(0)
    scale = drop_path.draw(x)
    torch.manual_seed(0)
    assert torch.equal(drop_path(x), x * scale[:, None])


def test_nothing_is_drawn_in_evaluation_or_at_a_rate_of_zero():
    x = torch.randn(3, 4)
    state = torch.get_rng_state()
    for drop_path in (DropPath(0.5).eval(), DropPath(0.0)):
        assert drop_path(x) is x and drop_path.draw(x) is None
    assert torch.equal(torch.get_rng_state(), state)


def test_a_half_precision_branch_stays_in_half_precision():
    assert DropPath(0.5)(torch.ones(4, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
