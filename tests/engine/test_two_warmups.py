import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from kat_mm.engine import TwoWarmupsPolyLR


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(2, 2, bias=False)
        self.head = nn.Linear(2, 2, bias=False)


def make(split=True):
    return build_optim_wrapper(
        Model(),
        dict(
            type='OptimWrapper',
            constructor='LayerDecayOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=2.0),
            paramwise_cfg=dict(split_backbone=split),
        ),
    )


def wanted(step, idle, warmup, total):
    if step < idle:
        return 0.0
    if step < idle + warmup:
        return 2.0 * (step - idle) / warmup
    return 2.0 * (1 - (step - idle - warmup) / (total - idle - warmup)) ** 0.9


def test_the_backbone_warms_up_after_the_heads_and_each_falls_from_its_own_top():
    wrapper = make()
    scheduler = TwoWarmupsPolyLR(wrapper, head_iters=5, backbone_iters=10, end=50)
    for step in range(50):
        lrs = {group['in_backbone']: group['lr'] for group in wrapper.optimizer.param_groups}
        assert lrs[True] == pytest.approx(wanted(step, 5, 10, 50), abs=1e-12)
        assert lrs[False] == pytest.approx(wanted(step, 0, 5, 50), abs=1e-12)
        wrapper.optimizer.step()
        scheduler.step()


def test_a_resumed_schedule_goes_on():
    wrapper, other = make(), make()
    first, second = (TwoWarmupsPolyLR(one, 2, 3, 20) for one in (wrapper, other))
    for _ in range(7):
        wrapper.optimizer.step()  # before the scheduler's, as PyTorch wants
        first.step()
    second.load_state_dict(first.state_dict())
    other.load_state_dict(wrapper.state_dict())
    for one, scheduler in ((wrapper, first), (other, second)):
        one.optimizer.step()
        scheduler.step()
    assert [g['lr'] for g in wrapper.param_groups] == [g['lr'] for g in other.param_groups]


def test_groups_that_tell_no_backbone_are_refused():
    with pytest.raises(ValueError, match='split_backbone=True'):
        TwoWarmupsPolyLR(make(split=False), 1, 1, 10)


@pytest.mark.parametrize('iters', [(-1, 1, 10), (5, 5, 10), (5, -2, 10)])
def test_iterations_that_do_not_fit_are_refused(iters):
    with pytest.raises(ValueError, match='must be 0 or more'):
        TwoWarmupsPolyLR(make(), *iters)


def test_it_counts_iterations_alone():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match='it counts iterations'):
        TwoWarmupsPolyLR(optimizer, 1, 1, 10, by_epoch=True)
