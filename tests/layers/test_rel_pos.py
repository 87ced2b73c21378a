import pytest
import torch
import vitdet_reference
from torch.nn.attention import SDPBackend, sdpa_kernel

from kat_mm.layers import SoftmaxAttention
from kat_mm.layers.rel_pos import rel_pos_attention, resize_rel_pos


def random_attention(size=(4, 3), **kwargs):
    torch.manual_seed(0)
    attention = SoftmaxAttention(24, 3, rel_pos_size=size, **kwargs)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention


def reference(x, attention, grid):
    state = dict(attention.named_parameters())
    tables = [
        vitdet_reference.resize_table(state[f'rel_pos_{axis}'], 2 * n - 1)
        for axis, n in zip('hw', grid, strict=True)
    ]
    images = x.unflatten(1, grid)
    return torch.stack(
        [vitdet_reference.attention(image, state, 3, tables).flatten(0, 1) for image in images]
    )


@pytest.mark.parametrize('grid', [(4, 3), (3, 5), (1, 2), (5, 6)])
def test_output_and_gradients_equal_an_explicit_bias_in_float64(grid):
    attention = random_attention().double()
    x = torch.randn(2, grid[0] * grid[1], 24, dtype=torch.float64, requires_grad=True)
    leaves = [x, *attention.parameters()]
    got, want = attention(x, grid), reference(x, attention, grid)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(got)
    torch.testing.assert_close(
        torch.autograd.grad(got, leaves, grad),
        torch.autograd.grad(want, leaves, grad),
        rtol=1e-11,
        atol=1e-11,
    )


def test_the_start_is_attention_without_positions():
    plain, attention = SoftmaxAttention(24, 3), SoftmaxAttention(24, 3, rel_pos_size=(2, 3))
    missing, _ = attention.load_state_dict(plain.state_dict(), strict=False)
    assert missing == ['rel_pos_h', 'rel_pos_w']
    x = torch.randn(2, 6, 24)
    torch.testing.assert_close(attention(x, (2, 3)), plain(x, (2, 3)))
    attention(x, (2, 3)).square().sum().backward()
    assert attention.rel_pos_h.grad.any() and attention.rel_pos_w.grad.any()


def test_autocast_to_bfloat16_stays_near_float32():
    attention = random_attention()
    x = torch.randn(2, 12, 24)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y = attention(x, (4, 3))
    assert y.dtype == torch.bfloat16
    error = y - reference(x, attention, (4, 3))
    assert error.std() < 0.01 * y.float().std()


def test_tables_are_resized_linearly():
    table = torch.randn(7, 2, dtype=torch.float64)
    for size in (2, 4, 9):
        want = vitdet_reference.resize_table(table, 2 * size - 1)
        torch.testing.assert_close(resize_rel_pos(table, size), want)
    assert resize_rel_pos(table, 4) is table


def test_a_table_of_another_size_is_resized_on_loading():
    small, large = random_attention((3, 4)), random_attention((5, 2))
    state = small.state_dict()
    large.load_state_dict(state)
    assert torch.equal(large.rel_pos_h, resize_rel_pos(small.rel_pos_h, 5))
    assert torch.equal(large.rel_pos_w, resize_rel_pos(small.rel_pos_w, 2))
    assert state['rel_pos_h'].shape == (5, 8)  # the caller's own is left as it is


def test_a_table_of_other_heads_is_refused():
    state = random_attention().state_dict()
    with pytest.raises(RuntimeError, match='size mismatch for rel_pos_h'):
        SoftmaxAttention(24, 2, rel_pos_size=(4, 5)).load_state_dict(state)


def inputs(batch, heads, grid, head, **kwargs):
    torch.manual_seed(0)
    tokens = grid[0] * grid[1]
    qkv = [torch.randn(batch, heads, tokens, head, **kwargs) for _ in range(3)]
    tables = [torch.randn(2 * n - 1, head, **kwargs) for n in grid]
    return [tensor.requires_grad_() for tensor in (*qkv, *tables)]


@pytest.mark.parametrize('grid', [(14, 14), (9, 16)])
def test_the_fused_kernel_of_the_cpu_takes_it(grid):
    q, k, v, *tables = inputs(2, 2, grid, 64)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # raises where it cannot
        rel_pos_attention(q, k, v, grid, tables).sum().backward()


@pytest.mark.gpu
@pytest.mark.parametrize('backend', [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION])
@pytest.mark.parametrize('grid', [(14, 14), (64, 64), (50, 84)])
def test_the_fused_kernels_of_a_gpu_take_it(backend, grid):
    q, k, v, *tables = inputs(1, 2, grid, 64, device='cuda', dtype=torch.bfloat16)
    with sdpa_kernel(backend):
        rel_pos_attention(q, k, v, grid, tables).sum().backward()


@pytest.mark.gpu
def test_the_bias_is_not_held_in_memory_at_1024_pixels():
    q, k, v, *tables = inputs(1, 12, (64, 64), 64, device='cuda', dtype=torch.bfloat16)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    rel_pos_attention(q, k, v, (64, 64), tables).sum().backward()
    # One bias of 12 heads alone would be 403 MB.
    assert torch.cuda.max_memory_allocated() - before < 300e6
