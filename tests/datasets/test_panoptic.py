import shutil

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope

from kat_mm.errors import UserError
from kat_mm.sample_data import SampleSettings, make_sample_data

LOADING = [
    dict(type='LoadImageFromFile'),
    dict(type='kat_mm.LoadPanopticAnnotations'),
]


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp('panoptic')
    make_sample_data(['coco'], out, SampleSettings(num_train=8, num_val=2, width=96, height=72))
    return out / 'coco'


def load(root):
    init_default_scope('mmdet')
    return DATASETS.build(
        dict(
            type='CocoPanopticDataset',
            data_root=str(root),
            ann_file='annotations/panoptic_train2017.json',
            data_prefix=dict(img='train2017', seg='annotations/panoptic_train2017'),
            pipeline=[dict(type='LoadChecked', transforms=LOADING)],
        )
    )


def test_objects_and_regions_are_those_of_the_files(drawn):
    dataset = load(drawn)
    assert len(dataset) == 8
    for sample in (dataset[index] for index in range(8)):
        infos = sample['segments_info']
        things = [info for info in infos if info['is_thing']]
        assert len(sample['gt_masks']) == len(sample['gt_bboxes']) == len(things)
        assert sample['gt_bboxes_labels'].tolist() == [info['category'] for info in things]
        for mask, box in zip(sample['gt_masks'].masks, sample['gt_bboxes'].tensor, strict=True):
            y, x = np.nonzero(mask)
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        labels = set(np.unique(sample['gt_seg_map'])) - {255}
        assert labels == {info['category'] for info in infos}
        assert max(labels) < 133 and min(labels) >= 0
    assert len(dataset[7]['gt_masks']) == 0  # an image without an object


def damaged(drawn, tmp_path, change):
    root = tmp_path / 'coco'
    shutil.copytree(drawn, root)
    path = root / 'annotations/panoptic_train2017/000000000001.png'
    change(path)
    with pytest.raises(UserError) as error:
        load(root)[0]
    return str(error.value), str(path)


def test_pixels_of_an_unlisted_segment_are_refused(drawn, tmp_path):
    def change(path):
        picture = cv2.imread(str(path))
        picture[:3, :3] = (0, 1, 2)
        cv2.imwrite(str(path), picture)

    message, path = damaged(drawn, tmp_path, change)
    assert path in message and 'does not list for it: 1 of ids 258' in message


def test_listed_segments_without_a_pixel_are_refused(drawn, tmp_path):
    message, path = damaged(
        drawn, tmp_path, lambda path: cv2.imwrite(str(path), 0 * cv2.imread(str(path)))
    )
    assert path in message and 'has no pixel of segments' in message


def test_a_picture_of_another_size_is_refused(drawn, tmp_path):
    message, path = damaged(
        drawn, tmp_path, lambda path: cv2.imwrite(str(path), cv2.imread(str(path))[:20])
    )
    assert path in message and 'x20 pixels, but its image has' in message


def test_a_missing_or_broken_picture_is_named(drawn, tmp_path):
    message, path = damaged(drawn, tmp_path, lambda path: path.unlink())
    assert path in message and 'does not exist' in message
    message, path = damaged(drawn, tmp_path / 'other', lambda path: path.write_bytes(b'no picture'))
    assert path in message
