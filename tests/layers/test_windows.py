import pytest
import torch
import torch.nn.functional as F

from kat_mm.layers import window_partition, window_unpartition
from kat_mm.layers.windows import window_attention


@pytest.mark.parametrize('grid', [(4, 6), (5, 4), (2, 2), (1, 7)])
def test_windows_are_cut_row_by_row_with_zeros_at_the_right_and_the_bottom(grid):
    height, width = grid
    x = torch.randn(2, height * width, 5)
    windows = []
    for image in x.view(2, height, width, 5):
        for top in range(0, height, 3):
            for left in range(0, width, 3):
                window = torch.zeros(3, 3, 5)
                piece = image[top : top + 3, left : left + 3]
                window[: piece.shape[0], : piece.shape[1]] = piece
                windows.append(window.flatten(0, 1))
    assert torch.equal(window_partition(x, grid, 3), torch.stack(windows))


@pytest.mark.parametrize('grid', [(4, 6), (5, 4), (2, 2), (6, 6)])
def test_merging_is_the_inverse(grid):
    x = torch.randn(2, grid[0] * grid[1], 5)
    assert torch.equal(window_unpartition(window_partition(x, grid, 3), grid, 3), x)


@pytest.mark.parametrize('extra', [0, 1, 5])
def test_extra_tokens_are_in_every_window_and_come_back_once(extra):
    x = torch.randn(2, extra + 35, 3)
    windows = window_partition(x, (5, 7), 3)
    assert windows.shape == (2 * 6, extra + 9, 3)
    assert torch.equal(windows[7, :extra], x[1, :extra])
    assert torch.equal(window_unpartition(windows, (5, 7), 3), x)


@pytest.mark.parametrize('extra', [0, 1, 5])
def test_attention_in_windows_is_that_of_a_mask(extra):
    """A patch sees its window and the extra tokens; an extra token sees all."""
    grid, window = (4, 6), 2
    q, k, v = torch.randn(3, 2, extra + 24, 8, dtype=torch.float64)
    row, column = torch.arange(24) // 6 // window, torch.arange(24) % 6 // window
    mask = torch.ones(extra + 24, extra + 24, dtype=torch.bool)
    mask[extra:, extra:] = (row[:, None] == row) & (column[:, None] == column)
    want = F.scaled_dot_product_attention(*(t[:, None] for t in (q, k, v)), attn_mask=mask)
    cut = [window_partition(t, grid, window)[:, None] for t in (q, k, v)]
    got = window_attention(*cut, grid, window)
    torch.testing.assert_close(window_unpartition(got[:, 0], grid, window), want[:, 0])


def test_extra_tokens_do_not_see_the_padding():
    grid, window = (3, 5), 2
    q, k, v = torch.randn(3, 2, 2 + 15, 8, dtype=torch.float64)
    want = F.scaled_dot_product_attention(q[:, None, :2], k[:, None], v[:, None])
    cut = [window_partition(t, grid, window)[:, None] for t in (q, k, v)]
    got = window_attention(*cut, grid, window)
    torch.testing.assert_close(window_unpartition(got[:, 0], grid, window)[:, :2], want[:, 0])
