import math

import pytest
import torch

from kat_mm.layers import rope
from kat_mm.ops import Rotation, backend, qkv_linear, rotate
from kat_mm.ops.rotate_triton import join_rotated, rotate_in_place

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]
# Samples, windows, heads, tokens, channels of a head: powers of two, odd ones, many rows.
SHAPES = [(2, 1, 3, 5, 8), (4, 2, 2, 7, 12), (1, 1, 1, 300, 64), (3, 1, 1, 41, 72)]
TOLERANCES = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def angles(windows, tokens, head_dim, halves, device='cpu', dtype=torch.float32):
    """Tables of random angles, the first two tokens not turned."""
    generator = torch.Generator().manual_seed(1)
    shape = (tokens,) if windows == 1 else (windows, 1, tokens)
    angle = 9 * torch.randn(*shape, head_dim // 2, generator=generator).double()
    angle[..., :2, :] = 0
    return Rotation(angle.cos().to(device, dtype), angle.sin().to(device, dtype), halves)


def as_matrices(x, rotation):
    """(B, heads, N, d), every plane times a 2 x 2 matrix."""
    cos, sin, halves = rotation
    half = x.shape[-1] // 2
    y, windows = torch.empty_like(x), 1 if cos.dim() == 2 else len(cos)
    for i in range(half):
        a, b = (i, i + half) if halves else (2 * i, 2 * i + 1)
        c, s = (
            t[..., i].expand(windows, 1, -1).repeat(len(x) // windows, 1, 1) for t in (cos, sin)
        )
        y[..., a], y[..., b] = x[..., a] * c - x[..., b] * s, x[..., b] * c + x[..., a] * s
    return y


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def join(parts):
    return torch.cat([p.transpose(1, 2).flatten(2).flatten(0, 1) for p in parts], dim=1)


@pytest.mark.parametrize('halves', [True, False])
@pytest.mark.parametrize('shape', SHAPES[:2])
def test_planes_are_turned_by_their_matrices_and_back(shape, halves):
    batch, windows, heads, tokens, head_dim = shape
    x = random(batch, heads, tokens, head_dim)
    rotation = angles(windows, tokens, head_dim, halves, dtype=torch.float64)
    got = rotate(x, rotation)
    torch.testing.assert_close(got, as_matrices(x, rotation))
    assert torch.equal(got[:, :, :2], x[:, :, :2]) and not torch.allclose(got, x)
    torch.testing.assert_close(rotate(got, rotation.inverse()), x)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('halves', [True, False])
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('dtype', TOLERANCES)
def test_kernels_equal_float64(dtype, shape, halves, device):
    batch, windows, heads, tokens, head_dim = shape
    qkv = random(batch, tokens, 3 * heads * head_dim).to(device, dtype)
    rotation = angles(windows, tokens, head_dim, halves, device)
    exact = rotation._replace(cos=rotation.cos.double(), sin=rotation.sin.double())
    q, k, v = qkv.double().view(batch, tokens, 3, heads, head_dim).permute(2, 0, 3, 1, 4)
    tolerance = dict(rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])

    turned = qkv.clone()
    rotate_in_place(turned, heads, *rotation)
    want = join([as_matrices(q, exact), as_matrices(k, exact), v])
    torch.testing.assert_close(turned.double().flatten(0, 1), want, **tolerance)
    assert torch.equal(turned[..., -heads * head_dim :], qkv[..., -heads * head_dim :])
    assert torch.equal(turned[:, :2], qkv[:, :2])

    back = exact.inverse()
    want = join([as_matrices(q, back), as_matrices(k, back), v])
    joined, total = join_rotated(*(t.to(dtype) for t in (q, k, v)), *rotation, with_sum=True)
    torch.testing.assert_close(joined.double(), want, **tolerance)
    torch.testing.assert_close(total.double(), want.sum(0), rtol=1e-3, atol=1e-3)
    assert total.dtype == torch.float32 and joined.dtype == dtype
    again, none = join_rotated(*(t.to(dtype) for t in (q, k, v)), *rotation, with_sum=False)
    assert none is None and torch.equal(again, joined)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('halves', [True, False])
def test_gradients_of_any_layout_are_joined(halves, device):
    parts = [random(2, 3, 5, 8, seed=i).float().to(device) for i in range(3)]
    rotation = angles(1, 5, 8, halves, device)
    want = join_rotated(*parts, *rotation, with_sum=True)
    by_token = [p.transpose(1, 2).contiguous().transpose(1, 2) for p in parts]
    for given in (by_token, [by_token[0], *parts[1:]], [p.mT.contiguous().mT for p in parts]):
        assert all(map(torch.equal, join_rotated(*given, *rotation, with_sum=True), want))


@pytest.mark.parametrize('device', DEVICES)
def test_same_input_gives_same_bits(device):
    parts = [random(4, 3, 50, 16, seed=i).to(device, torch.bfloat16) for i in range(3)]
    rotation = angles(1, 50, 16, True, device)
    first, *others = [join_rotated(*parts, *rotation, with_sum=True) for _ in range(3)]
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def make(device, dtype=torch.float32):
    leaves = [random(2, 7, 24), random(72, 24, seed=1), random(72, seed=2)]
    return [leaf.to(device, dtype).requires_grad_() for leaf in leaves]


def two_steps(x, weight, bias, rotation):
    q, k, v = qkv_linear(x, weight, bias, 3)
    return as_matrices(q, rotation), as_matrices(k, rotation), v


@pytest.fixture
def kernels_everywhere(monkeypatch):
    monkeypatch.setattr(backend, 'runs_kernels', lambda x: True)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('halves', [True, False])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_linear_map_and_gradients_equal_two_steps_in_float64(
    dtype, halves, device, kernels_everywhere
):
    rotation = angles(1, 7, 8, halves, device, dtype)
    leaves = make(device, dtype)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    want = two_steps(*exact, rotation)
    grads = [random(*w.shape, seed=i).to(device) for i, w in enumerate(want)]
    want_grads = torch.autograd.grad(want, exact, grads)
    got = qkv_linear(*leaves, 3, rotation)
    got_grads = torch.autograd.grad(got, leaves, [g.to(dtype) for g in grads])
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    for g, w in zip((*got, *got_grads), (*want, *want_grads), strict=True):
        assert g.dtype == dtype and (g.double() - w).norm() <= tolerance * w.norm()
    with torch.no_grad():
        assert all(map(torch.equal, qkv_linear(*leaves, 3, rotation), got))


@pytest.mark.gpu
@pytest.mark.parametrize('halves', [True, False])
def test_autocast_turns_in_its_dtype_and_keeps_that_of_the_gradients(halves):
    leaves = make('cuda')
    rotation = angles(1, 7, 8, halves, 'cuda')
    with torch.autocast('cuda', torch.bfloat16):
        got = qkv_linear(*leaves, 3, rotation)
    assert all(g.dtype == torch.bfloat16 for g in got)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    want = two_steps(*exact, angles(1, 7, 8, halves, 'cuda', torch.float64))
    grads = [torch.randn_like(g) for g in got]
    got_grads = torch.autograd.grad(got, leaves, grads)
    want_grads = torch.autograd.grad(want, exact, [g.double() for g in grads])
    for g, w in zip((*got, *got_grads), (*want, *want_grads), strict=True):
        assert (g.double() - w).norm() <= 1e-2 * w.norm()
    assert all(g.dtype == torch.float32 for g in got_grads)


@pytest.mark.parametrize('device', DEVICES)
def test_second_derivatives_equal_those_of_two_steps(device, kernels_everywhere):
    leaves = make(device, torch.float64)
    rotation = angles(1, 7, 8, True, device, torch.float64)

    def second(function):
        y = torch.cat([part.flatten() for part in function(*leaves)])
        gradients = torch.autograd.grad((y**3).sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves)

    torch.testing.assert_close(
        second(lambda *i: qkv_linear(*i, 3, rotation)), second(lambda *i: two_steps(*i, rotation))
    )


# Tables in a compiled program


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('window', [0, 2])
@pytest.mark.parametrize('kind', [('centers', None), ('indices', None), ('indices', [16, 16])])
def test_operator_of_tables_is_sound(kind, window, device):
    arguments = [3, 4], window, 2, [1.0, math.pi], *kind, torch.float32, torch.device(device)
    operator = torch.ops.kat_mm.rotary_tables
    torch.library.opcheck(operator.default, arguments)
    reference = None if kind[1] is None else tuple(kind[1])
    want = rope.rotary_tables(
        (3, 4), window, 2, (1.0, math.pi), kind[0], reference, torch.float32, device
    )
    for got, w in zip(operator(*arguments), want, strict=True):
        assert torch.equal(got, w)
        got.zero_()  # a compiled program may write into it
    assert all(map(torch.equal, operator(*arguments), want))


@pytest.mark.parametrize('device', DEVICES)
def test_a_compiled_program_asks_for_tables_and_computes_the_same(device, kernels_everywhere):
    programs = []

    def record(program, inputs):
        programs.append(program.code)
        return program

    embedding = rope.RotaryEmbedding(8)
    q, k = (random(2, 3, 14, 8, seed=i).float().to(device) for i in range(2))
    compiled = torch.compile(embedding, backend=record, fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(q, k, (3, 4)), embedding(q, k, (3, 4)))
    assert len(programs) == 1 and 'kat_mm.rotary_tables' in programs[0]
    assert 'cos()' not in programs[0]


@pytest.mark.gpu
def test_a_compiled_program_for_any_size_equals_the_eager_one():
    torch._dynamo.reset()
    embedding = rope.RotaryEmbedding(8)
    compiled = torch.compile(embedding, fullgraph=True, dynamic=True)
    for grid in ((3, 4), (5, 2), (6, 6)):
        q, k = (torch.randn(2, 3, 2 + math.prod(grid), 8, device='cuda') for _ in range(2))
        torch.testing.assert_close(compiled(q, k, grid), embedding(q, k, grid))
