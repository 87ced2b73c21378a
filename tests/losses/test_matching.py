"""Costs by which queries are matched; losses that follow are compared in tests/dense."""

import pytest
import torch
from mmdet.models.task_modules import HungarianAssigner
from mmengine.registry import init_default_scope

from kat_mm.losses.matching import MatchCosts
from kat_mm.losses.objects import Objects

CLASSES = dict(type='ClassificationCost', weight=2.0)
MASKS = dict(type='CrossEntropyLossCost', weight=5.0, use_sigmoid=True)
DICE = dict(type='DiceCost', weight=3.0, pred_act=True, eps=7.0)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')  # mmseg has costs of these names


def costs_of(*parts):
    return MatchCosts.of(HungarianAssigner(match_costs=[dict(part) for part in parts]))


def test_weights_are_those_of_the_assigner():
    want = MatchCosts(classes=2.0, masks=5.0, dice=3.0, dice_eps=7.0)
    assert costs_of(CLASSES, MASKS, DICE) == costs_of(DICE, CLASSES, MASKS) == want


@pytest.mark.parametrize(
    'parts',
    [
        (CLASSES, MASKS),
        (CLASSES, MASKS, MASKS),
        (CLASSES, MASKS, dict(type='BBoxL1Cost')),
        (CLASSES, MASKS, dict(DICE, pred_act=False)),
        (CLASSES, MASKS, dict(DICE, naive_dice=False)),
        (CLASSES, dict(MASKS, use_sigmoid=False), DICE),
    ],
)
def test_other_costs_are_not_known(parts):
    assert costs_of(*parts) is None


def batch(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    classes = 3 * torch.randn(1, 6, 4, generator=generator)
    masks = 3 * torch.randn(1, 6, 8, 8, generator=generator)
    objects = Objects(
        torch.tensor([2, 0]),
        (torch.rand(2, 1, 16, 16, generator=generator) < 0.4).float(),
        [2],
        torch.tensor([0, 0]),
        torch.tensor([0, 1]),
    )
    return classes.to(dtype), masks.to(dtype), objects


def cost_of(*given):
    torch.manual_seed(0)
    pending = costs_of(CLASSES, MASKS, DICE)(*given, num_points=64)
    return pending._cost.get()


def test_mixed_precision_does_not_round_costs():
    given = batch(torch.bfloat16)
    classes, masks, objects = given
    with torch.autocast('cpu', torch.bfloat16):
        cost = cost_of(*given)
    assert cost.dtype == torch.float32
    assert torch.equal(cost, cost_of(classes.float(), masks.float(), objects))


def test_each_object_gets_the_query_that_costs_least_and_those_beyond_get_none():
    classes, masks, objects = batch()
    cost = cost_of(classes, masks, objects)[0]
    torch.manual_seed(0)
    found = costs_of(CLASSES, MASKS, DICE)(classes, masks, objects, 64).assign()
    sums = {(a, b): cost[a, 0] + cost[b, 1] for a in range(6) for b in range(6) if a != b}
    assert tuple(found) == min(sums, key=sums.get)
    one = costs_of(CLASSES, MASKS, DICE)(classes[:, :1], masks[:, :1], objects, 64).assign()
    assert sorted(one) == [0, 1]  # of one query; 1 stands for none
