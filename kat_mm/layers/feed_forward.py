from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from kat_mm.ops import FeedForwardParameters, feed_forward

from .init import trunc_normal_, variance_preserving_
from .rational import GroupRational
from .residual import AddLayerNorm, Residual, is_plain


class FeedForward(BaseModule):
    """What a block's second half can be: (..., C) to the same shape."""

    def forward_residual(self, stream: Residual, norm: AddLayerNorm) -> Residual:
        """The stream with its branch added; its next branch is this module's function of its
        normalisation.
        """
        total, x = norm(stream)
        return Residual(total, self(x))


@MODELS.register_module()
class GRKAN(FeedForward):
    """Feed-forward of KAT: rational function, linear, rational function, linear.

    act1 -> dropout -> fc1 -> act2 -> dropout -> fc2 (KAT, section 4; names of the official code).

    Args:
        embed_dims: Channels C of the tokens.
        hidden_dims: Channels between the two linear maps.
        num_groups: Denominator groups of both activations. Default: 8.
        num_numerator_groups: Numerator groups of both activations. Default: 1.
        order: Degrees (m, n) of numerator and denominator. Default: (5, 4).
        act_init: Functions that act1 and act2 start as. Default: ('identity', 'swish').
        act_interval: (lo, hi), where they are to be close to these functions. Default: the
            intervals of the packaged fits.
        bias: Whether the linear maps have biases. Default: True.
        drop_rate: Dropout after each activation. Default: 0.
        init: 'variance_preserving' (KAT, section 4.3) or 'trunc_normal' (std 0.02, from which the
            published models trained). Default: 'variance_preserving'.
    """

    def __init__(
        self,
        embed_dims: int,
        hidden_dims: int,
        num_groups: int = 8,
        num_numerator_groups: int = 1,
        order: tuple[int, int] = (5, 4),
        act_init: tuple[str, str] = ('identity', 'swish'),
        act_interval: tuple[float, float] | None = None,
        bias: bool = True,
        drop_rate: float = 0.0,
        init: str = 'variance_preserving',
    ):
        super().__init__()
        if init not in ('variance_preserving', 'trunc_normal'):
            raise ValueError(
                f"GRKAN: init={init!r} is unknown; choose 'variance_preserving' or 'trunc_normal'"
            )
        if isinstance(act_init, str) or len(act_init) != 2:
            raise ValueError(
                f'GRKAN: act_init={act_init!r} must name two functions, those of act1 and act2, '
                "for example ('identity', 'swish')"
            )
        self.init = init
        form = (num_groups, num_numerator_groups, order)
        self.act1 = GroupRational(embed_dims, *form, act_init[0], act_interval)
        self.drop1 = nn.Dropout(drop_rate)
        self.fc1 = nn.Linear(embed_dims, hidden_dims, bias=bias)
        self.act2 = GroupRational(hidden_dims, *form, act_init[1], act_interval)
        self.drop2 = nn.Dropout(drop_rate)
        self.fc2 = nn.Linear(hidden_dims, embed_dims, bias=bias)

    def init_weights(self) -> None:
        for act, linear in ((self.act1, self.fc1), (self.act2, self.fc2)):
            if self.init == 'variance_preserving':
                variance_preserving_(linear, act.fit)
            else:
                trunc_normal_(linear)

    def forward(self, x: Tensor) -> Tensor:
        """(..., embed_dims) to the same shape."""
        x = self.act2(self.fc1(self.drop1(self.act1(x))))
        return self.fc2(self.drop2(x))

    def forward_residual(self, stream: Residual, norm: AddLayerNorm) -> Residual:
        """As ``FeedForward.forward_residual``, in one node of the graph where that is the same."""
        # Looked up once: a module takes longer to find its parts than to launch a kernel on them.
        acts, linears = (self.act1, self.act2), (self.fc1, self.fc2)
        if not (
            stream.x.is_cuda
            and is_plain(norm, AddLayerNorm)
            and is_plain(self, GRKAN)
            and all(is_plain(act, GroupRational) for act in acts)
            and all(is_plain(linear, nn.Linear) for linear in linears)
            and linears[0].bias is not None
            and not any(_drops(drop) for drop in (self.drop1, self.drop2))
        ):
            return super().forward_residual(stream, norm)
        (act1, act2), (fc1, fc2) = acts, linears
        parameters = FeedForwardParameters(
            norm.weight,
            norm.bias,
            act1.weight_numerator,
            act1.weight_denominator,
            fc1.weight,
            fc1.bias,
            act2.weight_numerator,
            act2.weight_denominator,
            fc2.weight,
        )
        total, y = feed_forward(
            stream.x, stream.branch, stream.scale, norm.eps, parameters, stream.branch_bias
        )
        return Residual(total, y, branch_bias=fc2.bias)


def _drops(module: nn.Module) -> bool:
    """Whether a dropout does anything, or is none."""
    return not is_plain(module, nn.Dropout) or (module.training and module.p > 0)


@MODELS.register_module()
class MLP(FeedForward):
    """Feed-forward of the plain ViT: linear, GELU, linear. The twin that KAT is compared with.

    Args:
        embed_dims: Channels C of the tokens.
        hidden_dims: Channels between the two linear maps.
        bias: Whether the linear maps have biases. Default: True.
        drop_rate: Dropout after each linear map. Default: 0.
    """

    def __init__(
        self, embed_dims: int, hidden_dims: int, bias: bool = True, drop_rate: float = 0.0
    ):
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims, bias=bias)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(drop_rate)
        self.fc2 = nn.Linear(hidden_dims, embed_dims, bias=bias)
        self.drop2 = nn.Dropout(drop_rate)

    def init_weights(self) -> None:
        trunc_normal_(self.fc1)
        trunc_normal_(self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """(..., embed_dims) to the same shape."""
        x = self.drop1(self.act(self.fc1(x)))
        return self.drop2(self.fc2(x))
