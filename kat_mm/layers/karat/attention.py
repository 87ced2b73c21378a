import torch
import torch.nn.functional as F
from torch import Tensor

from kat_mm.arguments import MOST_TOKENS, check_bools, check_int, check_pair
from kat_mm.layers.attention import SoftmaxAttention
from kat_mm.layers.block_spec import BlockSpec

from .score_operator import ScoreOperator


class KArAt(SoftmaxAttention):
    """Learnable attention: a Kolmogorov-Arnold (score) operator in the place of softmax.

    Rows of scores q k^T / sqrt(d), of N tokens, go through learnable functions, separately for each
    head (Maity et al., Kolmogorov-Arnold Attention, 2025). The parameters belong to tokens; see
    :class:`kat_mm.layers.karat.ScoreOperator` for other grids. A tracer of torch.fx needs that
    class among its leaf modules.

    Args:
        embed_dims: Channels C of the tokens.
        num_heads: Number of heads; must divide C.
        grid_size: (H, W) in tokens of what the attention sees, the image or a window.
        num_extra_tokens: Tokens in front of the patches (class token). Default: 0.
        basis: 'fourier', 'bspline', 'wavelet' or 'rational', or a dict with that ``type`` and the
            arguments of its class in ``kat_mm.layers.karat``, for example
            ``dict(type='bspline', grid=5, order=3, range=(-4, 4))``. Default: 'fourier', grid 3.
        depth: Number of layers of the operator. Default: 2.
        modular: Which layer is a linear map: 'phi1_w2' (or True), the last, after the functions;
            'w1_phi2', the first; or False, none, so that functions follow functions: with depth 1
            N x N of them. Default: 'phi1_w2'.
        rank: Width r between the layers, up to N. Default: 12.
        mode: 'blockwise', an operator for each block, or 'universal', one that all blocks share.
            Default: 'blockwise'.
        base: Function that is added to each function, without a weight: 'zero' (none),
            'identity', 'relu', 'silu', 'gelu', 'elu', 'tanh', 'sigmoid' or 'softplus'.
            Default: 'zero'.
        scales: Whether each function has a learnable scale, and its base function one too, as in
            pykan; they start at 1. Default: False.
        freeze_basis: Whether the functions of the basis, and their scales, stay as they start.
            Default: False.
        freeze_base: Whether the scales of the base function do. Without scales there is nothing in
            it that could be trained. Default: False.
        num_karat_heads: Heads with the operator, the first ones; the others have softmax. 'mixed':
            half of them, rounded down, which is 1, 3 and 6 of ViT-T, S and B. Default: None, all.
        project_l1: Whether each row of weights, after the last layer and over its N keys, is
            projected onto the probability simplex. This and ``attn_drop_rate`` need the weights of
            all pairs of tokens, as a (B, heads, N, N) tensor. 'hidden' projects, with 'phi1_w2',
            the r outputs of the functions instead, before the linear map. Default: False.
        function_init: 'normal': coefficients of functions start from N(0, 1); 'scaled': such that
            outputs of every layer have about the variance of its inputs. Default: 'normal'.
        fused: Whether the expansions of the scores in the basis are used up where they are made,
            and made again in the backward pass. False holds them all: the same numbers, for
            comparison. Default: True.
        qkv_bias, attn_drop_rate, proj_drop_rate, init, window_size: As of
            :class:`SoftmaxAttention`.

    Raises:
        ValueError: An argument has a value that does not fit; the message says what would.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        grid_size: tuple[int, int],
        num_extra_tokens: int = 0,
        basis: str | dict = 'fourier',
        depth: int = 2,
        modular: str | bool = 'phi1_w2',
        rank: int = 12,
        mode: str = 'blockwise',
        base: str = 'zero',
        scales: bool = False,
        freeze_basis: bool = False,
        freeze_base: bool = False,
        num_karat_heads: int | str | None = None,
        project_l1: bool | str = False,
        function_init: str = 'normal',
        fused: bool = True,
        qkv_bias: bool = True,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        init: str = 'mimetic',
        window_size: int = 0,
    ):
        check_pair('KArAt', 'grid_size', grid_size, 1, '(H, W) in tokens', MOST_TOKENS)
        check_int('KArAt', 'num_extra_tokens', num_extra_tokens, 0, MOST_TOKENS)
        check_bools(
            'KArAt',
            scales=scales,
            freeze_basis=freeze_basis,
            freeze_base=freeze_base,
            fused=fused,
        )
        super().__init__(
            embed_dims,
            num_heads,
            qkv_bias,
            attn_drop_rate,
            proj_drop_rate,
            init,
            window_size=window_size,
        )
        if mode not in ('blockwise', 'universal'):
            raise ValueError(f"KArAt: mode={mode!r} is unknown; choose 'blockwise' or 'universal'")
        self.mode = mode
        self.num_karat_heads = _karat_heads(num_karat_heads, num_heads)
        kan_cfg = dict(
            basis=basis,
            base=base,
            scales=scales,
            freeze_basis=freeze_basis,
            freeze_base=freeze_base,
            fused=fused,
        )
        self.operator = ScoreOperator(
            self.num_karat_heads,
            grid_size,
            num_extra_tokens,
            depth,
            modular,
            rank,
            project_l1,
            function_init,
            kan_cfg,
        )

    @classmethod
    def from_spec(cls, spec: BlockSpec, **options) -> 'KArAt':
        """The attention of a block; see :class:`BlockSpec`."""
        if spec.use_rel_pos:
            raise ValueError(
                'KArAt takes no relative positions, since its operators know the positions of '
                'tokens; set use_rel_pos=False'
            )
        if spec.window_size and spec.num_extra_tokens:
            raise ValueError(
                f'KArAt: an operator in windows of {spec.window_size} tokens has no place for the '
                f'{spec.num_extra_tokens} tokens before the patches (class token, registers); set '
                'with_cls_token=False and num_registers=0'
            )
        return cls(
            spec.embed_dims,
            spec.num_heads,
            spec.attended_grid,
            spec.num_extra_tokens,
            window_size=spec.window_size,
            **options,
        )

    def share_with(self, first: 'KArAt') -> None:
        """Take the operator of the first block, in universal mode.

        Raises:
            ValueError: The blocks attend to different tokens.
        """
        if self.mode != 'universal':
            return
        mine, theirs = self.operator, first.operator
        if (mine.grid_size, mine.num_extra_tokens) != (theirs.grid_size, theirs.num_extra_tokens):
            raise ValueError(
                "KArAt: mode='universal' shares one operator, but blocks attend to grids of "
                f'{theirs.grid_size} and {mine.grid_size} patches; choose '
                "mode='blockwise', or windows in all blocks or none"
            )
        self.operator = theirs

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        grid: tuple[int, int],
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """As of :class:`SoftmaxAttention`; a mask is refused.

        Raises:
            ValueError: There are other tokens than the operator was made for, or a mask.
        """
        if attn_mask is not None:
            raise ValueError(
                'KArAt takes no attn_mask, since its weights belong to all tokens together; '
                "choose attn_cfg=dict(type='SoftmaxAttention')"
            )
        seen = self.attended_grid(grid)
        _check_tokens(q, seen, self.operator.num_extra_tokens)
        if self.num_karat_heads == self.num_heads:  # a split would cost copies in backward
            return self._operate(q, k, v, seen)
        (q1, q2), (k1, k2), (v1, v2) = (
            t.tensor_split([self.num_karat_heads], dim=1) for t in (q, k, v)
        )
        operated, softmax = self._operate(q1, k1, v1, seen), super().attend(q2, k2, v2, grid)
        return torch.cat([operated, softmax], dim=1)

    def _operate(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        dropout = self.attn_drop_rate if self.training else 0.0
        if not dropout:
            return self.operator(q, k, v, grid)
        return F.dropout(self.operator(q, k, None, grid), dropout) @ v


def _karat_heads(wanted: int | str | None, num_heads: int) -> int:
    if wanted is None:
        return num_heads
    heads = num_heads // 2 if wanted == 'mixed' else wanted
    if not isinstance(heads, int) or isinstance(heads, bool) or not 1 <= heads <= num_heads:
        raise ValueError(
            f'KArAt: num_karat_heads={wanted!r} must lie between 1 and num_heads={num_heads}, or '
            "be 'mixed', half of two heads or more, or None, all"
        )
    return heads


# Sizes decide in it, which torch.fx cannot see: to it this is one step.
torch.fx.wrap('_check_tokens')


def _check_tokens(q: Tensor, grid: tuple[int, int], num_extra_tokens: int) -> None:
    if q.shape[2] - grid[0] * grid[1] != num_extra_tokens:
        raise ValueError(
            f'KArAt: got {q.shape[2]} tokens for a grid of {tuple(grid)} patches; the operator '
            f'was made for {num_extra_tokens} tokens besides the patches'
        )
