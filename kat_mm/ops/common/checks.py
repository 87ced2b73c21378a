"""What operators refuse. Each check is given the operator's name, for its message."""

from torch import Tensor

from .dtypes import FLOATING


def check_floating(operator: str, name: str, tensor: Tensor) -> None:
    """Raise a TypeError for other dtypes than float16, bfloat16, float32 and float64."""
    if tensor.dtype not in FLOATING:
        raise TypeError(
            f'{operator}: {name} has dtype {tensor.dtype}; '
            'it must be float16, bfloat16, float32 or float64'
        )


def check_device(operator: str, name: str, tensor: Tensor, first_name: str, first: Tensor) -> None:
    """Raise a ValueError unless a tensor lies where the first argument does."""
    if tensor.device != first.device:
        raise ValueError(
            f'{operator}: {name} is on {tensor.device} and {first_name} on {first.device}; '
            'move them to one device'
        )


def check_maps(operator: str, name: str, x: Tensor) -> None:
    """Raise for what are no maps (B, C, h, w)."""
    check_floating(operator, name, x)
    if x.dim() != 4:
        raise ValueError(f'{operator}: {name} is {tuple(x.shape)}; it must be (B, C, h, w)')
    check_size(operator, x.shape[2:], f'the last two dimensions of {name}')


def check_size(operator: str, size, name: str = 'size') -> tuple[int, int]:
    """``size`` as a tuple; raises where it is not two sides of 1 to 16384 pixels."""
    size = tuple(size)
    # Positions are fractions with numerators up to twice the product of two sides, in 32 bits.
    if len(size) != 2 or any(not 1 <= side <= 16384 for side in size):
        raise ValueError(f'{operator}: {name} are {size}; it takes two numbers of 1 to 16384')
    return size


def check_coefficients(operator: str, x: Tensor, numerator: Tensor, denominator: Tensor) -> None:
    """Raise where the coefficients of a rational function do not fit x of (..., C)."""
    check_floating(operator, 'x', x)
    for name, tensor in (('numerator', numerator), ('denominator', denominator)):
        check_floating(operator, name, tensor)
        check_device(operator, name, tensor, 'x', x)
        if tensor.dim() != 2:
            raise ValueError(
                f'{operator}: {name} has shape {tuple(tensor.shape)}; '
                'it must have two dimensions, (groups, coefficients)'
            )
        channels, groups = x.shape[-1], tensor.shape[0]
        if groups == 0 or channels % groups:
            raise ValueError(
                f'{operator}: {channels} channels cannot be divided into the {groups} groups '
                f'of {name}; the number of groups must divide the number of channels'
            )
    if numerator.shape[1] == 0:
        raise ValueError(f'{operator}: numerator has no coefficients; it needs at least a0')
