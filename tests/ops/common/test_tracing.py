import inspect
from types import SimpleNamespace

import pytest
import sympy
import torch
from torch._higher_order_ops import triton_kernel_wrap
from triton.runtime import Autotuner

from kat_mm.ops.common import tracing


class Analysis:
    """Stands for PyTorch's: counts, and gives each call an answer of its own."""

    def __init__(self):
        self.calls = 0

    def __call__(self, kernel, arguments, descriptors):
        self.calls += 1
        return [f'{self.calls}']


@pytest.fixture
def kernel(monkeypatch):
    kernel = object()
    monkeypatch.setattr(tracing, '_kernels', {kernel})
    return kernel


def arguments(**changed):
    return dict(x=torch.zeros(2), y=None, rows=5, eps=1e-6, SIZE=4) | changed


def test_pytorch_asks_what_a_kernel_writes_to_as_it_is_kept_here():
    # Where this fails, PyTorch has another analysis: see what calls generate_ttir, and keep that.
    # Until then a first compiled step takes about twice as long.
    (name,) = (name for name in tracing._ANALYSES if hasattr(triton_kernel_wrap, name))
    parameters = inspect.signature(getattr(triton_kernel_wrap, name)).parameters
    assert list(parameters) == ['kernel', 'kwargs', 'tma_descriptor_metadata']


def test_what_is_alike_is_analysed_once(kernel):
    analysis = Analysis()
    kept = tracing.keep(analysis)
    lowered = SimpleNamespace(dtype=torch.float32)
    for x in (torch.zeros(2), torch.ones(7, 3, device='meta'), lowered):
        assert kept(kernel, arguments(x=x), {}) == ['1']
    for rows in (sympy.Symbol('s0'), 2 * sympy.Symbol('s1')):
        assert kept(kernel, arguments(rows=rows), {}) == ['2']
    assert analysis.calls == 2


def test_options_of_the_compiler_change_nothing(kernel):
    kept = tracing.keep(Analysis())
    tuned = Autotuner.__new__(Autotuner)
    tuned.fn = kernel
    assert kept(kernel, arguments(), {}) == kept(tuned, arguments(), {}) == ['1']


@pytest.mark.parametrize(
    'changed',
    [
        dict(x=torch.zeros(2, dtype=torch.bfloat16)),
        dict(x=None),
        dict(y=torch.zeros(2)),
        dict(rows=1),
        dict(rows=5.0),
        dict(SIZE=8),
        dict(OTHER=0),
    ],
    ids=repr,
)
def test_what_differs_is_analysed_by_itself(changed, kernel):
    kept = tracing.keep(Analysis())
    assert kept(kernel, arguments(), {}) == ['1']
    assert kept(kernel, arguments(**changed), {}) == ['2']
    assert kept(kernel, arguments(), {}) == ['1']


def test_kernels_of_others_and_descriptors_are_left_to_pytorch(kernel):
    analysis = Analysis()
    kept = tracing.keep(analysis)
    for _ in range(2):
        kept(object(), arguments(), {})
        kept(kernel, arguments(), {'x': ('stable', ([4, 4],))})
    assert analysis.calls == 4
