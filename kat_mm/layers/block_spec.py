from dataclasses import dataclass


@dataclass(frozen=True)
class BlockSpec:
    """Where the parts of a block stand: what a backbone tells each attention and feed-forward.

    A part, ours or anybody's, is a class of modules that a backbone builds by
    ``cls.from_spec(spec, **options)``, with the options of its ``attn_cfg`` or ``ffn_cfg``. There
    it takes from the spec what it needs, and raises a ValueError that names what it cannot do. Its
    ``forward`` is

    - ``(x, grid, attn_mask=None)`` of an attention: x (B, N, C), the last H * W of the N tokens are
      the patches of ``grid`` = (H, W), any others stand before them; ``attn_mask`` as in
      ``torch.nn.functional.scaled_dot_product_attention``, or of M < N rows, M > 1: that of the
      first M tokens, and the others look at all;
    - ``(x)`` of a feed-forward: x (..., C);

    each to x's shape. Where it has ``init_weights()``, that fills all of its parameters. Where
    blocks share something, the part has ``share_with(first)``, which is called with the part of the
    first block on those of all others. ``neutral`` maps names of parameters to the value at which
    they compute nothing, which they get from a checkpoint that has them in no block.

    Attributes:
        embed_dims: Channels C of the tokens.
        num_heads: Heads of the attention.
        feedforward_channels: Channels between the linear maps of a feed-forward.
        grid_size: (H, W) of the patches, in tokens, at the size that the backbone was made for.
        num_extra_tokens: Tokens before the patches.
        window_size: Side in tokens of the windows in which the block attends; 0: none.
        use_rel_pos: Whether the attention is to have decomposed relative positions (ViTDet).
        norm_eps: What norms of a part add to the variance.
    """

    embed_dims: int
    num_heads: int
    feedforward_channels: int
    grid_size: tuple[int, int]
    num_extra_tokens: int = 0
    window_size: int = 0
    use_rel_pos: bool = False
    norm_eps: float = 1e-6

    @property
    def attended_grid(self) -> tuple[int, int]:
        """(H, W) in tokens of what a query sees: its window, or the whole grid."""
        return (self.window_size, self.window_size) if self.window_size else self.grid_size
