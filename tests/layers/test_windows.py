import pytest
import torch

from kat_mm.layers import merge_windows, partition_windows


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
    assert torch.equal(partition_windows(x, grid, 3), torch.stack(windows))


@pytest.mark.parametrize('grid', [(4, 6), (5, 4), (2, 2), (6, 6)])
def test_merging_is_the_inverse(grid):
    x = torch.randn(2, grid[0] * grid[1], 5)
    assert torch.equal(merge_windows(partition_windows(x, grid, 3), grid, 3), x)
