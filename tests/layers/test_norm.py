import pytest
import torch
from mmengine.registry import MODELS

from kat_mm.layers import LayerNorm2d


def random_norm():
    norm = LayerNorm2d(6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    return norm


def test_channels_are_normalised_at_each_position():
    norm = random_norm().double()
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    want = (x - mean) / (var + 1e-6).sqrt()
    want = want * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), want)


def test_maps_become_and_stay_channels_last():
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 6, 3, 5).to(memory_format=memory_format)
        assert random_norm()(x).is_contiguous(memory_format=torch.channels_last)


# On a GPU alone does autocast turn PyTorch's layer norm to float32.
@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_the_dtype_of_the_input_stays_under_autocast(dtype, device):
    norm, x = random_norm().to(device), torch.randn(2, 6, 3, 5, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        y = norm(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), norm(x), rtol=2e-2, atol=4e-2)


def test_heads_find_it_by_its_name():
    assert MODELS.get('LN2d') is LayerNorm2d
