import json
import re

import numpy as np
import pytest
from pycocotools import mask

from kat_mm.checks import coco
from kat_mm.checks.coco import check_coco
from kat_mm.errors import UserError

CLASSES = ('cat', 'dog')


def content(**changes):
    return {
        'images': [
            dict(id=1, file_name='a.jpg', width=40, height=30),
            dict(id=2, file_name='sub/b.jpg', width=40, height=30),
        ],
        'annotations': [annotation(), annotation(id=2, image_id=2, category_id=7)],
        'categories': [dict(id=3, name='cat'), dict(id=7, name='dog'), dict(id=9, name='cow')],
        **changes,
    }


def annotation(**changes):
    given = dict(
        id=1,
        image_id=1,
        category_id=3,
        bbox=[1, 2, 10, 8.5],
        area=85,
        iscrowd=0,
        segmentation=[[1, 2, 11, 2, 11, 10]],
    )
    given.update(changes)
    return {key: value for key, value in given.items() if value is not None}


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Check a content and give what was logged."""
    messages = []
    monkeypatch.setattr(coco, 'print_log', lambda message, *_: messages.append(message))

    def run(value, classes=CLASSES, with_masks=True, **settings):
        path = tmp_path / 'val.json'
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        check_coco(path, classes, {'a.jpg', 'sub/b.jpg'}, 'images', with_masks, **settings)
        return messages

    return run


def test_a_sound_file_passes_without_a_word(check):
    assert check(content()) == []


def test_images_without_an_object_are_sound(check):
    assert check(content(annotations=[annotation()])) == []


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match='val.json does not exist; see docs/detection.md'):
        check_coco(tmp_path / 'val.json', CLASSES, set(), 'images', False)


@pytest.mark.parametrize('text', ['', '{"images": [', '\x00\x01', 'NaN is no JSON'])
def test_what_is_no_json_is_refused(check, text):
    with pytest.raises(UserError, match='val.json is no readable JSON'):
        check(text)


@pytest.mark.parametrize(
    'value, message',
    [
        ([1, 2], 'it holds a list'),
        (dict(shapes=[], imagePath='a.jpg'), 'it holds the keys shapes, imagePath'),
        (content(annotations='none'), 'lists of objects named images, annotations'),
        (content(images=[dict(id=1, width=3, height=3)]), 'one of its images, .* lacks file_name'),
        (content(annotations=[annotation(area=None)]), 'one of its annotations, .* lacks area'),
        (content(annotations=[annotation(), annotation()]), 'has two annotations of id 1'),
        (content(annotations=[annotation(image_id=8)]), 'annotation 1 .* is of image 8'),
        (content(annotations=[annotation(category_id=5)]), 'annotation 1 .* of category 5'),
        (content(annotations=[annotation(bbox=[1, 2, 3])]), r'has the bbox \[1, 2, 3\]'),
        (content(annotations=[annotation(bbox=[1, 2, 3, float('nan')])]), 'has the bbox .*NaN'),
        (content(annotations=[annotation(segmentation=[])]), 'no segmentation.*boxes alone'),
        (content(annotations=[]), 'no object of the classes cat, dog in its 2 images'),
    ],
)
def test_what_mmdet_would_stumble_over_is_refused(check, value, message):
    with pytest.raises(UserError, match=message):
        check(value)


def test_without_masks_boxes_are_enough(check):
    assert check(content(annotations=[annotation(segmentation=None)]), with_masks=False) == []


def test_crowds_need_masks_too(check):
    # mmdet loads the mask of every object of a class.
    with pytest.raises(UserError, match='annotation 2 .* has no segmentation'):
        check(content(annotations=[annotation(), annotation(id=2, segmentation=None, iscrowd=1)]))


def test_objects_that_are_no_class_may_lack_masks(check):
    cow = annotation(id=2, category_id=9, segmentation=None)
    (message,) = check(content(annotations=[annotation(), cow]))
    assert 'objects of cow are no class' in message


@pytest.mark.parametrize(
    'key, field, value, right',
    [
        ('images', 'id', [1], 'a number'),
        ('images', 'file_name', ['a.jpg'], 'a string'),
        ('images', 'width', '40', 'a whole number of pixels'),
        ('images', 'height', None, 'a whole number of pixels'),
        ('annotations', 'id', [1], 'a number'),
        ('annotations', 'image_id', {}, 'a number'),
        ('annotations', 'category_id', '3', 'a number'),
        ('annotations', 'bbox', 'full', r'\[x, y, width, height\] in pixels'),
        ('annotations', 'area', None, 'a number'),
        ('annotations', 'area', '12', 'a number'),
        ('annotations', 'iscrowd', '0', '0 or 1'),
        ('categories', 'id', '3', 'a number'),
        ('categories', 'name', 3, 'a string'),
    ],
)
def test_values_of_another_type_are_named_with_their_record(check, key, field, value, right):
    damaged = content()
    damaged[key][0][field] = value
    given = re.escape(json.dumps(value))
    with pytest.raises(
        UserError,
        match=f'val.json .* one of its {key}, .*"id": .*has the {field} {given}; {field} must be '
        f'{right}',
    ):
        check(damaged)


def test_a_record_is_shown_by_its_id_and_not_by_a_long_polygon(check):
    long = dict(segmentation=[[1.25] * 400]) | annotation(area='12')
    with pytest.raises(UserError, match='annotations, {"id": 1, "image_id": 1'):
        check(content(annotations=[long]))


POLYGON = [1, 2, 11, 2, 11, 10]
SQUARE = np.zeros((30, 40), np.uint8, order='F')
SQUARE[2:11, 1:12] = 1
COMPRESSED = mask.encode(SQUARE)['counts'].decode()


@pytest.mark.parametrize(
    'value',
    [
        [POLYGON],
        [POLYGON, [1.5, 2, 11, 2, 11, 10, 3, 4]],
        [POLYGON, [1, 2, 3, 4]],  # mmdet takes the first alone
        dict(counts=[100, 5, 1095], size=[30, 40]),
        dict(counts=COMPRESSED, size=[30, 40]),
    ],
)
def test_masks_are_polygons_or_run_lengths(check, value):
    assert check(content(annotations=[annotation(segmentation=value)])) == []


@pytest.mark.parametrize(
    'value',
    [
        'abc',
        5,
        POLYGON,
        [[]],
        [[1, 2, 3, 4]],
        [[*POLYGON, 7]],
        [[*POLYGON[:5], '10']],
        [[*POLYGON[:5], None]],
        [[*POLYGON[:5], float('nan')]],  # takes all memory in pycocotools
        [POLYGON, 5],
        dict(size=[30, 40]),
        dict(counts='h3T1'),
        dict(counts='h3T1', size=[40, 30]),
        dict(counts=5, size=[30, 40]),
        dict(counts=['5'], size=[30, 40]),
    ],
)
def test_other_masks_are_refused_with_what_they_must_be(check, value):
    damaged = content(annotations=[annotation(), annotation(id=7, segmentation=value)])
    with pytest.raises(UserError) as error:
        check(damaged)
    message = str(error.value)
    assert f'val.json, in image a.jpg, has the segmentation {json.dumps(value)}' in message
    assert 'annotation 7 of' in message and '; it must be polygons [[x1' in message
    assert '{"counts": ..., "size": [30, 40]}' in message
    assert check(damaged, with_masks=False) == []


def test_images_that_are_all_too_small_are_refused(check):
    assert check(content(), min_size=30) == []
    with pytest.raises(UserError, match='2 images but 2 in images below filter_cfg.min_size=31;'):
        check(content(), min_size=31)


def test_missing_images_are_counted_and_the_first_is_named(check):
    value = content()
    value['images'][1]['file_name'] = 'nowhere.jpg'
    with pytest.raises(UserError, match='1 of 2 images of .* missing in images, the first nowhere'):
        check(value)


def test_classes_that_the_data_lack_are_named(check):
    with pytest.raises(
        UserError, match='classes horse of the config .*: cat, dog, cow.*num_classes'
    ):
        check(content(), classes=('cat', 'horse'))


def test_classes_in_another_order_are_refused(check):
    # mmdet would call cats dogs: it numbers labels in the order of the file.
    with pytest.raises(UserError, match='must be in the order .*: cat, dog; they are dog, cat'):
        check(content(), classes=('dog', 'cat'))


def test_objects_of_other_classes_are_left_out_with_a_word(check):
    (message,) = check(content(annotations=[annotation(), annotation(id=2, category_id=9)]))
    assert 'objects of cow are no class and left out' in message


@pytest.mark.parametrize(
    'changes', [dict(bbox=[5, 5, 0, 9]), dict(bbox=[50, 5, 9, 9]), dict(area=0)]
)
def test_boxes_without_area_are_left_out_with_a_word(check, changes):
    (message,) = check(content(annotations=[annotation(), annotation(id=2, **changes)]))
    assert '1 boxes without area in their image are left out' in message


def test_what_is_left_out_is_what_mmdet_leaves_out(tmp_path):
    from mmdet.datasets import CocoDataset

    boxes = [
        [5, 5, 0, 9],
        [50, 5, 9, 9],
        [-5, 5, 5, 9],
        [-5, 5, 6, 9],
        [5, 5, 0.5, 9],
        [1, 1, 2, 2],
    ]
    annotations = [annotation(id=i, bbox=box) for i, box in enumerate(boxes)]
    (tmp_path / 'val.json').write_text(json.dumps(content(annotations=annotations)))
    dataset = CocoDataset(
        data_root=str(tmp_path),
        ann_file='val.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=CLASSES),
    )
    kept = [instance['bbox'][:2] for instance in dataset[0]['instances']]
    sizes, area = np.tile([40, 30], (len(boxes), 1)), np.full(len(boxes), 85)
    has_area = coco.has_area_in_image(np.array(boxes), area, sizes)
    assert kept == [box[:2] for box, has in zip(boxes, has_area, strict=True) if has]
    assert len(kept) == 2
