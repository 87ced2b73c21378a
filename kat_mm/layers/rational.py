import functools
from dataclasses import replace

import torch
from torch import Tensor, nn

from kat_mm.arguments import (
    MOST_CHANNELS,
    MOST_DEGREE,
    check_bools,
    check_choice,
    check_int,
    check_interval,
    check_pair,
)
from kat_mm.fits import RationalFit, available_fits, get_fit
from kat_mm.ops import group_rational

# Shapes decide in it, which torch.fx cannot see: to it this is one step.
torch.fx.wrap('group_rational')


@functools.cache
def initial_fit(
    name: str, order: tuple[int, int], interval: tuple[float, float] | None = None
) -> RationalFit:
    """A fit of ``name`` of ``order`` = (m, n), on ``interval`` or on that of the packaged fit.

    The packaged fit where it is that; otherwise the function is fitted anew, in a fraction of a
    second. A function that is fitted exactly is exact everywhere, and gets zeros for more degrees.
    """
    fit = get_fit(name)
    missing = order[0] + 1 - len(fit.numerator), order[1] - len(fit.denominator)
    if fit.max_error == 0 and min(missing) >= 0:
        return replace(
            fit,
            numerator=fit.numerator + (0.0,) * missing[0],
            denominator=fit.denominator + (0.0,) * missing[1],
        )
    if order == fit.order and interval in (None, fit.interval):
        return fit
    # Imported here: numpy and scipy are for those who want another fit.
    from kat_mm.fits.fitter import fit_rational

    return fit_rational(name, order, interval or fit.interval)


class GroupRational(nn.Module):
    """Learnable rational activation by channel groups (KAT, section 4.2).

    Parameters have the official KAT's names: ``weight_numerator`` of (num_numerator_groups, m + 1)
    and ``weight_denominator`` of (num_groups, n).

    The packaged fits are finite, forward and backward, up to an input of 65504 in float16, 2e7 in
    bfloat16 and float32, and 2e61 in float64; what is infinite or NaN gives NaN. For the reason,
    and for other coefficients, see :func:`kat_mm.ops.group_rational`.

    Args:
        num_channels: Channels of the input, its last dimension.
        num_groups: Groups of the denominator; must divide ``num_channels``. Default: 8.
        num_numerator_groups: Groups of the numerator; must divide ``num_channels``. Default: 1.
        order: Degrees (m, n) of numerator and denominator. Default: (5, 4).
        act_init: Function that it starts as: a name in ``kat_mm.fits``.
        act_interval: (lo, hi), where it is to be close to that function. Default: the interval of
            the packaged fit.
        channels_first: Input is (B, num_channels, ...), as convolutions have it. Default: False.

    Raises:
        ValueError: The groups do not divide the channels, or ``act_init`` is unknown.
    """

    def __init__(
        self,
        num_channels: int,
        num_groups: int = 8,
        num_numerator_groups: int = 1,
        order: tuple[int, int] = (5, 4),
        act_init: str = 'identity',
        act_interval: tuple[float, float] | None = None,
        channels_first: bool = False,
    ):
        super().__init__()
        check_int('GroupRational', 'num_channels', num_channels, 1, MOST_CHANNELS)
        for name, groups in (
            ('num_groups', num_groups),
            ('num_numerator_groups', num_numerator_groups),
        ):
            check_int('GroupRational', name, groups, least=1)
            if num_channels % groups:
                raise ValueError(
                    f'GroupRational: {name}={groups} does not divide the {num_channels} channels; '
                    f'choose a divisor of {num_channels}, for example 1 or {num_channels}'
                )
        degrees = 'the degrees (m, n) of numerator and denominator, for example (5, 4)'
        check_pair('GroupRational', 'order', order, 0, degrees, MOST_DEGREE)
        check_choice('GroupRational', 'act_init', act_init, available_fits())
        if act_interval is not None:
            check_interval('GroupRational', 'act_interval', act_interval)
        check_bools('GroupRational', channels_first=channels_first)
        self.num_channels = num_channels
        self.act_init = act_init
        self.channels_first = channels_first
        interval = None if act_interval is None else tuple(map(float, act_interval))
        self.fit = initial_fit(act_init, tuple(order), interval)
        self.weight_numerator = nn.Parameter(
            torch.tensor(self.fit.numerator).repeat(num_numerator_groups, 1)
        )
        self.weight_denominator = nn.Parameter(
            torch.tensor(self.fit.denominator).repeat(num_groups, 1)
        )

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(..., num_channels) to the same shape and dtype; ``bias``, (num_channels,), is added."""
        return group_rational(
            x, self.weight_numerator, self.weight_denominator, bias, self.channels_first
        )

    def extra_repr(self) -> str:
        return (
            f'{self.num_channels}, num_groups={len(self.weight_denominator)}, '
            f'num_numerator_groups={len(self.weight_numerator)}, act_init={self.act_init!r}'
            + (', channels_first=True' if self.channels_first else '')
        )
