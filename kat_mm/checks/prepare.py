"""What every command line that runs a model does first."""

from collections.abc import Sequence

from mmengine.config import Config
from torch import nn

from kat_mm.checks.checkpoint import check_checkpoint, check_pretrained
from kat_mm.checks.config import check_config
from kat_mm.checks.model import build_model, check_channels, check_initialisers
from kat_mm.checks.work_dir import check_work_dir


def prepare(
    cfg: Config,
    splits: Sequence[str],
    checkpoint: str | None = None,
    strict: bool = True,
    resume: bool = False,
    work_dir: str | None = None,
) -> nn.Module:
    """Check a config, its data, and the weights that its model is to have.

    Args:
        cfg: The config, with all options of the command line merged.
        splits: Whose data is needed, from 'train', 'val' and 'test'.
        checkpoint: What the model is loaded from. Default: nothing; a model that is to be trained
            has its start weights checked instead.
        strict: As of :func:`check_checkpoint`.
        resume: As of :func:`check_checkpoint`.
        work_dir: Folder that the run is to write to. Default: none.

    Returns:
        The model, as the config describes it, with the weights of ``checkpoint``; of one that is
        not ``strict``, those of the backbone.

    Raises:
        UserError: Something is wrong, missing or damaged.
    """
    check_config(cfg, tuple(splits))
    model = build_model(cfg)
    check_channels(model)
    if 'train' in splits:
        check_initialisers(model)
    if checkpoint:
        check_checkpoint(checkpoint, model, strict=strict, resume=resume)
    elif 'train' in splits:
        check_pretrained(model)
    if work_dir is not None:
        check_work_dir(work_dir, model)
    return model
