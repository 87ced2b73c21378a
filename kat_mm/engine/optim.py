from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from kat_mm.layers import GroupRational, LayerScale

_SPARED = (_NormBase, nn.LayerNorm, nn.GroupNorm, LayerScale, GroupRational)
_EMBEDDINGS = ('cls_token', 'reg_token', 'pos_embed', 'rel_pos_h', 'rel_pos_w')
_BIASES = ('bias', 'q_bias', 'v_bias')


class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Parameter groups for transformers: layer-wise learning rates, decay only where it belongs.

    Weight decay spares norms, biases, LayerScale, position embeddings, class and register tokens,
    and the coefficients of rational functions. A parameter at depth d of D gets
    ``lr * layer_decay_rate ** (D - 1 - d)`` (ViTDet's and BEiT's rule): 0 is the patch embedding,
    i + 1 block i, and D - 1 all that comes behind the backbone. Depths come from the
    ``get_layer_depth`` method of the backbone.

    Options in ``paramwise_cfg``:

    - layer_decay_rate (float): Factor per layer; 1 is no decay. Default: 1.
    - bias_decay_mult (float): Factor of weight decay for biases that are not a norm's. Default: 0.
    - layer_decay_from (str): 'heads', the rule above; or 'last_block' (EoMT): the last block has
      the full rate too, and the embeddings have that of block 0. Default: 'heads'.
    - split_backbone (bool): Whether the backbone's groups are its own, with ``in_backbone=True``,
      for :class:`TwoWarmupsPolyLR`. Default: False.
    - custom_keys (dict): As in mmengine: part of a name to ``dict(lr_mult=, decay_mult=)``; the
      longest match counts. ``lr_mult`` multiplies the learning rate of the layer; ``decay_mult``
      replaces the rule above.

    Parameters that share learning rate and weight decay share a group, so that fused and foreach
    optimizers have few to launch.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        # mmengine takes an empty paramwise_cfg for "one group for all".
        defaults = {
            'layer_decay_rate': 1.0,
            'layer_decay_from': 'heads',
            'split_backbone': False,
        }
        super().__init__(optim_wrapper_cfg, {**defaults, **(paramwise_cfg or {})})
        options = (*defaults, 'bias_decay_mult', 'custom_keys')
        unknown = set(self.paramwise_cfg) - set(options)
        if unknown:
            raise ValueError(
                f'LayerDecayOptimWrapperConstructor: paramwise_cfg has the unknown keys '
                f'{", ".join(sorted(unknown))}; it takes {", ".join(options)}'
            )
        if self.paramwise_cfg['layer_decay_from'] not in ('heads', 'last_block'):
            raise ValueError(
                'LayerDecayOptimWrapperConstructor: layer_decay_from='
                f"{self.paramwise_cfg['layer_decay_from']!r} must be 'heads' or 'last_block'"
            )
        if not 0 < self.paramwise_cfg['layer_decay_rate'] <= 1:
            raise ValueError(
                'LayerDecayOptimWrapperConstructor: layer_decay_rate='
                f'{self.paramwise_cfg["layer_decay_rate"]} must lie in (0, 1]'
            )

    def add_params(self, params: list[dict], module: nn.Module, **_) -> None:
        """Append the groups of all trainable parameters of ``module`` to ``params``."""
        custom_keys = self.paramwise_cfg.get('custom_keys', {})
        decay_mults = _decay_mults(module, self.paramwise_cfg.get('bias_decay_mult', 0.0))
        depths = _depths(module)
        split = self.paramwise_cfg['split_backbone']
        groups = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            depth, num_depths = depths.get(name, (0, 1))
            if self.paramwise_cfg['layer_decay_from'] == 'last_block' and num_depths > 1:
                num_depths -= 1
                depth = min(max(depth, 1), num_depths - 1)
            lr_mult = self.paramwise_cfg['layer_decay_rate'] ** (num_depths - 1 - depth)
            decay_mult = decay_mults.get(name, 1.0)
            matches = [key for key in custom_keys if key in name]
            if matches:
                custom = custom_keys[max(matches, key=len)]
                lr_mult *= custom.get('lr_mult', 1.0)
                decay_mult = custom.get('decay_mult', decay_mult)
            in_backbone = split and name.startswith('backbone.')
            key = (lr_mult, decay_mult, in_backbone)
            if key not in groups:
                groups[key] = dict(params=[], param_names=[], lr=self.base_lr * lr_mult)
                if split:
                    groups[key]['in_backbone'] = in_backbone
                if self.base_wd is not None:
                    groups[key]['weight_decay'] = self.base_wd * decay_mult
            groups[key]['params'].append(param)
            groups[key]['param_names'].append(name)
        for group in groups.values():
            print_log(
                f'parameter group: {len(group["params"])} tensors, lr={group["lr"]:.4g}, '
                f'weight_decay={group.get("weight_decay")}',
                logger='current',
            )
        params.extend(groups.values())


def _decay_mults(model: nn.Module, of_biases: float) -> dict[str, float]:
    """Factors of weight decay that are not 1, by the names of parameters."""
    factors = {}
    for prefix, module in model.named_modules():
        whole = isinstance(module, _SPARED)
        for name, _ in module.named_parameters(recurse=False):
            path = f'{prefix}.{name}' if prefix else name
            if whole or name in _EMBEDDINGS:
                factors[path] = 0.0
            elif name in _BIASES:
                factors[path] = of_biases
    return factors


def _depths(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(depth, number of depths) of each parameter, by the first backbone that knows."""
    for prefix, module in model.named_modules():
        # mmpretrain's ImageClassifier has the method too, with other arguments.
        if hasattr(module, 'get_layer_depth') and not hasattr(module, 'backbone'):
            prefix = f'{prefix}.' if prefix else ''
            return {
                name: module.get_layer_depth(name, prefix) for name, _ in model.named_parameters()
            }
    return {}
