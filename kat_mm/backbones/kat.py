import logging
import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from kat_mm.arguments import check_bools, check_int, check_rate
from kat_mm.checkpoints import guard_files_of
from kat_mm.layers import BlockSpec, PatchEmbed, find_grid, resize_pos_embed
from kat_mm.layers.init import init_children

from .archs import resolve_arch
from .fused import FusedBlock, run_blocks
from .parts import build_part
from .pretrained import load_pretrained, split_init_cfg

_logger = logging.getLogger(__name__)

# Sizes decide in it, which torch.fx cannot see: to it this is one step.
torch.fx.wrap('resize_pos_embed')

OUT_TYPES = ('featmap', 'cls_token', 'avg_featmap')


class KAT(nn.Module):
    """Kolmogorov-Arnold Transformer (Yang and Wang, ICLR 2025), and the plain ViT of its shape.

    One class for classification, detection and segmentation. Parameter names are those of the
    official code. Blocks behind the last of ``out_indices`` are not built.

    Args:
        arch: 'tiny', 'small', 'base', 'large', or a dict with the keys ``embed_dims``,
            ``num_layers``, ``num_heads`` and ``feedforward_channels``. Default: 'tiny'.
        img_size: Input size in pixels, one number or (H, W), which fixes the grid of the position
            embedding. Input of any other size works too: the embedding is resized to it.
            Default: 224.
        patch_size: Side of a patch in pixels. Input is padded with zeros at the right and the
            bottom to a multiple of it. Default: 16.
        in_channels: Channels of the image. Default: 3.
        out_indices: Blocks whose output is returned; negative numbers count from the end.
            Default: -1, the last.
        out_type: What is returned for each: 'featmap' (B, C, H / patch, W / patch), 'cls_token'
            (B, C), or 'avg_featmap' (B, C), the mean over the patch tokens. Default: 'cls_token'.
        with_cls_token: Whether a class token takes part in attention. Default: True.
        final_norm: Whether the output of the last block of the arch is normalised. Default: True.
        drop_rate: Dropout after the position embedding. Default: 0.
        drop_path_rate: Stochastic depth; rises linearly from 0 to this over the blocks. Default: 0.
        ffn_cfg: Feed-forward of the blocks. ``dict(type='GRKAN', ...)``, ``dict(type='MLP')``,
            which makes the model a plain ViT, or one of your own; see
            :class:`kat_mm.layers.BlockSpec`. Default: ``dict(type='GRKAN')``.
        attn_cfg: Attention of the blocks. ``dict(type='SoftmaxAttention', ...)``,
            ``dict(type='KArAt', ...)``, or one of your own. Default:
            ``dict(type='SoftmaxAttention')``.
        window_size: Side in tokens of the windows in which the blocks attend (ViTDet); 0 is
            attention over the whole grid. Needs ``with_cls_token=False``. Default: 0.
        global_attn_indices: Blocks that attend over the whole grid although there are windows.
            Default: ().
        use_rel_pos: Whether the attention has decomposed relative positions, of the size of the
            window or, in a global block, of ``img_size``. Needs ``with_cls_token=False``.
            Default: False.
        with_cp: Recompute each block in the backward pass to save memory. Default: False.
        frozen_stages: -1: nothing is frozen; 0: the patch and position embedding and the class
            token; n: these and the first n blocks. Default: -1.
        init_cfg: Initialisation, for example ``dict(type='Pretrained', checkpoint='kat_s_in1k')``:
            the name of a published model, a URL, a file, or None for from scratch; with
            ``prefix='backbone.'`` for where the backbone is in a file that has more. Of other types
            mmengine has the initialisers.
        pretrained: None; what a config that is built upon another backbone's left here is refused.

    Raises:
        ValueError: An argument has a value that does not fit; the message says what would.
    """

    def __init__(
        self,
        arch: str | dict = 'tiny',
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = -1,
        out_type: str = 'cls_token',
        with_cls_token: bool = True,
        final_norm: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        ffn_cfg: dict | None = None,
        attn_cfg: dict | None = None,
        window_size: int = 0,
        global_attn_indices: Sequence[int] = (),
        use_rel_pos: bool = False,
        with_cp: bool = False,
        frozen_stages: int = -1,
        init_cfg: dict | None = None,
        pretrained: None = None,
    ):
        super().__init__()
        guard_files_of(KAT)
        if pretrained is not None:  # mmseg gives it a model's
            raise ValueError(
                f'KAT: pretrained={pretrained!r} is what the config of another backbone starts '
                "from. Set pretrained=None in the model, and give KAT's own start as "
                "backbone.init_cfg=dict(type='Pretrained', checkpoint=...)"
            )
        arch = resolve_arch(arch)
        self.embed_dims = arch['embed_dims']
        self.depth = arch['num_layers']  # of the arch; num_layers are built
        self.out_indices = _resolve_out_indices(out_indices, self.depth)
        self.num_layers = max(self.out_indices) + 1
        self.out_type = out_type
        self.with_cp = with_cp
        self.frozen_stages = frozen_stages
        self.init_cfg = init_cfg
        self.is_init = False  # what mmengine asks before it calls init_weights
        check_bools(
            'KAT',
            with_cls_token=with_cls_token,
            final_norm=final_norm,
            use_rel_pos=use_rel_pos,
            with_cp=with_cp,
        )
        check_rate('KAT', 'drop_rate', drop_rate)
        _check_init_cfg(init_cfg)
        self.patch_embed = PatchEmbed(in_channels, self.embed_dims, patch_size)
        self.grid_size = _resolve_grid(img_size, patch_size)
        self._check_choices(
            with_cls_token, drop_path_rate, window_size, use_rel_pos, global_attn_indices
        )
        self.num_extra_tokens = int(with_cls_token)
        if with_cls_token:
            self.cls_token = nn.Parameter(_embedding(1, self.embed_dims))
        num_tokens = self.num_extra_tokens + math.prod(self.grid_size)
        self.pos_embed = nn.Parameter(_embedding(num_tokens, self.embed_dims))
        self.drop_after_pos = nn.Dropout(drop_rate)
        self.blocks = nn.ModuleList()
        # The rule is that of the whole depth, also where the last blocks are not built.
        rates = torch.linspace(0, drop_path_rate, self.depth, device='cpu').tolist()
        for index in range(self.num_layers):
            spec = BlockSpec(
                embed_dims=self.embed_dims,
                num_heads=arch['num_heads'],
                feedforward_channels=arch['feedforward_channels'],
                grid_size=self.grid_size,
                num_extra_tokens=self.num_extra_tokens,
                window_size=0 if index in global_attn_indices else window_size,
                use_rel_pos=use_rel_pos,
            )
            attn = build_part('attn_cfg', _given(attn_cfg, 'SoftmaxAttention'), spec)
            mlp = build_part('ffn_cfg', _given(ffn_cfg, 'GRKAN'), spec)
            self.blocks.append(FusedBlock(self.embed_dims, attn, mlp, rates[index]))
        share_parts(self.blocks)
        has_norm = final_norm and self.num_layers == self.depth
        self.norm = nn.LayerNorm(self.embed_dims, eps=1e-6) if has_norm else nn.Identity()
        self.register_state_dict_post_hook(_note_grid)
        self.register_load_state_dict_pre_hook(_leave_out_unbuilt)
        self.register_load_state_dict_pre_hook(_fit_loaded_tokens)
        self.register_load_state_dict_pre_hook(_add_absent)
        self._freeze_stages()

    def _check_choices(
        self,
        with_cls_token: bool,
        drop_path_rate: float,
        window_size: int,
        use_rel_pos: bool,
        global_attn_indices: Sequence[int],
    ) -> None:
        if self.out_type not in OUT_TYPES:
            raise ValueError(
                f'KAT: out_type={self.out_type!r} is unknown; choose one of {OUT_TYPES}'
            )
        if self.out_type == 'cls_token' and not with_cls_token:
            raise ValueError("KAT: out_type='cls_token' needs with_cls_token=True")
        check_int('KAT', 'frozen_stages', self.frozen_stages, -1, self.num_layers)
        check_rate('KAT', 'drop_path_rate', drop_path_rate, below_one=True)
        check_int('KAT', 'window_size', window_size, least=0)
        # Windows of a few tokens more than a small image has are padded; these would not end.
        if window_size > max(self.grid_size) and window_size >= 2 * self.patch_embed.patch_size:
            raise ValueError(
                f'KAT: window_size={window_size} is larger than the grid of {self.grid_size} '
                'tokens that img_size and patch_size make; it is given in tokens, not in pixels'
            )
        if (window_size or use_rel_pos) and with_cls_token:
            raise ValueError(
                f'KAT: window_size={window_size} and use_rel_pos={use_rel_pos} need '
                'with_cls_token=False, since a class token has no place in the grid'
            )
        indices = global_attn_indices
        known = _are_whole(indices) and all(0 <= index < self.depth for index in indices)
        if not known or len(set(indices)) < len(indices):
            raise ValueError(
                f'KAT: global_attn_indices={indices!r} must be block numbers from 0 to '
                f'{self.depth - 1}, without repeats'
            )

    def init_weights(self) -> None:
        """Fill all weights, as ``init_cfg`` says; what is read from a file comes last.

        A second call does nothing, as of mmengine's modules.
        """
        if self.is_init:
            _logger.warning('init_weights of KAT has been called more than once')
            return
        pretrained, others = split_init_cfg(self.init_cfg)
        if others:
            from mmengine.model import initialize

            initialize(self, others)
        if others or not pretrained:
            init_children(self)
        for cfg in pretrained:
            load_pretrained(self, cfg['checkpoint'], cfg.get('prefix', 'backbone.'))
        self.is_init = True

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image (B, in_channels, H, W), any H and W, to one output for each of out_indices."""
        x, grid = self.embed(x)
        outputs, start = [], 0
        for index in self.out_indices:
            x = self.run_blocks(x, grid, start, index + 1)
            start = index + 1
            y = self.norm(x) if start == self.num_layers else x
            outputs.append(self._format_output(y, grid))
        return tuple(outputs)

    def embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Image (B, in_channels, H, W) to tokens (B, N, C) with positions, and their grid."""
        x = self.patch_embed(x)
        height, width = x.shape[1:3]
        grid = (height, width)
        x = x.flatten(1, 2)
        if self.num_extra_tokens:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + resize_pos_embed(self.pos_embed, self.grid_size, grid, self.num_extra_tokens)
        return self.drop_after_pos(x), grid

    def run_blocks(
        self,
        x: Tensor,
        grid: tuple[int, int],
        start: int = 0,
        stop: int | None = None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """Tokens through some of the blocks, one after the other.

        Args:
            x: (B, N, C); the last H * W tokens are patches, whatever stands before them.
            grid: (H, W).
            start: The first block.
            stop: The block before which it ends. Default: None, behind the last one.
            attn_mask: As in ``torch.nn.functional.scaled_dot_product_attention``.

        Returns:
            (B, N, C), without the final norm.
        """
        blocks = islice(self.blocks, start, stop)
        recompute = self.with_cp and torch.is_grad_enabled()
        return run_blocks(blocks, x, grid, attn_mask, recompute)

    def _format_output(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.out_type == 'cls_token':
            return x[:, 0]
        patches = x[:, self.num_extra_tokens :]
        if self.out_type == 'avg_featmap':
            return patches.mean(dim=1)
        # Contiguous, since mmcv's RoIAlign reads maps in another memory format wrongly, in silence.
        return patches.unflatten(1, grid).permute(0, 3, 1, 2).contiguous()

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        self.pos_embed.requires_grad_(False)
        if self.num_extra_tokens:
            self.cls_token.requires_grad_(False)
        self.drop_after_pos.eval()
        for module in (self.patch_embed, *self.blocks[: self.frozen_stages]):
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'KAT':
        super().train(mode)
        self._freeze_stages()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter for layer-wise learning-rate decay.

        Args:
            param_name: Name of the parameter, with ``prefix``.
            prefix: Prefix of this module's parameters, for example 'backbone.'.

        Returns:
            (depth, number of depths): 0 for the embeddings, i + 1 for block i, and the last for
            what comes behind the blocks, also outside of the backbone.
        """
        num_depths = self.num_layers + 2
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix):
            return num_depths - 1, num_depths
        if name in ('cls_token', 'pos_embed') or name.startswith('patch_embed.'):
            return 0, num_depths
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1, num_depths
        return num_depths - 1, num_depths


def share_parts(blocks: Sequence[nn.Module]) -> None:
    """Let the parts of blocks share with those of the first one what they say is shared."""
    for block in islice(blocks, 1, None):
        for part, first in ((block.attn, blocks[0].attn), (block.mlp, blocks[0].mlp)):
            if hasattr(part, 'share_with'):
                part.share_with(first)


def _given(cfg: dict | None, default: str) -> dict:
    return dict(type=default) if cfg is None else cfg


def _embedding(num_tokens: int, embed_dims: int) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(1, num_tokens, embed_dims), std=0.02)


def _resolve_grid(img_size: int | tuple[int, int], patch_size: int) -> tuple[int, int]:
    """(H, W) in tokens."""
    given = img_size if isinstance(img_size, Sequence) else (img_size, img_size)
    if len(given) != 2 or not all(type(side) is int and side > 0 for side in given):
        raise ValueError(
            f'KAT: img_size={img_size!r} must be the pixels of a side, or (height, width)'
        )
    return math.ceil(given[0] / patch_size), math.ceil(given[1] / patch_size)


def _resolve_out_indices(out_indices: int | Sequence[int], num_layers: int) -> tuple[int, ...]:
    given = (out_indices,) if isinstance(out_indices, int) else out_indices
    if not _are_whole(given):
        raise ValueError(
            f'KAT: out_indices={out_indices!r} must be the number of a block, or several of them'
        )
    given = tuple(given)
    resolved = tuple(index + num_layers if index < 0 else index for index in given)
    if not resolved or not all(0 <= index < num_layers for index in resolved):
        raise ValueError(
            f'KAT: out_indices={given} must be block numbers from 0 to {num_layers - 1} '
            f'(or -1 to {-num_layers}, from the end)'
        )
    if sorted(set(resolved)) != list(resolved):
        raise ValueError(f'KAT: out_indices={given} must rise, without repeats')
    return resolved


def _are_whole(values: Sequence[int]) -> bool:
    """Whether these are whole numbers, several or none."""
    return isinstance(values, Sequence) and all(type(value) is int for value in values)


def _check_init_cfg(init_cfg: dict | list[dict] | None) -> None:
    for cfg in init_cfg if isinstance(init_cfg, list | tuple) else [init_cfg]:
        if cfg is None:
            continue
        if not isinstance(cfg, dict) or 'type' not in cfg:
            raise ValueError(
                f'KAT: init_cfg={init_cfg!r} must be a dict with a type, or several of them, for '
                "example dict(type='Pretrained', checkpoint=FILE)"
            )
        # None, which must be said, is from scratch.
        if cfg['type'] == 'Pretrained' and not isinstance(
            cfg.get('checkpoint', False), str | Path | None
        ):
            raise ValueError(f'KAT: init_cfg={init_cfg!r} must name a file as checkpoint')


def _note_grid(module: KAT, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    local_metadata['grid_size'] = module.grid_size


def _leave_out_unbuilt(module: KAT, state_dict: dict, prefix: str, *_) -> None:
    """Of a checkpoint of the whole depth leave out the blocks that nothing asks for, and the norm.

    Those of a deeper arch stay, and are refused as keys that have no place.
    """
    behind = range(module.num_layers, module.depth)
    unbuilt = [
        key
        for key in state_dict
        if any(key.startswith(f'{prefix}blocks.{index}.') for index in behind)
        or (len(behind) and key.startswith(f'{prefix}norm.'))
    ]
    if unbuilt:
        _logger.info(
            'Left out, since nothing asks for what they compute: blocks from %d on, and the norm '
            'behind them',
            module.num_layers,
        )
    for key in unbuilt:
        del state_dict[key]


def _fit_loaded_tokens(
    module: KAT, state_dict: dict, prefix: str, local_metadata: dict, *_
) -> None:
    """Fit loaded embeddings to the module: checkpoints of other sizes load as they are.

    The grid of the loaded position embedding is in the metadata of our own checkpoints, unless a
    file format lost it. What does not fit is left as it is, and refused for its shape.
    """
    loaded = state_dict.get(prefix + 'pos_embed')
    if loaded is None:
        return
    if not module.num_extra_tokens and state_dict.pop(prefix + 'cls_token', None) is not None:
        _logger.info('The class token of the checkpoint is left out')
        loaded = loaded[:, 1:]
    elif (
        module.num_extra_tokens
        and prefix + 'cls_token' not in state_dict
        and loaded.shape[1] != module.pos_embed.shape[1]
    ):
        # The class token keeps its start.
        loaded = torch.cat([torch.zeros_like(loaded[:, :1]), loaded], dim=1)
    grid = find_grid(
        loaded.shape[1] - module.num_extra_tokens, local_metadata.get('grid_size'), module.grid_size
    )
    if grid not in (None, module.grid_size):
        _logger.info('Position embedding resized from %s to %s', grid, module.grid_size)
        loaded = resize_pos_embed(loaded, grid, module.grid_size, module.num_extra_tokens)
    state_dict[prefix + 'pos_embed'] = loaded


def _add_absent(module: KAT, state_dict: dict, prefix: str, *_) -> None:
    """Give a checkpoint what it has in no block, and what computes nothing at zero.

    So a classifier starts a detector: without relative positions it has those that are zero.
    """
    absent = {
        f'{prefix}blocks.{index}.{part}.{name}': parameters[name]
        for index, block in enumerate(module.blocks)
        for part, parameters in (('attn', block.attn._parameters), ('mlp', block.mlp._parameters))
        for name in getattr(getattr(block, part), 'zero_if_absent', ())
        if name in parameters  # not where it is parametrised
    }
    given = any(key.startswith(f'{prefix}blocks.') for key in state_dict)
    if absent and given and not state_dict.keys() & absent.keys():
        names = sorted({key.rpartition('.')[2] for key in absent})
        _logger.info('The checkpoint has no %s: they start at zero', ', '.join(names))
        state_dict.update({key: torch.zeros_like(own) for key, own in absent.items()})
