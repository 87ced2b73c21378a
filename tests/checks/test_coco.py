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
        pytest.param('annotations', 'area', 10**400, 'a number', id='a huge number'),
        ('annotations', 'iscrowd', '0', '0 or 1'),
        ('categories', 'id', '3', 'a number'),
        ('categories', 'name', 3, 'a string'),
    ],
)
def test_values_of_another_type_are_named_with_their_record(check, key, field, value, right):
    damaged = content()
    damaged[key][0][field] = value
    given = re.escape(json.dumps(value)[:80])
    with pytest.raises(
        UserError,
        match=f'val.json .* one of its {key}, .*"id": .*has the {field} {given}.*; {field} must be '
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
        dict(counts=[100, 5, 1095], size=[30, 40]),
        dict(counts=COMPRESSED, size=[30, 40]),
    ],
)
def test_masks_are_polygons_or_run_lengths(check, value):
    assert check(content(annotations=[annotation(segmentation=value)])) == []


def with_mask(*polygons, **changes):
    """A sound object, and one with polygons."""
    box = dict(bbox=[0, 0, 25, 25], segmentation=list(polygons))
    return content(annotations=[annotation(), annotation(id=8, **box, **changes)])


BOW_TIE = [0, 0, 20, 20, 20, 0, 0, 20]
COMB = [0, 0, 20, 10, 10, 5, 4, 20]  # the first, second and third of four on a line


@pytest.mark.parametrize('polygons', [[BOW_TIE], [COMB], [POLYGON, BOW_TIE], [[1, 1] * 3, COMB]])
def test_polygons_that_cross_themselves_have_a_mask(check, polygons):
    assert check(with_mask(*polygons), evaluates=True) == []
    assert mask.decode(mask.merge(mask.frPyObjects(polygons, 30, 40))).sum() > 15


@pytest.mark.parametrize(
    'polygon',
    [
        [5, 5] * 3,
        [5, 5] * 4,
        [1, 1, 20, 20, 1, 1],
        [1, 5, 20, 5, 10, 5],
        [0.1, 0.1, 0.7, 0.7, 20.3, 20.3, 4.9, 4.9],
        [1, 1, 1, 1, 20, 10, 1, 1],
    ],
)
def test_polygons_without_area_are_counted_and_alone_refused(check, polygon):
    assert mask.decode(mask.merge(mask.frPyObjects([polygon], 30, 40))).sum() == 0
    (message,) = check(with_mask(polygon))
    assert '1 objects have polygons without area' in message
    assert 'an empty mask is learned: annotations 8. Draw them anew' in message
    value = content(annotations=[annotation(segmentation=[polygon], bbox=[0, 0, 25, 25])])
    with pytest.raises(UserError, match='polygons of all 1 objects .* no area, .* annotation 1'):
        check(value)


def test_crowds_and_other_classes_may_have_polygons_without_area(check):
    assert 'crowds' in check(with_mask([5, 5] * 3, iscrowd=1)).pop()
    assert 'cow' in check(with_mask([5, 5] * 3, category_id=9)).pop()


@pytest.mark.parametrize('part', [[1, 2, 3, 4], [1, 2], [], [*POLYGON, 7]])
def test_polygons_that_mmdet_leaves_out_beside_others_are_counted(check, part):
    (message,) = check(with_mask(POLYGON, part))
    assert '1 objects have polygons of fewer than three points' in message
    assert 'left out: annotations 8' in message


@pytest.mark.parametrize('part', [[1, 2, 3, 4], [1, 2], []])
def test_a_short_polygon_before_others_is_refused_where_cocos_evaluation_fails(check, part):
    with pytest.raises(Exception, match='input type is not supported|incorrect type'):
        mask.frPyObjects([part, POLYGON], 30, 40)
    assert len(check(with_mask(part, POLYGON))) == 1
    with pytest.raises(UserError, match='annotations 8 of .* begin with a polygon of fewer than'):
        check(with_mask(part, POLYGON), evaluates=True)


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
        [[*POLYGON[:5], 10**400]],
        [[*POLYGON[:5], float('inf')]],
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
    other = annotation(id=7, bbox=[1, 2, 10, 8], segmentation=value)
    damaged = content(annotations=[annotation(), other])
    with pytest.raises(UserError) as error:
        check(damaged)
    message = str(error.value)
    shown = json.dumps(value)[:80]
    assert f'val.json, in image a.jpg, has the segmentation {shown}' in message
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


def objects(boxes, **changes):
    """Annotations of boxes in the image of 40x30 pixels, without masks."""
    return [
        annotation(id=i + 1, bbox=box, area=box[2] * box[3], segmentation=None, **changes)
        for i, box in enumerate(boxes)
    ]


@pytest.mark.parametrize(
    'boxes, message',
    [
        ([[1, 2, 30, 25], [20, 10, 38, 28], [5, 5, 36, 29]], r'look like \[x1, y1, x2, y2\]'),
        ([[0.1, 0.2, 0.3, 0.2], [0.5, 0.5, 0.5, 0.5]], 'are fractions of 1; .* in pixels'),
        ([[1, 2, 1e9, 5]], r'1000000000.0, 5.0\] in image a.jpg of 40x30 pixels: it reaches fur'),
        ([[-41, 2, 50, 5]], 'it reaches further outside than the image is large'),
        ([[1, 2, 5, 5], [1, 2, 5, 5], [1, 50, 5, 20]], 'annotation 3 of .* reaches further'),
    ],
)
def test_boxes_that_cannot_be_are_refused_with_their_image(check, boxes, message):
    with pytest.raises(UserError, match=message):
        check(content(annotations=objects(boxes)), with_masks=False)


def test_boxes_at_the_edge_are_right(check):
    # Tools count pixels from 0 or 1, and boxes of corners may reach one pixel out.
    boxes = [[0, 0, 40, 30], [0, 0, 41, 31], [-1, -1, 41, 31], [35, 25, 5, 5]]
    assert check(content(annotations=objects(boxes)), with_masks=False) == []


def test_boxes_that_are_cut_at_the_edge_are_counted(check):
    boxes = [[0, 0, 42, 30], *([1, 1, 5, side] for side in (5, 6, 7, 8))]
    (message,) = check(content(annotations=objects(boxes)), with_masks=False)
    assert '1 boxes reach outside of their image, and are cut at its edge' in message


@pytest.mark.parametrize('size', [dict(width=-1), dict(height=0), dict(width=40.5)])
def test_sizes_of_images_are_whole_numbers(check, size):
    value = content()
    value['images'][0].update(size)
    with pytest.raises(UserError, match='must be a whole number of pixels from 1'):
        check(value)


def rle(counts, size=(30, 40)):
    return content(annotations=[annotation(segmentation=dict(counts=counts, size=list(size)))])


@pytest.mark.parametrize(
    'counts, message',
    [
        ([0, 10], 'its run lengths add up to 10 pixels and not 30 x 40 = 1200'),
        ([0, 10, 100_000], 'add up to 100010 pixels'),
        ([0, 10**30], 'add up to 1000000000000000000000000000000 pixels'),
        ([1300, -200, 100], 'and one is negative'),
        ([], 'add up to 0 pixels'),
        ('', 'add up to 0 pixels'),
        ([1200], 'have no pixel of the object'),
        ([0.5, 1199.5], 'it must be polygons'),
        (COMPRESSED[:-1], 'its counts are no run lengths'),
        (COMPRESSED + '5', 'add up to 1214 pixels'),
        ('abc', 'its counts are no run lengths'),
        ('äöü', 'its counts are no run lengths'),
        ('o' * 20 + '0', 'one of its run lengths is beyond 32 bits'),
    ],
)
def test_run_lengths_that_do_not_fit_are_refused(check, counts, message):
    with pytest.raises(UserError, match=f'annotation 1 of .*, in image a.jpg, .*{message}'):
        check(rle(counts))


def test_run_lengths_of_another_image_are_refused(check):
    turned = mask.encode(np.asfortranarray(SQUARE.T))['counts'].decode()
    with pytest.raises(UserError, match='annotation 1 .* run lengths, is of another size'):
        check(rle(turned, (40, 30)))


@pytest.mark.parametrize(
    'polygon, message',
    [
        ([1, 2, 1e9, 2, 11, 10], 'its polygon reaches further outside than the image is large'),
        ([20, 20, 30, 20, 30, 28], 'its polygon lies outside of the box'),
    ],
)
def test_polygons_elsewhere_are_refused(check, polygon, message):
    with pytest.raises(UserError, match=message):
        check(content(annotations=[annotation(segmentation=[polygon])]))


def test_two_categories_of_one_name_are_refused_with_their_objects(check):
    categories = [dict(id=0, name='cat'), dict(id=3, name='cat'), dict(id=7, name='dog')]
    with pytest.raises(UserError, match="same name 'cat': of id 0 with 0 objects, 3 with 1 obj"):
        check(content(categories=categories))
    categories[0]['name'] = 'animals'
    assert check(content(categories=categories)) == []


def test_a_file_of_crowds_alone_is_refused(check):
    crowds = [annotation(iscrowd=1), annotation(id=2, iscrowd=1)]
    with pytest.raises(UserError, match='no object .* but 2 crowds .iscrowd=1; set it to 0'):
        check(content(annotations=crowds))
    message = check(content(annotations=[*crowds, annotation(id=3)]))[-1]
    assert '2 of 3 objects are crowds (iscrowd=1), from which nothing is learned' in message


def test_objects_to_ignore_are_counted(check):
    (message,) = check(content(annotations=[annotation(), annotation(id=2, ignore=1)]))
    assert '1 objects with ignore=1 are left out' in message
    with pytest.raises(UserError, match='but 1 with ignore=1'):
        check(content(annotations=[annotation(ignore=1)]))


def test_the_annotation_that_the_evaluation_never_finds_is_told(check):
    value = content(annotations=[annotation(id=0), annotation(id=1, bbox=[1, 2, 10, 8])])
    assert check(value) == []
    (message,) = check(value, evaluates=True)
    assert 'annotation 0 is counted as never found' in message


@pytest.mark.parametrize('first, recall', [(1, 1.0), (0, 0.5)])
def test_cocos_evaluation_never_finds_annotation_0(tmp_path, monkeypatch, first, recall):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    value = content(annotations=objects([[1, 2, 10, 8], [20, 12, 10, 8]]))
    for number, truth in enumerate(value['annotations'], first):
        truth['id'] = number
    (tmp_path / 'val.json').write_text(json.dumps(value))
    truth = COCO(tmp_path / 'val.json')
    found = truth.loadRes([dict(a, score=0.9) for a in value['annotations']])
    evaluation = COCOeval(truth, found, 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    assert evaluation.eval['recall'][0, 0, 0, -1] == recall


@pytest.mark.parametrize('name', ['./a.jpg', 'sub/../a.jpg', '{folder}/a.jpg'])
def test_names_may_be_paths_to_images(tmp_path, name):
    (tmp_path / 'images' / 'sub').mkdir(parents=True)
    for image in ('a.jpg', 'sub/b.jpg'):
        (tmp_path / 'images' / image).touch()
    value, path = content(), tmp_path / 'val.json'
    value['images'][0]['file_name'] = name.format(folder=tmp_path / 'images')
    path.write_text(json.dumps(value))
    check_coco(path, CLASSES, {'a.jpg', 'sub/b.jpg'}, str(tmp_path / 'images'), True)


@pytest.mark.parametrize(
    'name, message',
    [
        ('images/train/a.jpg', 'a.jpg is there: mend file_name in the annotations, or data_prefix'),
        ('upload\\a.jpg', r"a.jpg is there: write / for Windows' \\ in file_name"),
    ],
)
def test_images_in_another_folder_are_named(check, name, message):
    value = content()
    value['images'][0]['file_name'] = name
    with pytest.raises(UserError, match=message):
        check(value)


def test_images_that_are_not_listed_or_listed_twice_are_told(check):
    value = content(images=[dict(id=i, file_name='a.jpg', width=40, height=30) for i in (1, 2)])
    messages = check(value)
    assert 'val.json lists 1 images more than once: a.jpg' in messages[0]
    assert '1 of 2 files in images are images that' in messages[1]
    assert 'sub/b.jpg' in messages[1]


LABELME = dict(version='5.4', flags={}, shapes=[], imagePath='a.jpg', imageHeight=3, imageWidth=3)
LABEL_STUDIO = [dict(id=1, annotations=[], data=dict(image='/data/upload/1/a.jpg'))]
VIA = {'a.jpg123': dict(filename='a.jpg', size=123, regions=[], file_attributes={})}


@pytest.mark.parametrize(
    'value, message',
    [
        (LABELME, 'labelme.s file of one image .*: labelme2coco.py'),
        (LABEL_STUDIO, "list of Label Studio's tasks: export the project as COCO"),
        (VIA, "a project of VIA: export its annotations in COCO's format"),
        (dict(_via_settings={}, _via_img_metadata=VIA), 'a project of VIA'),
        (dict(images=[], annotations=[5], categories=[]), "is not COCO's"),
        ('text', "is not COCO's"),
    ],
)
def test_files_of_other_tools_are_known(tmp_path, value, message):
    path = tmp_path / 'val.json'
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=message):
        check_coco(path, CLASSES, set(), 'images', False)


def test_keys_may_come_in_any_order(check):
    value = content()
    assert check(json.dumps({key: value[key] for key in reversed(value)}, indent=2)) == []


@pytest.mark.parametrize('text', ['\ufeff{}', '{}'.encode('utf-16')])
def test_other_encodings_are_named(tmp_path, text):
    path = tmp_path / 'val.json'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match='save it as UTF-8 without a byte-order mark'):
        check_coco(path, CLASSES, set(), 'images', False)
