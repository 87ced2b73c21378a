"""Checkpoints of the definitions that kat_mm had before those of KArAt's authors.

Their parameters have other names, ``phi`` and ``weight`` in the place of numbered ``layers``, by
which they are known. What computes the same today is renamed; the rest is refused.
"""

import logging

import torch
from torch import nn

from kat_mm.errors import UserError

from .rational import Rational
from .wavelet import Wavelet

_logger = logging.getLogger(__name__)
_ADVICE = 'train again, or use the version of kat_mm that wrote the file'


def rename_earlier(operator: nn.Module, state_dict: dict, prefix: str, *_) -> None:
    """Give an operator's parameters in an earlier file the names that they have now.

    Raises:
        UserError: With today's definitions the parameters would compute something else.
    """
    earlier = [
        key for key in state_dict if key == f'{prefix}weight' or key.startswith(f'{prefix}phi.')
    ]
    if not earlier:
        return
    names = {key: key.removeprefix(prefix) for key in earlier}
    has_map = 'weight' in names.values()
    if len(operator.layers) != 1 + has_map or bool(operator.modular) != has_map:
        raise _refusal(
            prefix,
            'has another number of layers',
            "give depth=2 and modular='phi1_w2' or 'w1_phi2', or depth=1 and modular=False, as it "
            'was trained',
        )
    functions = 1 if operator.modular == 'w1_phi2' else 0
    layer = operator.layers[functions]
    _check_meaning(operator.project_l1, layer, 'phi.base_weight' in names.values(), prefix)
    for key, name in names.items():
        value = state_dict.pop(key)
        if name == 'weight':
            name = f'layers.{1 - functions}.weight'
        elif name == 'phi.base_weight':
            name = f'layers.{functions}.base_scale'
        else:
            name = name.replace('phi.', f'layers.{functions}.', 1)
            if name.endswith('.weight') and layer.basis.wavelet == 'mexican_hat':
                value = -value  # it had the other sign
        state_dict[prefix + name] = value
    if layer.basis_scale is not None:
        name = f'{prefix}layers.{functions}.'
        like = getattr(layer.basis, layer.basis.amplitude)
        amplitude = state_dict[f'{name}basis.{layer.basis.amplitude}']
        scales = torch.ones_like(amplitude[:, 0] if like.dim() == 4 else amplitude)
        state_dict[f'{name}basis_scale'] = scales
        state_dict.setdefault(f'{name}base_scale', scales.clone())
    _logger.info('%s: names of an earlier version', prefix.rstrip('.'))


def _check_meaning(project_l1: bool | str, layer: nn.Module, has_base: bool, prefix: str) -> None:
    if project_l1:
        raise _refusal(
            prefix, 'knows a projection onto the l1 ball alone, and not onto the simplex'
        )
    if isinstance(layer.basis, Rational):
        raise _refusal(prefix, 'has rational functions with another denominator')
    if isinstance(layer.basis, Wavelet) and layer.basis.wavelet in ('meyer', 'shannon'):
        raise _refusal(prefix, f'has another wavelet {layer.basis.wavelet}')
    if has_base and layer.basis_scale is None:
        raise _refusal(prefix, 'has learned weights of its base function', 'give scales=True')
    if layer.base is not None and not has_base:
        raise _refusal(prefix, 'has no base function', "give base='zero'")


def _refusal(prefix: str, what: str, advice: str = _ADVICE) -> UserError:
    return UserError(
        f'KArAt: the checkpoint is of an earlier version of kat_mm, and {prefix.rstrip(".")} in it '
        f'{what}; {advice}'
    )
