"""A user's code with types, which `make lint` checks in full, and the types of what is public."""

import importlib
import inspect

import pytest
import torch
from torch import Tensor, nn

from kat_mm.backbones import KAT
from kat_mm.fits import RationalFit, get_fit
from kat_mm.layers import GRKAN
from kat_mm.ops import add_layer_norm, group_rational, linear, qkv_linear, resize

PACKAGES = (
    'ops',
    'fits',
    'layers',
    'backbones',
    'necks',
    'checkpoints',
    'weights',
    'heads',
    'export',
)


def activate(x: Tensor, name: str) -> Tensor:
    fit: RationalFit = get_fit(name)
    return group_rational(x, torch.tensor([fit.numerator]), torch.tensor([fit.denominator]))


def half_size(x: Tensor) -> Tensor:
    return resize(x, (x.shape[2] // 2, x.shape[3] // 2), align_corners=False)


class Classifier(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
        self.backbone = KAT(arch=arch, img_size=32, patch_size=8, out_type='cls_token')
        self.feed_forward = GRKAN(16, 32)
        self.head = nn.Linear(16, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        features: tuple[Tensor, ...] = self.backbone(image)
        hidden: Tensor = self.feed_forward(features[-1][:, None])[:, 0]
        return linear(hidden, self.head.weight, self.head.bias)


def test_a_typed_users_code_runs() -> None:
    assert Classifier(3)(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert half_size(torch.zeros(1, 2, 8, 8)).shape == (1, 2, 4, 4)
    assert activate(torch.zeros(4, 8), 'swish').shape == (4, 8)
    queries, keys, values = qkv_linear(torch.zeros(1, 4, 8), torch.zeros(24, 8), None, 2)
    assert queries.shape == keys.shape == values.shape == (1, 2, 4, 4)
    stream, normalised = add_layer_norm(torch.zeros(1, 4, 8), torch.ones(8), torch.zeros(8), 1e-6)
    assert stream.shape == normalised.shape


def untyped(function: object) -> list[str]:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    missing = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.annotation is parameter.empty and name not in ('self', 'cls')
    ]
    return missing + ['return'] * (signature.return_annotation is signature.empty)


@pytest.mark.parametrize('package', PACKAGES)
def test_public_functions_and_methods_are_annotated(package: str) -> None:
    module = importlib.import_module(f'kat_mm.{package}')
    missing: dict[str, list[str]] = {}
    for name in module.__all__:
        value = getattr(module, name)
        functions = {name: value} if inspect.isfunction(value) else {}
        if inspect.isclass(value):
            own = {key: getattr(value, key) for key in vars(value) if not key.startswith('_')}
            functions = {f'{name}.{key}': f for key, f in own.items() if inspect.isfunction(f)}
            if '__init__' in vars(value):
                parameters = [p for p in untyped(value.__init__) if p != 'return']
                missing |= {name: parameters} if parameters else {}
        missing |= {key: untyped(f) for key, f in functions.items() if untyped(f)}
    assert not missing
