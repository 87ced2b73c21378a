import math

import pytest
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed

from kat_mm.layers import find_positions, resize_pos_embed


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


def cubic(t):
    """Keys' kernel with a = -0.75, as of PyTorch and OpenCV."""
    a, t = -0.75, abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def resampling(old, new, factor):
    """(new, old): weights with which positions are read at (i + 0.5) / factor - 0.5."""
    weights = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        place = (i + 0.5) / factor - 0.5
        for j in range(math.floor(place) - 1, math.floor(place) + 3):
            weights[i, min(max(j, 0), old - 1)] += cubic(place - j)
    return weights


@pytest.mark.parametrize('interpolation, offset', [('bicubic', 0.0), ('bicubic_offset', 0.1)])
@pytest.mark.parametrize('to_grid', [(6, 9), (3, 2)])
def test_positions_are_read_where_the_interpolation_says(interpolation, offset, to_grid):
    pos_embed = torch.randn(1, 1 + 4 * 5, 3)
    got = resize_pos_embed(pos_embed, (4, 5), to_grid, 1, interpolation)
    rows, columns = (
        resampling(old, new, (new + offset) / old) for old, new in zip((4, 5), to_grid, strict=True)
    )
    grid = pos_embed[0, 1:].double().view(4, 5, 3)
    want = torch.einsum('ih,jw,hwc->ijc', rows, columns, grid).flatten(0, 1).float()
    torch.testing.assert_close(got[0, 1:], want, rtol=1e-5, atol=1e-5)
    assert torch.equal(got[:, 0], pos_embed[:, 0])


@pytest.mark.parametrize('to_grid', [(6, 9), (3, 2)])
def test_with_antialiasing_it_is_timms(to_grid):
    pos_embed = torch.randn(1, 1 + 4 * 5, 3)
    got = resize_pos_embed(pos_embed, (4, 5), to_grid, 1, 'bicubic_antialias')
    torch.testing.assert_close(got, resample_abs_pos_embed(pos_embed, to_grid, (4, 5)))


def test_what_rows_of_a_position_embedding_belong_to():
    assert find_positions(197, 1) == ((14, 14), 1)
    assert find_positions(196, 1) == ((14, 14), 0)  # DeiT-III
    assert find_positions(197, 0) == ((14, 14), 1)  # ViTDet
    assert find_positions(196, 0) == ((14, 14), 0)
    assert find_positions(17, 1, noted=(2, 8), own=(4, 4)) == ((2, 8), 1)
    assert find_positions(13, 1, own=(3, 4)) == ((3, 4), 1)
    assert find_positions(12, 0) == (None, 0)
