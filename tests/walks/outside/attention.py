import torch
from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class MeanAttention(nn.Module):
    """Every token gets the mean of all tokens, through a linear map."""

    def __init__(self, channels: int, scale: float):
        super().__init__()
        self.proj = nn.Linear(channels, channels)
        self.scale = scale
        self.shared = nn.Parameter(torch.ones(channels))

    @classmethod
    def from_spec(cls, spec, scale: float = 1.0) -> 'MeanAttention':
        if spec.use_rel_pos or spec.window_size:
            raise ValueError('MeanAttention: it has neither windows nor relative positions')
        return cls(spec.embed_dims, scale)

    def share_with(self, first: 'MeanAttention') -> None:
        self.shared = first.shared

    def forward(self, x: Tensor, grid: tuple[int, int], attn_mask: Tensor | None = None) -> Tensor:
        return self.scale * self.shared * self.proj(x.mean(dim=1, keepdim=True)).expand_as(x)
