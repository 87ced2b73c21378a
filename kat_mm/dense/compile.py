"""``torch.compile`` of a model's parts.

A whole training step of OpenMMLab cannot be compiled: its losses are made of data samples, lists
and dicts. Its parts can. A part keeps its name, its parameters and its hooks, so checkpoints do not
change.
"""

import copy
import logging
from collections.abc import Callable

import torch
from torch import nn

from .parts import parts_of

_logger = logging.getLogger(__name__)

COMPILED_PARTS = (
    'backbone',
    'neck',
    'rpn_head',
    'roi_head.bbox_head',
    'roi_head.mask_head',
    'decode_head',
    'auxiliary_head',
    'head',
)


def compile_parts(model: nn.Module, training: bool, **options) -> None:
    """Compile the parts of a model, each at its first call.

    What cannot be compiled is computed as before, and the log says so.

    Args:
        model: An OpenMMLab model, not wrapped. Where it names further modules in
            ``compiled_parts``, or methods in ``compiled_methods``, these are compiled too.
        training: Whether training mode is compiled, or evaluation. In the other one the parts are
            computed as before: it would be compiled anew.
        options: Of ``torch.compile``.
    """
    compiled = []
    own = getattr(model, 'compiled_parts', ())
    for name, part in parts_of(model, (*COMPILED_PARTS, *own)):
        part.forward = CompiledForward(part, name, training, options)
        compiled.append(name)
    for name in getattr(model, 'compiled_methods', ()):
        method = CompiledForward(model, name, training, options, getattr(model, name))
        setattr(model, name, method)
        compiled.append(name)
    _logger.info(
        'torch.compile: %s; left as they are: preprocessing, and what makes losses and '
        'predictions of the outputs. The first steps take minutes',
        ', '.join(compiled) or 'none of its parts',
    )


class CompiledForward:
    """The ``forward`` of a module, or another method, compiled where it can be.

    Args:
        part: The module; its present ``forward`` is what is compiled.
        name: Its name in the log.
        training: The mode of the module in which it is compiled.
        options: Of ``torch.compile``.
        method: Another method of the module, in place of its ``forward``.
    """

    def __init__(
        self,
        part: nn.Module,
        name: str,
        training: bool,
        options: dict,
        method: Callable | None = None,
    ):
        self.part, self.name, self.training = part, name, training
        self.plain = method or part.forward
        self.compiled = torch.compile(self.plain, **options)

    def __deepcopy__(self, memo: dict) -> Callable:
        # A copy of the model need not be called (EMA).
        return copy.deepcopy(self.plain, memo)

    def __call__(self, *args, **kwargs):
        if self.compiled is None or self.part.training != self.training:
            return self.plain(*args, **kwargs)
        if torch.is_grad_enabled() != self.training:
            return self.plain(*args, **kwargs)
        try:
            return self.compiled(*args, **kwargs)
        except _compiler_errors() as error:
            reason = ' '.join(str(error).strip().split('\n')[:2])
            _logger.warning(
                'torch.compile: %s cannot be compiled and is left as it is (%s: %s)',
                self.name,
                type(error).__name__,
                reason,
            )
            self.compiled = None
            return self.plain(*args, **kwargs)


def _compiler_errors() -> tuple[type[Exception], ...]:
    from torch._dynamo.exc import TorchDynamoException  # its import takes a second

    return (TorchDynamoException,)
