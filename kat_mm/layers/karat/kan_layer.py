import functools

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.module import _has_any_global_hook
from torch.utils.checkpoint import checkpoint

from kat_mm.arguments import check_choice
from kat_mm.layers.untouched import is_untouched
from kat_mm.ops import fourier_low_rank
from kat_mm.ops.common.dtypes import compute_dtype

from .basis import LinearBasis
from .bspline import BSpline
from .fourier import Fourier
from .rational import Rational
from .wavelet import Wavelet

BASES = {'fourier': Fourier, 'bspline': BSpline, 'wavelet': Wavelet, 'rational': Rational}
BASE_FUNCTIONS = {
    'zero': None,
    'identity': lambda x: x,
    'relu': nn.functional.relu,
    'silu': nn.functional.silu,
    'gelu': nn.functional.gelu,
    'elu': nn.functional.elu,
    'tanh': torch.tanh,
    'sigmoid': torch.sigmoid,
    'softplus': nn.functional.softplus,
}
# Values of all functions that exist at a time: 64 MiB in float32.
_CHUNK = 2**24
_recompute = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


class KANLayer(nn.Module):
    """y_o = sum_i base(x_i) + phi_oi(x_i), with functions of its own for each head.

    With ``scales`` it is c_oi base(x_i) + d_oi phi_oi(x_i), as in pykan, with learnable c and d
    that start at 1. All parameters have (outputs, inputs) as their last dimensions.

    Args:
        num_heads: Heads.
        out_features: Outputs.
        in_features: Inputs.
        gain: Standard deviation of an output at the start. None: amplitudes from N(0, 1).
        basis: 'fourier', 'bspline', 'wavelet' or 'rational', or a dict of that ``type`` with the
            arguments of the class.
        base: Base function: 'zero' (KArAt's), 'identity', 'relu', 'silu', 'gelu', 'elu', 'tanh',
            'sigmoid' or 'softplus'.
        scales: Whether there are c, ``base_scale``, and d, ``basis_scale``. Where base is 'zero', c
            does nothing and is frozen.
        freeze_basis: Whether the parameters of phi, and d, stay as they start.
        freeze_base: Whether c does.
        fused: Whether the values of the functions are made a part at a time, and again in backward.

    Attributes:
        linear: Whether interpolated parameters give interpolated functions.
        output_std: Standard deviation of an output at the start, about, without base function.
    """

    def __init__(
        self,
        num_heads: int,
        out_features: int,
        in_features: int,
        gain: float | None,
        basis: str | dict,
        base: str,
        scales: bool,
        freeze_basis: bool,
        freeze_base: bool,
        fused: bool,
    ):
        super().__init__()
        options = dict(basis) if isinstance(basis, dict) else {'type': basis}
        kind = options.pop('type', None)
        check_choice('KArAt', 'basis', kind, BASES)
        check_choice('KArAt', 'base', base, BASE_FUNCTIONS)
        self.out_features = out_features
        self.fused = fused
        self.basis = BASES[kind](num_heads, out_features, in_features, gain, **options)
        self.basis.requires_grad_(not freeze_basis)
        self.base = BASE_FUNCTIONS[base]
        self.basis_scale = None
        if scales:
            shape = (num_heads, out_features, in_features)
            self.basis_scale = nn.Parameter(torch.ones(shape), requires_grad=not freeze_basis)
            is_trained = self.base is not None and not freeze_base
            self.base_scale = nn.Parameter(torch.ones(shape), requires_grad=is_trained)
        elif self.base is not None:
            # Not a number, so that it is resized as all weights of tokens are.
            ones = torch.ones(1, out_features, in_features)
            self.register_buffer('base_scale', ones, persistent=False)
        self.linear = self.basis.linear and not scales
        self.output_std = self.basis.output_std

    def forward(self, x: Tensor) -> Tensor:
        """(B, heads, Q, inputs) to (B, heads, Q, outputs)."""
        if not self._is_fused():
            scaled = () if self.basis_scale is None else (self._amplitude(),)
            return self._with_base(self.basis(x, *scaled), x)
        # Tensors, and not the module, which may hold others by the time of backward.
        parameters = dict(self.basis.named_parameters())
        parameters[self.basis.amplitude] = self._amplitude()

        def apply_basis(part):
            return functional_call(self.basis, parameters, part)

        row = self.out_features * x[:, :, :1].numel()
        parts = x.split(max(1, _CHUNK // max(1, row)), dim=2)
        y = torch.cat([_recompute(apply_basis, part) for part in parts], dim=2)
        return self._with_base(y, x)

    def of_scores(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """``self(scale * q @ k.mT)``, for q (B, heads, M, d) and k (B, heads, inputs, d)."""
        if not self._is_fused() or not isinstance(self.basis, Fourier):
            return self(scale * q @ k.mT)
        y = fourier_low_rank(q, k, self._amplitude(), scale)
        return y if self.base is None else self._with_base(y, scale * q @ k.mT)

    def combine(self, x: Tensor, values: Tensor) -> Tensor:
        """``self(x) @ values``, for x (B, heads, Q, inputs) and values (B, heads, outputs, d)."""
        if not self._is_fused() or not isinstance(self.basis, LinearBasis):
            return self(x) @ values
        y = self.basis.combine(x, values, self._amplitude())
        if self.base is not None:
            y = y + self._base(x) @ (self.base_scale.mT @ values)
        return y

    def _is_fused(self) -> bool:
        """Whether the basis may be computed in parts, or by an operator, without being called."""
        untouched = is_untouched(self.basis, *BASES.values())
        return self.fused and untouched and not _has_any_global_hook()

    def _amplitude(self) -> Tensor:
        """The parameter in which the functions are linear, times their scales."""
        amplitude = getattr(self.basis, self.basis.amplitude)
        if self.basis_scale is None:
            return amplitude
        is_one = amplitude.dim() == self.basis_scale.dim()
        return amplitude * (self.basis_scale if is_one else self.basis_scale[:, None])

    def _with_base(self, y: Tensor, x: Tensor) -> Tensor:
        return y if self.base is None else y + self._base(x) @ self.base_scale.mT

    def _base(self, x: Tensor) -> Tensor:
        return self.base(x.to(compute_dtype(x.dtype))).to(x.dtype)
