import pytest
import torch

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
