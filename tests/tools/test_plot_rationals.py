import sys
from pathlib import Path

import cv2
import pytest
import torch

from kat_mm.backbones import KAT

ROOT = Path(__file__).resolve().parents[2]
SMALL = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)


@pytest.fixture
def plot(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import plot_rationals

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['plot_rationals.py', *map(str, args)])
        plot_rationals.run_tool(plot_rationals.main)

    return run


def test_functions_of_a_checkpoint_are_drawn_beside_it(plot, tmp_path):
    model = KAT(SMALL, img_size=32, patch_size=8)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'kat.pth')
    plot(tmp_path / 'kat.pth')
    assert cv2.imread(str(tmp_path / 'kat.png')).std() > 0


def test_a_vit_ends_in_a_message(plot, tmp_path):
    model = KAT(SMALL, img_size=32, patch_size=8, ffn_cfg=dict(type='MLP'))
    torch.save(model.state_dict(), tmp_path / 'vit.pth')
    with pytest.raises(SystemExit, match='error: there are no rational functions to draw'):
        plot(tmp_path / 'vit.pth')
    assert not (tmp_path / 'vit.png').exists()
