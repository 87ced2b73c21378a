"""The two large products of a GR-KAN, with act2 inside them or beside them, and cuBLAS alone.

    python benchmarks/products.py

What is asked: does a product that applies the rational function before it writes (an epilogue) pay
for being slower than cuBLAS? Forward, fc1: (rows, K) x (N, K)^T, whose epilogue writes the product,
in training, and act2 of it: ``kat_mm.ops.linear_rational``, as the library calls it, against cuBLAS
and the kernel of act2, and the time that the host takes for either. Backward, the gradient of fc2's
input: (rows, K) x (K, N), whose epilogue reads what fc1 gave, applies the derivative of act2,
writes the gradient and act2's output, and adds up for each tile the gradients of coefficients and
bias; the order of all sums is fixed.

The kernels written here, of bare products and of the one backward, are persistent: one program for
each multiprocessor, operands by tensor descriptors. Each shape takes the fastest of a few tilings.
Only those that agree with float64 are timed.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from timing import kernel_times, machine, require_gpu, save
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kat_mm.engine.launch import run_tool
from kat_mm.fits import get_fit
from kat_mm.ops import group_rational_eager as eager
from kat_mm.ops import group_rational_triton as kernels
from kat_mm.ops.common.rational import (
    derivative,
    load_coefficients,
    load_magnitudes,
    polynomial,
    reciprocal_denominator,
    times_sign,
)
from kat_mm.ops.linear_rational import forward as library

RESULTS = Path(__file__).parent / 'results' / 'products'
# Rows, C and hidden width of a training step of B, S, T and L, and of ViTDet-B with 2 images of
# 1024.
SHAPES = {
    'B 128': (25216, 768, 3072),
    'S 256': (50432, 384, 1536),
    'T 256': (50432, 192, 768),
    'L 64': (12608, 1024, 4096),
    'ViTDet-B 2': (8192, 768, 3072),
}
GROUPS = 8
# Rows, columns and depth of a tile; stages; warps; programs of a
# multiprocessor; whether some warps only load.
TILINGS = (
    (128, 256, 64, 3, 8, 1, False),
    (128, 256, 64, 4, 8, 1, False),
    (128, 128, 64, 3, 4, 2, False),
    (128, 128, 64, 3, 8, 2, False),
    (128, 64, 64, 3, 4, 2, False),
    (256, 128, 64, 3, 8, 1, False),
)
SPECIALIZED = ((128, 256, 64, 3, 8, 1, True), (128, 128, 64, 4, 4, 1, True))


@triton.jit
def _tile_of(tile, rows_tiles, column_tiles, BAND: tl.constexpr):
    """Row and column of a tile: bands of rows, so that neighbours share operands in the cache."""
    band = tile // (BAND * column_tiles)
    first = band * BAND
    height = tl.minimum(rows_tiles - first, BAND)
    inside = tile % (BAND * column_tiles)
    return first + inside % height, inside // height


@triton.jit
def _halves(x, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Left and right half of a tile."""
    return tl.split(tl.permute(tl.reshape(x, [ROWS, 2, COLUMNS // 2]), [0, 2, 1]))


@triton.jit
def _differentiate(
    grad,
    hidden,
    gradient,
    output,
    bias,
    a,
    b_ptr,
    partial,
    shifts,
    row,
    column,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP,
    PTX,
):
    b = load_magnitudes(b_ptr, column // GROUP, 4, tl.float32)
    shift = tl.load(bias + column + tl.arange(0, WIDTH))[None, :]
    x = hidden.load([row, column]).to(tl.float32) + shift
    grad = grad.to(gradient.dtype).to(tl.float32)
    magnitude = tl.abs(x)
    reciprocal = reciprocal_denominator(magnitude, b, 4, PTX)
    grad *= reciprocal
    value = polynomial(x, a, 6) * reciprocal
    output.store([row, column], value.to(output.dtype))
    grad_q = grad * value
    slope = times_sign(derivative(magnitude, b, 0, 4), x, tl.float32)
    grad_x = derivative(x, a, 1, 6) * grad - slope * grad_q
    gradient.store([row, column], grad_x.to(gradient.dtype))
    tl.store(shifts + column + tl.arange(0, WIDTH), tl.sum(grad_x, axis=0))
    # Sums along a row stay within four threads; all others would wait for each other.
    rows = tl.arange(0, ROWS)
    term = grad
    for i in tl.static_range(6):
        tl.store(partial + i * ROWS + rows, tl.sum(term, axis=1))
        term *= x
    term = grad_q * magnitude
    for j in tl.static_range(4):
        tl.store(partial + (6 + j) * ROWS + rows, tl.sum(term, axis=1))
        term *= magnitude


@triton.jit
def _product_kernel(
    left,
    right,
    product,
    output,
    hidden,
    bias,
    a_ptr,
    b_ptr,
    partial,
    shifts,
    num_rows,
    num_columns,
    depth,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLITS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    TASK: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    PTX: tl.constexpr,
    SPECIALIZED: tl.constexpr,
):
    """left @ right, rounded; TASK 'backward': what act2's gradient makes of it, as above."""
    row_tiles = tl.cdiv(num_rows, ROWS)
    column_tiles = tl.cdiv(num_columns, COLUMNS)
    a = load_coefficients(a_ptr, 0, 6, tl.float32)
    tiles = row_tiles * column_tiles
    for tile in tl.range(
        tl.program_id(0),
        tiles,
        PROGRAMS,
        flatten=not SPECIALIZED,
        warp_specialize=SPECIALIZED,
    ):
        i, j = _tile_of(tile, row_tiles, column_tiles, 8)
        row, column = i * ROWS, j * COLUMNS
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for k in range(0, depth, DEPTH):
            if TRANSPOSED:
                total = tl.dot(left.load([row, k]), right.load([column, k]).T, total)
            else:
                total = tl.dot(left.load([row, k]), right.load([k, column]), total)
        WIDTH: tl.constexpr = COLUMNS // SPLITS
        if SPLITS == 1:
            parts = (total,)
        elif SPLITS == 2:
            parts = _halves(total, ROWS, COLUMNS)
        else:
            left_half, right_half = _halves(total, ROWS, COLUMNS)
            parts = _halves(left_half, ROWS, COLUMNS // 2) + _halves(right_half, ROWS, COLUMNS // 2)
        for s in tl.static_range(SPLITS):
            start = column + s * WIDTH
            if TASK == 'bare':
                product.store([row, start], parts[s].to(product.dtype))
            else:
                at = (i * column_tiles + j) * SPLITS + s
                _differentiate(
                    parts[s],
                    hidden,
                    product,
                    output,
                    bias,
                    a,
                    b_ptr,
                    partial + at * (10 * ROWS),
                    shifts + i * num_columns,
                    row,
                    start,
                    ROWS,
                    WIDTH,
                    GROUP,
                    PTX,
                )


class Product:
    """One product of one shape in one tiling, its outputs allocated."""

    def __init__(self, task: str, left: Tensor, right: Tensor, tensors: dict, tiling: tuple):
        rows, columns, depth, stages, warps, share, specialized = tiling
        transposed = task != 'backward' and right.shape[1] == left.shape[1]
        self.size = left.shape[0], right.shape[0 if transposed else 1], left.shape[1]
        group = self.size[1] // GROUPS
        # A part of a tile lies in one group, so that its coefficients are single numbers.
        splits = next(s for s in (1, 2, 4) if group % (columns // s) == 0)
        splits = max(splits, 2) if columns == 256 else splits
        width = columns // splits
        device = left.device
        self.product = left.new_empty(self.size[:2])
        self.output = left.new_empty(self.size[:2]) if task != 'bare' else self.product
        hidden = tensors.get('hidden', self.product)
        row_tiles = -(-self.size[0] // rows)
        tiles = row_tiles * -(-self.size[1] // columns)
        self.partial = torch.empty(tiles * splits, 10, rows, device=device)
        self.shifts = torch.empty(row_tiles, self.size[1], device=device)
        self.group_of = (
            torch.arange(tiles * splits, device=device) % (self.size[1] // width) * width // group
        )
        cuda = left.is_cuda
        programs = torch.cuda.get_device_properties(device).multi_processor_count if cuda else 4
        self.programs = min(share * programs, tiles)
        block = [columns, depth] if transposed else [depth, columns]
        self.tensors = (
            TensorDescriptor.from_tensor(left, [rows, depth]),
            TensorDescriptor.from_tensor(right, block),
            *(
                TensorDescriptor.from_tensor(t, [rows, width])
                for t in (self.product, self.output, hidden)
            ),
            *(tensors[name] for name in ('bias', 'a', 'b')),
            self.partial,
            self.shifts,
        )
        self.constants = dict(
            GROUP=group,
            ROWS=rows,
            COLUMNS=columns,
            DEPTH=depth,
            SPLITS=splits,
            PROGRAMS=self.programs,
            TASK=task,
            TRANSPOSED=transposed,
            PTX=cuda,
            SPECIALIZED=specialized,
            num_stages=stages,
            num_warps=warps,
        )

    def __call__(self) -> None:
        _product_kernel[self.programs,](*self.tensors, *self.size, **self.constants)

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of bias and of both kinds of coefficients (that of |b|): the second pass."""
        by_group = torch.stack(
            [self.partial[self.group_of == group].sum(dim=(0, 2)) for group in range(GROUPS)]
        )
        return self.shifts.sum(dim=0), by_group[:, :6].sum(dim=0), -by_group[:, 6:]


def make_tensors(rows: int, channels: int, hidden: int, device: str) -> dict[str, Tensor]:
    fit = get_fit('swish')
    make = dict(device=device, dtype=torch.bfloat16)
    return dict(
        x=torch.randn(rows, channels, **make),
        weight1=torch.randn(hidden, channels, **make) * channels**-0.5,
        grad=torch.randn(rows, channels, **make),
        weight2=torch.randn(channels, hidden, **make) * channels**-0.5,
        hidden=torch.randn(rows, hidden, **make),
        bias=torch.randn(hidden, device=device) * 0.1,
        a=torch.tensor([fit.numerator], device=device),
        b=torch.tensor([fit.denominator] * GROUPS, device=device),
    )


def operands(direction: str, t: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return (t['grad'], t['weight2']) if direction == 'backward' else (t['x'], t['weight1'])


def check(t: dict[str, Tensor], product: Product) -> float:
    """Largest error beside float64, of the outputs and the sums, relative to the largest value."""
    product()
    left, right = (x.double() for x in operands('backward', t))
    a, b, bias = (t[name].double() for name in ('a', 'b', 'bias'))
    grad = (left @ right).to(t['grad'].dtype).double()
    x = t['hidden'].double() + bias
    want_x, want_a, want_b, _ = eager.backward(grad, x, a, b)
    shifts, got_a, got_b = product.sums()
    pairs = [
        (product.product.double(), want_x),
        (product.output.double(), eager.forward(x, a, b)),
        (shifts.double(), want_x.sum(dim=0)),
        (got_a.double(), want_a[0]),
        (got_b.double().where(b >= 0, -got_b.double()), want_b),
    ]
    return max(((got - want).abs().max() / want.abs().max()).item() for got, want in pairs)


def fastest(task: str, direction: str, t: dict, choice: tuple) -> tuple[Product | None, dict]:
    """The fastest tiling, and what each took or why it could not run."""
    from triton.testing import do_bench

    times, best = {}, None
    for tiling in choice:
        name = ' x '.join(map(str, tiling))
        try:
            product = Product(task, *operands(direction, t), t, tiling)
            if task != 'bare' and (error := check(t, product)) > 0.02:
                times[name] = f'differs from float64 by {error:.2g}'
                continue
            times[name] = do_bench(product, warmup=5, rep=20, return_mode='median')
        except Exception as error:  # too much shared memory, or what the compiler does not take
            times[name] = type(error).__name__ + ': ' + str(error)[:80]
            continue
        if best is None or times[name] < best[0]:
            best = times[name], product
    return (best and best[1]), times


def measure(name: str, choice: tuple) -> dict:
    rows, channels, hidden = SHAPES[name]
    t = make_tensors(rows, channels, hidden, 'cuda')
    functions, tilings = {}, {}
    for direction, task in (
        ('forward', 'bare'),
        ('backward', 'bare'),
        ('backward', 'with act2'),
    ):
        label = f'{direction}, {task}'
        product, tilings[label] = fastest(
            'bare' if task == 'bare' else direction, direction, t, choice
        )
        if product is not None:
            functions[f'{label}, Triton'] = product
    a, b, bias = t['a'], t['b'], t['bias']
    functions['forward, bare, cuBLAS'] = lambda: F.linear(t['x'], t['weight1'])
    functions['forward, with act2, cuBLAS'] = lambda: kernels.forward(
        F.linear(t['x'], t['weight1']), a, b, bias
    )
    functions['inference, with act2, cuBLAS'] = functions['forward, with act2, cuBLAS']
    functions['backward, bare, cuBLAS'] = lambda: t['grad'].mm(t['weight2'])
    functions['backward, with act2, cuBLAS'] = lambda: kernels.backward_in_place(
        t['grad'].mm(t['weight2']), t['hidden'], a, b, bias
    )
    for label, keep in (('forward', True), ('inference', False)):
        functions[f'{label}, with act2, library'] = functools.partial(
            library, t['x'], t['weight1'], bias, a, b, keep
        )
    times = kernel_times(functions)
    ratios = {
        name.removesuffix(f', {who}'): times[name.removesuffix(who) + 'cuBLAS']['median']
        / time['median']
        for who in ('Triton', 'library')
        for name, time in times.items()
        if name.endswith(who)
    }
    host = {
        who: host_time(functions[f'forward, with act2, {who}']) for who in ('cuBLAS', 'library')
    }
    print(name, (rows, channels, hidden))
    for label, value in sorted(times.items()):
        print(f'    {label:32} {value["median"]:8.4f} ms')
    print('    speed over cuBLAS:', {k: round(v, 3) for k, v in ratios.items()})
    print('    host, ms:', {k: round(v, 4) for k, v in host.items()})
    shape = dict(rows=rows, channels=channels, hidden=hidden)
    return dict(shape=shape, times=times, speed_over_cublas=ratios, host_ms=host, tilings=tilings)


def host_time(function: Callable, calls: int = 100) -> float:
    """Milliseconds that the host takes to start it, the least of a few turns."""
    turns = []
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            function()
        turns.append(1000 * (time.perf_counter() - start) / calls)
    return min(turns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--shapes', nargs='+', choices=SHAPES, default=list(SHAPES))
    parser.add_argument('--out', type=Path, default=RESULTS / 'results.json')
    parser.add_argument(
        '--specialized', action='store_true', help='with tilings in which some warps only load'
    )
    args = parser.parse_args()
    require_gpu()
    shapes = {name: measure(name, TILINGS + SPECIALIZED * args.specialized) for name in args.shapes}
    save({'machine': machine(), 'unit': 'ms', 'shapes': shapes}, args.out)


if __name__ == '__main__':
    run_tool(main)
