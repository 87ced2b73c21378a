import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kat_mm.backbones.block import Block
from kat_mm.layers import GRKAN, MLP, SoftmaxAttention


def make_block(ffn=GRKAN, drop_path_rate=0.0):
    torch.manual_seed(0)
    block = Block(16, SoftmaxAttention(16, 2), ffn(16, 32), drop_path_rate)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    return block


@pytest.mark.parametrize('ffn', [GRKAN, MLP])
def test_a_block_is_two_residual_branches_behind_norms(ffn):
    block, x = make_block(ffn).double(), torch.randn(3, 9, 16, dtype=torch.float64)
    first = F.layer_norm(x, (16,), block.norm1.weight, block.norm1.bias, 1e-6)
    want = x + block.attn(first, (3, 3))
    second = F.layer_norm(want, (16,), block.norm2.weight, block.norm2.bias, 1e-6)
    torch.testing.assert_close(block(x, (3, 3)), want + block.mlp(second))


@pytest.mark.parametrize('extra', [0, 1, 5])
def test_any_number_of_tokens_stands_before_the_patches(extra):
    assert make_block()(torch.randn(2, extra + 6, 16), (2, 3)).shape == (2, extra + 6, 16)


def test_a_mask_hides_tokens_from_others():
    """A token that sees itself alone does not know of the others."""
    block, x = make_block(), torch.randn(2, 6, 16)
    mask = torch.ones(6, 6, dtype=torch.bool)
    mask[2] = F.one_hot(torch.tensor(2), 6).bool()
    other = torch.randn(2, 6, 16)
    other[:, 2] = x[:, 2]
    masked, changed = block(x, (2, 3), mask), block(other, (2, 3), mask)
    torch.testing.assert_close(masked[:, 2], changed[:, 2])
    assert not torch.allclose(block(x, (2, 3))[:, 2], block(other, (2, 3))[:, 2])


def test_drop_path_scales_each_branch_of_each_sample():
    block, x = make_block(drop_path_rate=0.5), torch.randn(64, 4, 16)
    torch.manual_seed(1)
    y = block(x, (2, 2))
    torch.manual_seed(1)
    scales = [drop.draw(x)[:, None, None] for drop in (block.drop_path1, block.drop_path2)]
    half = x + scales[0] * block.attn(block.norm1(x), (2, 2))
    torch.testing.assert_close(y, half + scales[1] * block.mlp(block.norm2(half)))


def test_the_place_of_layer_scale_is_behind_each_part():
    class LayerScale(nn.Module):
        def forward(self, x):
            return 0 * x

    block, x = make_block(), torch.randn(2, 4, 16)
    block.ls1 = block.ls2 = LayerScale()
    assert torch.equal(block(x, (2, 2)), x)
