"""Operators of KArAt with parameters of a seed, in float64, and tokens for them."""

import torch

from kat_mm.layers.karat import ScoreOperator

HEADS, RANK, GRID = 2, 5, (2, 3)
KAN = dict(basis='fourier', base='zero', scales=False)
KAN.update(freeze_basis=False, freeze_base=False, fused=True)
# Depth, and which layer is a linear map.
KINDS = {
    'phi1_w2': (2, 'phi1_w2'),
    'w1_phi2': (2, 'w1_phi2'),
    'full': (1, False),
    'phi2_phi1': (2, False),
    'w3_phi2_phi1': (3, 'phi1_w2'),
    'phi3_phi2_w1': (3, 'w1_phi2'),
    'phi3_phi2_phi1': (3, False),
}
SHANNON = dict(basis=dict(type='wavelet', wavelet='shannon'))


def make(kind, grid=GRID, extra=1, project_l1=False, start='scaled', **kan):
    torch.manual_seed(0)
    depth, modular = KINDS[kind]
    kan = {**KAN, **kan}
    return ScoreOperator(HEADS, grid, extra, depth, modular, RANK, project_l1, start, kan).double()


def tokens(count, batch=3, dims=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, batch, HEADS, count, dims, generator=generator, dtype=torch.float64)
