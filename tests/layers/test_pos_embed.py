import pytest
import torch
import torch.nn.functional as F

from kat_mm.layers import resize_pos_embed


def embedding(tokens, channels=6):
    return torch.randn(1, tokens, channels, generator=torch.Generator().manual_seed(0))


def test_embedding_of_the_same_grid_is_returned_as_it_is():
    pos_embed = embedding(1 + 3 * 5)
    assert resize_pos_embed(pos_embed, (3, 5), (3, 5), 1) is pos_embed


@pytest.mark.parametrize('extra', [0, 1, 2])
@pytest.mark.parametrize('to_grid', [(6, 10), (2, 3), (5, 3), (1, 1)])
def test_grid_is_interpolated_bicubically_and_extra_tokens_are_kept(extra, to_grid):
    pos_embed = embedding(extra + 3 * 5)
    resized = resize_pos_embed(pos_embed, (3, 5), to_grid, extra)
    assert resized.shape == (1, extra + to_grid[0] * to_grid[1], 6)
    assert torch.equal(resized[:, :extra], pos_embed[:, :extra])
    for channel in range(6):
        plane = pos_embed[0, extra:, channel].reshape(1, 1, 3, 5)
        want = F.interpolate(plane, size=to_grid, mode='bicubic', align_corners=False)
        got = resized[0, extra:, channel].reshape(1, 1, *to_grid)
        torch.testing.assert_close(got, want)


def test_half_precision_is_interpolated_in_float32_and_keeps_its_dtype():
    pos_embed = embedding(9).bfloat16()
    resized = resize_pos_embed(pos_embed, (3, 3), (4, 4), 0)
    want = resize_pos_embed(pos_embed.float(), (3, 3), (4, 4), 0).bfloat16()
    assert resized.dtype == torch.bfloat16 and torch.equal(resized, want)


def test_gradient_reaches_every_token():
    pos_embed = embedding(1 + 16).requires_grad_()
    resize_pos_embed(pos_embed, (4, 4), (7, 5), 1).sum().backward()
    assert (pos_embed.grad != 0).all()
