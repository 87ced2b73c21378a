"""What stands in the place of softmax: from a row of N scores to a row of N weights."""

import itertools
import logging
import math

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.module import _has_any_global_hook

from kat_mm.arguments import MOST_LAYERS, check_int
from kat_mm.layers.pos_embed import find_grid
from kat_mm.layers.untouched import is_untouched

from .earlier_files import rename_earlier
from .kan_layer import KANLayer
from .linear_map import LinearMap
from .simplex import project_simplex
from .token_axis import resize_token_axis

_logger = logging.getLogger(__name__)

MODULAR = ('phi1_w2', 'w1_phi2')


class ScoreOperator(nn.Module):
    """A learnable map of the rows of attention scores q k^T / sqrt(d), of its own for each head.

    It is made for the tokens of one grid. On another one its parameters are interpolated along the
    grid, which interpolates the functions if these are linear in the parameters, and is refused if
    they are not. Checkpoints of another grid, or with a class token more, are fitted on loading in
    the same way.

    The linear map starts normal, such that the output has about the variance of the values, or
    with 'w1_phi2' what the functions get about that of the scores.

    Args:
        num_heads: Heads.
        grid_size: (H, W) of the patches in tokens.
        num_extra_tokens: Tokens in front of the patches (class token).
        depth: Number of layers, in ``layers``. Those within have ``rank`` outputs.
        modular: Which layer is a linear map and not a :class:`KANLayer`: with 'phi1_w2' the last,
            with 'w1_phi2' the first, with False none.
        rank: Width r between layers.
        project_l1: False; True: rows of weights are projected onto the probability simplex; or
            'hidden': what the last functions before the linear map put out is.
        start: 'normal': amplitudes of functions from N(0, 1); or 'scaled': such that outputs of
            every layer have about the variance of its inputs, and the weighted values that of the
            values.
        kan_cfg: Arguments of :class:`KANLayer`: basis, base and the rest.

    Raises:
        ValueError: An argument has a value that does not fit; the message says what would.
    """

    def __init__(
        self,
        num_heads: int,
        grid_size: tuple[int, int],
        num_extra_tokens: int,
        depth: int,
        modular: str | bool,
        rank: int,
        project_l1: bool | str,
        start: str,
        kan_cfg: dict,
    ):
        super().__init__()
        self.grid_size = tuple(grid_size)
        self.num_extra_tokens = num_extra_tokens
        self.num_tokens = tokens = num_extra_tokens + math.prod(self.grid_size)
        self.modular = MODULAR[0] if modular is True else modular
        self.project_l1 = project_l1
        check_int('KArAt', 'depth', depth, 1, MOST_LAYERS)
        if self.modular is not False and self.modular not in MODULAR:
            raise ValueError(
                f'KArAt: modular={modular!r} is unknown; choose one of {", ".join(MODULAR)}, or '
                'False for functions in all layers'
            )
        if self.modular and depth == 1:
            raise ValueError(
                f'KArAt: modular={modular!r} needs a depth of 2 or more, since one layer is a '
                'linear map; N x N functions alone are depth=1, modular=False'
            )
        if depth > 1:
            check_int('KArAt', 'rank', rank, 1, tokens)
        if not isinstance(project_l1, bool) and project_l1 != 'hidden':
            raise ValueError(
                f'KArAt: project_l1={project_l1!r} is unknown; choose True, for the weights of a '
                "row, 'hidden', for what the functions before the linear map put out, or False"
            )
        if project_l1 == 'hidden' and self.modular != 'phi1_w2':
            raise ValueError(
                "KArAt: project_l1='hidden' projects what functions put out before the linear map, "
                f"and modular={modular!r} has none there; choose modular='phi1_w2' or "
                'project_l1=True'
            )
        if start not in ('normal', 'scaled'):
            raise ValueError(
                f"KArAt: function_init={start!r} is unknown; choose 'normal' or 'scaled'"
            )
        self.layers = nn.ModuleList()
        widths = [tokens, *[rank] * (depth - 1), tokens]
        linear = {'phi1_w2': depth - 1, 'w1_phi2': 0}.get(self.modular)
        spread = 1.0
        for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            # Of the last layer come N weights for each output.
            gain = tokens**-0.5 if index == depth - 1 else 1.0
            if index == linear:
                std = gain / (spread * inputs**0.5)
                layer = LinearMap(num_heads, outputs, inputs, std)
            else:
                gain = gain if start == 'scaled' else None
                layer = KANLayer(num_heads, outputs, inputs, gain, **kan_cfg)
                spread = layer.output_std
            self.layers.append(layer)
        kan_layers = [layer for layer in self.layers if isinstance(layer, KANLayer)]
        self.kind = type(kan_layers[0].basis).__name__ + ' with scales' * kan_cfg['scales']
        self.linear = kan_layers[0].linear
        self.counts_tokens = kan_layers[0].basis.counts_inputs and linear != 0
        self.register_state_dict_post_hook(_note_tokens)
        self.register_load_state_dict_pre_hook(rename_earlier)
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
        if not self.linear:
            raise ValueError(
                f'KArAt: the operator was made for a grid of {self.grid_size} patches and got one '
                f'of {tuple(grid)}; functions of the basis {self.kind} cannot be interpolated. '
                'Give images (or windows) of the grid that it was made for, or choose the basis '
                'fourier or bspline, without scales'
            )
        tensors = itertools.chain(self.named_parameters(), self.named_buffers())
        resized = {
            name: self._resize(name, tensor, self.grid_size, grid) for name, tensor in tensors
        }
        return functional_call(self, resized, (q, k, v, self.grid_size))

    def _compute(self, q: Tensor, k: Tensor, v: Tensor | None) -> Tensor:
        """``forward`` on tokens that fit the parameters."""
        first, *others = self.layers
        scale = q.shape[-1] ** -0.5
        x = first.of_scores(q, k, scale) if _is_untouched(first) else first(scale * q @ k.mT)
        for layer in others[:-1]:
            x = layer(x)
        if self.project_l1 == 'hidden':
            x = project_simplex(x)
        combines = v is not None and others and self.project_l1 is not True
        if combines and _is_untouched(others[-1]):
            return others[-1].combine(x, v)
        weights = others[-1](x) if others else x
        if self.project_l1 is True:
            weights = project_simplex(weights)
        return weights if v is None else weights @ v

    def _token_dims(self, name: str) -> tuple[int, ...]:
        """Axes that belong to tokens, of a parameter or buffer of some layer."""
        index = int(name.split('.')[1])
        last = len(self.layers) - 1
        return (-2,) * (index == last) + (-1,) * (index == 0)

    def _resize(
        self, name: str, parameter: Tensor, from_grid: tuple[int, int], to_grid: tuple[int, int]
    ) -> Tensor:
        for dim in self._token_dims(name):
            parameter = resize_token_axis(parameter, dim, from_grid, to_grid, self.num_extra_tokens)
        return parameter


def _is_untouched(layer: nn.Module) -> bool:
    """Whether a layer may be computed together with what stands beside it, without being called."""
    return is_untouched(layer, KANLayer, LinearMap) and not _has_any_global_hook()


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
        if dropped > 0 and module.counts_tokens:
            error_msgs.append(
                f'{key} was made for a class token too: functions of the wavelet shannon depend on '
                'the number of tokens, and cannot go without it'
            )
            continue
        if dropped > 0:
            for dim in dims:
                loaded = loaded.narrow(dim, dropped, loaded.shape[dim] - dropped)
            _logger.info('%s: the class token of the checkpoint is left out', key)
        if dropped >= 0 and grid != module.grid_size:
            if not module.linear:
                error_msgs.append(
                    f'{key} was made for a grid of {grid} patches, and is wanted for '
                    f'{module.grid_size}: functions of the basis {module.kind} cannot be '
                    'interpolated'
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
