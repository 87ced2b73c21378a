import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from kat_mm.layers.karat import project_l1_ball


def rows(scale=1.0, shape=(3, 5, 6)):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()


def nearest(row):
    """The nearest point of the ball, by quadratic programming in positive and negative parts."""
    n = len(row)
    found = minimize(
        lambda z: ((z[:n] - z[n:] - row) ** 2).sum(),
        np.zeros(2 * n),
        bounds=[(0, None)] * (2 * n),
        constraints=dict(type='ineq', fun=lambda z: 1 - z.sum()),
        tol=1e-12,
        options=dict(maxiter=500),
    ).x
    return found[:n] - found[n:]


def test_projection_is_the_nearest_point_of_the_ball():
    x = rows()
    want = np.array([nearest(row) for row in x.reshape(-1, 6).numpy()]).reshape(x.shape)
    np.testing.assert_allclose(project_l1_ball(x), want, atol=2e-6)


def test_rows_inside_stay_and_others_come_onto_the_sphere():
    inside, outside = rows(0.01), rows(10.0)
    assert torch.equal(project_l1_ball(inside), inside)
    norms = project_l1_ball(outside).abs().sum(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    edge = torch.tensor([[0.5, -0.5], [0.0, 0.0], [2.0, 2.0]])
    assert torch.equal(project_l1_ball(edge), torch.tensor([[0.5, -0.5], [0.0, 0.0], [0.5, 0.5]]))


def test_gradient_agrees_with_finite_differences():
    assert torch.autograd.gradcheck(project_l1_ball, rows().requires_grad_())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_types_are_summed_in_float32(dtype):
    x = rows(shape=(4, 197)).to(dtype)
    got = project_l1_ball(x)
    assert got.dtype == dtype
    torch.testing.assert_close(got, project_l1_ball(x.double()).to(dtype))
