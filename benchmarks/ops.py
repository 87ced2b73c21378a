"""Time of the operators over the floor: a copy on the device that moves the same bytes."""

from pathlib import Path

import torch
import torch.nn.functional as F
from timing import kernel_times, machine, require_gpu, save
from torch import Tensor

from kat_mm.fits import get_fit
from kat_mm.layers import RotaryEmbedding
from kat_mm.ops import ACTIVATIONS, rotate, split_heads
from kat_mm.ops import activation_triton as activation_kernels
from kat_mm.ops import add_layer_norm_triton as fused
from kat_mm.ops import group_rational_eager as eager
from kat_mm.ops import group_rational_triton as kernels
from kat_mm.ops import qkv_linear_triton as qkv_kernels
from kat_mm.ops import rotary_triton as rotary_kernels

SHAPES = ((128, 197, 3072), (512, 197, 768))
DTYPES = {'bfloat16': torch.bfloat16, 'float32': torch.float32}
TARGETS = {'forward': 1.15, 'backward': 1.25}
SWEEP_ROWS = tuple(2**exponent for exponent in range(10, 19, 2))
SWEEP_CHANNELS = 768


def coefficients() -> tuple[Tensor, Tensor]:
    """One numerator and eight denominators, as KAT has them."""
    fit = get_fit('swish')
    numerator = torch.tensor([fit.numerator], device='cuda')
    return numerator, torch.tensor([fit.denominator] * 8, device='cuda')


def copy_of(num_bytes: int):
    """A copy that reads and writes ``num_bytes`` together."""
    source = torch.empty(num_bytes // 2, dtype=torch.uint8, device='cuda')
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def gelu_backward(x: Tensor, grad: Tensor):
    return lambda: torch.ops.aten.gelu_backward(grad, x)


def time_group_rational(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, dict]:
    a, b = coefficients()
    x, grad = (torch.randn(shape, device='cuda', dtype=dtype) for _ in range(2))
    bias = torch.randn(shape[-1], device='cuda')
    size = x.numel() * x.element_size()
    rows, scratch = x.flatten(0, -2), grad.flatten(0, -2).clone()
    return kernel_times(
        {
            'forward floor': copy_of(2 * size),
            'forward': lambda: kernels.forward(x, a, b),
            'forward with bias': lambda: kernels.forward(x, a, b, bias),
            'forward GELU': lambda: F.gelu(x),
            'backward floor': copy_of(3 * size),
            'backward': lambda: kernels.backward(grad, x, a, b),
            'backward with bias': lambda: kernels.backward(grad, x, a, b, bias),
            # As in the feed-forward node: the output once more, a third of the bytes on top. It
            # overwrites its gradient; the time does not depend on the numbers.
            'backward with bias and output': lambda: kernels.backward_in_place(
                scratch, rows, a, b, bias
            ),
            'backward GELU': gelu_backward(x, grad),
        }
    )


def time_add_layer_norm(shape: tuple[int, ...], act: bool) -> dict[str, dict]:
    """In autocast to bfloat16, the residual stream in float32."""
    a, b = coefficients() if act else (None, None)
    x = torch.randn(shape, device='cuda', requires_grad=True)
    branch = torch.randn(shape, device='cuda', dtype=torch.bfloat16, requires_grad=True)
    weight, bias = (torch.ones(shape[-1], device='cuda', requires_grad=True) for _ in range(2))
    leaves = [x, branch, weight, bias]

    def plain():
        with torch.autocast('cuda', torch.bfloat16):
            total = x + branch
            y = F.layer_norm(total, weight.shape, weight, bias, 1e-6)
            return total, (y if a is None else kernels.forward(y, a, b)).to(torch.bfloat16)

    grads = torch.randn(shape, device='cuda'), torch.randn(shape, device='cuda').bfloat16()

    elements = x.numel()
    half = torch.bfloat16
    inputs = [t.detach() for t in (x, branch, weight, bias)]

    def forward(branch_bias=None):
        return fused.forward(*inputs[:2], branch_bias, None, *inputs[2:], a, b, 1e-6, half)

    total, y, statistics = forward()

    def backward(has_branch_bias=False, output=None):
        kept = total, statistics, *inputs[2:], a, b, None
        return fused.backward(*grads, *kept, half, has_branch_bias, output)

    functions = {
        'forward floor': copy_of(12 * elements),
        'forward': forward,
        'forward with bias': lambda: forward(inputs[3]),
        'forward plain': plain,
        'backward floor': copy_of(16 * elements),
        'backward': backward,
        'backward with bias': lambda: backward(True),
    }
    if act:  # as in the feed-forward node: 18 bytes, and not 16
        functions['backward with bias and output'] = lambda: backward(True, y)
    else:  # the kernels alone have no gradient
        outputs = plain()
        functions['backward plain'] = lambda: torch.autograd.grad(
            outputs, leaves, grads, retain_graph=True
        )
    return kernel_times(functions)


def time_activation(shape: tuple[int, ...], kind: str, gated: bool) -> dict[str, dict]:
    """In bfloat16, of ``shape`` what the second linear map gets."""
    width = shape[-1] * (1 + gated)
    x = torch.randn(*shape[:-1], width, device='cuda', dtype=torch.bfloat16)
    grad = torch.randn(shape, device='cuda', dtype=torch.bfloat16)
    bias = torch.randn(width, device='cuda')
    leaf, function = x.clone().requires_grad_(), ACTIVATIONS[kind]

    def plain(x):
        if not gated:
            return function(x)
        gate, value = x.chunk(2, dim=-1)
        return function(gate) * value

    output = plain(leaf)
    inner, outer = (2 * tensor.numel() for tensor in (x, grad))
    return kernel_times(
        {
            'forward floor': copy_of(inner + outer),
            'forward': lambda: activation_kernels.forward(x, None, kind, gated),
            'forward with bias': lambda: activation_kernels.forward(x, bias, kind, gated),
            'forward plain': lambda: plain(x),
            'backward floor': copy_of(2 * inner + outer),
            'backward': lambda: activation_kernels.backward(grad, x, None, kind, gated),
            'backward with bias': lambda: activation_kernels.backward(grad, x, bias, kind, gated),
            # Without the bias, whose gradient PyTorch adds up in another pass.
            'backward plain': lambda: torch.autograd.grad(output, leaf, grad, retain_graph=True),
        }
    )


def time_rotary(grid: int, batch: int, heads: int, halves: bool) -> dict[str, dict]:
    """In bfloat16, heads of 64 channels, a class token and four registers before the patches."""
    tokens, channels = 5 + grid**2, 64 * heads
    qkv = torch.randn(batch, tokens, 3 * channels, device='cuda', dtype=torch.bfloat16)
    # As attention gives them: token by token.
    gradients = [
        torch.randn(batch, tokens, heads, 64, device='cuda', dtype=torch.bfloat16).transpose(1, 2)
        for _ in range(3)
    ]
    rotation = RotaryEmbedding(64, rotation='halves' if halves else 'pairs').angles(
        qkv, tokens, (grid, grid), 0
    )
    leaf = qkv.clone().requires_grad_()

    def plain(qkv):
        q, k, v = split_heads(qkv, heads)
        return rotate(q, rotation), rotate(k, rotation), v

    outputs = plain(leaf)
    size = 2 * qkv.numel()

    def plain_backward():
        return torch.autograd.grad(outputs, leaf, gradients, retain_graph=True)

    return kernel_times(
        {
            'forward floor': copy_of(2 * size * 2 // 3),  # values stay
            'forward': lambda: rotary_kernels.rotate_in_place(qkv, heads, *rotation),
            'forward plain': lambda: plain(qkv),
            'backward floor': copy_of(2 * size),
            'backward': lambda: rotary_kernels.join_rotated(*gradients, *rotation, False),
            'backward with bias': lambda: rotary_kernels.join_rotated(*gradients, *rotation, True),
            # What the linear map takes all the same.
            'backward without rotation': lambda: qkv_kernels.join_heads(*gradients, True),
            'backward plain': plain_backward,
        }
    )


def gradient_errors(shape: tuple[int, ...]) -> dict[str, float]:
    """Relative error of float32 coefficient gradients against float64."""
    a, b = coefficients()
    x, grad = (torch.randn(shape, device='cuda') for _ in range(2))
    _, got_a, got_b, _ = kernels.backward(grad, x, a, b)
    _, want_a, want_b, _ = eager.backward(*(t.double() for t in (grad, x, a, b)))
    return {
        name: ((got - want).norm() / want.norm()).item()
        for name, got, want in (('numerator', got_a, want_a), ('denominator', got_b, want_b))
    }


def run(out_dir: Path) -> None:
    """Measure, print and write results.json and the plot."""
    require_gpu()
    results = {'machine': machine(), 'unit': 'ms', 'targets': TARGETS}
    print(f'{"group_rational":44} {"ms":>8} {"ratio":>6} {"target":>6}')
    results['group_rational'] = []
    for shape in SHAPES:
        for name, dtype in DTYPES.items():
            times = time_group_rational(shape, dtype)
            ratios = ratios_to_floor(times)
            results['group_rational'].append(
                {'shape': shape, 'dtype': name, 'times': times, 'ratios': ratios}
            )
            print_case(f'{shape} {name}', times, ratios)
    results['coefficient_gradient_errors'] = [
        {'shape': shape, **gradient_errors(shape)} for shape in SHAPES
    ]
    for case in results['coefficient_gradient_errors']:
        print(case)
    results['add_layer_norm'] = []
    for shape in ((128, 197, 768), (256, 197, 384), (256, 197, 192)):
        for act in (False, True):
            times = time_add_layer_norm(shape, act)
            ratios = ratios_to_floor(times)
            results['add_layer_norm'].append(
                {'shape': shape, 'act': act, 'times': times, 'ratios': ratios}
            )
            print_case(f'add_layer_norm {shape}' + ' + rational' * act, times, ratios)
    results['activation'] = []
    for shape, kind, gated in (
        ((128, 201, 3072), 'gelu', False),
        ((256, 201, 1536), 'gelu', False),
        ((256, 201, 1536), 'silu', True),
    ):
        times = time_activation(shape, kind, gated)
        ratios = ratios_to_floor(times)
        results['activation'].append(
            {'shape': shape, 'kind': kind, 'gated': gated, 'times': times, 'ratios': ratios}
        )
        print_case(f'activation {shape} {kind}' + ' gate' * gated, times, ratios)
    results['rotary'] = []
    for case in ((14, 128, 12, True), (14, 256, 6, True), (32, 24, 12, True), (14, 128, 12, False)):
        times = time_rotary(*case)
        ratios = ratios_to_floor(times)
        settings = dict(zip(('grid', 'batch', 'heads', 'halves'), case, strict=True))
        results['rotary'].append({**settings, 'times': times, 'ratios': ratios})
        print_case(f'rotary positions {settings}', times, ratios)
    results['sweep'] = [
        {'rows': rows, 'times': time_group_rational((rows, SWEEP_CHANNELS), torch.bfloat16)}
        for rows in SWEEP_ROWS
    ]
    save(results, out_dir / 'results.json')
    plot(results, out_dir / 'time.png')


def ratios_to_floor(times: dict[str, dict]) -> dict[str, float]:
    return {
        name: value['median'] / times[name.split()[0] + ' floor']['median']
        for name, value in times.items()
        if not name.endswith('floor')
    }


def print_case(title: str, times: dict[str, dict], ratios: dict[str, float]) -> None:
    print(title)
    for name, ratio in ratios.items():
        target = TARGETS.get(name, '')
        print(f'    {name:40} {times[name]["median"]:8.4f} {ratio:6.3f} {target:>6}')


def plot(results: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout='constrained')
    sizes = [case['rows'] * SWEEP_CHANNELS for case in results['sweep']]
    styles = {'floor': ('0.6', '--'), 'GELU': ('tab:orange', '-'), '': ('tab:blue', '-')}
    for axis, direction in zip(axes, ('forward', 'backward'), strict=True):
        for suffix, (color, line) in styles.items():
            name = f'{direction} {suffix}'.strip()
            medians = [case['times'][name]['median'] for case in results['sweep']]
            label = {'floor': 'copy of the same bytes', '': 'group_rational'}.get(suffix, suffix)
            axis.loglog(sizes, medians, line, color=color, marker='.', label=label)
        axis.set(title=direction, xlabel=f'elements (bfloat16, C = {SWEEP_CHANNELS})')
        axis.grid(alpha=0.3)
    axes[0].set_ylabel('ms')
    axes[0].legend(frameon=False)
    figure.suptitle(results['machine']['device'], fontsize=9)
    figure.savefig(path, dpi=150)
    print(f'plot: {path}')
