"""COCO's panoptic pictures, without panopticapi, which no package index has."""

import cv2
import mmcv
import numpy as np
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.structures.mask import BitmapMasks
from mmengine.fileio import get

from kat_mm.errors import UserError, some

# Segment of pixels that belong to none.
VOID = 0


def read_segment_ids(path: str, backend_args: dict | None = None) -> np.ndarray:
    """The segment of each pixel, (H, W) int64: R + 256 G + 65536 B of its colour.

    Raises:
        UserError: The file is no picture.
    """
    try:
        picture = mmcv.imfrombytes(
            get(path, backend_args=backend_args), flag='color', channel_order='rgb'
        )
    except IsADirectoryError:
        raise UserError(f'panoptic picture {path} is a folder; replace it by the file') from None
    except cv2.error:
        picture = None
    if picture is None:
        raise UserError(f'panoptic picture {path} does not decode; replace the file')
    return picture.astype(np.int64) @ np.array([1, 256, 65536])


def check_segments(
    path: str, ids: np.ndarray, listed: set[int], shape: tuple[int, int], annotations: str
) -> None:
    """Refuse a picture that disagrees with what is listed of it.

    Args:
        path: The picture, for messages.
        ids: (H, W), as read from it.
        listed: Ids of the segments that the annotation file has for it.
        shape: (H, W) of the image.
        annotations: What lists them, for messages.

    Raises:
        UserError: Sizes differ, or one has a segment that the other has not.
    """
    if ids.shape != tuple(shape[:2]):
        (height, width), (other_height, other_width) = ids.shape, shape[:2]
        raise UserError(
            f'panoptic picture {path} has {width}x{height} pixels, but its image has '
            f'{other_width}x{other_height}; they must have the same'
        )
    shown = set(np.unique(ids).tolist()) - {VOID}
    for what, lacking in (
        (f'segments in its pixels that {annotations} does not list for it', shown - listed),
        (f'no pixel of segments that {annotations} lists for it', listed - shown),
    ):
        if lacking:
            raise UserError(
                f'panoptic picture {path} has {what}: {len(lacking)} of ids '
                f'{some(sorted(lacking))} (an id is R + 256 G + 65536 B). Picture and annotations '
                'must be of one export; write the picture again without loss (PNG, no resizing), '
                'or mend segments_info'
            )


class LoadPanopticAnnotations(LoadAnnotations):
    """mmdet's transform of this name, which needs panopticapi, with checks of the picture.

    Required keys: those of ``CocoPanopticDataset``. Added: boxes and labels of objects
    (``gt_bboxes``, ``gt_bboxes_labels``), their masks (``gt_masks``, BitmapMasks), and the class of
    each pixel (``gt_seg_map``, (H, W) uint8; 255 where there is none).

    Args:
        backend_args: Of the file backend. Default: None, local files.

    Raises:
        UserError: The picture does not decode, or disagrees with the annotation file.
    """

    def __init__(self, backend_args: dict | None = None):
        super().__init__(with_bbox=True, with_mask=True, with_seg=True, backend_args=backend_args)

    def transform(self, results: dict) -> dict:
        self._load_bboxes(results)
        self._load_labels(results)
        path = results.get('seg_map_path')
        if path is None:  # in inference
            return results
        ids, infos = read_segment_ids(path, self.backend_args), results['segments_info']
        shape = results['height'], results['width']
        check_segments(path, ids, {info['id'] for info in infos}, shape, 'the annotation file')
        classes, masks = np.full(ids.shape, 255, np.uint8), []
        for info in infos:
            mask = ids == info['id']
            classes[mask] = info['category']
            if info['is_thing']:
                masks.append(mask.astype(np.uint8))
        results['gt_masks'] = BitmapMasks(masks, *ids.shape)
        results['gt_seg_map'] = classes
        return results
