"""What stands in the place of softmax: from a row of N scores to a row of N weights."""

import logging
import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kat_mm.layers.pos_embed import find_grid
from kat_mm.ops import low_rank_attend

from .kan_layer import KANLayer
from .token_axis import resize_token_axis

_logger = logging.getLogger(__name__)


class ScoreOperator(nn.Module, ABC):
    """A learnable map of the rows of attention scores q k^T / sqrt(d), of its own for each head.

    It is made for the tokens of one grid. On another one its parameters are interpolated along the
    grid, which interpolates the functions if these are linear in the parameters, and is refused if
    they are not. Checkpoints of another grid, or with a class token more, are fitted on loading in
    the same way.

    All parameters start normal, so that the output has about the variance of the values.

    Args:
        num_heads: Heads.
        grid_size: (H, W) of the patches in tokens.
        num_extra_tokens: Tokens in front of the patches (class token).
        rank: Width r of the hidden layer, where there is one.
        kan_cfg: Arguments of :class:`KANLayer`: basis, base and the rest.
    """

    # Axes that belong to tokens, of the parameters of the functions and of the linear map.
    phi_token_dims: tuple[int, ...]
    weight_token_dims: tuple[int, ...] = ()
    phi: KANLayer

    def __init__(
        self,
        num_heads: int,
        grid_size: tuple[int, int],
        num_extra_tokens: int,
        rank: int,
        kan_cfg: dict,
    ):
        super().__init__()
        self.grid_size = tuple(grid_size)
        self.num_extra_tokens = num_extra_tokens
        self.num_tokens = num_extra_tokens + math.prod(self.grid_size)
        self._make(num_heads, self.num_tokens, rank, kan_cfg)
        self.register_state_dict_post_hook(_note_tokens)
        self.register_load_state_dict_pre_hook(_fit_loaded_tokens)

    def forward(self, q: Tensor, k: Tensor, v: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """Weights times values.

        Args:
            q: Queries (B, heads, N, d).
            k: Keys (B, heads, N, d).
            v: Values (B, heads, N, d), or None for the weights themselves.
            grid: (H, W) of the patches among the N tokens.

        Returns:
            (B, heads, N, d), or the weights (B, heads, N, N).

        Raises:
            ValueError: The operator was made for another grid and cannot be interpolated.
        """
        if tuple(grid) == self.grid_size:
            return self._compute(q, k, v)
        if not self.phi.basis.linear:
            raise ValueError(
                f'KArAt: the operator was made for a grid of {self.grid_size} patches and got one '
                f'of {tuple(grid)}; functions of the basis {type(self.phi.basis).__name__} cannot '
                'be interpolated. Give images (or windows) of the grid that it was made for, or '
                'choose the basis fourier or bspline'
            )
        parameters = {
            name: self._resize(name, parameter, self.grid_size, grid)
            for name, parameter in self.named_parameters()
        }
        return functional_call(self, parameters, (q, k, v, self.grid_size))

    @abstractmethod
    def _make(self, num_heads: int, tokens: int, rank: int, kan_cfg: dict) -> None:
        """Make the parameters."""

    @abstractmethod
    def _compute(self, q: Tensor, k: Tensor, v: Tensor | None) -> Tensor:
        """``forward`` on tokens that fit the parameters."""

    def _token_dims(self, name: str) -> tuple[int, ...]:
        return self.phi_token_dims if name.startswith('phi.') else self.weight_token_dims

    def _resize(
        self, name: str, parameter: Tensor, from_grid: tuple[int, int], to_grid: tuple[int, int]
    ) -> Tensor:
        for dim in self._token_dims(name):
            parameter = resize_token_axis(parameter, dim, from_grid, to_grid, self.num_extra_tokens)
        return parameter


class FullOperator(ScoreOperator):
    """N x N functions: weight_i = sum_j phi_ij(s_j). For small N."""

    phi_token_dims = (-2, -1)

    def _make(self, num_heads: int, tokens: int, rank: int, kan_cfg: dict) -> None:
        self.phi = KANLayer(num_heads, tokens, tokens, gain=tokens**-0.5, **kan_cfg)

    def _compute(self, q: Tensor, k: Tensor, v: Tensor | None) -> Tensor:
        weights = self.phi.of_scores(q, k, q.shape[-1] ** -0.5)
        return weights if v is None else weights @ v


class Phi1W2(ScoreOperator):
    """Functions first: a KAN layer from N to r, then a linear map from r to N (KArAt's own)."""

    phi_token_dims = (-1,)
    weight_token_dims = (-2,)

    def _make(self, num_heads: int, tokens: int, rank: int, kan_cfg: dict) -> None:
        self.phi = KANLayer(num_heads, rank, tokens, gain=1.0, **kan_cfg)
        self.weight = nn.Parameter(torch.randn(num_heads, tokens, rank) / (tokens * rank) ** 0.5)

    def _compute(self, q: Tensor, k: Tensor, v: Tensor | None) -> Tensor:
        hidden = self.phi.of_scores(q, k, q.shape[-1] ** -0.5)
        if v is None:
            return hidden @ self.weight.mT
        return low_rank_attend(hidden, self.weight, v)


class W1Phi2(ScoreOperator):
    """The linear map first: from N to r, then a KAN layer from r to N."""

    phi_token_dims = (-2,)
    weight_token_dims = (-1,)

    def _make(self, num_heads: int, tokens: int, rank: int, kan_cfg: dict) -> None:
        self.weight = nn.Parameter(torch.randn(num_heads, rank, tokens) / tokens**0.5)
        self.phi = KANLayer(num_heads, tokens, rank, gain=tokens**-0.5, **kan_cfg)

    def _compute(self, q: Tensor, k: Tensor, v: Tensor | None) -> Tensor:
        # d x r instead of N x N: the scores are never made.
        hidden = q.shape[-1] ** -0.5 * q @ (self.weight @ k).mT
        return self.phi(hidden) if v is None else self.phi.combine(hidden, v)


OPERATORS = {'phi1_w2': Phi1W2, 'w1_phi2': W1Phi2, 'full': FullOperator}


def _note_tokens(
    module: ScoreOperator, state_dict: dict, prefix: str, local_metadata: dict
) -> None:
    local_metadata['grid_size'] = module.grid_size
    local_metadata['num_extra_tokens'] = module.num_extra_tokens


def _fit_loaded_tokens(
    module: ScoreOperator, state_dict: dict, prefix: str, local_metadata: dict, *rest
) -> None:
    """Fit loaded parameters to the module's tokens; what does not fit is refused for its shape."""
    error_msgs = rest[-1]
    for name, own in module.named_parameters():
        key, dims = prefix + name, module._token_dims(name)
        loaded = state_dict.get(key)
        if not dims or loaded is None or loaded.shape == own.shape or loaded.dim() != own.dim():
            continue
        tokens = _loaded_tokens(loaded.shape[dims[0]], local_metadata)
        if tokens is None:
            continue
        grid, extra = tokens
        dropped = extra - module.num_extra_tokens
        if dropped > 0:
            for dim in dims:
                loaded = loaded.narrow(dim, dropped, loaded.shape[dim] - dropped)
            _logger.info('%s: the class token of the checkpoint is left out', key)
        if dropped >= 0 and grid != module.grid_size:
            if not module.phi.basis.linear:
                error_msgs.append(
                    f'{key} was made for a grid of {grid} patches, and is wanted for '
                    f'{module.grid_size}: functions of the basis '
                    f'{type(module.phi.basis).__name__} cannot be interpolated'
                )
                continue
            loaded = module._resize(name, loaded, grid, module.grid_size)
            _logger.info('%s: resized from %s to %s', key, grid, module.grid_size)
        state_dict[key] = loaded


def _loaded_tokens(count: int, metadata: dict) -> tuple[tuple[int, int], int] | None:
    """Grid and extra tokens of a checkpoint; without metadata a square, with a class token or not.

    None where the count is of neither.
    """
    noted = metadata.get('grid_size')
    for extra in (0, 1) if noted is None else (metadata['num_extra_tokens'],):
        grid = find_grid(count - extra, noted)
        if grid is not None:
            return grid, extra
    return None
