"""Checkpoints of any known layout for a model that holds a KAT."""

import logging
from pathlib import Path

from torch import nn

from kat_mm.checkpoints import find_state_dict
from kat_mm.checkpoints.convert import MMPRETRAIN_HEAD, convert_backbone, split_model
from kat_mm.checkpoints.layouts import State
from kat_mm.checkpoints.state_dict import add_prefix, keep_entries
from kat_mm.errors import UserError, some

from .kat import KAT
from .pretrained import fit_state, other_shapes, split_init_cfg

_logger = logging.getLogger(__name__)


def drop_start_weights(model: nn.Module) -> None:
    """Have a model read no checkpoint as it is initialised, for another one is loaded into it."""
    for module in model.modules():
        if isinstance(module, KAT):
            module.init_cfg = split_init_cfg(module.init_cfg)[1]


def convert_for_model(
    content: dict, model: nn.Module, path: str | Path, strict: bool = False
) -> State:
    """Convert the content of a checkpoint file to the names of a model that holds a KAT.

    A file of another layout gives the backbone, and its ``head`` where the model is a classifier of
    mmpretrain with as many classes. Of a file of a whole model all is kept but what has other
    shapes outside of the backbone, such as the heads of other class counts: these are left out,
    with a word in the log.

    Args:
        content: As :func:`kat_mm.weights.read_weights` returns it.
        model: The model; one without a KAT gets the state dict as it is.
        path: Where the content comes from, for messages.
        strict: Refuse what has other shapes outside of the backbone too. Default: False.

    Raises:
        UserError: It does not fit.
    """
    state = find_state_dict(content)
    backbones = [name for name, module in model.named_modules() if isinstance(module, KAT)]
    if not backbones:
        return state
    prefix = f'{backbones[0]}.'
    own, module = model.state_dict(), model.get_submodule(backbones[0])
    saved = keep_entries(own, lambda key: key.startswith(prefix))
    if len(saved) < len(module.state_dict()):
        # Of a backbone with adapters, these alone are saved (mmpretrain's LoRAModel).
        absent = sorted(saved.keys() - state.keys())
        if absent:
            raise UserError(
                f'checkpoint {path} lacks what the model saves of its backbone, such as '
                f'{absent[0]}. Use one of a run with the same adapters; what the backbone starts '
                'from is given as its init_cfg'
            )
        rest, state = state, {}
    else:
        backbone, rest = split_model(state, prefix, path)
        backbone = convert_backbone(backbone, path)
        head = keep_entries(backbone, lambda key: key.startswith('head.'))
        backbone, _ = fit_state(backbone, module, path)
        state = add_prefix(backbone, prefix)
        rest.update(add_prefix(head, MMPRETRAIN_HEAD))
    wrong = other_shapes(rest, own)
    if wrong and strict:
        raise UserError(
            f'checkpoint {path} has weights of other shapes than the model of the config: '
            f'{some(wrong.values(), 3, "; ")}. Use the config that it was trained with'
        )
    for shapes in wrong.values():
        _logger.warning('Left out: %s', shapes)
    state.update(keep_entries(rest, lambda key: key not in wrong))
    return state
