from typing import Any

from torch import Tensor, nn

from kat_mm.arguments import (
    MOST_CHANNELS,
    check_bools,
    check_choice,
    check_int,
    check_interval,
    check_number,
    check_rate,
)
from kat_mm.fits import available_fits
from kat_mm.ops import ACTIVATIONS

from .block_spec import BlockSpec
from .init import trunc_normal_, variance_preserving_
from .rational import GroupRational


class GRKAN(nn.Module):
    """Feed-forward of KAT: rational function, linear, rational function, linear.

    act1 -> dropout -> fc1 -> act2 -> dropout -> fc2 (KAT, section 4; names of the official code).

    Args:
        embed_dims: Channels C of the tokens.
        feedforward_channels: Channels between the two linear maps.
        num_groups: Denominator groups of both activations. Default: 8.
        num_numerator_groups: Numerator groups of both activations. Default: 1.
        order: Degrees (m, n) of numerator and denominator. Default: (5, 4).
        act_init: Functions that act1 and act2 start as. Default: ('identity', 'swish').
        act_interval: (lo, hi), where they are to be close to these functions. Default: the
            intervals of the packaged fits.
        bias: Whether the linear maps have biases. Default: True.
        drop_rate: Dropout after each activation. Default: 0.
        init: 'variance_preserving' (KAT, section 4.3) or 'trunc_normal' (std 0.02, from which the
            published models trained). Default: 'variance_preserving'.
    """

    def __init__(
        self,
        embed_dims: int,
        feedforward_channels: int,
        num_groups: int = 8,
        num_numerator_groups: int = 1,
        order: tuple[int, int] = (5, 4),
        act_init: tuple[str, str] = ('identity', 'swish'),
        act_interval: tuple[float, float] | None = None,
        bias: bool = True,
        drop_rate: float = 0.0,
        init: str = 'variance_preserving',
    ):
        super().__init__()
        _check('GRKAN', embed_dims, feedforward_channels, bias, drop_rate)
        check_choice('GRKAN', 'init', init, ('variance_preserving', 'trunc_normal'))
        _check_act_init('GRKAN', act_init, act_interval)
        self.init = init
        form = (num_groups, num_numerator_groups, order)
        self.act1 = GroupRational(embed_dims, *form, act_init[0], act_interval)
        self.drop1 = nn.Dropout(drop_rate)
        self.fc1 = nn.Linear(embed_dims, feedforward_channels, bias=bias)
        self.act2 = GroupRational(feedforward_channels, *form, act_init[1], act_interval)
        self.drop2 = nn.Dropout(drop_rate)
        self.fc2 = nn.Linear(feedforward_channels, embed_dims, bias=bias)

    @classmethod
    def from_spec(cls, spec: BlockSpec, **options) -> 'GRKAN':
        """The feed-forward of a block; see :class:`BlockSpec`."""
        return cls(spec.embed_dims, spec.feedforward_channels, **options)

    def init_weights(self) -> None:
        for act, linear in ((self.act1, self.fc1), (self.act2, self.fc2)):
            if self.init == 'variance_preserving':
                variance_preserving_(linear, act.fit)
            else:
                trunc_normal_(linear)

    def forward(self, x: Tensor) -> Tensor:
        """(..., embed_dims) to the same shape."""
        x = self.act2(self.fc1(self.drop1(self.act1(x))))
        return self.fc2(self.drop2(x))


class GatedGRKAN(nn.Module):
    """Gated feed-forward of KAT: a :class:`SwiGLU` whose gate is a group-rational function.

    act1 -> dropout -> fc1, whose rows are gate and value -> act2(gate) * value -> dropout -> norm
    -> fc2. Weights of a SwiGLU are weights of it.

    Args:
        embed_dims: Channels C of the tokens.
        feedforward_channels: Channels of the gate and of the value.
        num_groups: As of :class:`GRKAN`, and so the next three.
        num_numerator_groups: Default: 1.
        order: Default: (5, 4).
        act_init: Default: ('identity', 'silu').
        act_interval: Default: the intervals of the packaged fits.
        inner_norm: Whether there is a norm before ``fc2`` (EVA-02 B and L). Default: False.
        norm_eps: What it adds to the variance. Default: 1e-6.
        bias: Whether the linear maps have biases. Default: True.
        drop_rate: Dropout after act1 and after the product. Default: 0.
    """

    def __init__(
        self,
        embed_dims: int,
        feedforward_channels: int,
        num_groups: int = 8,
        num_numerator_groups: int = 1,
        order: tuple[int, int] = (5, 4),
        act_init: tuple[str, str] = ('identity', 'silu'),
        act_interval: tuple[float, float] | None = None,
        inner_norm: bool = False,
        norm_eps: float = 1e-6,
        bias: bool = True,
        drop_rate: float = 0.0,
    ):
        super().__init__()
        _check('GatedGRKAN', embed_dims, feedforward_channels, bias, drop_rate)
        check_bools('GatedGRKAN', inner_norm=inner_norm)
        check_number('GatedGRKAN', 'norm_eps', norm_eps, above=0)
        _check_act_init('GatedGRKAN', act_init, act_interval)
        form = (num_groups, num_numerator_groups, order)
        self.act1 = GroupRational(embed_dims, *form, act_init[0], act_interval)
        self.drop1 = nn.Dropout(drop_rate)
        self.fc1 = nn.Linear(embed_dims, 2 * feedforward_channels, bias=bias)
        self.act2 = GroupRational(feedforward_channels, *form, act_init[1], act_interval)
        self.drop2 = nn.Dropout(drop_rate)
        self.norm = (
            nn.LayerNorm(feedforward_channels, eps=norm_eps) if inner_norm else nn.Identity()
        )
        self.fc2 = nn.Linear(feedforward_channels, embed_dims, bias=bias)

    @classmethod
    def from_spec(cls, spec: BlockSpec, **options) -> 'GatedGRKAN':
        """The feed-forward of a block; see :class:`BlockSpec`."""
        options.setdefault('norm_eps', spec.norm_eps)
        return cls(spec.embed_dims, spec.feedforward_channels, **options)

    def init_weights(self) -> None:
        # The value has unit variance, so the product that of act2 alone.
        variance_preserving_(self.fc1, self.act1.fit)
        variance_preserving_(self.fc2, self.act2.fit)

    def forward(self, x: Tensor) -> Tensor:
        """(..., embed_dims) to the same shape."""
        return self.fc2(self.inner(x))

    def inner(self, x: Tensor) -> Tensor:
        """What ``fc2`` maps, (..., feedforward_channels)."""
        gate, value = self.fc1(self.drop1(self.act1(x))).chunk(2, dim=-1)
        return self.norm(self.drop2(self.act2(gate) * value))


def _check_act_init(
    caller: str, act_init: tuple[str, str], act_interval: tuple[float, float] | None
) -> None:
    if not isinstance(act_init, list | tuple) or len(act_init) != 2:
        raise ValueError(
            f'{caller}: act_init={act_init!r} must name two functions, those of act1 and act2, '
            "for example ('identity', 'swish')"
        )
    for index, name in enumerate(act_init):
        check_choice(caller, f'act_init[{index}]', name, available_fits())
    if act_interval is not None:
        check_interval(caller, 'act_interval', act_interval)


class MLP(nn.Module):
    """Feed-forward of the plain ViT: linear, GELU, linear. The twin that KAT is compared with.

    Args:
        embed_dims: Channels C of the tokens.
        feedforward_channels: Channels between the two linear maps.
        act: 'gelu', 'gelu_tanh' (SigLIP), 'quick_gelu' (OpenAI's CLIP) or 'silu'. No checkpoint
            tells which. Default: 'gelu'.
        inner_norm: Whether there is a norm before the second linear map. Default: False.
        norm_eps: What it adds to the variance. Default: 1e-6.
        bias: Whether the linear maps have biases. Default: True.
        drop_rate: Dropout after each linear map. Default: 0.
    """

    _inner_maps = 1

    def __init__(
        self,
        embed_dims: int,
        feedforward_channels: int,
        act: str = 'gelu',
        inner_norm: bool = False,
        norm_eps: float = 1e-6,
        bias: bool = True,
        drop_rate: float = 0.0,
    ):
        super().__init__()
        name = type(self).__name__
        _check(name, embed_dims, feedforward_channels, bias, drop_rate)
        check_bools(name, inner_norm=inner_norm)
        check_number(name, 'norm_eps', norm_eps, above=0)
        self.fc1 = nn.Linear(embed_dims, self._inner_maps * feedforward_channels, bias=bias)
        check_choice(name, 'act', act, ACTIVATIONS)
        self.act = Activation(act)
        self.drop1 = nn.Dropout(drop_rate)
        self.norm = (
            nn.LayerNorm(feedforward_channels, eps=norm_eps) if inner_norm else nn.Identity()
        )
        self.fc2 = nn.Linear(feedforward_channels, embed_dims, bias=bias)
        self.drop2 = nn.Dropout(drop_rate)

    @classmethod
    def from_spec(cls, spec: BlockSpec, **options) -> 'MLP':
        """The feed-forward of a block; see :class:`BlockSpec`."""
        options.setdefault('norm_eps', spec.norm_eps)
        return cls(spec.embed_dims, spec.feedforward_channels, **options)

    def init_weights(self) -> None:
        trunc_normal_(self.fc1)
        trunc_normal_(self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """(..., embed_dims) to the same shape."""
        return self.drop2(self.fc2(self.inner(x)))

    def inner(self, x: Tensor) -> Tensor:
        """What ``fc2`` maps, (..., feedforward_channels)."""
        return self.norm(self.drop1(self.act(self.fc1(x))))


class SwiGLU(MLP):
    """Gated feed-forward, fc2(act(gate) * value), gate and value of one linear map (Shazeer 2020).

    That of DINOv2 g, DINOv3 S+ and H+, and EVA-02. Checkpoints that have gate and value apart are
    joined on loading.

    Args:
        embed_dims: Channels C of the tokens.
        feedforward_channels: Channels of the gate and of the value, in this order in ``fc1``.
        act: Function of the gate, as of :class:`MLP`. Default: 'silu'.
        options: The rest as of :class:`MLP`. ``inner_norm`` is that of EVA-02 B and L; the first
            dropout is behind the product.
    """

    _inner_maps = 2

    def __init__(
        self, embed_dims: int, feedforward_channels: int, act: str = 'silu', **options: Any
    ):
        super().__init__(embed_dims, feedforward_channels, act, **options)

    def inner(self, x: Tensor) -> Tensor:
        """What ``fc2`` maps, (..., feedforward_channels)."""
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.norm(self.drop1(self.act(gate) * value))


class Activation(nn.Module):
    """A function without parameters; see :data:`kat_mm.ops.ACTIVATIONS`."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return ACTIVATIONS[self.kind](x)

    def extra_repr(self) -> str:
        return self.kind


def _check(
    caller: str, embed_dims: int, feedforward_channels: int, bias: bool, drop_rate: float
) -> None:
    check_int(caller, 'embed_dims', embed_dims, 1, MOST_CHANNELS)
    check_int(caller, 'feedforward_channels', feedforward_channels, 1, MOST_CHANNELS)
    check_bools(caller, bias=bias)
    check_rate(caller, 'drop_rate', drop_rate)
