import inspect

import pytest
import torch
from triton.runtime import JITFunction

from kat_mm.ops import group_rational
from kat_mm.ops.common import launch
from kat_mm.ops.common.launch import Plan
from kat_mm.ops.linear_triton import column_sum


def test_kernels_are_launched_as_this_triton_does_it():
    # Where this fails, Triton's JITFunction.run has changed: see what it calls, and do the same.
    # Until then every launch goes through it, which takes the host several times as long.
    assert launch.fits(inspect.getsource(JITFunction.run))


@pytest.mark.parametrize(
    'other',
    [
        'kernel.run(grid_0, grid_1, grid_2, stream, kernel.function, kernel.packed_metadata, '
        'launch_metadata, self.CompiledKernel.launch_enter_hook, '
        'self.CompiledKernel.launch_exit_hook, *non_constexpr_vals)',  # 3.2
        'kernel.run(grid, stream, *bound_args.values())',
    ],
)
def test_another_way_to_launch_is_not_gone_around(other):
    assert not launch.fits(f'if not warmup:\n    {other}\nreturn kernel')


class Kernel:
    """Stands for a Triton kernel: counts what it compiles, and what is launched of that."""

    arg_names = ('x', 'n', 'SIZE')

    def __init__(self):
        self.compiled, self.launched = [], []

    def __getitem__(self, grid):
        def first_launch(x, n, SIZE):
            self.compiled.append(n)
            return Compiled(n, self.launched)

        return first_launch


class Compiled:
    function = packed_metadata = None

    def __init__(self, number, launched):
        self.number, self.launched = number, launched

    def run(self, *args):
        *_, n, size = args
        self.launched.append((self.number, n, size))


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr(launch, '_DIRECT', True)
    monkeypatch.setattr(torch._C, '_cuda_getCurrentRawStream', lambda _: 0, raising=False)
    return Kernel()


def start(kernel, n, plan, x=None):
    launch.launch(kernel, 1, plan, (torch.zeros(32) if x is None else x,), (n,))


def test_the_same_numbers_are_handed_to_what_was_compiled_for_them(kernel):
    plan = Plan(SIZE=4)
    for n in (5, 7, 5, 7):
        start(kernel, n, plan)
    # Triton specialises on numbers: what it compiled for one is never launched with another.
    assert kernel.compiled == [5, 7]
    assert kernel.launched == [(5, 5, 4), (7, 7, 4)]


def test_every_plan_and_every_kernel_has_launches_of_its_own(kernel):
    other, plans = Kernel(), [Plan(SIZE=4), Plan(SIZE=4)]
    for _ in range(2):
        start(kernel, 5, plans[0])
        start(kernel, 5, plans[1])
        start(other, 5, plans[0])
    assert (len(kernel.compiled), len(other.compiled)) == (2, 1)
    assert (len(kernel.launched), len(other.launched)) == (2, 1)


def test_tensors_that_are_not_aligned_go_through_triton(kernel):
    plan = Plan(SIZE=4)
    start(kernel, 5, plan)
    for _ in range(2):
        start(kernel, 5, plan, torch.zeros(33)[1:])
    assert len(kernel.compiled) == 3


def test_ever_new_numbers_do_not_fill_the_memory(kernel, monkeypatch):
    monkeypatch.setattr(launch, '_MOST_LAUNCHES', 3)
    plan = Plan(SIZE=4)
    for n in range(10):
        start(kernel, n, plan)
        assert 0 < len(plan.launches) <= 3


@pytest.mark.gpu
def test_numbers_of_rows_that_share_a_remainder_give_the_right_sums():
    a, b = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.5], [1.0]])
    for rows in (1, 17, 65, 16, 33, 2049, 1):
        x = torch.randn(rows, 8, dtype=torch.bfloat16)
        want = group_rational(x.double(), a.double(), b.double())
        got = group_rational(x.cuda(), a.cuda(), b.cuda())
        torch.testing.assert_close(got.cpu().double(), want, rtol=1e-2, atol=1e-2)
        x = torch.randn(rows, 768).bfloat16()
        want = x.double().sum(0)
        torch.testing.assert_close(column_sum(x.cuda()).cpu().double(), want, rtol=1e-4, atol=1e-3)
