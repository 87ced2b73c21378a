from types import SimpleNamespace

import eomt_reference as reference
import pytest
import torch
from torch import nn

from kat_mm.engine import MaskAnnealingHook


class Head(nn.Module):
    def set_mask_rates(self, rates):
        self.rates = rates


def test_masks_go_block_by_block_with_the_power_0_9():
    hook = MaskAnnealingHook(begin=(10, 20), end=(20, 40))
    for iteration in range(50):
        want = [reference.annealed_rate(iteration, b, e) for b, e in ((10, 20), (20, 40))]
        assert hook.rates(iteration) == pytest.approx(want, abs=1e-12)
    assert hook.rates(10) == (1, 1) and hook.rates(20) == (0, 1) and hook.rates(40) == (0, 0)
    assert hook.rates(15)[0] == pytest.approx(0.5**0.9)


def test_a_block_can_be_turned_off_at_once():
    hook = MaskAnnealingHook(begin=(5,), end=(5,))
    assert [hook.rates(i)[0] for i in (4, 5)] == [1, 0]


def test_it_sets_the_rates_of_the_iteration_also_of_a_resumed_run():
    head, hook = Head(), MaskAnnealingHook((0,), (10,))
    runner = SimpleNamespace(model=nn.ModuleList([head]), iter=5)
    hook.before_train(runner)
    assert head.rates == hook.rates(5)
    runner.iter = 9
    hook.before_train_iter(runner, 0)
    assert head.rates == hook.rates(9)


def test_a_model_without_the_head_is_refused():
    runner = SimpleNamespace(model=nn.Linear(2, 2), iter=0)
    with pytest.raises(ValueError, match='the model has no EoMTHead'):
        MaskAnnealingHook((0,), (10,)).before_train(runner)


@pytest.mark.parametrize(('begin', 'end'), [((1,), (2, 3)), ((5,), (4,))])
def test_schedules_that_do_not_fit_are_refused(begin, end):
    with pytest.raises(ValueError, match='must be as many iterations'):
        MaskAnnealingHook(begin, end)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(begin=1), 'begin=1 must be iterations, one for each block'),
        (dict(end=[2.5]), 'end=2.5 must be a whole number'),
        (dict(begin=[-1]), 'begin=-1 must be a whole number'),
        (dict(power=-1.0), 'power=-1.0 must be a finite number above 0'),
    ],
)
def test_what_is_no_schedule_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MaskAnnealingHook(**{'begin': [1], 'end': [2], **options})


def test_draws_follow_the_rate_by_image_and_query():
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmdet')
    cfg = reference.head_cfg(
        2, type='kat_mm.EoMTHead', in_channels=8, num_things_classes=2, num_stuff_classes=0
    )
    head = MODELS.build(cfg)
    head.set_mask_rates((0.3, 0.0, 1.0))
    torch.manual_seed(0)
    nowhere = -torch.ones(50, 200, 4, 4)
    masks = [
        head._attention_mask(nowhere, torch.zeros(50, 204, 8), (2, 2), block) for block in range(3)
    ]
    masked = [~mask[:, 0, :, -1] for mask in masks]
    assert masked[0].float().mean() == pytest.approx(0.3, abs=0.01)
    assert masked[0].any(0).all() and masked[0].any(1).all()
    assert not masked[1].any() and masked[2].all()
