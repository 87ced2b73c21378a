import numpy as np
import pytest
import torch
from timm.layers import GluMlp, Mlp, QuickGELU
from torch import nn

from kat_mm.fits.fitter import FUNCTIONS
from kat_mm.layers import GRKAN, MLP, GatedGRKAN, SwiGLU


def randomise(module):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return module.eval()


def rational(x, act):
    """The function of the paper, group by group, with numpy in float64."""
    columns = []
    for group, part in enumerate(np.split(x, len(act.weight_denominator), axis=-1)):
        a = act.weight_numerator[0].detach().double().numpy()
        b = act.weight_denominator[group].detach().double().abs().numpy()
        columns.append(np.polyval(a[::-1], part) / np.polyval([*b[::-1], 1], np.abs(part)))
    return np.concatenate(columns, axis=-1)


def linear(x, module):
    weight, bias = (t.detach().double().numpy() for t in (module.weight, module.bias))
    return x @ weight.T + bias


def test_grkan_is_rational_linear_rational_linear():
    ffn = randomise(GRKAN(16, 32))
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
    want = linear(rational(linear(rational(x.numpy(), ffn.act1), ffn.fc1), ffn.act2), ffn.fc2)
    torch.testing.assert_close(ffn(x).double(), torch.from_numpy(want), rtol=1e-4, atol=1e-5)


def test_grkan_parameters_have_the_official_names_and_shapes():
    shapes = {name: tuple(p.shape) for name, p in GRKAN(16, 64).named_parameters()}
    assert shapes == {
        'act1.weight_numerator': (1, 6),
        'act1.weight_denominator': (8, 4),
        'fc1.weight': (64, 16),
        'fc1.bias': (64,),
        'act2.weight_numerator': (1, 6),
        'act2.weight_denominator': (8, 4),
        'fc2.weight': (16, 64),
        'fc2.bias': (16,),
    }


def test_grkan_starts_with_identity_and_swish():
    ffn = GRKAN(16, 32)
    x = torch.linspace(-3, 3, 96).view(3, 32)
    assert torch.equal(ffn.act1(x[:, :16]), x[:, :16])
    swish = torch.from_numpy(FUNCTIONS['swish'](x.double().numpy())).float()
    torch.testing.assert_close(ffn.act2(x), swish, rtol=0, atol=2e-6)


def test_grkan_passes_groups_order_and_functions_to_both_activations():
    ffn = GRKAN(
        16, 32, num_groups=4, num_numerator_groups=2, order=(6, 5), act_init=('gelu', 'relu')
    )
    for act, name in ((ffn.act1, 'gelu'), (ffn.act2, 'relu')):
        assert act.weight_numerator.shape == (2, 7)
        assert act.weight_denominator.shape == (4, 5)
        assert act.fit.name == name


def test_grkan_drops_behind_each_activation_and_only_in_training():
    ffn = randomise(GRKAN(16, 32, drop_rate=1.0))
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(ffn(x), ffn.fc2.bias.expand(4, 16))
    assert torch.equal(ffn.train()(x), ffn.fc2.bias.expand(4, 16))
    ffn.drop2.eval()
    hidden = ffn.act2(ffn.fc1.bias)
    torch.testing.assert_close(ffn(x), ffn.fc2(hidden).expand(4, 16))


@pytest.mark.parametrize('ffn', [GRKAN, MLP])
def test_bias_can_be_left_out(ffn):
    names = {name for name, _ in ffn(16, 32, bias=False).named_parameters()}
    assert 'fc1.weight' in names and not any('bias' in name for name in names)


def test_grkan_initialises_by_the_gain_of_each_activation_or_by_a_fixed_std():
    torch.manual_seed(0)
    ffn = GRKAN(128, 256)
    ffn.init_weights()
    assert ffn.fc1.weight.var().item() * 128 == pytest.approx(1, rel=0.03)
    assert ffn.fc2.weight.var().item() * 256 == pytest.approx(2.807, rel=0.03)
    ffn = GRKAN(128, 256, init='trunc_normal')
    ffn.init_weights()
    for fc in (ffn.fc1, ffn.fc2):
        assert fc.weight.std().item() == pytest.approx(0.02, rel=0.03)


@pytest.mark.parametrize(
    'arguments, word',
    [
        (dict(init='xavier'), "init='xavier'"),
        (dict(act_init='swish'), "act_init='swish'"),
        (dict(act_init=('identity', 'swich')), "did you mean 'swish'"),
        (dict(num_groups=5), 'num_groups=5'),
    ],
)
def test_grkan_refuses_wrong_arguments(arguments, word):
    with pytest.raises(ValueError) as raised:
        GRKAN(16, 32, **arguments)
    assert word in str(raised.value)


def test_mlp_equals_timms_with_the_same_state_dict():
    theirs = randomise(Mlp(16, 32))
    ours = MLP(16, 32)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ours(x), theirs(x))


def test_mlp_drops_behind_each_linear_map():
    ffn = randomise(MLP(16, 32, drop_rate=1.0)).train()
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    assert (ffn(x) == 0).all()
    ffn.drop2.eval()
    assert torch.equal(ffn(x), ffn.fc2.bias.expand(4, 16))


def test_mlp_initialises_with_the_std_of_deit():
    torch.manual_seed(0)
    ffn = MLP(128, 256)
    ffn.init_weights()
    for fc in (ffn.fc1, ffn.fc2):
        assert fc.weight.std().item() == pytest.approx(0.02, rel=0.03)
        assert (fc.bias == 0).all()


@pytest.mark.parametrize(
    'act, layer',
    [
        ('gelu_tanh', lambda: nn.GELU(approximate='tanh')),
        ('quick_gelu', QuickGELU),
        ('silu', nn.SiLU),
    ],
)
@pytest.mark.parametrize('gated', [False, True])
def test_each_activation_with_a_norm_inside_is_timms(gated, act, layer):
    def norm(channels, **_):
        return nn.LayerNorm(channels, eps=1e-5)

    options = dict(act_layer=layer, norm_layer=norm)
    ours = (SwiGLU if gated else MLP)(16, 32, act, inner_norm=True, norm_eps=1e-5)
    theirs = GluMlp(16, 64, gate_last=False, **options) if gated else Mlp(16, 32, **options)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    assert ours.load_state_dict(theirs.state_dict()) == ([], [])
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize('ffn', [MLP, SwiGLU])
def test_an_unknown_activation_is_refused_with_those_that_are_known(ffn):
    with pytest.raises(ValueError, match=f"{ffn.__name__}: act='relu'.*gelu_tanh, quick_gelu"):
        ffn(16, 32, 'relu')


def test_a_gated_grkan_is_rational_linear_rational_gate_norm_linear():
    ffn, x = GatedGRKAN(16, 32, inner_norm=True).double(), torch.randn(2, 5, 16).double()
    for parameter in ffn.parameters():
        nn.init.normal_(parameter, std=0.5)
    gate, value = ffn.fc1(ffn.act1(x)).split(32, dim=-1)
    want = ffn.fc2(ffn.norm(ffn.act2(gate.contiguous()) * value))
    torch.testing.assert_close(ffn(x), want)
    shapes = {key: tuple(value.shape) for key, value in ffn.state_dict().items()}
    assert shapes['act2.weight_denominator'] == (8, 4) and shapes['fc1.weight'] == (64, 16)
    assert shapes.keys() >= SwiGLU(16, 32, inner_norm=True).state_dict().keys()


def test_a_gated_grkan_starts_with_unit_variance():
    torch.manual_seed(0)
    ffn = GatedGRKAN(64, 512)
    ffn.init_weights()
    x = torch.randn(4096, 64)
    assert abs(ffn(x).std().item() - 1) < 0.05
    assert abs(ffn.fc1(ffn.act1(x)).std().item() - 1) < 0.05
