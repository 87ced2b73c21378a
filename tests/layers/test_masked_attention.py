import pytest
import torch
import torch.nn.functional as F

from kat_mm.layers import SoftmaxAttention
from kat_mm.layers.masked_attention import masked_attention


@pytest.mark.parametrize('rows', [2, 5, 9])
@pytest.mark.parametrize('additive', [False, True])
def test_a_mask_of_the_first_rows_leaves_the_others_free(rows, additive):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 9, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.rand(2, 1, rows, 9) < 0.5
    mask[..., 0] = True
    whole = torch.cat([mask, mask.new_ones(2, 1, 9 - rows, 9)], dim=2)
    if additive:
        mask, whole = (torch.where(m, 0.0, -1.0).double() for m in (mask, whole))
    scores = q @ k.mT / 2
    scores = scores + whole if additive else scores.masked_fill(~whole, float('-inf'))
    want, got = scores.softmax(-1) @ v, masked_attention(q, k, v, mask)
    torch.testing.assert_close(got, want)
    gradient = torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad(got, (q, k, v), gradient),
        torch.autograd.grad(want, (q, k, v), gradient),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_one_row_is_that_of_all_tokens_as_in_pytorch():
    q, k, v = torch.randn(3, 1, 2, 5, 4)
    mask = torch.tensor([[True, False, True, False, True]])
    want = F.scaled_dot_product_attention(q, k, v, mask.expand(5, 5))
    torch.testing.assert_close(masked_attention(q, k, v, mask), want)


def test_a_mask_of_more_rows_than_tokens_is_refused():
    attention = SoftmaxAttention(8, 2)
    with pytest.raises(ValueError, match='attn_mask has 7 rows for 6 tokens'):
        attention(torch.randn(1, 6, 8), (2, 3), torch.ones(7, 6, dtype=torch.bool))
