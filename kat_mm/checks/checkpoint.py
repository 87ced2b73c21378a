"""Checkpoints that a run starts from, by loading them."""

from torch import nn

from kat_mm.backbones import KAT, convert_for_model, load_pretrained
from kat_mm.backbones.pretrained import is_pretrained, split_init_cfg
from kat_mm.checkpoints.state_dict import check_finite, keep_entries
from kat_mm.errors import UserError
from kat_mm.weights import read_weights


def check_pretrained(model: nn.Module) -> None:
    """Read the pretrained weights that an ``init_cfg`` names, as a run will; load the backbone's.

    Raises:
        UserError: A checkpoint cannot be read, or does not fit; or there is none, and blocks are
            frozen as they start.
    """
    frozen, has_start = None, False
    for name, module in model.named_modules():
        if isinstance(module, KAT):
            starts = split_init_cfg(module.init_cfg)[0]
            has_start |= bool(starts)
            if module.frozen_stages > 0:
                frozen = f'model.{name}'.rstrip('.')
            if module.is_init:  # what builds adapters upon it has read them
                continue
            for cfg in starts:
                options = {key: cfg[key] for key in ('prefix', 'ignore') if key in cfg}
                load_pretrained(module, cfg['checkpoint'], **options)
            continue
        given = getattr(module, 'init_cfg', None) or []
        for cfg in [given] if isinstance(given, dict) else given:
            has_start |= is_pretrained(cfg)
            # Those of mmengine's addresses it fetches itself.
            if is_pretrained(cfg) and '://' not in cfg['checkpoint']:
                read_weights(cfg['checkpoint'])
    if frozen is not None and not has_start:
        raise UserError(
            f'{frozen}.frozen_stages freezes blocks that would start at random. Name what they '
            f'have learned as {frozen}.init_cfg.checkpoint, or as load_from'
        )


def check_checkpoint(path: str, model: nn.Module, strict: bool, resume: bool = False) -> None:
    """Refuse a checkpoint that does not belong to a model, by loading it.

    Args:
        path: The checkpoint: a name, a URL or a file.
        model: The model of the config; gets the weights.
        strict: Whether every weight of the model must be there, as for testing and resuming.
            Otherwise those of the backbone must have its shapes, after the conversion from other
            layouts and sizes, and heads may differ, as for fine-tuning.
        resume: Whether the run goes on from it, with its optimizer. Default: False.

    Raises:
        UserError: The checkpoint cannot be read, does not fit, or is not finite.
    """
    content = read_weights(path)
    lacking = {'meta', 'message_hub', 'optimizer'} - content.keys()
    if resume and lacking:
        raise UserError(
            f'checkpoint {path} has no {", ".join(sorted(lacking))}: it holds weights, but not the '
            'state of a run to resume. To start a new run from its weights, leave out --resume and '
            f'give --cfg-options load_from={path}'
        )
    state = convert_for_model(content, model, path, strict)
    # Buffers may be infinite, as masks are.
    parameters = dict(model.named_parameters())
    check_finite(keep_entries(state, lambda key: key in parameters), path)
    own = model.state_dict()
    if not strict:
        state = keep_entries(state, lambda key: key.startswith('backbone.'))
    reasons = []
    try:
        missing, _ = model.load_state_dict(state, strict=False)
        if strict or not state.keys() & own.keys():
            reasons = [f'it lacks {len(missing)} tensors, such as {missing[0]}'] if missing else []
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:4]]
    renamed = sorted((parameters.keys() & own.keys()) - state.keys())
    if resume and renamed and not reasons:
        raise UserError(
            f'checkpoint {path} has parameters of other names than the model, such as '
            f'{renamed[0]}: their weights can be loaded, but the state of the optimizer is in '
            f'another order. Leave out --resume and give --cfg-options load_from={path}'
        )
    if reasons:
        raise UserError(
            f'checkpoint {path} does not fit the model of the config: {"; ".join(reasons)}. '
            'Use the config that it was trained with'
        )
