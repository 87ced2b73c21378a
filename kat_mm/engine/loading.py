"""How mmengine reads and loads checkpoints, for models that hold a KAT.

All that OpenMMLab's libraries load into a model (their ``init_model``, ``init_detector``,
``get_model``, inferencers and runners) goes through two places of mmengine: a loader that it picks
by the beginning of what is given, and one function that puts a state dict into a model. To the
loaders names and formats are added that it does not know, and a look at for whom they read; that
function converts for a model that holds a KAT, and for every other one is as it was.
"""

import functools
import re

from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from kat_mm.backbones import KAT, convert_for_model
from kat_mm.checkpoints import find_state_dict, guard_readers
from kat_mm.weights import PUBLISHED, read_weights


def unwrap(model: nn.Module) -> nn.Module:
    """The model in wrappers of several processes and of test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def load_from_kat_mm(filename: str, map_location=None) -> dict:
    """A loader of mmengine: what :func:`kat_mm.weights.read_weights` reads, on the CPU.

    With the ``meta`` that mmseg asks for.
    """
    content = read_weights(filename)
    return content if 'meta' in content else dict(state_dict=find_state_dict(content), meta={})


def extend_mmengine() -> None:
    """Have mmengine read published weights and safetensors, and convert what a KAT is to load."""
    # Others' addresses may be read for others' models.
    addresses = [PUBLISHED[name].url for name in PUBLISHED if name.startswith('kat_')]
    # It matches them in reverse order: these before its own for http and for files.
    CheckpointLoader.register_scheme(
        [
            *(f'{re.escape(given)}$' for given in (*PUBLISHED, *addresses)),
            r'https?://.*\.(safetensors|npz)(\?|$)',
            r'.*\.(safetensors|npz)$',
        ],
        load_from_kat_mm,
        force=True,
    )
    CheckpointLoader.load_checkpoint = _guarded(CheckpointLoader.load_checkpoint)
    checkpoint.load_state_dict = _converting(checkpoint.load_state_dict)


def _guarded(load_checkpoint):
    """With an eye on code in files, also before there is a model: inferencers read first."""

    @functools.wraps(load_checkpoint)
    def load(*args, **kwargs):
        guard_readers()
        return load_checkpoint(*args, **kwargs)

    return load


def _converting(load_state_dict):
    @functools.wraps(load_state_dict)
    def load(module, state_dict, strict=False, logger=None):
        model = unwrap(module)
        if any(isinstance(part, KAT) for part in model.modules()):
            state_dict = convert_for_model(state_dict, model, 'that is given')
        return load_state_dict(module, state_dict, strict, logger)

    return load
