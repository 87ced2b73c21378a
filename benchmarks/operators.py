"""The operators and products of ``kat_mm.ops``, as they are measured: one entry for each.

An entry yields cases: inputs of one size, and for forward and backward what is timed and which
tensors have to be read and written at least. The floor is a copy on the device of as many bytes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from kat_mm import ops
from kat_mm.fits import get_fit
from kat_mm.layers import RotaryEmbedding
from kat_mm.ops import (
    add_layer_norm_triton,
    fourier_low_rank_eager,
    group_rational_triton,
    suppress_eager,
)

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
OPERATORS: dict[str, Callable[[bool], Iterator['Case']]] = {}


@dataclass
class Case:
    """One operator at one size.

    Attributes:
        settings: Shape, dtype and what else tells it from others.
        functions: What is timed; names begin with 'forward' or 'backward'.
        moved: By 'forward' and 'backward', the tensors that are read or written.
    """

    settings: dict
    functions: dict[str, Callable[[], object]] = field(default_factory=dict)
    moved: dict[str, Sequence[Tensor]] = field(default_factory=dict)

    def floor_bytes(self) -> dict[str, int]:
        """Bytes that forward and backward have to move."""
        return {direction: sum(t.nbytes for t in moved) for direction, moved in self.moved.items()}


def operator(entry: Callable[[bool], Iterator[Case]]) -> Callable:
    """Register an entry under its name, that of the operator. It takes whether to be quick."""
    OPERATORS[entry.__name__] = entry
    return entry


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype)


def coefficients() -> tuple[Tensor, Tensor]:
    """One numerator and eight denominators, as KAT has them."""
    fit = get_fit('swish')
    numerator = torch.tensor([fit.numerator], device=DEVICE)
    return numerator, torch.tensor([fit.denominator] * 8, device=DEVICE)


def gradient_of(function: Callable, *inputs: Tensor, grad: Tensor | tuple) -> Callable:
    """The backward pass of a function alone."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = function(*leaves)
    return lambda: torch.autograd.grad(output, leaves, grad, retain_graph=True)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


@operator
def group_rational(quick: bool) -> Iterator[Case]:
    shapes = [(2, 5, 64)] if quick else [(128, 197, 3072), (512, 197, 768)]
    for shape in shapes:
        for dtype in (torch.bfloat16, torch.float32):
            yield rational_case(shape, dtype)


def rational_case(shape: tuple[int, ...], dtype: torch.dtype) -> Case:
    kernels = group_rational_triton
    a, b = coefficients()
    x, grad, bias = random(*shape, dtype=dtype), random(*shape, dtype=dtype), random(shape[-1])
    rows, scratch = x.flatten(0, -2), grad.flatten(0, -2).clone()
    return Case(
        dict(shape=shape, dtype=name_of(dtype)),
        {
            'forward': lambda: kernels.forward(x, a, b),
            'forward with bias': lambda: kernels.forward(x, a, b, bias),
            'forward GELU': lambda: F.gelu(x),
            'backward': lambda: kernels.backward(grad, x, a, b),
            'backward with bias': lambda: kernels.backward(grad, x, a, b, bias),
            # As in the feed-forward node: the output once more, a third of the bytes on top. It
            # overwrites its gradient; the time does not depend on the numbers.
            'backward with bias and output': lambda: kernels.backward_in_place(
                scratch, rows, a, b, bias
            ),
            'backward GELU': lambda: torch.ops.aten.gelu_backward(grad, x),
        },
        dict(forward=(x, x), backward=(x, grad, x)),
    )


@operator
def add_layer_norm(quick: bool) -> Iterator[Case]:
    """In autocast to bfloat16, the residual stream in float32."""
    shapes = [(2, 5, 64)] if quick else [(128, 197, 768), (256, 197, 384), (256, 197, 192)]
    for shape in shapes:
        for act in (False, True):
            yield layer_norm_case(shape, act)


def layer_norm_case(shape: tuple[int, ...], act: bool) -> Case:
    kernels, half = add_layer_norm_triton, torch.bfloat16
    a, b = coefficients() if act else (None, None)
    x, branch = random(*shape), random(*shape, dtype=half)
    weight, bias = random(shape[-1]), random(shape[-1])
    grads = random(*shape), random(*shape, dtype=half)

    def plain(x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        total = x + branch
        y = F.layer_norm(total, weight.shape, weight, bias, 1e-6)
        return total, (y if a is None else group_rational_triton.forward(y, a, b)).to(half)

    def forward(branch_bias: Tensor | None = None) -> tuple:
        return kernels.forward(x, branch, branch_bias, None, weight, bias, a, b, 1e-6, half)

    total, y, statistics = forward()

    def backward(has_branch_bias: bool = False, output: Tensor | None = None) -> tuple:
        kept = total, statistics, weight, bias, a, b, None
        return kernels.backward(*grads, *kept, half, has_branch_bias, output)

    functions = {
        'forward': forward,
        'forward with bias': lambda: forward(bias),
        'forward plain': lambda: plain(x, branch, weight, bias),
        'backward': backward,
        'backward with bias': lambda: backward(True),
    }
    if act:  # as in the feed-forward node, with 18 bytes for each number instead of 16
        functions['backward with bias and output'] = lambda: backward(True, y)
    else:  # the kernels alone have no gradient
        functions['backward plain'] = gradient_of(plain, x, branch, weight, bias, grad=grads)
    return Case(
        dict(shape=shape, act=act),
        functions,
        dict(forward=(x, branch, total, y), backward=(total, *grads, x, branch)),
    )


@operator
def feed_forward(quick: bool) -> Iterator[Case]:
    """Two matrix products are in it, so that it stays far from a copy; beside it, its parts."""
    for rows, width in [((2, 5), 64)] if quick else [((128, 197), 768), ((256, 197), 192)]:
        yield feed_forward_case(rows, width)


def feed_forward_case(rows: tuple[int, ...], width: int) -> Case:
    half, hidden = torch.bfloat16, 4 * width
    a, b = coefficients()
    x, branch = random(*rows, width), random(*rows, width, dtype=half)
    weight1, weight2 = random(hidden, width) / width**0.5, random(width, hidden) / hidden**0.5
    parameters = random(width), random(width), a, b, weight1, random(hidden), a, b, weight2

    def fused(x: Tensor, branch: Tensor, *p: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(DEVICE, half):
            return ops.feed_forward(x, branch, None, 1e-6, ops.FeedForwardParameters(*p))

    def parts(x: Tensor, branch: Tensor, *p: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(DEVICE, half):
            total, y = ops.add_layer_norm(x, *p[:2], 1e-6, branch, None, *p[2:4])
            y = ops.group_rational(F.linear(y, p[4]), p[6], p[7], p[5])
            return total, ops.linear(y, p[8], None)

    inputs = (x, branch, *parameters)
    total, y = fused(*inputs)
    grads = torch.randn_like(total), torch.randn_like(y)
    kept = random(*rows, hidden, dtype=half)
    return Case(
        dict(shape=(*rows, width), dtype=name_of(half)),
        {
            'forward': lambda: fused(*inputs),
            'forward of parts': lambda: parts(*inputs),
            'backward': gradient_of(fused, *inputs, grad=grads),
            'backward of parts': gradient_of(parts, *inputs, grad=grads),
        },
        dict(
            forward=(*inputs, total, y, kept),
            backward=(total, *grads, kept, *parameters, *inputs),
        ),
    )


@operator
def linear_rational(quick: bool) -> Iterator[Case]:
    """fc1 and act2 of KAT-B at batch 128; a product is in it, which is no copy."""
    rows, width = ((2, 5), 16) if quick else ((128, 197), 768)
    half, hidden = torch.bfloat16, 4 * width
    a, b = coefficients()
    x, grad = random(*rows, width, dtype=half), random(*rows, hidden, dtype=half)
    inputs = x, random(hidden, width) / width**0.5, random(hidden), a, b

    def fused(*inputs: Tensor) -> Tensor:
        with torch.autocast(DEVICE, half):
            return ops.linear_rational(*inputs)

    def parts(x: Tensor, weight: Tensor, bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
        with torch.autocast(DEVICE, half):
            return ops.group_rational(F.linear(x, weight), a, b, bias)

    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    yield Case(
        dict(shape=(*rows, width), dtype=name_of(half)),
        {
            'forward': lambda: fused(*inputs),
            'forward of parts': lambda: parts(*inputs),
            'forward with what backward needs': lambda: fused(*leaves),
            'backward': gradient_of(fused, *inputs, grad=grad),
            'backward of parts': gradient_of(parts, *inputs, grad=grad),
        },
        dict(forward=(*inputs, grad), backward=(grad, grad, *inputs, *inputs)),
    )


@operator
def activation(quick: bool) -> Iterator[Case]:
    """In bfloat16, of ``shape`` what the second linear map gets."""
    shapes = ((2, 5, 32),) * 2 if quick else ((128, 201, 3072), (256, 201, 1536))
    yield activation_case(shapes[0], 'gelu', False)
    yield activation_case(shapes[1], 'silu', True)


def activation_case(shape: tuple[int, ...], kind: str, gated: bool) -> Case:
    width = shape[-1] * (1 + gated)
    x = random(*shape[:-1], width, dtype=torch.bfloat16)
    grad, bias = random(*shape, dtype=torch.bfloat16), random(width)
    function = ops.ACTIVATIONS[kind]

    def ours(x: Tensor, bias: Tensor | None = None) -> Tensor:
        return ops.activation(x, kind, bias, gated)

    def plain(x: Tensor) -> Tensor:
        if not gated:
            return function(x)
        gate, value = x.chunk(2, dim=-1)
        return function(gate) * value

    return Case(
        dict(shape=shape, kind=kind, gated=gated),
        {
            'forward': lambda: ours(x),
            'forward with bias': lambda: ours(x, bias),
            'forward plain': lambda: plain(x),
            'backward': gradient_of(ours, x, grad=grad),
            'backward with bias': gradient_of(ours, x, bias, grad=grad),
            # Without the bias, whose gradient PyTorch adds up in another pass.
            'backward plain': gradient_of(plain, x, grad=grad),
        },
        dict(forward=(x, grad), backward=(x, grad, x)),
    )


@operator
def rotary_tables(quick: bool) -> Iterator[Case]:
    """Cosines and sines of the patches of an image, made once for a size."""
    side = 4 if quick else 32
    embedding = RotaryEmbedding(64, rotation='halves').to(DEVICE)
    x = random(1, 5 + side**2, 64)

    def tables() -> tuple[Tensor, Tensor]:
        return embedding.angles(x, x.shape[1], (side, side), 0)[:2]

    yield Case(dict(shape=tuple(x.shape)), {'forward': tables}, dict(forward=tables()))


@operator
def fourier_low_rank(quick: bool) -> Iterator[Case]:
    """Bound by sines and products, not by memory; beside it the same in plain PyTorch."""
    batch, heads, tokens, dim = (1, 2, 20, 16) if quick else (256, 3, 197, 64)
    eager, operators, scale = fourier_low_rank_eager, torch.ops.kat_mm, dim**-0.5
    q, k = (random(batch, heads, tokens, dim, dtype=torch.bfloat16) for _ in range(2))
    table = random(heads, 6, 12, tokens) / tokens
    y = operators.fourier_low_rank(q, k, table, scale)
    grad = torch.randn_like(y)
    yield Case(
        dict(shape=tuple(q.shape), dtype=name_of(q.dtype)),
        {
            'forward': lambda: operators.fourier_low_rank(q, k, table, scale),
            'forward plain': lambda: eager.forward(q, k, table, scale),
            'backward': lambda: operators.fourier_low_rank_backward(grad, q, k, table, scale),
            'backward plain': lambda: eager.backward(grad, q, k, table, scale),
        },
        dict(forward=(q, k, table, y), backward=(grad, q, k, table, q, k, table)),
    )


@operator
def resize(quick: bool) -> Iterator[Case]:
    """Maps of 512 channels to 128 x 128, batch 16, channels last in bfloat16."""
    batch, channels, size = (1, 8, 16) if quick else (16, 512, 128)
    for side in (8,) if quick else (32, 64, 16):
        yield resize_case(batch, channels, side, size)


def resize_case(batch: int, channels: int, side: int, size: int) -> Case:
    x, grad = (
        random(batch, channels, s, s, dtype=torch.bfloat16).contiguous(
            memory_format=torch.channels_last
        )
        for s in (side, size)
    )
    wide, wide_grad = x.float().contiguous(), grad.float().contiguous()
    operators, sizes = torch.ops.kat_mm, [size, size]
    return Case(
        dict(shape=tuple(x.shape), size=size),
        {
            'forward': lambda: ops.resize(x, (size, size)),
            'forward PyTorch float32': lambda: F.interpolate(wide, sizes, mode='bilinear'),
            'backward': lambda: operators.resize_backward(grad, [side, side], False),
            'backward PyTorch float32': lambda: torch.ops.aten.upsample_bilinear2d_backward(
                wide_grad, sizes, list(x.shape), False
            ),
        },
        dict(forward=(x, grad), backward=(grad, x)),
    )


@operator
def resized_cross_entropy(quick: bool) -> Iterator[Case]:
    """150 classes to 512 x 512, batch 16, logits in bfloat16."""
    batch, size = (1, 32) if quick else (16, 512)
    for side in (8,) if quick else (128, 32):
        yield cross_entropy_case(batch, side, size)


def cross_entropy_case(batch: int, side: int, size: int) -> Case:
    operators = torch.ops.kat_mm
    logits = random(batch, 150, side, side, dtype=torch.bfloat16)
    labels = torch.randint(150, (batch, size, size), device=DEVICE)
    _, lse, targets = operators.resized_cross_entropy(logits, labels, None, 255, False)
    one = lse.new_ones(())

    def plain(logits: Tensor) -> Tensor:
        resized = F.interpolate(logits.float(), (size, size), mode='bilinear')
        return F.cross_entropy(resized, labels, ignore_index=255, reduction='sum')

    return Case(
        dict(shape=tuple(logits.shape), size=size),
        {
            'forward': lambda: operators.resized_cross_entropy(logits, labels, None, 255, False),
            'forward PyTorch': lambda: plain(logits),
            'backward': lambda: operators.resized_cross_entropy_backward(
                one, logits, lse, targets, None, False
            ),
            'backward PyTorch': gradient_of(plain, logits, grad=one),
        },
        dict(forward=(logits, labels, lse, targets), backward=(logits, lse, targets, logits)),
    )


@operator
def resampled_argmax(quick: bool) -> Iterator[Case]:
    """One image of 1024 x 1365 from the logits of a window of 512 x 683."""
    sides = ((8, 16, 32), (10, 20, 40)) if quick else ((128, 512, 1024), (171, 683, 1365))
    (_, *windows), (height, width) = zip(*sides, strict=True), (s[-1] for s in sides)
    logits = random(1, 150, sides[0][0], sides[1][0])
    taps = []
    for first, *others in sides:
        matrix = torch.eye(first, dtype=torch.float64)
        for side in others:
            matrix = ops.bilinear_rows(matrix, side, False)
        taps.append(ops.Taps(*(table.to(DEVICE) for table in ops.Taps.of(matrix))))

    def plain() -> Tensor:
        maps = logits
        for size in windows:
            maps = F.interpolate(maps, size, mode='bilinear')
        return maps.argmax(dim=1)

    yield Case(
        dict(shape=tuple(logits.shape), size=(height, width)),
        {
            'forward': lambda: ops.resampled_argmax(logits, *taps),
            'forward PyTorch': plain,
        },
        dict(forward=(logits, plain())),
    )


@operator
def suppress(quick: bool) -> Iterator[Case]:
    """The proposals of five levels of two images; beside it the same box after box."""
    sets, count = (2, 40) if quick else (10, 2000)
    corner = 1000 * torch.rand(sets, count, 2, device=DEVICE)
    boxes = torch.cat([corner, corner + 200 * torch.rand_like(corner)], dim=2)
    valid = torch.ones(sets, count, dtype=torch.bool, device=DEVICE)
    yield Case(
        dict(shape=tuple(boxes.shape)),
        {
            'forward': lambda: ops.suppress(boxes, valid, 0.7),
            'forward plain': lambda: suppress_eager.forward(boxes, valid, 0.7),
        },
        dict(forward=(boxes, valid, valid)),
    )


def product_case(
    shape: tuple[int, ...], ours: Callable, plain: Callable, inputs: tuple[Tensor, ...]
) -> Case:
    """A product in autocast to bfloat16 against PyTorch's: they differ in the backward pass."""

    def autocast(function: Callable) -> Callable:
        def run(*inputs: Tensor) -> Tensor:
            with torch.autocast(DEVICE, torch.bfloat16):
                return function(*inputs)

        return run

    ours, plain = autocast(ours), autocast(plain)
    outputs = ours(*inputs)
    several = isinstance(outputs, tuple)
    results = outputs if several else (outputs,)
    grads = tuple(torch.randn_like(y) for y in results)
    return Case(
        dict(shape=shape),
        {
            'forward': lambda: ours(*inputs),
            'forward PyTorch': lambda: plain(*inputs),
            'backward': gradient_of(ours, *inputs, grad=grads if several else grads[0]),
            'backward PyTorch': gradient_of(plain, *inputs, grad=grads if several else grads[0]),
        },
        dict(forward=(*inputs, *results), backward=(*grads, *inputs, *inputs)),
    )


@operator
def linear(quick: bool) -> Iterator[Case]:
    rows, width = ((2, 5), 32) if quick else ((128, 197), 768)
    inputs = random(*rows, width), random(width, width), random(width)
    yield product_case((*rows, width), ops.linear, F.linear, inputs)


@operator
def qkv_linear(quick: bool) -> Iterator[Case]:
    rows, width, heads = ((2, 5), 32, 2) if quick else ((128, 197), 768, 12)

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return ops.split_heads(F.linear(x, weight, bias), heads)

    inputs = random(*rows, width), random(3 * width, width), random(3 * width)
    yield product_case(
        (*rows, width), lambda *inputs: ops.qkv_linear(*inputs, heads), plain, inputs
    )
    yield rotated_case(rows[0], 2 if quick else 14, heads, width)


def rotated_case(batch: int, side: int, heads: int, width: int) -> Case:
    """With queries and keys turned, behind a class token and four registers (DINOv3)."""
    tokens = 5 + side**2
    inputs = random(batch, tokens, width), random(3 * width, width), random(3 * width)
    embedding = RotaryEmbedding(width // heads, rotation='halves').to(DEVICE)
    rotation = embedding.angles(inputs[0], tokens, (side, side), 0)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return ops.qkv_linear(x, weight, bias, heads, rotation)

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        q, k, v = ops.split_heads(F.linear(x, weight, bias), heads)
        return ops.rotate(q, rotation), ops.rotate(k, rotation), v

    case = product_case((batch, tokens, width), ours, plain, inputs)
    case.settings['rotation'] = 'halves'
    return case


@operator
def low_rank_attend(quick: bool) -> Iterator[Case]:
    batch, heads, tokens, dim, rank = (2, 2, 5, 8, 4) if quick else (256, 3, 197, 64, 12)

    def plain(hidden: Tensor, weight: Tensor, v: Tensor) -> Tensor:
        return hidden @ torch.einsum('hnr,bhnd->bhrd', weight, v)

    inputs = (
        random(batch, heads, tokens, rank),
        random(heads, tokens, rank),
        random(batch, heads, tokens, dim),
    )
    yield product_case((batch, heads, tokens, dim), ops.low_rank_attend, plain, inputs)
