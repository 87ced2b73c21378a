import difflib
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS, WEIGHT_INITIALIZERS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kat_mm.layers import (
    SoftmaxAttention,
    merge_windows,
    partition_windows,
    resize_pos_embed,
)
from kat_mm.layers.init import trunc_normal_
from kat_mm.layers.residual import AddLayerNorm, Residual, is_plain

ARCHS = {
    'tiny': dict(embed_dims=192, num_layers=12, num_heads=3, feedforward_channels=768),
    'small': dict(embed_dims=384, num_layers=12, num_heads=6, feedforward_channels=1536),
    'base': dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=3072),
    'large': dict(embed_dims=1024, num_layers=24, num_heads=16, feedforward_channels=4096),
}
OUT_TYPES = ('featmap', 'cls_token', 'avg_featmap')


class PatchEmbed(BaseModule):
    """Image to tokens: one linear map of each patch, as a strided convolution."""

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dims, patch_size, stride=patch_size)

    def init_weights(self) -> None:
        trunc_normal_(self.proj)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, ceil(H / patch), ceil(W / patch), C)."""
        height, width = x.shape[-2:]
        right, bottom = -width % self.patch_size, -height % self.patch_size
        if right or bottom:
            x = F.pad(x, (0, right, 0, bottom))
        if not is_plain(self.proj, nn.Conv2d):
            return self.proj(x).permute(0, 2, 3, 1)
        # The same as a matrix product, for which GPUs have faster kernels.
        patches = x.unflatten(3, (-1, self.patch_size)).unflatten(2, (-1, self.patch_size))
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class Block(BaseModule):
    """Transformer block: attention and feed-forward, each behind a norm and around a residual."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        drop_path_rate: float,
        attn_cfg: dict,
        ffn_cfg: dict,
        window_size: int = 0,
    ):
        super().__init__()
        self.window_size = window_size
        self.norm1 = AddLayerNorm(embed_dims, eps=1e-6)
        self.attn = _build(attn_cfg, embed_dims=embed_dims, num_heads=num_heads)
        self.norm2 = AddLayerNorm(embed_dims, eps=1e-6)
        self.mlp = _build(ffn_cfg, embed_dims=embed_dims, hidden_dims=feedforward_channels)
        self.drop_path_rate = drop_path_rate

    def forward(self, stream: Residual, grid: tuple[int, int]) -> Residual:
        """A stream of (B, N, C) to the same.

        The last H * W of the N tokens are patches, for ``grid`` = (H, W).
        """
        # Behind a block that is called, its parameters may be gone (FSDP).
        return self.run(stream, grid).close()

    def run(self, stream: Residual, grid: tuple[int, int]) -> Residual:
        """``forward``, with a bias left that the next normalisation adds for nothing on a GPU."""
        x, y = self.norm1(stream)
        scales = self._drop_path(x)
        branch, bias = self._attend(y, grid)
        stream = Residual(x, branch, scales[0], bias)
        return self.mlp.forward_residual(stream, self.norm2)._replace(scale=scales[1])

    def _drop_path(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Factors (B,) of both branches: 0, or what keeps the expectation (Huang et al. 2016)."""
        if not self.training or not self.drop_path_rate:
            return None, None
        keep, batch = 1 - self.drop_path_rate, len(x)
        # Both start on 16 bytes, as kernels want them to.
        scales = x.new_empty(2, batch + -batch % 4, dtype=torch.float32)
        return scales.bernoulli_(keep).div_(keep)[:, :batch].unbind()

    def _attend(self, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """The branch of attention, and its bias where the next normalisation is to add it."""
        window = self.window_size
        if not window:
            return self._attention(x, grid)
        x, bias = self._attention(partition_windows(x, grid, window), (window, window))
        return merge_windows(x, grid, window), bias

    def _attention(self, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        kind = type(self.attn)
        if kind.forward is SoftmaxAttention.forward and is_plain(self.attn, kind):
            return self.attn.forward_without_bias(x, grid)
        return self.attn(x, grid), None


@MODELS.register_module()
class KAT(BaseModule):
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
        ffn_cfg: Feed-forward of the blocks. ``dict(type='GRKAN', ...)`` or ``dict(type='MLP')``,
            which makes the model a plain ViT. Default: ``dict(type='GRKAN')``.
        attn_cfg: Attention of the blocks. ``dict(type='SoftmaxAttention', ...)`` or
            ``dict(type='KArAt', ...)``. Default: ``dict(type='SoftmaxAttention')``.
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
        init_cfg: Initialisation, for example ``dict(type='Pretrained', checkpoint=FILE)``.

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
    ):
        super().__init__(init_cfg)
        arch = _resolve_arch(arch)
        self.embed_dims = arch['embed_dims']
        self.depth = arch['num_layers']  # of the arch; num_layers are built
        self.out_indices = _resolve_out_indices(out_indices, arch['num_layers'])
        self.num_layers = max(self.out_indices) + 1
        if out_type not in OUT_TYPES:
            raise ValueError(f'KAT: out_type={out_type!r} is unknown; choose one of {OUT_TYPES}')
        if out_type == 'cls_token' and not with_cls_token:
            raise ValueError("KAT: out_type='cls_token' needs with_cls_token=True")
        if not -1 <= frozen_stages <= self.num_layers:
            raise ValueError(
                f'KAT: frozen_stages={frozen_stages} must lie between -1 and the number of blocks, '
                f'{self.num_layers}'
            )
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'KAT: drop_path_rate={drop_path_rate} must lie in [0, 1)')
        if window_size < 0:
            raise ValueError(f'KAT: window_size={window_size} must be 0 (no windows) or more')
        if (window_size or use_rel_pos) and with_cls_token:
            raise ValueError(
                f'KAT: window_size={window_size} and use_rel_pos={use_rel_pos} need '
                'with_cls_token=False, since a class token has no place in the grid'
            )
        if not all(0 <= index < arch['num_layers'] for index in global_attn_indices):
            raise ValueError(
                f'KAT: global_attn_indices={tuple(global_attn_indices)} must be block numbers '
                f'from 0 to {arch["num_layers"] - 1}'
            )
        self.out_type = out_type
        self.with_cp = with_cp
        self.frozen_stages = frozen_stages

        for name, size in (('patch_size', patch_size), ('in_channels', in_channels)):
            if not isinstance(size, int) or size < 1:
                raise ValueError(f'KAT: {name}={size!r} must be a whole number from 1 up')
        height, width = _resolve_img_size(img_size)
        self.grid_size = (math.ceil(height / patch_size), math.ceil(width / patch_size))
        self.patch_embed = PatchEmbed(in_channels, self.embed_dims, patch_size)
        self.num_extra_tokens = int(with_cls_token)
        if with_cls_token:
            self.cls_token = nn.Parameter(_embedding(1, self.embed_dims))
        num_tokens = self.num_extra_tokens + math.prod(self.grid_size)
        self.pos_embed = nn.Parameter(_embedding(num_tokens, self.embed_dims))
        self.drop_after_pos = nn.Dropout(drop_rate)
        attn_cfg = _check_part('attn_cfg', attn_cfg or dict(type='SoftmaxAttention'))
        ffn_cfg = _check_part('ffn_cfg', ffn_cfg or dict(type='GRKAN'))
        # The rule is that of the whole depth, also where the last blocks are not built.
        rates = torch.linspace(0, drop_path_rate, arch['num_layers']).tolist()
        self.blocks = ModuleList()
        for index in range(self.num_layers):
            window = 0 if index in global_attn_indices else window_size
            grid = (window, window) if window else self.grid_size
            attn = dict(attn_cfg)
            if attn['type'] == 'KArAt':  # its parameters belong to tokens
                attn.update(grid_size=grid, num_extra_tokens=self.num_extra_tokens)
                if use_rel_pos:
                    raise ValueError(
                        'KAT: KArAt takes no relative positions, since its operators know the '
                        'positions of tokens; set use_rel_pos=False'
                    )
            elif use_rel_pos:
                attn['rel_pos_size'] = grid
            self.blocks.append(
                Block(
                    self.embed_dims,
                    arch['num_heads'],
                    arch['feedforward_channels'],
                    rates[index],
                    attn,
                    ffn_cfg,
                    window,
                )
            )
        if getattr(self.blocks[0].attn, 'mode', None) == 'universal':
            for block in self.blocks[1:]:
                block.attn.share_operator(self.blocks[0].attn)
        has_last = self.num_layers == arch['num_layers']
        self.norm = (
            nn.LayerNorm(self.embed_dims, eps=1e-6) if final_norm and has_last else nn.Identity()
        )
        self.register_state_dict_post_hook(_note_grid)
        self.register_load_state_dict_pre_hook(_fit_loaded_tokens)
        self.register_load_state_dict_pre_hook(_add_rel_pos)
        self._freeze_stages()

    def init_weights(self) -> None:
        cfgs = [self.init_cfg] if isinstance(self.init_cfg, dict) else self.init_cfg or []
        pretrained = [cfg for cfg in cfgs if cfg['type'] == 'Pretrained']
        others = [cfg for cfg in cfgs if cfg['type'] != 'Pretrained']
        if others or not pretrained:
            given, self.init_cfg = self.init_cfg, others
            super().init_weights()
            self.init_cfg = given
        for cfg in pretrained:
            # Registered by kat_mm.checkpoints: knows the layouts of other projects.
            WEIGHT_INITIALIZERS.build(dict(cfg, type='PretrainedKAT'))(self)
        self._is_init = True

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image (B, in_channels, H, W), any H and W, to one output for each of out_indices."""
        x = self.patch_embed(x)
        grid = tuple(x.shape[1:3])
        x = x.flatten(1, 2)
        if self.num_extra_tokens:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + resize_pos_embed(self.pos_embed, self.grid_size, grid, self.num_extra_tokens)
        x = self.drop_after_pos(x)

        outputs, stream = [], Residual(x)
        for index, block in enumerate(self.blocks):
            run = block.run if is_plain(block, Block) else block
            if self.with_cp and torch.is_grad_enabled():
                stream = checkpoint(run, stream, grid, use_reentrant=False)
            else:
                stream = run(stream, grid)
            if index in self.out_indices:
                stream = stream.add()
                x = stream.x if index < self.num_layers - 1 else self.norm(stream.x)
                outputs.append(self._format_output(x, grid))
        return tuple(outputs)

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


def _embedding(num_tokens: int, embed_dims: int) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(1, num_tokens, embed_dims), std=0.02)


def _build(cfg: dict, **shape) -> nn.Module:
    # From the root registry: another library may have a class of the same name in its own.
    return MODELS.build({'_scope_': 'mmengine', **cfg, **shape})


def _check_part(name: str, cfg: dict) -> dict:
    if not isinstance(cfg, dict) or 'type' not in cfg:
        example = {'attn_cfg': 'SoftmaxAttention', 'ffn_cfg': 'GRKAN'}[name]
        raise ValueError(
            f'KAT: {name}={cfg!r} must be a dict with a type, for example dict(type={example!r})'
        )
    return cfg


def _resolve_img_size(img_size: int | tuple[int, int]) -> tuple[int, int]:
    given = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(given) != 2 or not all(isinstance(side, int) and side > 0 for side in given):
        raise ValueError(
            f'KAT: img_size={img_size!r} must be the pixels of a side, or (height, width)'
        )
    return given


def _resolve_arch(arch: str | dict) -> dict:
    keys = tuple(ARCHS['tiny'])
    if isinstance(arch, str):
        if arch not in ARCHS:
            near = difflib.get_close_matches(arch, ARCHS, n=1)
            hint = f'; did you mean {near[0]!r}?' if near else '.'
            raise ValueError(
                f'KAT: arch={arch!r} is unknown{hint} Choose one of {", ".join(ARCHS)}, '
                f'or give a dict with the keys {", ".join(keys)}'
            )
        return ARCHS[arch]
    if set(arch) != set(keys):
        raise ValueError(
            f'KAT: arch has the keys {", ".join(arch)}; it must have exactly {", ".join(keys)}'
        )
    return arch


def _resolve_out_indices(out_indices: int | Sequence[int], num_layers: int) -> tuple[int, ...]:
    given = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
    resolved = tuple(index + num_layers if index < 0 else index for index in given)
    if not resolved or not all(0 <= index < num_layers for index in resolved):
        raise ValueError(
            f'KAT: out_indices={given} must be block numbers from 0 to {num_layers - 1} '
            f'(or -1 to {-num_layers}, from the end)'
        )
    if sorted(set(resolved)) != list(resolved):
        raise ValueError(f'KAT: out_indices={given} must rise, without repeats')
    return resolved


def _note_grid(module: KAT, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    local_metadata['grid_size'] = module.grid_size


def _fit_loaded_tokens(
    module: KAT, state_dict: dict, prefix: str, local_metadata: dict, *_
) -> None:
    """Fit loaded embeddings to the module: checkpoints of other sizes load as they are.

    The grid of the loaded position embedding is in the metadata of our own checkpoints, unless a
    file format lost it. Others are taken to be of the module's grid where the number of patches is
    the same, else square. What does not fit is left as it is, and refused for its shape.
    """
    loaded = state_dict.get(prefix + 'pos_embed')
    if loaded is None:
        return
    if not module.num_extra_tokens and state_dict.pop(prefix + 'cls_token', None) is not None:
        print_log('The class token of the checkpoint is left out', 'current')
        loaded = state_dict[prefix + 'pos_embed'] = loaded[:, 1:]
    patches = loaded.shape[1] - module.num_extra_tokens
    side = math.isqrt(max(patches, 0))
    same = patches == math.prod(module.grid_size)
    grid = tuple(local_metadata.get('grid_size', module.grid_size if same else (side, side)))
    if math.prod(grid) == patches and grid != module.grid_size:
        print_log(f'Position embedding resized from {grid} to {module.grid_size}', 'current')
        state_dict[prefix + 'pos_embed'] = resize_pos_embed(
            loaded, grid, module.grid_size, module.num_extra_tokens
        )


def _add_rel_pos(module: KAT, state_dict: dict, prefix: str, *_) -> None:
    """Give a checkpoint without relative positions, as of classification, those that equal it."""
    tables = {
        f'{prefix}{name}': parameter
        for name, parameter in module.named_parameters()
        if name.endswith(('.rel_pos_h', '.rel_pos_w'))
    }
    given = any(key.startswith(prefix + 'blocks.') for key in state_dict)
    if tables and given and not state_dict.keys() & tables.keys():
        print_log('The checkpoint has no relative positions: they start at zero', 'current')
        state_dict.update({key: torch.zeros_like(table) for key, table in tables.items()})
