"""The fused way of blocks against the plain one in float64; on a CPU in Triton's interpreter."""

import copy
import re

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmpretrain.models import LoRAModel
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize
from torchvision.models.feature_extraction import create_feature_extractor

from kat_mm.backbones import KAT, fused
from kat_mm.layers import GRKAN, Activation, LayerScale, RotaryEmbedding, SoftmaxAttention
from kat_mm.layers.karat import ScoreOperator
from kat_mm.ops import backend

ARCH = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)
OPERATORS = ('add_layer_norm', 'feed_forward', 'qkv_linear', 'linear', 'activation')
GPU = torch.cuda.is_available()
DEVICE = 'cuda' if GPU else 'cpu'
PARTS = {
    'GRKAN': dict(),
    'MLP': dict(ffn_cfg=dict(type='MLP')),
    'KArAt': dict(attn_cfg=dict(type='KArAt', rank=3)),
    'ViTDet': dict(window_size=3, global_attn_indices=(1,), use_rel_pos=True, with_cls_token=False),
    'recomputed': dict(with_cp=True),
    'foundation': dict(
        layer_scale=0.5,
        num_registers=2,
        attn_cfg=dict(type='SoftmaxAttention', qkv_bias='qv', rope=dict(), qk_norm=True),
    ),
    'DINOv3': dict(
        layer_scale=0.5,
        num_registers=2,
        with_pos_embed=False,
        attn_cfg=dict(type='SoftmaxAttention', qkv_bias='qv', rope=dict()),
        ffn_cfg=dict(type='MLP'),
    ),
    'EVA-02 in windows': dict(
        window_size=3,
        global_attn_indices=(1,),
        attn_cfg=dict(
            type='SoftmaxAttention',
            qkv_bias='qv',
            rope=dict(coordinates='indices', rotation='pairs'),
            inner_norm=True,
        ),
        ffn_cfg=dict(type='SwiGLU', inner_norm=True),
    ),
    'gated KAT': dict(layer_scale=0.5, ffn_cfg=dict(type='GatedGRKAN', inner_norm=True)),
    'registers in windows': dict(window_size=3, global_attn_indices=(1,), num_registers=2),
    'without biases': dict(
        attn_cfg=dict(type='SoftmaxAttention', qkv_bias=False),
        ffn_cfg=dict(type='GRKAN', bias=False),
    ),
}


@pytest.fixture(autouse=True)
def kernels_everywhere(monkeypatch):
    torch.backends.cuda.matmul.allow_tf32 = False
    if not GPU:
        monkeypatch.setattr(backend, 'runs_kernels', lambda x: True)


@pytest.fixture
def calls(monkeypatch):
    """How often the fused operators are called."""
    found = dict.fromkeys(OPERATORS, 0)

    def counted(name, operator):
        def call(*args, **kwargs):
            found[name] += 1
            return operator(*args, **kwargs)

        return call

    for name in found:
        monkeypatch.setattr(fused, name, counted(name, getattr(fused, name)))
    return found


def make(**kwargs):
    torch.manual_seed(0)
    model = KAT(**{'arch': ARCH, 'img_size': 32, 'patch_size': 8, 'out_type': 'featmap', **kwargs})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 5)
    return model.to(DEVICE)


def images(batch=2):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(DEVICE)


def run(model, x, seed=3):
    """Outputs, and gradients of all parameters and of x."""
    x = x.clone().requires_grad_()
    torch.manual_seed(seed)  # of the branches that are left out
    outputs = model(x)
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss = sum((output * torch.arange(output.shape[-1], device=DEVICE)).sum() for output in outputs)
    return *outputs, *torch.autograd.grad(loss, [x, *parameters])


class plain:
    """Within it every module is called."""

    def __enter__(self):
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(fused, '_can_fuse', lambda x: False)

    def __exit__(self, *_):
        self.patch.undo()


def truth(model, x):
    """The plain way in float64, which draws the same drop paths."""
    with plain():
        return run(copy.deepcopy(model).double(), x.double())


def assert_close(got, want, tolerance=1e-4):
    for g, w in zip(got, want, strict=True):
        assert (g.double() - w).norm() <= tolerance * w.norm() + 1e-9


@pytest.mark.parametrize(
    'parts, drop_path_rate',
    [(PARTS['GRKAN'], 0.0), *((parts, 0.5) for parts in PARTS.values())],
    ids=['without drop path', *PARTS],
)
def test_outputs_and_gradients_equal_those_of_plain_blocks_in_float64(parts, drop_path_rate, calls):
    arch = {**ARCH, 'num_layers': 2}
    model = make(arch=arch, drop_path_rate=drop_path_rate, out_indices=(0, 1), **parts)
    assert_close(run(model, images()), truth(model, images()))
    assert calls['add_layer_norm'] + calls['feed_forward'] > 0


@pytest.mark.parametrize('parts', ['GRKAN', 'foundation', 'registers in windows'])
def test_an_untouched_model_runs_operators_alone(parts, calls):
    make(**PARTS[parts])(images())
    assert calls == dict(add_layer_norm=3, feed_forward=3, qkv_linear=3, linear=3, activation=0)


@pytest.mark.parametrize('parts, norms', [('DINOv3', 2), ('EVA-02 in windows', 4)])
def test_nothing_but_operators_and_attention_touches_a_foundation_vit(parts, norms, calls):
    model = make(**PARTS[parts])

    def refuse(*_):
        raise AssertionError('called')

    with pytest.MonkeyPatch.context() as patch:
        for kind in (nn.LayerNorm, nn.Linear, LayerScale, RotaryEmbedding, Activation):
            patch.setattr(kind, 'forward', refuse)
        model.norm = nn.Identity()
        model(images())
    assert calls == dict(
        add_layer_norm=3 * norms, feed_forward=0, qkv_linear=3, linear=9, activation=3
    )


def test_layer_scale_that_somebody_listens_to_is_called_on_the_whole_branch(calls):
    model, seen = make(layer_scale=0.5), []
    for block in model.blocks:
        block.ls1.register_forward_hook(lambda _, args, y: seen.append((args[0], y)))
    assert_close(run(model, images()), truth(model, images()))
    assert len(seen) == 2 * 3 and calls['linear'] == calls['feed_forward'] == 3
    gamma = model.blocks[0].ls1.gamma
    torch.testing.assert_close(seen[0][1], seen[0][0] * gamma)


def test_evaluation_without_gradients_is_fused_too(calls):
    model = make(drop_path_rate=0.5).eval()
    with torch.no_grad():
        got = model(images())
        with plain():
            want = copy.deepcopy(model).double()(images().double())
    assert_close(got, want)
    assert calls['feed_forward'] == 3


@pytest.mark.skipif(not GPU, reason='needs a CUDA GPU')
@pytest.mark.parametrize('parts', PARTS.values(), ids=PARTS)
def test_half_precision_stays_within_its_rounding(parts):
    model = make(drop_path_rate=0.5, **parts)
    with torch.autocast('cuda', torch.bfloat16):
        got = run(model, images(4))
    want = truth(model, images(4))
    with plain(), torch.autocast('cuda', torch.bfloat16):
        rounded = run(model, images(4))
    for g, r, w in zip(got, rounded, want, strict=True):
        # No further off than what PyTorch's own operators make of the plain blocks.
        assert (g.double() - w).norm() <= 1.5 * (r.double() - w).norm() + 0.01 * w.norm()


# Whoever listens


def recorded(model, names):
    """Inputs and output of modules in one forward pass each, by name."""
    found = {}

    def listen(name):
        def hook(module, inputs, output):
            found[name] = [t.detach() for t in (*inputs, output) if isinstance(t, torch.Tensor)]

        return hook

    modules = dict(model.named_modules())
    for name in names:
        handle = modules[name].register_forward_hook(listen(name))
        torch.manual_seed(3)
        model(images().to(model.pos_embed.dtype))
        handle.remove()
    return found


@pytest.mark.parametrize('parts', ['GRKAN', pytest.param('ViTDet', marks=pytest.mark.slow)])
def test_a_forward_hook_on_any_module_sees_what_it_sees_in_plain_blocks(parts):
    model = make(arch={**ARCH, 'num_layers': 2}, drop_path_rate=0.5, **PARTS[parts])
    names = [
        name
        for name, module in model.named_modules()
        if re.fullmatch(r'blocks\.1(\..*)?|norm|patch_embed.*|drop_after_pos', name)
    ]
    got = recorded(model, names)
    with plain():
        want = recorded(copy.deepcopy(model).double(), names)
    assert got.keys() == want.keys() == set(names)
    for name in names:
        assert_close(got[name], want[name])


def test_a_hook_on_a_part_leaves_the_rest_of_the_block_fused(calls):
    model = make()
    want = dict(add_layer_norm=3, feed_forward=3, qkv_linear=3, linear=3, activation=0)
    for name, fewer in {
        'attn': ('qkv_linear', 'linear'),
        'attn.qkv': ('qkv_linear',),
        'attn.proj': ('linear',),
        'norm1': ('add_layer_norm',),
        'drop_path1': (),
        'ls2': (),
    }.items():
        calls.update(dict.fromkeys(calls, 0))
        handle = model.blocks[1].get_submodule(name).register_forward_hook(lambda *_: None)
        model(images())
        handle.remove()
        assert calls == {key: count - (key in fewer) for key, count in want.items()}, name


def test_a_block_that_is_called_is_fused_inside(calls):
    model, seen = make(), []
    model.blocks[1].register_forward_hook(lambda block, inputs, output: seen.append(output))
    model(images())
    assert calls['feed_forward'] == 3 and type(seen[0]) is torch.Tensor
    with plain():
        want = make().double().run_blocks(*model.double().embed(images().double()), 0, 2)
    assert_close(seen, [want])


def test_gradients_reach_a_backward_hook():
    model, seen = make(), []
    model.blocks[1].attn.register_full_backward_hook(lambda *args: seen.append(args[2][0]))
    got = run(model, images())
    assert len(seen) == 1
    assert_close(got, truth(make(), images()))


def test_a_global_hook_sees_every_module():
    model, names, seen = make(), {}, set()
    names = {module: name for name, module in model.named_modules()}
    handle = register_module_forward_hook(lambda module, inputs, output: seen.add(names[module]))
    try:
        got = model(images())
    finally:
        handle.remove()
    assert seen == {name for name in names.values() if name != 'blocks'}
    assert_close(got, truth(make(), images())[:1])


# Whoever replaces


class LowRank(nn.Module):
    """An adapter around a linear map, as LoRA puts it."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class Doubled(GRKAN):
    def forward(self, x):
        return 2 * super().forward(x)


class Turned(SoftmaxAttention):
    def forward(self, x, grid, attn_mask=None):
        return -super().forward(x, grid, attn_mask)


class Tripled(nn.Module):
    def forward(self, weight):
        return 3 * weight


class Quantised(torch.Tensor):
    """A weight that is not what its memory says, as quantised and distributed ones are."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        used = [arg.as_subclass(torch.Tensor) * 2 if type(arg) is cls else arg for arg in args]
        return function(*used, **(kwargs or {}))


def as_class(module, cls):
    module.__class__ = cls


def quantise(block):
    weight = block.mlp.fc1.weight.detach().as_subclass(Quantised)
    del block.mlp.fc1._parameters['weight']
    block.mlp.fc1.weight = weight


def wrap_forward(module):
    forward = module.forward
    module.forward = lambda *args: 2 * forward(*args)


REPLACED = {
    'adapter': lambda block: setattr(block.attn, 'qkv', LowRank(block.attn.qkv).to(DEVICE)),
    'adapter behind the attention': lambda block: setattr(
        block.attn, 'proj', LowRank(block.attn.proj).to(DEVICE)
    ),
    'adapter in the feed-forward': lambda block: setattr(
        block.mlp, 'fc2', LowRank(block.mlp.fc2).to(DEVICE)
    ),
    'activation': lambda block: setattr(block.mlp, 'act2', nn.GELU()),
    'norm for an activation': lambda block: setattr(block.mlp, 'act1', nn.LayerNorm(16).to(DEVICE)),
    'norm': lambda block: setattr(block, 'norm2', nn.RMSNorm(16).to(DEVICE)),
    'norm without weights': lambda block: setattr(
        block, 'norm1', nn.LayerNorm(16, elementwise_affine=False)
    ),
    'norm without bias': lambda block: setattr(
        block, 'norm2', nn.LayerNorm(16, bias=False).to(DEVICE)
    ),
    'subclass of a feed-forward': lambda block: as_class(block.mlp, Doubled),
    'subclass of an attention': lambda block: as_class(block.attn, Turned),
    'layer scale': lambda block: setattr(block, 'ls1', Tripled()),
    'drop path': lambda block: setattr(block, 'drop_path2', Tripled()),
    'parametrised': lambda block: parametrize.register_parametrization(
        block.mlp.fc1, 'weight', Tripled()
    ),
    'quantised': quantise,
    'wrapped forward': lambda block: wrap_forward(block.attn.proj),
    'wrapped block': lambda block: wrap_forward(block),
    'active dropout': lambda block: block.mlp.drop2.__init__(1.0),
    'active dropout of the projection': lambda block: block.attn.proj_drop.__init__(1.0),
}


@pytest.mark.parametrize('replace', REPLACED.values(), ids=REPLACED)
def test_a_replaced_part_computes_its_own_function(replace):
    torch.manual_seed(0)
    model = make(drop_path_rate=0.5)
    replace(model.blocks[1])
    got = model(images(4))[0]
    torch.manual_seed(3)
    got = model(images(4))
    torch.manual_seed(3)
    with plain():
        want = model(images(4))
        torch.manual_seed(3)
        untouched = make(drop_path_rate=0.5)(images(4))
    assert_close(got, [w.double() for w in want])
    assert not torch.allclose(got[0], untouched[0], rtol=1e-2)


def test_adapters_of_mmpretrain_leave_the_rest_of_the_blocks_fused(calls):
    parts = PARTS['DINOv3']
    cfg = dict(type='KAT', arch=ARCH, img_size=32, patch_size=8, out_type='featmap', **parts)
    model = LoRAModel(cfg, rank=2, targets=[dict(type='attn.qkv')]).to(DEVICE)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    got = run(model, images())
    assert calls == dict(add_layer_norm=6, feed_forward=0, qkv_linear=0, linear=9, activation=3)
    with plain():
        assert_close(got, run(copy.deepcopy(model).double(), images().double()))


def test_a_part_that_was_compiled_by_itself_is_called(calls):
    model = make()
    model.blocks[1].mlp.fc1.compile(backend='eager')
    assert_close(run(model, images()), truth(make(), images()))
    assert calls['feed_forward'] == 2


def test_dropout_that_stays_on_in_evaluation_is_respected():
    model = make(ffn_cfg=dict(type='GRKAN', drop_rate=1.0)).eval()
    with plain():
        want = [w.double() for w in model.train()(images())]
    model.eval()
    for block in model.blocks:
        block.mlp.drop1.train()
        block.mlp.drop2.train()
    assert_close(model(images()), want)


@pytest.fixture
def process_group():
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_sharded_blocks_are_fused_inside(process_group, calls):
    model = make()
    mesh = dist.init_device_mesh(DEVICE, (1,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    with torch.no_grad():
        got = model(images())
    assert_close(got, truth(make(), images())[:1])
    assert calls['feed_forward'] == 3


# Whoever traces


def test_a_compiled_program_is_made_of_the_operators():
    programs = []

    def record(program, inputs):
        programs.append(program.code)
        return program

    model = make().train()
    compiled = torch.compile(model, backend=record, fullgraph=True)
    assert_close(compiled(images()), truth(make(), images())[:1])
    assert len(programs) == 1
    assert programs[0].count('torch.ops.kat_mm.feed_forward') == 3
    assert programs[0].count('torch.ops.kat_mm.add_layer_norm') == 3


def test_a_compiled_foundation_vit_is_made_of_the_operators():
    programs = []

    def record(program, inputs):
        programs.append(program.code)
        return program

    model = make(**PARTS['DINOv3']).train()
    compiled = torch.compile(model, backend=record, fullgraph=True)
    assert_close(compiled(images()), truth(model, images())[:1])
    assert len(programs) == 1
    for operator, count in dict(add_layer_norm=6, activation=3, rotary_tables=3).items():
        assert programs[0].count(f'torch.ops.kat_mm.{operator}') == count, operator


def test_a_feature_extractor_of_torchvision_gives_what_hooks_see():
    model = make(drop_path_rate=0.1).eval()
    nodes = {'blocks.0': 'a', 'blocks.1.attn': 'b', 'blocks.1.norm2': 'c', 'blocks.2.mlp.act2': 'd'}
    extractor = create_feature_extractor(model, nodes)
    got = extractor(images())
    want = recorded(model, nodes)
    for name, key in nodes.items():
        assert_close([got[key]], [want[name][-1].double()])
    # What was traced at one size serves another.
    other = F.interpolate(images(), size=(40, 24))
    assert extractor(other)['a'].shape == (2, 1 + 5 * 3, 16)


def test_a_feature_extractor_takes_operators_of_karat_as_leaves():
    model = make(**PARTS['KArAt']).eval()
    leaves = dict(leaf_modules=[ScoreOperator])
    extractor = create_feature_extractor(model, {'blocks.1': 'a'}, tracer_kwargs=leaves)
    want = recorded(model, ['blocks.1'])['blocks.1'][-1]
    assert_close([extractor(images())['a']], [want.double()])


def test_blocks_i_to_j_run_by_themselves_with_tokens_before_the_patches_and_a_mask():
    model = make()
    x, grid = model.embed(images())
    x = torch.cat([torch.randn(2, 3, 16, device=DEVICE), x], dim=1)
    mask = torch.rand(2, 1, x.shape[1], x.shape[1], device=DEVICE) > 0.3
    got = model.run_blocks(x, grid, 1, 3, mask)
    with plain():
        want = copy.deepcopy(model).double().run_blocks(x.double(), grid, 1, 3, mask)
    assert_close([got], [want])


@pytest.mark.parametrize(
    'parts, word',
    [(PARTS['ViTDet'], 'windows of 3 tokens'), (PARTS['KArAt'], 'KArAt takes no attn_mask')],
    ids=['windows', 'KArAt'],
)
def test_a_mask_is_refused_where_it_does_not_apply(parts, word):
    model = make(**parts)
    x, grid = model.embed(images())
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=DEVICE)
    with pytest.raises(ValueError, match=word):
        model.run_blocks(x, grid, 0, 1, mask)
