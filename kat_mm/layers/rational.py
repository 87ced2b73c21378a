import functools
from dataclasses import replace

import torch
from torch import Tensor, nn

from kat_mm.ops import group_rational
from kat_mm.ops.coefficients import RationalFit, fit_rational, get_fit


@functools.cache
def initial_fit(name: str, order: tuple[int, int]) -> RationalFit:
    """The packaged fit of ``name``, brought to ``order`` = (m, n).

    Higher orders get zeros, which is exact; for lower ones the function is fitted anew.
    """
    fit = get_fit(name)
    missing = order[0] + 1 - len(fit.numerator), order[1] - len(fit.denominator)
    if min(missing) < 0:
        return fit_rational(name, order, fit.interval)
    return replace(
        fit,
        numerator=fit.numerator + (0.0,) * missing[0],
        denominator=fit.denominator + (0.0,) * missing[1],
    )


class GroupRational(nn.Module):
    """Learnable rational activation by channel groups (KAT, section 4.2).

    Parameters have the official KAT's names: ``weight_numerator`` of (num_numerator_groups, m + 1)
    and ``weight_denominator`` of (num_groups, n).

    Args:
        num_channels: Channels of the input, its last dimension.
        num_groups: Groups of the denominator; must divide ``num_channels``. Default: 8.
        num_numerator_groups: Groups of the numerator; must divide ``num_channels``. Default: 1.
        order: Degrees (m, n) of numerator and denominator. Default: (5, 4).
        init: Function that it starts as: a name in ``kat_mm.ops.coefficients``.
        channels_first: Input is (B, num_channels, ...), as convolutions have it. Default: False.

    Raises:
        ValueError: The groups do not divide the channels, or ``init`` is unknown.
    """

    def __init__(
        self,
        num_channels: int,
        num_groups: int = 8,
        num_numerator_groups: int = 1,
        order: tuple[int, int] = (5, 4),
        init: str = 'identity',
        channels_first: bool = False,
    ):
        super().__init__()
        for name, groups in (
            ('num_groups', num_groups),
            ('num_numerator_groups', num_numerator_groups),
        ):
            if groups < 1 or num_channels % groups:
                raise ValueError(
                    f'GroupRational: {name}={groups} does not divide the {num_channels} channels; '
                    f'choose a divisor of {num_channels}, for example 1 or {num_channels}'
                )
        self.num_channels = num_channels
        self.init = init
        self.channels_first = channels_first
        self.fit = initial_fit(init, tuple(order))
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
            f'num_numerator_groups={len(self.weight_numerator)}, init={self.init!r}'
            + (', channels_first=True' if self.channels_first else '')
        )
