import logging
import math
from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from kat_mm.arguments import (
    MOST_CHANNELS,
    MOST_LAYERS,
    MOST_TOKENS,
    check_bools,
    check_int,
    check_number,
    check_rate,
)
from kat_mm.checkpoints import guard_files_of, guard_readers
from kat_mm.layers import BlockSpec, PatchEmbed, find_positions, resize_pos_embed
from kat_mm.layers.init import init_children
from kat_mm.layers.pos_embed import INTERPOLATIONS

from .archs import resolve_arch
from .fused import FusedBlock, run_blocks
from .parts import build_part
from .pretrained import check_init_cfg, load_pretrained, split_init_cfg

_logger = logging.getLogger(__name__)

# Sizes decide in it, which torch.fx cannot see: to it this is one step.
torch.fx.wrap('resize_pos_embed')

OUT_TYPES = ('featmap', 'cls_token', 'avg_featmap')


@guard_files_of
class KAT(nn.Module):
    """Kolmogorov-Arnold Transformer (Yang and Wang, ICLR 2025), and the plain ViT of its shape.

    And the foundation ViTs, whose differences from the plain one are options here; configs of each
    family are in ``configs/_base_/backbones``. One class for classification, detection and
    segmentation. Parameter names are those of the official code, and of timm. Blocks behind the
    last of ``out_indices`` are not built.

    Args:
        arch: 'tiny', 'small', 'base', 'large', or a dict with the keys ``embed_dims``,
            ``num_layers``, ``num_heads`` and ``feedforward_channels``. Default: 'tiny'.
        img_size: Input size in pixels, one number or (H, W), multiples of the patch, which fixes
            the grid of the position embedding. Input of any other size works too: the embedding
            is resized to it. Default: 224.
        patch_size: Side of a patch in pixels. Input is padded with zeros at the right and the
            bottom to a multiple of it. Default: 16.
        in_channels: Channels of the image. Default: 3.
        out_indices: Blocks whose output is returned; negative numbers count from the end.
            Default: -1, the last.
        out_type: What is returned for each: 'featmap' (B, C, H / patch, W / patch), 'cls_token'
            (B, C), or 'avg_featmap' (B, C), the mean over the patch tokens. Default: 'cls_token'.
        output_cls_token: With 'featmap', return for each a list of map and class token (B, C), as
            mmseg's DPTHead reads them. Default: False.
        with_cls_token: Whether a class token takes part in attention. Default: True.
        num_registers: Register tokens between class token and patches (Darcet et al. 2024), which
            have no positions and are not returned. Default: 0.
        with_pos_embed: Whether there are learned positions of class token and patches. Default:
            True.
        pos_interpolation: How they are resized; see :func:`kat_mm.layers.resize_pos_embed`.
            Default: 'bicubic'.
        pre_norm: Whether tokens are normalised before the blocks (CLIP). Default: False.
        norm_eps: What all norms add to the variance. Default: 1e-6.
        layer_scale: What the factors of LayerScale start as. Default: None, without it.
        final_norm: Whether the output of the last block of the arch is normalised. Default: True.
        norm_intermediate: Whether the final norm is that of all outputs, not of the last alone, as
            DINOv2 and DINOv3 give intermediate blocks. Default: False.
        drop_rate: Dropout after the position embedding. Default: 0.
        drop_path_rate: Stochastic depth; rises linearly from 0 to this over the blocks. Default: 0.
        ffn_cfg: Feed-forward of the blocks. ``dict(type='GRKAN', ...)``, ``dict(type='MLP')``,
            which makes the model a plain ViT, or one of your own; see
            :class:`kat_mm.layers.BlockSpec`. Default: ``dict(type='GRKAN')``.
        attn_cfg: Attention of the blocks. ``dict(type='SoftmaxAttention', ...)``,
            ``dict(type='KArAt', ...)``, or one of your own. Default:
            ``dict(type='SoftmaxAttention')``.
        window_size: Side in tokens of the windows in which the blocks attend (ViTDet); 0 is
            attention over the whole grid. Class token and registers are seen in all windows, and
            see all tokens. Default: 0.
        global_attn_indices: Blocks that attend over the whole grid although there are windows.
            Default: ().
        use_rel_pos: Whether the attention has decomposed relative positions, of the size of the
            window or, in a global block, of ``img_size``. Needs ``with_cls_token=False`` and no
            registers. Default: False.
        with_cp: Recompute each block in the backward pass to save memory. Default: False.
        frozen_stages: -1: nothing is frozen; 0: what comes before the blocks; n: this and the first
            n blocks, and with all blocks the final norm. Default: -1.
        init_cfg: Initialisation, for example ``dict(type='Pretrained', checkpoint='kat_s_in1k')``:
            the name of a published model, a URL, a file, or None for from scratch; with
            ``prefix='backbone.'`` for where the backbone is in a file that has more, and ``ignore``
            for what may differ; see :func:`load_pretrained`. Of other types mmengine has the
            initialisers, which fill over the start that the blocks have by themselves.
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
        output_cls_token: bool = False,
        with_cls_token: bool = True,
        num_registers: int = 0,
        with_pos_embed: bool = True,
        pos_interpolation: str = 'bicubic',
        pre_norm: bool = False,
        norm_eps: float = 1e-6,
        layer_scale: float | None = None,
        final_norm: bool = True,
        norm_intermediate: bool = False,
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
        guard_readers()
        _check_values(
            pretrained,
            init_cfg,
            num_registers,
            norm_eps,
            layer_scale,
            drop_rate,
            output_cls_token=output_cls_token,
            with_cls_token=with_cls_token,
            with_pos_embed=with_pos_embed,
            pre_norm=pre_norm,
            final_norm=final_norm,
            norm_intermediate=norm_intermediate,
            use_rel_pos=use_rel_pos,
            with_cp=with_cp,
        )
        arch = resolve_arch(arch)
        self.embed_dims = arch['embed_dims']
        self.depth = arch['num_layers']  # of the arch; num_layers are built
        self.out_indices = _resolve_out_indices(out_indices, self.depth)
        self.num_layers = max(self.out_indices) + 1
        self.out_type = out_type
        self.output_cls_token = output_cls_token
        self.pos_interpolation = pos_interpolation
        self.norm_intermediate = norm_intermediate
        self.with_cp = with_cp
        self.frozen_stages = frozen_stages
        self.init_cfg = init_cfg
        self.is_init = False  # what mmengine asks before it calls init_weights
        self.patch_embed = PatchEmbed(in_channels, self.embed_dims, patch_size)
        self.grid_size = _resolve_grid(img_size, patch_size)
        self.num_cls_tokens = int(with_cls_token)
        self.num_extra_tokens = self.num_cls_tokens + num_registers
        self._check_choices(
            drop_path_rate, window_size, use_rel_pos, global_attn_indices, final_norm
        )
        self._add_tokens(num_registers, with_pos_embed)
        self.drop_after_pos = nn.Dropout(drop_rate)
        self.norm_pre = nn.LayerNorm(self.embed_dims, norm_eps) if pre_norm else nn.Identity()
        specs = [
            BlockSpec(
                embed_dims=self.embed_dims,
                num_heads=arch['num_heads'],
                feedforward_channels=arch['feedforward_channels'],
                grid_size=self.grid_size,
                num_extra_tokens=self.num_extra_tokens,
                window_size=0 if index in global_attn_indices else window_size,
                use_rel_pos=use_rel_pos,
                norm_eps=norm_eps,
            )
            for index in range(self.num_layers)
        ]
        # The rule is that of the whole depth, also where the last blocks are not built.
        rates = torch.linspace(0, drop_path_rate, self.depth, device='cpu').tolist()
        self.blocks = _build_blocks(specs, rates, attn_cfg, ffn_cfg, layer_scale)
        self.final_norm = final_norm
        has_norm = final_norm and (norm_intermediate or self.num_layers == self.depth)
        self.norm = nn.LayerNorm(self.embed_dims, norm_eps) if has_norm else nn.Identity()
        self.register_state_dict_post_hook(_note_grid)
        self.register_load_state_dict_pre_hook(_leave_out_unbuilt)
        self.register_load_state_dict_pre_hook(_fit_loaded_tokens)
        self.register_load_state_dict_pre_hook(_add_absent)
        self._freeze_stages()

    def _add_tokens(self, num_registers: int, with_pos_embed: bool) -> None:
        num_positions = self.num_cls_tokens + math.prod(self.grid_size)
        for name, tokens in (
            ('cls_token', self.num_cls_tokens),
            ('reg_token', num_registers),
            ('pos_embed', num_positions if with_pos_embed else 0),
        ):
            value = nn.Parameter(_embedding(tokens, self.embed_dims)) if tokens else None
            self.register_parameter(name, value)

    def _check_choices(
        self,
        drop_path_rate: float,
        window_size: int,
        use_rel_pos: bool,
        global_attn_indices: Sequence[int],
        final_norm: bool,
    ) -> None:
        for name, value, known in (
            ('out_type', self.out_type, OUT_TYPES),
            ('pos_interpolation', self.pos_interpolation, INTERPOLATIONS),
        ):
            if value not in known:
                raise ValueError(f'KAT: {name}={value!r} is unknown; choose one of {known}')
        if self.out_type == 'cls_token' and not self.num_cls_tokens:
            raise ValueError("KAT: out_type='cls_token' needs with_cls_token=True")
        if self.norm_intermediate and not final_norm:
            raise ValueError(
                'KAT: norm_intermediate=True needs final_norm=True, the norm that all outputs get'
            )
        if self.output_cls_token and (self.out_type != 'featmap' or not self.num_cls_tokens):
            raise ValueError(
                "KAT: output_cls_token=True needs out_type='featmap' and with_cls_token=True"
            )
        check_int('KAT', 'frozen_stages', self.frozen_stages, -1, self.num_layers)
        check_rate('KAT', 'drop_path_rate', drop_path_rate, below_one=True)
        check_int('KAT', 'window_size', window_size, least=0)
        # Windows of a few tokens more than a small image has are padded; these would not end.
        if window_size > max(self.grid_size) and window_size >= 2 * self.patch_embed.patch_size:
            raise ValueError(
                f'KAT: window_size={window_size} is larger than the grid of {self.grid_size} '
                'tokens that img_size and patch_size make; it is given in tokens, not in pixels'
            )
        if use_rel_pos and self.num_extra_tokens:
            raise ValueError(
                'KAT: use_rel_pos=True needs with_cls_token=False and num_registers=0, since only '
                'patches have places in the grid'
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
        init_children(self)
        if others:
            from mmengine.model import initialize

            initialize(self, others)
        for cfg in pretrained:
            options = {key: cfg[key] for key in ('prefix', 'ignore') if key in cfg}
            load_pretrained(self, cfg['checkpoint'], **options)
        self.is_init = True

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image (B, in_channels, H, W), any H and W, to one output for each of out_indices."""
        x, grid = self.embed(x)
        outputs, start = [], 0
        for index in self.out_indices:
            x = self.run_blocks(x, grid, start, index + 1)
            start = index + 1
            y = self.norm(x) if self.norm_intermediate or start == self.num_layers else x
            outputs.append(self._format_output(y, grid))
        return tuple(outputs)

    def embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Image (B, in_channels, H, W) to tokens (B, N, C) with positions, and their grid."""
        x = self.patch_embed(x)
        height, width = x.shape[1:3]
        grid = (height, width)
        x = x.flatten(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        if self.pos_embed is not None:
            x = x + resize_pos_embed(
                self.pos_embed, self.grid_size, grid, self.num_cls_tokens, self.pos_interpolation
            )
        if self.reg_token is not None:
            first, patches = x.tensor_split([self.num_cls_tokens], dim=1)
            x = torch.cat([first, self.reg_token.expand(x.shape[0], -1, -1), patches], dim=1)
        return self.norm_pre(self.drop_after_pos(x)), grid

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

    def _format_output(self, x: Tensor, grid: tuple[int, int]) -> Tensor | list[Tensor]:
        if self.out_type == 'cls_token':
            return x[:, 0]
        patches = x[:, self.num_extra_tokens :]
        if self.out_type == 'avg_featmap':
            return patches.mean(dim=1)
        # Contiguous, since mmcv's RoIAlign reads maps in another memory format wrongly, in silence.
        featmap = patches.unflatten(1, grid).permute(0, 3, 1, 2).contiguous()
        return [featmap, x[:, 0]] if self.output_cls_token else featmap

    def _freeze_stages(self) -> None:
        """Once, so that adapters which are put into frozen blocks later are trained."""
        if self.frozen_stages < 0:
            return
        for parameter in (self.cls_token, self.reg_token, self.pos_embed):
            if parameter is not None:
                parameter.requires_grad_(False)
        for module in self._frozen_modules():
            module.eval()
            module.requires_grad_(False)

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        behind = [self.norm] if self.frozen_stages == self.num_layers else []
        blocks = self.blocks[: self.frozen_stages]
        return [self.drop_after_pos, self.patch_embed, self.norm_pre, *blocks, *behind]

    def train(self, mode: bool = True) -> 'KAT':
        super().train(mode)
        for module in self._frozen_modules():
            if not any(parameter.requires_grad for parameter in module.parameters()):
                module.eval()
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
        if name.startswith(('cls_token', 'reg_token', 'pos_embed', 'patch_embed.', 'norm_pre.')):
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
    if given[0] % patch_size or given[1] % patch_size:
        near = [max(1, round(side / patch_size)) * patch_size for side in given]
        raise ValueError(
            f'KAT: img_size={img_size!r} is no multiple of patch_size={patch_size}, and would have '
            f'positions for parts of patches; choose {near[0] if near[0] == near[1] else near}'
        )
    grid = given[0] // patch_size, given[1] // patch_size
    if math.prod(grid) > MOST_TOKENS:
        raise ValueError(
            f'KAT: img_size={img_size!r} makes {grid[0]} x {grid[1]} tokens, and more than '
            f'{MOST_TOKENS} do not end'
        )
    return grid


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
    return (
        isinstance(values, Sequence)
        and len(values) <= MOST_LAYERS
        and all(type(value) is int for value in values)
    )


def _check_values(
    pretrained: None,
    init_cfg: dict | list | None,
    num_registers: int,
    norm_eps: float,
    layer_scale: float | None,
    drop_rate: float,
    **flags: bool,
) -> None:
    """Types and ranges that need no other argument to be judged."""
    if pretrained is not None:  # mmseg gives it a model's
        raise ValueError(
            f'KAT: pretrained={pretrained!r} is what the config of another backbone starts '
            "from. Set pretrained=None in the model, and give KAT's own start as "
            "backbone.init_cfg=dict(type='Pretrained', checkpoint=...)"
        )
    check_bools('KAT', **flags)
    check_int('KAT', 'num_registers', num_registers, 0, MOST_CHANNELS)
    check_number('KAT', 'norm_eps', norm_eps, above=0)
    if layer_scale is not None:
        check_number('KAT', 'layer_scale', layer_scale)
    check_rate('KAT', 'drop_rate', drop_rate)
    check_init_cfg(init_cfg)


def _build_blocks(
    specs: Sequence[BlockSpec],
    drop_path_rates: Sequence[float],
    attn_cfg: dict | None,
    ffn_cfg: dict | None,
    layer_scale: float | None,
) -> nn.ModuleList:
    """Blocks from the first on; there may be more rates than blocks."""
    blocks = nn.ModuleList()
    for spec, rate in zip(specs, drop_path_rates, strict=False):
        attn = build_part('attn_cfg', _given(attn_cfg, 'SoftmaxAttention'), spec)
        mlp = build_part('ffn_cfg', _given(ffn_cfg, 'GRKAN'), spec)
        blocks.append(FusedBlock(spec.embed_dims, attn, mlp, rate, spec.norm_eps, layer_scale))
    share_parts(blocks)
    return blocks


def _note_grid(module: KAT, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    local_metadata['grid_size'] = module.grid_size


def _leave_out_unbuilt(module: KAT, state_dict: dict, prefix: str, *_) -> None:
    """Of a checkpoint of the whole depth leave out the blocks that nothing asks for, and the norm.

    Those of a deeper arch stay, and are refused as keys that have no place.
    """
    built, norm = range(module.num_layers), f'{prefix}norm.'
    unbuilt = {
        f'blocks from {module.num_layers} on': [
            key
            for key in state_dict
            if key.startswith(f'{prefix}blocks.')
            and (index := int(key.removeprefix(f'{prefix}blocks.').split('.')[0])) not in built
            and index < module.depth
        ],
        'the final norm': [
            key
            for key in state_dict
            if key.startswith(norm) and isinstance(module.norm, nn.Identity)
        ],
    }
    for what, keys in unbuilt.items():
        if keys:
            _logger.info('Left out, since nothing asks for what it computes: %s', what)
        for key in keys:
            del state_dict[key]


def _fit_loaded_tokens(
    module: KAT, state_dict: dict, prefix: str, local_metadata: dict, *_
) -> None:
    """Fit loaded embeddings to the module: checkpoints of other sizes load as they are.

    The grid of the loaded position embedding is in the metadata of our own checkpoints, unless a
    file format lost it. What does not fit is left as it is, and refused for its shape.
    """
    name, wanted = f'{prefix}pos_embed', module.num_cls_tokens
    loaded = state_dict.get(name)
    has = int(f'{prefix}cls_token' in state_dict)
    if has and not wanted:
        _logger.info('The class token of the checkpoint is left out')
        del state_dict[f'{prefix}cls_token']
    if loaded is None or module.pos_embed is None or loaded.dim() != 3:
        return
    noted = local_metadata.get('grid_size')
    grid, first = find_positions(loaded.shape[1], has, noted, module.grid_size)
    if grid is None:
        return
    if wanted and not first:
        # Nothing is added to the class token: DeiT-III, DINOv2 with registers in timm.
        loaded = torch.cat([torch.zeros_like(loaded[:, :1]), loaded], dim=1)
    elif first > wanted:
        loaded = loaded[:, first:]
    if grid != module.grid_size:
        _logger.info('Position embedding resized from %s to %s', grid, module.grid_size)
        loaded = resize_pos_embed(loaded, grid, module.grid_size, wanted, module.pos_interpolation)
    state_dict[name] = loaded


def _add_absent(module: KAT, state_dict: dict, prefix: str, *_) -> None:
    """Give a checkpoint what it has in no block, at the value at which it computes nothing.

    So a classifier starts a detector: without relative positions it has those that are zero.
    """
    absent = {
        f'{prefix}blocks.{index}.{name}.{parameter}': (part._parameters[parameter], value)
        for index, block in enumerate(module.blocks)
        for name, part in block.named_children()
        for parameter, value in getattr(part, 'neutral', {}).items()
        if parameter in part._parameters  # not where it is parametrised
    }
    given = any(key.startswith(f'{prefix}blocks.') for key in state_dict)
    if absent and given and not state_dict.keys() & absent.keys():
        names = sorted({key.rpartition('.')[2] for key in absent})
        _logger.info(
            'The checkpoint has no %s: they start at what computes nothing', ', '.join(names)
        )
        for key, (own, value) in absent.items():
            state_dict[key] = torch.full_like(own, value, device='cpu')
