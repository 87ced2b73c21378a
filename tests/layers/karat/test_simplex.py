import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from kat_mm.layers.karat import project_simplex


def rows(scale=1.0, shape=(3, 5, 6)):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()


def nearest(row):
    """The nearest point of the simplex, by quadratic programming."""
    return minimize(
        lambda z: ((z - row) ** 2).sum(),
        np.full(len(row), 1 / len(row)),
        jac=lambda z: 2 * (z - row),
        bounds=[(0, 1)] * len(row),
        constraints=dict(type='eq', fun=lambda z: z.sum() - 1),
        tol=1e-12,
        options=dict(maxiter=500),
    ).x


@pytest.mark.parametrize('scale', [0.01, 1.0, 3.0])
def test_projection_is_the_nearest_point_of_the_simplex(scale):
    x = rows(scale)
    want = np.array([nearest(row) for row in x.reshape(-1, 6).numpy()]).reshape(x.shape)
    np.testing.assert_allclose(project_simplex(x), want, atol=2e-6)


@pytest.mark.parametrize('scale', [1e-3, 1.0, 1e3])
def test_weights_lie_between_0_and_1_sum_to_1_and_fulfil_the_optimality_conditions(scale):
    x = rows(scale, (4, 197))
    y = project_simplex(x)
    assert y.min() >= 0 and y.max() <= 1
    torch.testing.assert_close(y.sum(dim=-1), torch.ones(4, dtype=torch.float64))
    # Karush, Kuhn and Tucker: what is left lost one amount, and what is 0 was no larger than it.
    for row, projected in zip(x, y, strict=True):
        lost = (row - projected)[projected > 0]
        torch.testing.assert_close(lost, lost[:1].expand_as(lost), rtol=1e-9, atol=1e-9)
        assert (row[projected == 0] <= lost[0] + 1e-9).all()


def test_rows_of_the_simplex_stay_and_small_ones_are_raised_to_it():
    inside = rows().softmax(dim=-1)
    torch.testing.assert_close(project_simplex(inside), inside)
    edge = torch.tensor([[0.0, 0.0], [-5.0, -5.0], [2.0, 0.5], [0.1, 0.2]])
    want = torch.tensor([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0], [0.45, 0.55]])
    torch.testing.assert_close(project_simplex(edge), want)


def test_large_rows_keep_their_digits_in_float32():
    x = rows(shape=(4, 197)) + 1000
    got = project_simplex(x.float())
    torch.testing.assert_close(got, project_simplex(x.float().double()).float())
    torch.testing.assert_close(got.sum(dim=-1), torch.ones(4))


def test_gradient_agrees_with_finite_differences():
    assert torch.autograd.gradcheck(project_simplex, rows().requires_grad_())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_types_are_summed_in_float32(dtype):
    x = rows(shape=(4, 197)).to(dtype)
    got = project_simplex(x)
    assert got.dtype == dtype
    torch.testing.assert_close(got, project_simplex(x.double()).to(dtype))
