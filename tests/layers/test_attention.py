import pytest
import torch
from timm.layers import Attention
from timm.models.eva import EvaAttention
from torch import nn

from kat_mm.layers import SoftmaxAttention


def explicit(x, attention):
    """softmax(q k^T / sqrt(d)) v, head by head, in the dtype of the parameters."""
    channels = x.shape[-1]
    head = channels // attention.num_heads
    q, k, v = (x @ attention.qkv.weight.T + attention.qkv.bias).split(channels, dim=-1)
    heads = []
    for h in range(attention.num_heads):
        s = slice(h * head, (h + 1) * head)
        weights = (q[..., s] @ k[..., s].mT / head**0.5).softmax(dim=-1)
        heads.append(weights @ v[..., s])
    return torch.cat(heads, dim=-1) @ attention.proj.weight.T + attention.proj.bias


def random_attention(**kwargs):
    torch.manual_seed(0)
    attention = SoftmaxAttention(24, 3, **kwargs)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention


def test_output_and_gradients_equal_explicit_softmax_in_float64():
    attention = random_attention().double()
    x = torch.randn(2, 7, 24, dtype=torch.float64, requires_grad=True)
    leaves = [x, *attention.parameters()]
    got, want = attention(x, (2, 3)), explicit(x, attention)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(got)
    torch.testing.assert_close(
        torch.autograd.grad(got, leaves, grad),
        torch.autograd.grad(want, leaves, grad),
        rtol=1e-11,
        atol=1e-11,
    )


def test_float32_equals_float64_within_rounding():
    attention = random_attention()
    x = torch.randn(2, 7, 24)
    y = attention(x, (2, 3))
    want = explicit(x.double(), attention.double())
    torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-5)


def test_attention_dropout_acts_on_the_weights_and_only_in_training():
    attention = random_attention(attn_drop_rate=1.0)
    x = torch.randn(2, 7, 24)
    assert torch.equal(attention(x, (2, 3)), attention.proj.bias.expand(2, 7, 24))
    torch.testing.assert_close(attention.eval()(x, (2, 3)), explicit(x, attention))


def test_projection_dropout_acts_on_the_output_and_only_in_training():
    attention = random_attention(proj_drop_rate=1.0)
    x = torch.randn(2, 7, 24)
    assert (attention(x, (2, 3)) == 0).all()
    torch.testing.assert_close(attention.eval()(x, (2, 3)), explicit(x, attention))


def test_query_key_and_value_can_do_without_bias():
    attention = SoftmaxAttention(24, 3, qkv_bias=False)
    assert {n for n, _ in attention.named_parameters()} == {
        'qkv.weight',
        'proj.weight',
        'proj.bias',
    }
    attention.init_weights()


def test_initialisation_follows_its_mode():
    attention = SoftmaxAttention(96, 3, init='trunc_normal')
    attention.init_weights()
    for linear in (attention.qkv, attention.proj):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
    attention = SoftmaxAttention(96, 3)
    attention.init_weights()
    value = attention.qkv.weight[192:]
    diagonal = (value.T @ attention.proj.weight.T).diagonal()
    assert diagonal.mean().item() == pytest.approx(-0.4, abs=0.03)


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(embed_dims=24, num_heads=5), ['num_heads=5', 'embed_dims=24']),
        (dict(embed_dims=24, num_heads=3, init='mimic'), ["init='mimic'", "'mimetic'"]),
    ],
)
def test_wrong_arguments_are_refused_with_name_and_value(arguments, words):
    with pytest.raises(ValueError) as raised:
        SoftmaxAttention(**arguments)
    for word in words:
        assert word in str(raised.value)


# What foundation models have besides; timm's are the truth.


@pytest.mark.parametrize('inner_norm', [False, True])
def test_norms_of_queries_and_keys_and_before_the_projection_are_timms(inner_norm):
    theirs = Attention(
        16, 2, qkv_bias=True, qk_norm=True, scale_norm=inner_norm, norm_layer=nn.LayerNorm
    )
    ours = SoftmaxAttention(16, 2, qk_norm=True, inner_norm=inner_norm, norm_eps=1e-5)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 6, 16)
    torch.testing.assert_close(ours(x, (2, 3)), theirs(x), rtol=1e-4, atol=1e-4)


def test_a_bias_of_queries_and_values_alone_is_timms_and_trains_as_such():
    theirs = EvaAttention(16, 2, scale_norm=False)
    ours = SoftmaxAttention(16, 2, qkv_bias='qv')
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 6, 16)
    torch.testing.assert_close(ours(x, (2, 3)), theirs(x))
    ours(x, (2, 3)).square().sum().backward()
    assert ours.q_bias.grad.any() and ours.v_bias.grad.any()
    ours.init_weights()
    assert not ours.qkv_bias.any()


BIASES = [True, 'qv', False]


@pytest.mark.parametrize('has', BIASES)
@pytest.mark.parametrize('wants', BIASES)
def test_biases_of_a_checkpoint_take_the_form_of_the_module_or_are_refused(has, wants):
    source, model = (SoftmaxAttention(16, 2, qkv_bias=bias) for bias in (has, wants))
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    if has is True and wants == 'qv':
        with pytest.raises(RuntimeError, match='Unexpected.*qkv.bias'):
            model.load_state_dict(source.state_dict())
        with torch.no_grad():
            source.qkv.bias[16:32] = 0
    if has and not wants:
        with pytest.raises(RuntimeError, match='Unexpected.*bias'):
            model.load_state_dict(source.state_dict())
        with torch.no_grad():
            for name, parameter in source.named_parameters():
                if name in ('qkv.bias', 'q_bias', 'v_bias'):
                    parameter.zero_()
    state = source.state_dict()
    if wants and not has:
        missing, left_over = model.load_state_dict(state, strict=False)
        assert all('bias' in key for key in missing) and not left_over
        return
    model.load_state_dict(state)
    x = torch.randn(2, 6, 16)
    torch.testing.assert_close(model(x, (2, 3)), source(x, (2, 3)))
