import pytest
import torch
from mmdet.models.task_modules.assigners import AssignResult, MaxIoUAssigner
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData

from kat_mm.dense import detection_boxes as boxes_


def random_boxes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = 50 * torch.rand(count, 2, generator=generator).double()
    return torch.cat([corner, corner + 5 + 20 * torch.rand(count, 2, generator=generator)], dim=1)


def test_overlaps_are_those_of_mmdet():
    truths, priors = random_boxes(4), random_boxes(30, seed=1)
    priors[3] = priors[3, 0]  # without area
    got = boxes_.overlaps(truths[None], priors[None])[0]
    assert torch.equal(got, bbox_overlaps(truths, priors))


@pytest.mark.parametrize('match_low_quality', [True, False])
@pytest.mark.parametrize('least', [0.0, 0.3])
def test_truths_are_assigned_as_mmdet_does(match_low_quality, least):
    assigner = MaxIoUAssigner(
        pos_iou_thr=0.5, neg_iou_thr=0.3, min_pos_iou=least, match_low_quality=match_low_quality
    )
    truths, priors = random_boxes(6), random_boxes(200, seed=1)
    truths[5] = truths[2]  # of two that are equal the last one counts
    got = boxes_.assign(boxes_.overlaps(truths, priors), assigner)
    instances = InstanceData(bboxes=truths, labels=torch.zeros(6, dtype=torch.long))
    want = assigner.assign(InstanceData(priors=priors), instances).gt_inds
    assert torch.equal(got, want)
    assert {-1, 0} < set(got.tolist())


def test_boxes_are_encoded_and_decoded_as_by_the_coder():
    coder = DeltaXYWHBBoxCoder((0.1, 0.0, -0.1, 0.2), (0.1, 0.1, 0.2, 0.2))
    priors, boxes = random_boxes(20), random_boxes(20, seed=1)
    deltas = coder.encode(priors, boxes)
    torch.testing.assert_close(boxes_.encode(priors, boxes, coder), deltas)
    deltas = 30 * torch.randn(20, 4, dtype=torch.float64)
    limits = boxes_.limits_of([(40, 60)], deltas)[0, 0]
    want = coder.decode(priors, deltas, max_shape=(40, 60))
    torch.testing.assert_close(boxes_.decode(priors, deltas, coder, limits), want)


def test_limits_of_images_that_differ():
    like = torch.zeros(())
    assert boxes_.limits_of([(1, 2), (3, 4)], like).flatten(1).tolist() == [[2, 1], [4, 3]]


def test_rows_are_padded_with_zeros():
    padded = boxes_.pad_rows([torch.ones(1, 4), torch.ones(0, 4)], least=2)
    assert padded.sum(dim=2).tolist() == [[4, 0], [0, 0]]
    assert boxes_.pad_rows([torch.ones(2), torch.ones(1)]).tolist() == [[1, 1], [1, 0]]


CASES = {
    'enough of both': (20, 40, 12, 0.25, -1),
    'few positive': (2, 40, 12, 0.25, -1),
    'few of both': (2, 3, 12, 0.25, -1),
    'none positive': (0, 40, 12, 0.5, -1),
    'none negative': (20, 0, 12, 0.5, -1),
    'bounded by the positive ones': (3, 40, 12, 0.5, 2),
    'bounded by one where there is none': (0, 40, 12, 0.5, 2),
}


@pytest.mark.parametrize('case', CASES)
def test_samples_are_as_likely_as_those_of_mmdet(case):
    positive, negative, number, fraction, bound = CASES[case]
    sampler = RandomSampler(number, fraction, bound, add_gt_as_proposals=False)
    assigned = torch.cat([torch.ones(positive), torch.zeros(negative), -torch.ones(10)]).long()[
        torch.randperm(positive + negative + 10, generator=torch.Generator().manual_seed(0))
    ]
    runs = 4000
    torch.manual_seed(1)
    samples = boxes_.sample(assigned.expand(runs, -1), sampler)
    result = AssignResult(1, assigned, torch.zeros(len(assigned)), assigned)
    priors = InstanceData(priors=torch.rand(len(assigned), 4))
    truths = InstanceData(bboxes=torch.rand(1, 4), labels=torch.zeros(1, dtype=torch.long))
    one = sampler.sample(result, priors, truths)
    num_positive, num_negative = len(one.pos_inds), len(one.neg_inds)
    assert samples.num_positive.tolist() == [num_positive] * runs
    assert samples.num_negative.tolist() == [num_negative] * runs
    counts = torch.zeros(2, len(assigned))
    for index, is_positive, is_sample in zip(
        samples.index, samples.is_positive, samples.is_sample, strict=True
    ):
        drawn = index[is_sample]
        assert len(drawn.unique()) == len(drawn) == num_positive + num_negative
        counts[0, index[is_positive]] += 1
        counts[1, index[is_sample & ~is_positive]] += 1
    for found, value, total, wanted in (
        (counts[0], 1, positive, num_positive),
        (counts[1], 0, negative, num_negative),
    ):
        assert found[assigned != value].sum() == 0
        if total:
            share = wanted / total  # each is as likely as any other
            deviation = (share * (1 - share) / runs) ** 0.5
            off = (found[assigned == value] / runs - share).abs().max()
            assert off <= 4.5 * deviation


def test_pairs_are_drawn_independently():
    sampler = RandomSampler(2, 0.0, -1, add_gt_as_proposals=False)
    torch.manual_seed(0)
    runs = 6000
    samples = boxes_.sample(torch.zeros(runs, 4, dtype=torch.long), sampler)
    pairs = samples.index.sort(dim=1).values
    counts = torch.bincount(4 * pairs[:, 0] + pairs[:, 1], minlength=16)
    counts = counts[counts > 0]
    assert len(counts) == 6
    statistic = ((counts - runs / 6) ** 2 / (runs / 6)).sum()
    assert statistic < 20.5  # chi squared, 5 degrees of freedom, p = 0.001
