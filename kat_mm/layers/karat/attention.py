import torch
import torch.nn.functional as F
from torch import Tensor

from kat_mm.layers.attention import SoftmaxAttention
from kat_mm.layers.block_spec import BlockSpec

from .l1_ball import project_l1_ball
from .operators import OPERATORS


class KArAt(SoftmaxAttention):
    """Learnable attention: a Kolmogorov-Arnold operator in the place of softmax.

    Rows of scores q k^T / sqrt(d), of N tokens, go through learnable functions, separately for each
    head (Maity et al., Kolmogorov-Arnold Attention, 2025). The parameters belong to tokens; see
    :class:`kat_mm.layers.karat.operators.ScoreOperator` for other grids. A tracer of torch.fx needs
    the class of its operator (``Phi1W2``, ``W1Phi2`` or ``FullOperator``) among its leaf modules.

    Args:
        embed_dims: Channels C of the tokens.
        num_heads: Number of heads; must divide C.
        grid_size: (H, W) in tokens of what the attention sees, the image or a window.
        num_extra_tokens: Tokens in front of the patches (class token). Default: 0.
        basis: 'fourier', 'bspline', 'wavelet' or 'rational', or a dict with that ``type`` and the
            arguments of its class in ``kat_mm.layers.karat``, for example
            ``dict(type='bspline', grid=5, order=3, range=(-4, 4))``. Default: 'fourier', grid 3.
        operator: 'phi1_w2', 'w1_phi2' or 'full', which is N x N functions. Default: 'phi1_w2'.
        rank: Width r of the hidden layer of the first two, up to N. Default: 12.
        mode: 'blockwise', an operator for each block, or 'universal', one that all blocks share.
            Default: 'blockwise'.
        base: Function that is added with a learnable weight for each pair: 'zero' (none),
            'identity', 'relu', 'silu', 'gelu', 'elu', 'tanh', 'sigmoid' or 'softplus'.
            Default: 'zero'.
        freeze_basis: Whether the functions of the basis stay as they start. Default: False.
        freeze_base: Whether the weights of the base function do. Default: False.
        num_karat_heads: Heads with the operator, the first ones; the others have softmax.
            Default: None, all.
        project_l1: Whether each row of weights is projected onto the l1 unit ball. This and
            ``attn_drop_rate`` need the weights of all pairs of tokens, as a (B, heads, N, N)
            tensor. Default: False.
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
        operator: str = 'phi1_w2',
        rank: int = 12,
        mode: str = 'blockwise',
        base: str = 'zero',
        freeze_basis: bool = False,
        freeze_base: bool = False,
        num_karat_heads: int | None = None,
        project_l1: bool = False,
        fused: bool = True,
        qkv_bias: bool = True,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        init: str = 'mimetic',
        window_size: int = 0,
    ):
        super().__init__(
            embed_dims,
            num_heads,
            qkv_bias,
            attn_drop_rate,
            proj_drop_rate,
            init,
            window_size=window_size,
        )
        tokens = num_extra_tokens + grid_size[0] * grid_size[1]
        if operator not in OPERATORS:
            raise ValueError(
                f'KArAt: operator={operator!r} is unknown; choose one of {", ".join(OPERATORS)}'
            )
        if mode not in ('blockwise', 'universal'):
            raise ValueError(f"KArAt: mode={mode!r} is unknown; choose 'blockwise' or 'universal'")
        if operator != 'full' and not 1 <= rank <= tokens:
            raise ValueError(
                f'KArAt: rank={rank} must lie between 1 and the number of tokens, {tokens}'
            )
        heads = num_heads if num_karat_heads is None else num_karat_heads
        if not 1 <= heads <= num_heads:
            raise ValueError(
                f'KArAt: num_karat_heads={heads} must lie between 1 and num_heads={num_heads}'
            )
        self.mode = mode
        self.num_karat_heads = heads
        self.project_l1 = project_l1
        kan_cfg = dict(
            basis=basis,
            base=base,
            freeze_basis=freeze_basis,
            freeze_base=freeze_base,
            fused=fused,
        )
        self.operator = OPERATORS[operator](heads, grid_size, num_extra_tokens, rank, kan_cfg)

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
        karat, softmax = zip(
            *(t.tensor_split([self.num_karat_heads], dim=1) for t in (q, k, v)), strict=True
        )
        return torch.cat([self._operate(*karat, seen), super().attend(*softmax, grid)], dim=1)

    def _operate(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        dropout = self.attn_drop_rate if self.training else 0.0
        if not self.project_l1 and not dropout:
            return self.operator(q, k, v, grid)
        weights = self.operator(q, k, None, grid)
        if self.project_l1:
            weights = project_l1_ball(weights)
        return F.dropout(weights, dropout) @ v


# Sizes decide in it, which torch.fx cannot see: to it this is one step.
torch.fx.wrap('_check_tokens')


def _check_tokens(q: Tensor, grid: tuple[int, int], num_extra_tokens: int) -> None:
    if q.shape[2] - grid[0] * grid[1] != num_extra_tokens:
        raise ValueError(
            f'KArAt: got {q.shape[2]} tokens for a grid of {tuple(grid)} patches; the operator '
            f'was made for {num_extra_tokens} tokens besides the patches'
        )
