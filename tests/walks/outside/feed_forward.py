from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class GatedFeedForward(nn.Module):
    """out(sigmoid(gate(x)) * value(x))"""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.gate, self.value = nn.Linear(channels, hidden), nn.Linear(channels, hidden)
        self.out = nn.Linear(hidden, channels)

    @classmethod
    def from_spec(cls, spec) -> 'GatedFeedForward':
        return cls(spec.embed_dims, spec.feedforward_channels)

    def init_weights(self) -> None:
        for linear in (self.gate, self.value, self.out):
            nn.init.constant_(linear.bias, 0.25)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gate(x).sigmoid() * self.value(x))
