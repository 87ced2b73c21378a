import json

import cv2
import numpy as np
import pytest
import torch

from kat_mm.datasets.panoptic import read_segment_ids
from kat_mm.errors import UserError
from kat_mm.evaluation import PanopticQuality
from kat_mm.evaluation.panoptic_quality import Segment, match_segments


def plain(truth, true_segments, predicted, segments, num_classes):
    """Kirillov et al., section 4, and COCO's rules on void and crowds, pair by pair."""
    result = np.zeros((num_classes, 4))
    void = ~np.isin(truth, list(true_segments))
    hit, hit_truth = set(), set()
    for key, true in true_segments.items():
        for own_key, own in segments.items():
            a, b = truth == key, (predicted == own_key)
            if true.iscrowd or true.label != own.label or not (a & b).any():
                continue
            iou = (a & b).sum() / (a | (b & ~void)).sum()
            if iou > 0.5:
                result[true.label] += iou, 1, 0, 0
                hit.add(own_key)
                hit_truth.add(key)
    for key, true in true_segments.items():
        result[true.label, 3] += key not in hit_truth and not true.iscrowd
    for own_key, own in segments.items():
        crowd = np.zeros_like(void)
        for key, true in true_segments.items():
            if true.iscrowd and true.label == own.label:
                crowd |= truth == key
        area = predicted == own_key
        excused = (area & (void | crowd)).sum() / area.sum() > 0.5
        result[own.label, 2] += own_key not in hit and not excused
    return result


@pytest.mark.parametrize('seed', range(8))
def test_it_equals_the_definition_pair_by_pair(seed):
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, 8, (6, 8)), np.ones((4, 4), int))
    predicted = np.where(rng.random(truth.shape) < 0.8, truth, rng.integers(0, 9, truth.shape))
    true_segments = {
        int(key): Segment(int(key) % 3, bool(key == 7)) for key in np.unique(truth) if key
    }
    segments = {int(key): Segment(int(key) % 3) for key in np.unique(predicted) if key}
    if seed % 2:
        segments = {key: Segment(int(rng.integers(3))) for key in segments}
    args = truth, true_segments, predicted, segments, 3
    np.testing.assert_allclose(match_segments(*args), plain(*args))
    assert plain(*args)[:, 1].sum() > 0 or seed % 2


def test_a_prediction_over_void_or_a_crowd_of_its_class_is_not_false():
    truth = np.repeat([[0, 1, 2, 2]], 4, axis=0)
    true_segments = {1: Segment(0), 2: Segment(1, iscrowd=True)}
    for column, label, false in ((0, 0, 0), (2, 1, 0), (2, 0, 1), (3, 1, 0)):
        predicted = np.zeros_like(truth)
        predicted[:, column] = 5
        result = match_segments(truth, true_segments, predicted, {5: Segment(label)}, 2)
        assert result[:, 2].sum() == false and result[0, 3] == 1


@pytest.fixture
def files(tmp_path):
    """Two images of a thing (class 'a', two objects) on stuff ('b')."""
    ids = np.full((10, 12), 300)
    ids[2:6, 1:5], ids[2:6, 7:11], ids[9] = 70_000, 5, 0
    (tmp_path / 'maps').mkdir()
    annotations = []
    for image in (1, 2):
        colours = np.stack([ids >> shift & 255 for shift in (16, 8, 0)], -1)
        cv2.imwrite(str(tmp_path / f'maps/{image}.png'), colours)
        infos = [
            dict(id=key, category_id=category, iscrowd=0, area=int((ids == key).sum()))
            for key, category in ((300, 20), (70_000, 10), (5, 10))
        ]
        annotations.append(dict(image_id=image, file_name=f'{image}.png', segments_info=infos))
    categories = [dict(id=10, name='a', isthing=1), dict(id=20, name='b', isthing=0)]
    content = dict(annotations=annotations, categories=categories, images=[])
    (tmp_path / 'panoptic.json').write_text(json.dumps(content))
    return tmp_path, ids


def evaluate(folder, predictions):
    metric = PanopticQuality(str(folder / 'panoptic.json'), str(folder / 'maps'), classwise=True)
    metric.dataset_meta = dict(classes=('a', 'b'))
    samples = [
        dict(
            img_id=image,
            ori_shape=(10, 12),
            pred_panoptic_seg=dict(sem_seg=torch.from_numpy(np.array(predicted))[None]),
        )
        for image, predicted in enumerate(predictions, start=1)
    ]
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def test_a_perfect_prediction_has_100_and_an_empty_one_0(files):
    folder, ids = files
    assert (read_segment_ids(str(folder / 'maps/1.png')) == ids).all()
    perfect = np.full(ids.shape, 1)
    perfect[ids == 70_000], perfect[ids == 5] = 1000, 2000
    results = evaluate(folder, [perfect, perfect])
    assert len(results) == 9 and set(results.values()) == {100.0}
    results = evaluate(folder, [np.full(ids.shape, 2)] * 2)
    assert set(results.values()) == {0.0}


def test_quality_is_the_mean_over_classes(files):
    """One of two objects is found, cut in half and more; all stuff is found in one image of two."""
    folder, ids = files
    first = np.full(ids.shape, 1)
    first[2:5, 1:5] = 1000  # 12 of 16 pixels; the fourth row is taken for stuff
    results = evaluate(folder, [first, np.full(ids.shape, 2)])
    thing = 0.75 / (1 + 0.5 * 3)
    stuff = 76 / (76 + 4 + 16) / (1 + 0.5)
    assert results['coco_panoptic/PQ_th'] == pytest.approx(100 * thing)
    assert results['coco_panoptic/PQ_st'] == pytest.approx(100 * stuff)
    assert results['coco_panoptic/PQ'] == pytest.approx(50 * (thing + stuff))
    assert results['coco_panoptic/SQ_th'] == pytest.approx(75)
    assert results['coco_panoptic/RQ_st'] == pytest.approx(100 / 1.5)


def test_a_picture_that_disagrees_with_the_json_is_refused(files):
    folder, ids = files
    content = json.loads((folder / 'panoptic.json').read_text())
    content['annotations'][0]['segments_info'].pop()
    (folder / 'panoptic.json').write_text(json.dumps(content))
    with pytest.raises(UserError, match=r'1\.png has segments .* does not list for it: 1 of ids 5'):
        evaluate(folder, [ids])


def test_an_image_without_annotation_is_named(files):
    folder, ids = files
    with pytest.raises(UserError, match=r'no annotation of image 3'):
        evaluate(folder, [np.full(ids.shape, 2)] * 3)
