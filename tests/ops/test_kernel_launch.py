import pytest
import torch

from kat_mm.ops import group_rational, launch
from kat_mm.ops.launch import Constants
from kat_mm.ops.linear_triton import column_sum


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


def start(kernel, n, x=None, dtypes=(torch.float32,), size=4):
    x = torch.zeros(32) if x is None else x
    launch.launch(kernel, 1, Constants(dtypes, SIZE=size), (x,), (n,))


def test_a_compiled_kernel_is_launched_again_with_the_new_number(kernel):
    for n in (5, 7, 9):
        start(kernel, n)
    assert kernel.compiled == [5]
    assert kernel.launched == [(5, 7, 4), (5, 9, 4)]


@pytest.mark.parametrize(
    'first, second', [(1, 17), (17, 1), (1, 65), (16, 17), (5, 2**31 + 5), (0, 1)]
)
def test_numbers_that_triton_specialises_on_get_kernels_of_their_own(first, second, kernel):
    start(kernel, first)
    start(kernel, second)
    assert kernel.compiled == [first, second]


def test_other_constants_and_dtypes_get_kernels_of_their_own(kernel):
    start(kernel, 5)
    start(kernel, 5, size=8)
    start(kernel, 5, dtypes=(torch.float16,))
    assert len(kernel.compiled) == 3
    start(kernel, 5, size=8)  # equal constants are the same
    assert len(kernel.compiled) == 3


def test_tensors_that_are_not_aligned_go_through_triton(kernel):
    start(kernel, 5)
    for _ in range(2):
        start(kernel, 5, torch.zeros(33)[1:])
    assert len(kernel.compiled) == 3


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
