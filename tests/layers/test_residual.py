import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from kat_mm.backbones.kat import KAT, Block
from kat_mm.layers import GRKAN, GroupRational, SoftmaxAttention
from kat_mm.layers.residual import AddLayerNorm, Residual, is_plain
from kat_mm.ops import add_branch


def make_stream(device='cpu', scale=True):
    torch.manual_seed(0)
    x, branch = torch.randn(3, 5, 16, device=device), torch.randn(3, 5, 16, device=device)
    scale = torch.tensor([0.0, 2.0, 2.0], device=device) if scale else None
    return Residual(x, branch, scale, torch.linspace(-1, 1, 16, device=device))


def test_adding_scales_the_branch_of_each_sample():
    x, branch, _, bias = stream = make_stream()
    want = x + (branch + bias) * torch.tensor([0.0, 2.0, 2.0])[:, None, None]
    torch.testing.assert_close(stream.add().x, want)
    assert stream.add().branch is None
    torch.testing.assert_close(Residual(x, branch).add().x, x + branch)
    assert Residual(x).add().x is x


def test_gradient_of_a_bias_is_summed_in_the_precision_of_the_stream():
    bias = torch.zeros(8, requires_grad=True)
    branch = torch.ones(64, 196, 8, dtype=torch.float16)
    add_branch(torch.zeros(64, 196, 8), branch, None, bias).mul(8.0).sum().backward()
    assert torch.equal(bias.grad, torch.full((8,), 64 * 196 * 8.0))  # beyond float16


def leave_bias(self, stream, norm):
    """What GRKAN does on a GPU."""
    total, y = norm(stream)
    y = nn.functional.linear(self.act2(self.fc1(self.act1(y))), self.fc2.weight)
    return Residual(total, y, branch_bias=self.fc2.bias)


def test_a_block_that_is_called_leaves_none_of_its_parameters_to_the_next(monkeypatch):
    """They may be gone by then: FSDP frees those of a block behind it."""
    torch.manual_seed(0)
    arch = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)
    model = KAT(arch, img_size=32, drop_path_rate=0.0)
    model.init_weights()
    for block in model.blocks:
        nn.init.normal_(block.mlp.fc2.bias)
    image, called = torch.randn(2, 3, 32, 32), []
    want = model(image)[0]
    monkeypatch.setattr(GRKAN, 'forward_residual', leave_bias)
    stream = Residual(torch.randn(2, 5, 16))
    assert model.blocks[0].run(stream, (2, 2)).branch_bias is model.blocks[0].mlp.fc2.bias
    assert model.blocks[0](stream, (2, 2)).branch_bias is None
    torch.testing.assert_close(model(image)[0], want)
    model.blocks[1].register_forward_hook(lambda module, inputs, y: called.append(y))
    torch.testing.assert_close(model(image)[0], want)
    assert [y.branch_bias for y in called] == [None]


def test_norm_adds_first():
    stream, norm = make_stream(), AddLayerNorm(16, eps=1e-6)
    nn.init.normal_(norm.weight)
    total, y = norm(stream)
    torch.testing.assert_close(total, stream.add().x)
    want = nn.functional.layer_norm(total, (16,), norm.weight, norm.bias, 1e-6)
    torch.testing.assert_close(y, want)


def hooked():
    linear = nn.Linear(4, 4)
    linear.register_forward_hook(lambda *_: None)
    return linear


def adapted():
    class Adapter(nn.Linear):
        pass

    return Adapter(4, 4)


def parametrised():
    linear = nn.Linear(4, 4)
    parametrize.register_parametrization(linear, 'weight', nn.Identity())
    return linear


def patched():
    linear = nn.Linear(4, 4)
    linear.forward = linear.forward
    return linear


def compiled():
    linear = nn.Linear(4, 4)
    linear.compile()
    return linear


def test_only_a_module_that_nobody_touched_is_plain():
    assert is_plain(nn.Linear(4, 4), nn.Linear)
    for make in (hooked, adapted, parametrised, patched, compiled):
        assert not is_plain(make(), nn.Linear)


@pytest.mark.gpu
@pytest.mark.parametrize('name', ['act1', 'fc1', 'act2', 'fc2'])
def test_hooks_of_a_feed_forward_see_what_they_would_see_unfused(name):
    torch.manual_seed(0)
    ffn, norm, stream = GRKAN(16, 32).cuda(), AddLayerNorm(16).cuda(), make_stream('cuda')
    ffn.init_weights()
    plain = ffn.forward_residual(stream, norm)
    seen = []
    getattr(ffn, name).register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    hooked = ffn.forward_residual(stream, norm)
    assert len(seen) == 1
    torch.testing.assert_close(hooked.add().x, plain.add().x, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize('name', ['norm', 'ffn'])
def test_hooks_of_the_norm_and_of_the_whole_feed_forward_fire(name):
    modules = {'ffn': GRKAN(16, 32).cuda(), 'norm': AddLayerNorm(16).cuda()}
    seen = []
    modules[name].register_forward_hook(lambda *_: seen.append(1))
    modules['ffn'].forward_residual(make_stream('cuda'), modules['norm'])
    assert seen == [1]


@pytest.mark.gpu
def test_a_feed_forward_of_another_class_computes_its_own_function():
    class Doubled(GRKAN):
        def forward(self, x):
            return 2 * super().forward(x)

    torch.manual_seed(0)
    ffn, norm, stream = Doubled(16, 32).cuda(), AddLayerNorm(16).cuda(), make_stream('cuda')
    total, y, *_ = ffn.forward_residual(stream, norm)
    torch.testing.assert_close(y, 2 * GRKAN.forward(ffn, norm(Residual(total))[1]))


@pytest.mark.gpu
def test_dropout_that_stays_on_in_evaluation_is_respected():
    ffn = GRKAN(16, 32, drop_rate=1.0).cuda().eval()
    ffn.drop2.train()
    _, y, *_ = ffn.forward_residual(make_stream('cuda'), AddLayerNorm(16).cuda())
    torch.testing.assert_close(y, ffn.fc2.bias.expand_as(y))


@pytest.mark.gpu
def test_dropout_and_missing_biases_take_the_unfused_way():
    torch.manual_seed(0)
    norm, stream = AddLayerNorm(16).cuda(), make_stream('cuda')
    dropped = GRKAN(16, 32, drop_rate=1.0).cuda()
    _, y, *_ = dropped.forward_residual(stream, norm)
    torch.testing.assert_close(y, dropped.fc2.bias.expand_as(y))
    bare = GRKAN(16, 32, bias=False).cuda()
    total, y, *_ = bare.forward_residual(stream, norm)
    torch.testing.assert_close(y, bare(norm(Residual(total))[1]))


@pytest.mark.gpu
def test_hooks_of_attention_see_its_linear_maps():
    attention = SoftmaxAttention(16, 2).cuda()
    x = torch.randn(2, 5, 16, device='cuda', requires_grad=True)
    plain, seen = attention(x, (1, 5)), []
    for linear in (attention.qkv, attention.proj):
        linear.register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(attention(x, (1, 5)), plain, rtol=1e-4, atol=1e-5)
    assert len(seen) == 2


@pytest.mark.gpu
@pytest.mark.parametrize('window', [0, 2])
@pytest.mark.parametrize('drop_path_rate', [0.0, 0.5])
@pytest.mark.parametrize('name', ['attn', 'mlp'])
def test_bias_of_a_branch_is_added_by_the_next_norm_or_by_itself(name, drop_path_rate, window):
    attention, ffn = dict(type='SoftmaxAttention'), dict(type='GRKAN')
    torch.manual_seed(0)
    block = Block(16, 2, 32, drop_path_rate, attention, ffn, window).cuda()
    block.init_weights()
    for bias in (block.attn.proj.bias, block.mlp.fc2.bias):
        nn.init.normal_(bias)
    x = torch.randn(3, 9, 16, device='cuda', requires_grad=True)

    def run():
        torch.manual_seed(1)  # of the branches that are left out
        y = block(Residual(x), (3, 3)).add().x
        return y, *torch.autograd.grad(y.square().sum(), [x, *block.parameters()])

    assert block.attn.forward_without_bias(x, (3, 3))[1] is block.attn.proj.bias
    assert block.run(Residual(x), (3, 3)).branch_bias is block.mlp.fc2.bias
    deferred, seen = run(), []
    getattr(block, name).register_forward_hook(lambda *_: seen.append(1))
    for got, want in zip(deferred, run(), strict=True):
        assert (got - want).norm() <= 1e-4 * want.norm()
    assert len(seen) == 1


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_rational_module_takes_maps_with_channels_first(memory_format):
    torch.manual_seed(0)
    first = GroupRational(8, num_groups=4, init='gelu', channels_first=True)
    last = GroupRational(8, num_groups=4, init='gelu')
    x = torch.randn(2, 8, 3, 5).contiguous(memory_format=memory_format)
    y = first(x)
    assert y.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(y, last(x.movedim(1, -1)).movedim(-1, 1))
    assert 'channels_first=True' in repr(first)
