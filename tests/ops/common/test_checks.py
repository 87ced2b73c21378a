import pytest
import torch

from kat_mm.ops.common.checks import (
    check_coefficients,
    check_device,
    check_floating,
    check_maps,
    check_size,
)

MAPS = torch.zeros(1, 2, 3, 4)


def test_sound_tensors_pass():
    check_floating('op', 'x', MAPS)
    check_device('op', 'y', MAPS, 'x', MAPS)
    check_maps('op', 'x', MAPS)
    check_coefficients('op', torch.zeros(5, 8), torch.zeros(1, 6), torch.zeros(4, 4))
    assert check_size('op', [3, 4]) == (3, 4)


@pytest.mark.parametrize(
    ('check', 'error', 'message'),
    [
        (lambda: check_floating('op', 'x', MAPS.int()), TypeError, 'op: x has dtype torch.int32'),
        (
            lambda: check_device('op', 'y', MAPS.to('meta'), 'x', MAPS),
            ValueError,
            'op: y is on meta and x on cpu',
        ),
        (lambda: check_maps('op', 'x', MAPS[0]), ValueError, r'op: x is \(2, 3, 4\)'),
        (lambda: check_maps('op', 'x', MAPS[:, :, :0]), ValueError, r'of x are \(0, 4\)'),
        (lambda: check_size('op', (3, 4, 5)), ValueError, r'op: size are \(3, 4, 5\)'),
        (
            lambda: check_coefficients('op', torch.zeros(8), torch.zeros(3, 6), torch.zeros(4, 4)),
            ValueError,
            'op: 8 channels cannot be divided into the 3 groups of numerator',
        ),
        (
            lambda: check_coefficients('op', torch.zeros(8), torch.zeros(1, 0), torch.zeros(4, 4)),
            ValueError,
            'op: numerator has no coefficients',
        ),
    ],
)
def test_a_message_names_the_operator_and_what_is_wrong(check, error, message):
    with pytest.raises(error, match=message):
        check()
