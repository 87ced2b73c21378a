"""Samples as a model sees them, and their classes counted."""

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from kat_mm.analysis.browse import Sample, Statistics, draw_sample, samples
from kat_mm.visualization.predictions import Classes

CLASSES = Classes(('cell', 'platelet', 'ghost'), [[255, 0, 0], [0, 0, 255], [0, 255, 0]])


def labelled(*labels):
    sample = BaseDataElement()
    sample.set_field(torch.tensor(labels), 'gt_label')
    return sample


def objects(*labels):
    n = len(labels)
    boxes = torch.tensor([[1.0, 1.0, 4.0, 4.0]] * n).reshape(n, 4)
    return BaseDataElement(gt_instances=InstanceData(bboxes=boxes, labels=torch.tensor(labels)))


def mapped(labels):
    return BaseDataElement(gt_sem_seg=PixelData(data=torch.from_numpy(labels[None])))


def panoptic():
    """A cell, and around it a platelet and what is unlabelled: objects and a label map."""
    labels = np.full((24, 24), 1)
    labels[:8, :8] = 0
    labels[16:] = 255
    masks = torch.from_numpy(labels == 0)[None]
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    instances = InstanceData(bboxes=boxes, labels=torch.tensor([0]), masks=masks)
    return BaseDataElement(
        gt_instances=instances, gt_sem_seg=PixelData(sem_seg=torch.from_numpy(labels[None]))
    )


@pytest.mark.parametrize(
    ('truths', 'expected'),
    [
        ([labelled(0), labelled(1), labelled(0)], {'cell': (2, 2), 'platelet': (1, 1)}),
        ([objects(1, 1, 0), objects(1)], {'cell': (1, 1), 'platelet': (2, 3)}),
        (
            [mapped(np.array([[0, 0], [1, 255]])), mapped(np.zeros((2, 2), int))],
            {'cell': (2, 6), 'platelet': (1, 1), 'unlabelled': (1, 1)},
        ),
        ([panoptic()], {'cell': (1, 1), 'platelet': (1, 1), 'unlabelled': (1, 1)}),
    ],
)
def test_classes_are_counted_by_image_and_by_object_or_pixel(truths, expected):
    statistics = Statistics()
    for truth in truths:
        statistics.add(truth)
    rows = {row['name']: row for row in statistics.rows(CLASSES)}
    for name, (images, amount) in expected.items():
        assert (rows[name]['images'], rows[name]['amount']) == (images, amount)
    assert rows['ghost']['images'] == 0  # a class that never occurs is seen as such
    assert sum(row['share'] for row in rows.values()) == pytest.approx(1)


def test_images_come_as_rgb_whatever_their_order():
    blue = torch.zeros(3, 4, 4)
    blue[0] = 200  # of BGR
    (sample,) = samples([dict(inputs=blue, data_samples=labelled(0))], [0], is_bgr=True)
    assert (sample.image == (0, 0, 200)).all()


@pytest.mark.parametrize(('channels', 'shown'), [(1, (0, 0, 0)), (4, (0, 1, 2))])
def test_images_of_other_channels_are_shown_by_the_first(channels, shown):
    image = torch.arange(channels, dtype=torch.uint8).view(-1, 1, 1).expand(-1, 4, 4)
    (sample,) = samples([dict(inputs=image, data_samples=labelled(0))], [0], is_bgr=False)
    assert (sample.image == shown).all()


def test_the_truth_is_drawn():
    image = np.full((480, 480, 3), 100, np.uint8)
    boxes = draw_sample(Sample(image, objects(1)), CLASSES)
    assert (boxes[:480] == (0, 0, 255)).all(-1).any()
    titled = draw_sample(Sample(image, labelled(0)), CLASSES)
    assert titled.shape[0] > 480 and (titled[:30] < 100).any()
    tinted = draw_sample(Sample(image, mapped(np.ones((480, 480), np.uint8))), CLASSES)
    assert (tinted[200, 200] == (50, 50, 177)).all()


def test_the_truth_of_panoptic_data_has_its_stuff_too_at_the_size_of_the_image():
    picture = draw_sample(Sample(np.full((480, 480, 3), 100, np.uint8), panoptic()), CLASSES)
    assert (picture[20, 100] == (177, 50, 50)).all()
    plate = (picture == (255, 0, 0)).all(axis=-1)
    assert plate[60:100, 50:110].sum() > 200  # with its name
    assert (picture[250, 400] == (50, 50, 177)).all()
    stripes = picture[340:470, 5:100]
    assert (stripes.std(axis=-1) == 0).all() and len(np.unique(stripes)) > 2


def test_boxes_of_a_resized_truth_lie_on_its_objects():
    truth = objects(1)
    truth.gt_instances.masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    truth.gt_instances.masks[:, 1:4, 1:4] = True
    picture = draw_sample(Sample(np.full((480, 480, 3), 100, np.uint8), truth), CLASSES)
    assert (picture[240, 150] == (0, 0, 255)).all() and (picture[150, 240] == (0, 0, 255)).all()
