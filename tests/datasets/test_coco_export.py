import json

import numpy as np
import pytest
from PIL import Image

from kat_mm.datasets.coco_export import prepare_coco_export
from kat_mm.errors import UserError


def square(first, last, category, image=0):
    x1, y1, x2, y2 = first, first, last, last
    return dict(
        image_id=image,
        category_id=category,
        bbox=[x1, y1, x2 - x1, y2 - y1],
        area=(last - first) ** 2,
        segmentation=[[x1, y1, x2, y1, x2, y2, x1, y2]],
        iscrowd=0,
    )


def write(root, split, objects, names=('house', 'window', 'house', 'car')):
    folder = root / split
    folder.mkdir(parents=True)
    content = dict(
        categories=[
            dict(id=i, name=name, supercategory='house' if i else 'none')
            for i, name in enumerate(names)
        ],
        images=[dict(id=0, file_name='0000.jpg', width=12, height=10)],
        annotations=[dict(one, id=i) for i, one in enumerate(objects)],
    )
    (folder / '_annotations.coco.json').write_text(json.dumps(content))


def test_root_category_goes_objects_count_from_1_and_small_ones_lie_on_large_ones(tmp_path):
    write(tmp_path, 'train', [square(3, 5, 1), square(1, 9, 2)])
    write(tmp_path, 'val', [])
    written = prepare_coco_export(tmp_path)
    assert written['train'] == dict(images=1, objects=dict(window=1, house=1, car=0))
    for split, ids in (('train', [1, 2]), ('val', [])):
        content = json.loads((tmp_path / f'annotations/{split}.json').read_text())
        assert [one['id'] for one in content['annotations']] == ids
        assert [(one['id'], one['name']) for one in content['categories']] == [
            (1, 'window'),
            (2, 'house'),
            (3, 'car'),
        ]
    want = np.full((10, 12), 255)
    want[1:9, 1:9] = 1
    want[3:5, 3:5] = 0
    found = np.array(Image.open(tmp_path / 'labels/train/0000.png'))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, want)
    assert (np.array(Image.open(tmp_path / 'labels/val/0000.png')) == 255).all()


def test_a_second_call_writes_the_same(tmp_path):
    write(tmp_path, 'train', [square(3, 5, 1), square(1, 9, 2)])
    prepare_coco_export(tmp_path)
    first = (tmp_path / 'annotations/train.json').read_bytes()
    prepare_coco_export(tmp_path)
    assert (tmp_path / 'annotations/train.json').read_bytes() == first


def test_a_folder_that_is_no_export_is_refused(tmp_path):
    with pytest.raises(UserError, match='has no folder with _annotations.coco.json'):
        prepare_coco_export(tmp_path)
    write(tmp_path, 'train', [])
    (tmp_path / 'train/_annotations.coco.json').write_text('{"images": []}')
    with pytest.raises(UserError, match=r'is no annotation file of COCO \(KeyError'):
        prepare_coco_export(tmp_path)


def test_splits_of_other_classes_and_classes_of_one_name_are_refused(tmp_path):
    write(tmp_path, 'train', [square(1, 9, 0), square(1, 9, 2)])
    with pytest.raises(UserError, match="'house' is there twice"):
        prepare_coco_export(tmp_path)
    write(tmp_path, 'val', [], names=('house', 'window', 'house', 'bus'))
    with pytest.raises(UserError, match='categories of train and val differ'):
        prepare_coco_export(tmp_path)


def test_an_object_of_no_category_is_refused(tmp_path):
    write(tmp_path, 'train', [square(1, 9, 7)])
    with pytest.raises(UserError, match='category 7 is not listed'):
        prepare_coco_export(tmp_path)
