"""Initialisation of linear maps: variance-preserving (KAT) and mimetic (attention)."""

import math

import torch
from torch import Tensor, nn

from kat_mm.fits import RationalFit
from kat_mm.ops import group_rational


def squared_gain(fit: RationalFit) -> float:
    """gain^2 = 1 / E[F(z)^2] for z ~ N(0, 1) (KAT, section 4.3).

    By Gauss-Hermite quadrature in float64: identity 1, swish 2.811, gelu 2.352.
    """
    # Golub and Welsch (1969): nodes and weights from the recurrence of the Hermite polynomials.
    off_diagonal = torch.arange(1, 100, dtype=torch.float64).sqrt()
    nodes, vectors = torch.linalg.eigh(off_diagonal.diag(1) + off_diagonal.diag(-1))
    values = group_rational(
        nodes[:, None],
        torch.tensor([fit.numerator], dtype=torch.float64),
        torch.tensor([fit.denominator], dtype=torch.float64),
    )
    return 1 / (vectors[0].square() @ values[:, 0].square()).item()


@torch.no_grad()
def variance_preserving_(linear: nn.Linear, fit: RationalFit) -> None:
    """Fill the weight behind an activation with N(0, gain^2 / fan_in), and the bias with zero.

    With it the output of ``linear(F(z))`` has unit variance for z ~ N(0, 1) (KAT, section 4.3).
    """
    nn.init.normal_(linear.weight, std=math.sqrt(squared_gain(fit) / linear.in_features))
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


@torch.no_grad()
def trunc_normal_(linear: nn.Linear | nn.Conv2d) -> None:
    """Fill the weight with a normal of std 0.02 cut at 2, as DeiT does, and the bias with zero."""
    nn.init.trunc_normal_(linear.weight, std=0.02)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


@torch.no_grad()
def mimetic_(qkv: nn.Linear, proj: nn.Linear, num_heads: int) -> None:
    """Fill attention weights so that their products look like those of a trained ViT.

    Per head W_q W_k^T ~ 0.7 Z + 0.7 I, and W_v W_proj ~ 0.4 Z - 0.4 I, with the entries of Z
    uniform of variance 1 / C; each product is split by an SVD (Trockman and Kolter, Mimetic
    Initialization of Self-Attention Layers, 2023; the published KAT models use it).

    Args:
        qkv: Linear map C to 3 C, rows q, k, v stacked, each by heads.
        proj: Linear map C to C behind the heads.
        num_heads: Number of heads.
    """
    channels = proj.in_features
    head = channels // num_heads
    q, k, v = qkv.weight.view(3, channels, channels).unbind()
    for rows in range(0, channels, head):
        left, right = _factors(0.7, 0.7, proj.weight, rank=head)
        q[rows : rows + head] = left
        k[rows : rows + head] = right
    left, right = _factors(0.4, -0.4, proj.weight, rank=channels)
    v.copy_(left)
    proj.weight.copy_(right.T)
    for linear in (qkv, proj):
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)


def _factors(noise: float, identity: float, like: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(rank, C) each, L and R, whose L^T R is the best such fit of noise * Z + identity * I.

    The truncated SVD, by the eigenvectors of the Gram matrix, which takes a tenth of the time.
    """
    channels = like.shape[0]
    bound = math.sqrt(3 / channels)  # uniform on [-bound, bound] has variance 1 / C
    product = noise * torch.empty_like(like).uniform_(-bound, bound)
    product.diagonal().add_(identity)
    squares, vectors = torch.linalg.eigh(product.T @ product)
    vectors = vectors[:, -rank:]
    scale = squares[-rank:].clamp(min=1e-12).pow(0.25)  # square root of the singular values
    return (product @ vectors / scale).T, (vectors * scale).T


def init_children(module: nn.Module) -> None:
    """Call ``init_weights`` of the modules below, each of which fills what is below itself."""
    for child in module.children():
        if hasattr(child, 'init_weights'):
            child.init_weights()
        else:
            init_children(child)
