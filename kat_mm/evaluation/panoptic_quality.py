import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmdet.structures import INSTANCE_OFFSET
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from kat_mm.datasets.panoptic import VOID, check_segments, read_segment_ids
from kat_mm.errors import UserError


class Segment(NamedTuple):
    """A segment of a panoptic map."""

    label: int
    """Its class."""
    iscrowd: bool = False
    """Whether it is a group of objects that are not told apart."""


class PanopticQuality(BaseMetric):
    """Panoptic quality (Kirillov et al., Panoptic Segmentation, CVPR 2019) in COCO's rules.

    Gives what mmdet's ``CocoPanopticMetric`` does, without panopticapi and without writing the
    predictions to files: PQ, SQ and RQ in percent, of all classes, of things (``_th``) and of stuff
    (``_st``). A predicted segment and a true one of the same class match where their intersection
    over union, outside of unlabelled pixels, is above 0.5. A prediction without a match does not
    count as false where most of it is unlabelled or a crowd of its class.

    Args:
        ann_file: COCO's panoptic annotation file.
        seg_prefix: Folder of its pictures.
        classwise: Whether the log gets PQ of each class. Default: False.
        collect_device: As of mmengine's metrics. Default: 'cpu'.
        prefix: Of the names of results. Default: 'coco_panoptic'.

    Raises:
        UserError: An image is not in the file, or a picture disagrees with it.
    """

    default_prefix = 'coco_panoptic'

    def __init__(
        self,
        ann_file: str,
        seg_prefix: str,
        classwise: bool = False,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ):
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ann_file, self.seg_prefix, self.classwise = ann_file, seg_prefix, classwise
        content = json.loads(Path(ann_file).read_text())
        self._categories = {one['id']: one for one in content['categories']}
        self._annotations = {one['image_id']: one for one in content['annotations']}

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        labels = {name: label for label, name in enumerate(self.dataset_meta['classes'])}
        num_classes = len(labels)
        for sample in data_samples:
            annotation = self._annotations.get(sample['img_id'])
            if annotation is None:
                raise UserError(f'{self.ann_file} has no annotation of image {sample["img_id"]}')
            path = os.path.join(self.seg_prefix, annotation['file_name'])
            truth, infos = read_segment_ids(path), annotation['segments_info']
            listed = {info['id'] for info in infos}
            check_segments(path, truth, listed, sample['ori_shape'], self.ann_file)
            true_segments = {
                info['id']: Segment(labels[name], bool(info.get('iscrowd')))
                for info in infos
                if (name := self._categories[info['category_id']]['name']) in labels
            }
            predicted = np.asarray(sample['pred_panoptic_seg']['sem_seg'].cpu())[0]
            classes = predicted % INSTANCE_OFFSET
            predicted = np.where(classes < num_classes, predicted + 1, VOID)
            segments = {
                int(key): Segment(int(key - 1) % INSTANCE_OFFSET)
                for key in np.unique(predicted)
                if key != VOID
            }
            self.results.append(
                match_segments(truth, true_segments, predicted, segments, num_classes)
            )

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        iou, found, false, missed = np.sum(results, axis=0).T
        number = found + 0.5 * (false + missed)
        seen = number > 0
        number = np.where(seen, number, 1)
        quality = dict(PQ=iou / number, SQ=iou / np.where(found > 0, found, 1), RQ=found / number)
        names = self.dataset_meta['classes']
        things = {one['name'] for one in self._categories.values() if one['isthing']}
        is_thing = np.array([name in things for name in names])
        if self.classwise:
            values = zip(names, quality['PQ'], seen, strict=True)
            rows = (f'{name}: {100 * pq:.1f}' for name, pq, shown in values if shown)
            print_log(f'PQ of each class: {", ".join(rows)}', 'current')
        return {
            f'{name}{suffix}': 100 * float(values[chosen & seen].mean())
            if (chosen & seen).any()
            else 0.0
            for suffix, chosen in (('', seen), ('_th', is_thing), ('_st', ~is_thing))
            for name, values in quality.items()
        }


def match_segments(
    truth: np.ndarray,
    true_segments: dict[int, Segment],
    predicted: np.ndarray,
    segments: dict[int, Segment],
    num_classes: int,
) -> np.ndarray:
    """Match the segments of an image.

    Args:
        truth: (H, W), the true segment of each pixel; what is none of ``true_segments`` is
            unlabelled.
        true_segments: The true segments by id.
        predicted: (H, W), likewise of the prediction.
        segments: The predicted segments by id.
        num_classes: Number of classes.

    Returns:
        (classes, 4): sum of the intersections over union of matches, matches, false segments,
        missed segments.
    """
    true_ids, true_index = np.unique(truth, return_inverse=True)
    ids, index = np.unique(predicted, return_inverse=True)
    pairs = true_index.ravel() * len(ids) + index.ravel()
    shared = np.bincount(pairs, minlength=len(true_ids) * len(ids)).reshape(-1, len(ids))
    labelled = [int(key) in true_segments for key in true_ids]
    areas, true_areas = shared.sum(0), shared.sum(1)
    unlabelled = shared[[not one for one in labelled]].sum(0)
    result = np.zeros((num_classes, 4))
    matched, matched_truth = set(), set()
    for row, column in np.argwhere(shared):
        true, own = true_segments.get(int(true_ids[row])), segments.get(int(ids[column]))
        if true is None or own is None or true.iscrowd or true.label != own.label:
            continue
        both = shared[row, column]
        iou = both / (true_areas[row] + areas[column] - both - unlabelled[column])
        if iou > 0.5:
            result[true.label, :2] += iou, 1
            matched.add(column)
            matched_truth.add(row)
    for row, key in enumerate(true_ids):
        true = true_segments.get(int(key))
        if true is not None and not true.iscrowd and row not in matched_truth:
            result[true.label, 3] += 1
    for column, key in enumerate(ids):
        own = segments.get(int(key))
        if own is None or column in matched:
            continue
        crowds = [
            row
            for row, true_key in enumerate(true_ids)
            if true_segments.get(int(true_key)) == Segment(own.label, True)
        ]
        if unlabelled[column] + shared[crowds, column].sum() <= 0.5 * areas[column]:
            result[own.label, 2] += 1
    return result
