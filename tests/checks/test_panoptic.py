import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from kat_mm.checks import panoptic
from kat_mm.checks.coco import check_coco
from kat_mm.checks.data import check_data
from kat_mm.checks.panoptic import check_panoptic
from kat_mm.errors import UserError
from kat_mm.sample_data import SampleSettings, make_sample_data

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path):
    make_sample_data(['coco'], tmp_path, SampleSettings(3, 1, 48, 40))
    return tmp_path / 'coco'


def config(root):
    cfg = Config.fromfile(ROOT / 'configs/kat_s_eomt_panoptic_coco.py')
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(root)
    return cfg


def check(root, split='train', **head):
    cfg = config(root)
    cfg.model.panoptic_head.update(head)
    check_panoptic(cfg, cfg[f'{split}_dataloader'].dataset, split)


def change(root, edit):
    path = root / 'annotations/panoptic_train2017.json'
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_sound_data_pass(root):
    init_default_scope('mmdet')
    check_data(config(root), ('train', 'val'))


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (lambda c: c.pop('categories'), 'no panoptic annotation file of COCO'),
        (lambda c: c['annotations'][0].pop('segments_info'), 'no panoptic annotation file'),
        (lambda c: c['categories'][0].update(name='unicorn'), r'categories unicorn of .* are not'),
        (lambda c: c['categories'].pop(), r'the classes .* of the config are not among those'),
        (lambda c: c['images'][0].update(file_name='no.jpg'), r"1 of 3 files .*'img'.* no.jpg"),
        (lambda c: c['annotations'][0].update(file_name='no.png'), r"1 of 3 .*'seg'.* no.png"),
        (lambda c: c['annotations'][0].update(image_id=99), 'of image 99, which the file'),
        (
            lambda c: c['annotations'][0]['segments_info'][0].update(category_id=999),
            'of category 999, which the file',
        ),
        (
            lambda c: c['annotations'][0]['segments_info'].append(
                c['annotations'][0]['segments_info'][0]
            ),
            'two segments of one id',
        ),
        (
            lambda c: c['annotations'].append(c['annotations'][0]),
            'images with two annotations',
        ),
        (
            lambda c: c['annotations'][0]['segments_info'].pop(),
            'segments in its pixels that .*panoptic_train2017.json does not list',
        ),
        (lambda c: c['images'][0].update(width=7), 'pixels, but its image has 7x'),
        (
            lambda c: c['annotations'][0]['segments_info'][0].update(bbox=None),
            'no panoptic annotation file',
        ),
        (
            lambda c: c['categories'].append(dict(c['categories'][0], id=999)),
            'two categories of the name person',
        ),
        (
            lambda c: c['categories'].insert(0, c['categories'].pop(1)),
            'category 0 of .* is bicycle, and class 0 of the config person',
        ),
        (
            lambda c: c['categories'][0].update(isthing=0),
            'category person of .* has isthing=0, but is among thing_classes',
        ),
        (
            lambda c: [one.update(segments_info=[]) for one in c['annotations']],
            'has no segment to learn from',
        ),
        (
            lambda c: [one.update(height=30) for one in c['images']],
            r'no image of .* is left to train on: .*min_size.*leaves out all 3',
        ),
    ],
)
def test_what_a_run_would_fail_on_is_refused(root, edit, message):
    change(root, edit)
    with pytest.raises(UserError, match=message):
        check(root)


def test_a_picture_of_another_name_is_refused(root):
    folder = root / 'annotations/panoptic_train2017'
    path = sorted(folder.iterdir())[0]
    path.rename(folder / 'other.png')
    change(root, lambda c: c['annotations'][0].update(file_name='other.png'))
    with pytest.raises(UserError, match=f'is other.png; mmdet looks for {path.name}'):
        check(root)


def test_heads_of_other_numbers_of_things_are_refused(root):
    with pytest.raises(UserError, match=r'panoptic_head.num_things_classes=79, .* have 80 thing'):
        check(root, num_things_classes=79, num_stuff_classes=54)


def test_a_picture_that_disagrees_is_refused(root):
    path = sorted((root / 'annotations/panoptic_train2017').iterdir())[0]
    cv2.imwrite(str(path), np.full_like(cv2.imread(str(path)), 77))
    with pytest.raises(UserError, match='segments in its pixels that'):
        check(root)
    path.write_bytes(b'no picture')
    with pytest.raises(UserError, match='does not decode'):
        check(root)


def test_more_segments_than_queries_are_refused_where_they_are_learned(root):
    with pytest.raises(UserError, match=r'segments|objects, more than num_queries=2 of the head'):
        check(root, num_queries=2)
    check(root, split='val', num_queries=2)


def test_more_objects_than_queries_are_refused_for_instances_too(root):
    path = root / 'annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    objects = [one for one in content['annotations'] if not one['iscrowd']]
    first = objects[0]
    number = sum(one['image_id'] == first['image_id'] for one in objects)
    content['annotations'] += [dict(first, id=10**9 + i) for i in range(20)]
    path.write_text(json.dumps(content))
    names = [one['name'] for one in content['categories']]
    folder = root / 'train2017'
    images = {one.name for one in folder.iterdir()}
    args = path, names, images, str(folder), True
    check_coco(*args, num_queries=number + 20)
    with pytest.raises(UserError, match=f'has {number + 20} objects, more than num_queries=19'):
        check_coco(*args, num_queries=19)


def test_images_without_a_segment_are_counted(root, monkeypatch):
    said = []
    monkeypatch.setattr(panoptic, 'print_log', lambda message, *_: said.append(message))

    def edit(content):
        one = content['annotations'][0]
        one['segments_info'] = []
        path = root / 'annotations/panoptic_train2017' / one['file_name']
        cv2.imwrite(str(path), np.zeros_like(cv2.imread(str(path))))

    change(root, edit)
    check(root)
    assert len(said) == 1 and said[0].startswith('1 of 3 images of')
