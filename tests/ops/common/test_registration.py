"""What torch.compile sees of the operators, on tensors of a GPU that need not be there."""

import os
import re
import subprocess
import sys
from unittest import mock

import pytest
import torch
import triton
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._higher_order_ops import triton_kernel_wrap
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kat_mm.ops import (
    FeedForwardParameters,
    activation,
    add_layer_norm,
    feed_forward,
    fourier_low_rank,
    group_rational,
    linear_rational,
    linear_rational_triton,
    qkv_linear_triton,
    resampled_argmax,
    resize,
    resized_cross_entropy,
    rotate_triton,
    suppress,
)
from kat_mm.ops.resampled_argmax import Taps

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
KERNEL = torch.ops.higher_order.triton_kernel_wrapper_functional
# Of the cases below; feed_forward_half is feed_forward in half precision.
NAMES = [
    'activation',
    'activation_backward',
    'group_rational',
    'group_rational_backward',
    'add_layer_norm',
    'add_layer_norm_backward',
    'feed_forward',
    'feed_forward_backward',
    'feed_forward_half',
    'linear_rational',
    'linear_rational_backward',
    'fourier_low_rank',
    'fourier_low_rank_backward',
    'resize',
    'resize_backward',
    'resized_cross_entropy',
    'resized_cross_entropy_backward',
    'resampled_argmax',
    'suppress',
]
WITHOUT_KERNELS = {'rotary_tables'}


@pytest.fixture
def compile_for_gpu(monkeypatch):
    """Calls a function under torch.compile, and returns what the compiler is given to compile."""
    driver = mock.Mock(get_current_target=lambda: GPUTarget('cuda', 90, 32))
    monkeypatch.setattr(triton.runtime.driver, '_active', driver)
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    def run(function, *inputs, dynamic):
        torch._dynamo.reset()
        backend = aot_autograd(fw_compiler=keep)
        with torch.no_grad():
            torch.compile(function, backend=backend, fullgraph=True, dynamic=dynamic)(*inputs)
        return [node for node in graphs[-1].graph.nodes if node.op == 'call_function']

    with FakeTensorMode(allow_non_fake_inputs=True):
        yield run


def empty(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device='cuda')


def indices(*shape):
    return empty(*shape, dtype=torch.int32)


def cases():
    numerator, denominator = empty(1, 6), empty(8, 4)
    x, half = empty(2, 5, 16), empty(2, 5, 16, dtype=torch.bfloat16)
    vector, statistics = empty(16), empty(2, 10)
    act = numerator, denominator
    parameters = (vector, vector, *act, empty(64, 16), empty(64), *act, empty(16, 64))
    q, coefficients = empty(2, 3, 7, 16, dtype=torch.bfloat16), empty(3, 6, 12, 7)
    maps = empty(2, 5, 4, 6, dtype=torch.bfloat16)
    y = empty(2, 5, 768, dtype=torch.bfloat16)
    product = (empty(2, 5, 192, dtype=torch.bfloat16), empty(768, 192), empty(768), *act)
    operators = torch.ops.kat_mm
    return {
        'activation': (
            lambda *inputs: activation(inputs[0], 'silu', inputs[1], True),
            (half, vector),
            1,
        ),
        'activation_backward': (
            lambda *inputs: operators.activation_backward(*inputs, 'silu', True),
            (empty(2, 5, 8, dtype=torch.bfloat16), half, vector),
            2,
        ),
        'group_rational': (group_rational, (half, numerator, denominator, vector), 1),
        'group_rational_backward': (
            operators.group_rational_backward,
            (half, half, numerator, denominator, vector),
            2,
        ),
        'add_layer_norm': (
            lambda *inputs: add_layer_norm(*inputs[:2], vector, 1e-6, *inputs[2:]),
            (x, vector, half, empty(2), numerator, denominator, vector),
            1,
        ),
        'add_layer_norm_backward': (
            lambda *inputs: operators.add_layer_norm_backward(*inputs, torch.bfloat16, True),
            (x, half, x, statistics, vector, vector, None, None, None),
            2,
        ),
        'feed_forward': (
            lambda *inputs: feed_forward(
                *inputs[:3], 1e-6, FeedForwardParameters(*inputs[3:-1]), inputs[-1]
            ),
            (x, half, empty(2), *parameters, vector),
            2,
        ),
        'feed_forward_backward': (
            lambda *inputs: operators.feed_forward_backward(
                *inputs, torch.bfloat16, True, True, True
            ),
            (x, x, x, None, statistics, empty(2, 5, 64), *parameters),
            4,
        ),
        # fc1 and act2 in one kernel.
        'feed_forward_half': (
            lambda *inputs: feed_forward(
                inputs[0], None, None, 1e-6, FeedForwardParameters(*inputs[1:])
            ),
            (product[0], *[empty(192)] * 2, *act, *product[1:], empty(192, 768)),
            2,
        ),
        'linear_rational': (linear_rational, product, 1),
        'linear_rational_backward': (
            lambda *inputs: operators.linear_rational_backward(*inputs, True, True),
            (y, *product, y),
            2,
        ),
        'fourier_low_rank': (
            lambda *inputs: fourier_low_rank(*inputs, 0.25),
            (q, q, coefficients),
            1,
        ),
        'fourier_low_rank_backward': (
            lambda *inputs: operators.fourier_low_rank_backward(*inputs, 0.25),
            (empty(2, 3, 7, 12, dtype=torch.bfloat16), q, q, coefficients),
            2,
        ),
        'resize': (lambda x: resize(x, (9, 8)), (maps,), 1),
        'resize_backward': (lambda x: operators.resize_backward(x, [2, 3], False), (maps,), 1),
        'resized_cross_entropy': (
            resized_cross_entropy,
            (maps, empty(2, 9, 8, dtype=torch.int64), empty(5)),
            1,
        ),
        'resized_cross_entropy_backward': (
            lambda *inputs: operators.resized_cross_entropy_backward(*inputs, None, False),
            (empty(), maps, empty(2, 9, 8), empty(2, 9, 8, dtype=torch.int16)),
            1,
        ),
        'resampled_argmax': (
            lambda logits, *taps: resampled_argmax(logits, Taps(*taps), Taps(*taps)),
            (maps, indices(9, 2), empty(9, 2, dtype=torch.float64), indices(9)),
            1,
        ),
        'suppress': (
            lambda *inputs: suppress(*inputs, 0.5),
            (empty(2, 40, 4), empty(2, 40, dtype=torch.bool)),
            2,
        ),
    }


def test_every_operator_is_among_the_cases():
    names = [name.split('::') for name in torch._C._dispatch_get_all_op_names()]
    registered = {name for family, name in names if family == 'kat_mm'}
    assert registered == {*NAMES, *WITHOUT_KERNELS} - {'feed_forward_half'}


@pytest.mark.skipif(not INTERPRETED, reason='the tests below run in this process')
def test_the_same_in_a_process_without_the_interpreter():
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', __file__],
        env={**os.environ, 'TRITON_INTERPRET': '0'},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.mark.skipif(INTERPRETED, reason='kernels that are interpreted cannot be compiled')
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('dynamic', [False, True])
def test_a_compiled_program_for_a_gpu_calls_the_kernels_themselves(
    dynamic, name, compile_for_gpu, monkeypatch
):
    choice = {key: (*tilings, 0) for key, (*tilings, _) in linear_rational_triton.CHOICE.items()}
    monkeypatch.setattr(linear_rational_triton, 'CHOICE', choice)
    monkeypatch.setattr(linear_rational_triton, '_multiprocessors', lambda device: 132)
    function, inputs, count = cases()[name]
    calls = compile_for_gpu(function, *inputs, dynamic=dynamic)
    targets = [call.target for call in calls]
    assert targets.count(KERNEL) == count
    assert not [target for target in targets if 'kat_mm' in str(target)]
    # fc1's product is in the kernel.
    if name in ('feed_forward_half', 'linear_rational'):
        assert sum('mm' in str(target) for target in targets) == (name == 'feed_forward_half')
    # The rest is memory for the results: nothing of what the kernels do is done by other means.
    assert not [target for target in targets if 'norm' in str(target) or 'aten.mul' in str(target)]
    # Inputs that were taken for outputs would be copied.
    given = [node for node in calls[0].graph.nodes if node.op == 'placeholder']
    for call in calls:
        if call.target is KERNEL:
            changed = [call.kwargs['kwargs'][name] for name in call.kwargs['tensors_to_clone']]
            assert not set(changed) & set(given)


@pytest.mark.skipif(INTERPRETED, reason='kernels that are interpreted cannot be compiled')
def test_pytorch_looks_at_a_kernel_once_for_all_its_calls(compile_for_gpu, monkeypatch):
    looked_at = []
    generate = triton_kernel_wrap.generate_ttir

    def record(kernel, *others):
        looked_at.append(kernel.fn.__name__)
        return generate(kernel, *others)

    monkeypatch.setattr(triton_kernel_wrap, 'generate_ttir', record)
    x, act = empty(3, 11, 48), (empty(1, 6), empty(8, 4))
    calls = compile_for_gpu(
        lambda x: group_rational(group_rational(x, *act) + 1, *act), x, dynamic=False
    )
    assert sum(call.target is KERNEL for call in calls) == 2
    assert looked_at == ['_rational_forward_kernel']


def machine_code(kernel, constants, dtype):
    """PTX of a kernel, of tensors of a dtype, float32 tables and aligned memory."""
    constants = dict(constants)
    options = dict(num_warps=constants.pop('num_warps'))
    wide = ('cos_ptr', 'sin_ptr', 'bias_ptr', 'partial_ptr')
    signature, aligned = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = 'constexpr'
        elif name.endswith('_ptr'):
            signature[name] = '*fp32' if name in wide else dtype
        else:
            signature[name] = 'i32'
        if name.endswith(('_ptr', '_stride')):
            aligned[(place,)] = [['tt.divisibility', 16]]
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=aligned)
    return triton.compile(source, target=GPUTarget('cuda', 90, 32), options=options).asm['ptx']


@pytest.mark.skipif(INTERPRETED, reason='kernels that are interpreted cannot be compiled')
@pytest.mark.parametrize('halves', [True, False])
def test_kernels_of_attention_move_sixteen_bytes_at_once(halves):
    half = torch.bfloat16
    for kernel, plan in (
        (qkv_linear_triton._join_kernel, qkv_linear_triton._plan(768, 64, True, half, 4)),
        (rotate_triton._rotate_kernel, rotate_triton._plan(768, 32, halves, half, 2)),
        (
            rotate_triton._join_rotated_kernel,
            rotate_triton._plan(768, 32, halves, half, 4, WITH_SUM=True),
        ),
    ):
        code = machine_code(kernel, plan, '*bf16')
        assert 'ld.global.v4.b32' in code and 'st.global.v4.b32' in code
        assert not re.search(r'(ld|st)\.global\.b16', code)
