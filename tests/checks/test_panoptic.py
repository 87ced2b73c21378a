import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.datasets import ADE20KPanopticDataset, CocoPanopticDataset
from mmengine.config import Config
from mmengine.registry import init_default_scope

from kat_mm.checks import panoptic
from kat_mm.checks.coco import check_coco
from kat_mm.checks.data import check_data
from kat_mm.checks.panoptic import check_panoptic
from kat_mm.errors import UserError
from kat_mm.sample_data import SampleSettings, make_sample_data

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp('made')
    make_sample_data(['coco'], folder, SampleSettings(3, 1, 64, 48))
    return folder / 'coco'


@pytest.fixture
def root(tmp_path, made):
    return Path(shutil.copytree(made, tmp_path / 'coco'))


def config(root):
    init_default_scope('mmdet')
    cfg = Config.fromfile(ROOT / 'configs/kat_s_eomt_panoptic_coco.py')
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(root)
    return cfg


def check(root, split='train', **head):
    cfg = config(root)
    cfg.model.panoptic_head.update(head)
    check_panoptic(cfg, cfg[f'{split}_dataloader'].dataset, CocoPanopticDataset, split)


def change(root, edit):
    path = root / 'annotations/panoptic_train2017.json'
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_sound_data_pass(root):
    check_data(config(root), ('train', 'val'))


def segment(content):
    return content['annotations'][0]['segments_info'][0]


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (lambda c: c.pop('categories'), 'no panoptic annotation file of COCO'),
        (lambda c: c['annotations'][0].pop('segments_info'), 'lacks segments_info; .* a list'),
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
            lambda c: c['categories'].insert(0, c['categories'].pop(1)),
            'category 0 of .* is bicycle, and class 0 of the config person',
        ),
        (lambda c: c['images'][0].update(width='64'), 'width must be a whole number of pixels'),
        (lambda c: c['images'][0].update(height=None), 'height must be a whole number of pixels'),
        (lambda c: c['images'][0].update(id=[1]), 'id must be a number'),
        (lambda c: c['images'][0].update(file_name=None), 'file_name must be a string'),
        (lambda c: c['annotations'][0].update(file_name=5), 'file_name must be a string'),
        (lambda c: c['annotations'][0].update(segments_info={'a': 1}), 'must be a list of segm'),
        (lambda c: c['annotations'][0].update(segments_info=[5]), 'a segment of .* is no object'),
        (lambda c: segment(c).update(id='7'), 'id must be a whole number from 1'),
        (lambda c: segment(c).update(id=0), 'id must be a whole number from 1'),
        (lambda c: segment(c).update(category_id=[1]), 'category_id must be a number'),
        (lambda c: segment(c).update(category_id='1'), 'must be a number, without quotation'),
        (lambda c: segment(c).update(bbox='full'), 'bbox must be .x, y, width, height. in pix'),
        (lambda c: segment(c).update(bbox=[1, 2, 3]), 'bbox must be .x, y, width, height. in'),
        (lambda c: segment(c).update(bbox=[1, 2, 3, 0.5]), 'of a width and height from 1'),
        (lambda c: segment(c).update(bbox=[float('nan')] * 4), 'bbox must be .x, y, width, hei'),
        (lambda c: segment(c).update(bbox=[1, 1, 1, 1]), 'but its pixels are in .* mend the boxes'),
        (lambda c: segment(c).update(area='9'), 'area must be a number above 0'),
        (lambda c: segment(c).update(area=0), 'area must be a number above 0'),
        (lambda c: segment(c).update(iscrowd='x'), 'iscrowd must be 0 or 1'),
        (lambda c: c['categories'][0].update(isthing='yes'), 'isthing must be 0 or 1'),
        (
            lambda c: [one.update(isthing=1 - one['isthing']) for one in c['categories']],
            "category 'person' .* has isthing=0, but is among metainfo.thing_classes",
        ),
        (lambda c: c['images'].append(c['images'][0]), 'has two images of id 1; give each'),
        (lambda c: c['categories'].append(c['categories'][0]), 'has two categories of id 1'),
        (
            lambda c: c['categories'].append(dict(c['categories'][0], id=999)),
            "two categories of the same name 'person'",
        ),
        (lambda c: c.update(annotations=[]), 'of the 3 images .* none is left: they have no seg'),
        (lambda c: c.update(images=[], annotations=[]), 'of the 0 images .* none is left'),
        (
            lambda c: [one.update(width=31) for one in c['images']],
            'or are below filter_cfg.min_size=32; there is nothing to learn',
        ),
        (
            lambda c: [
                one.update(file_name=other)
                for one, other in zip(
                    c['annotations'],
                    [one['file_name'] for one in c['annotations'][::-1]],
                    strict=True,
                )
            ],
            'the picture of image .*1.jpg is .*3.png, but mmdet reads .*1.png',
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
    with pytest.raises(UserError, match=f'is other.png, but mmdet reads {path.name}'):
        check(root)


def test_heads_of_other_numbers_of_things_are_refused(root):
    with pytest.raises(UserError, match=r'panoptic_head.num_things_classes=79, .* have 80 thing'):
        check(root, num_things_classes=79, num_stuff_classes=54)


@pytest.mark.parametrize(
    ('change_text', 'message'),
    [
        (lambda text: '', 'no panoptic annotation file of COCO'),
        (lambda text: '[]', 'no panoptic annotation file of COCO: it has no images'),
        (lambda text: '[' * 100_000, 'nested too deeply'),
        (lambda text: text.rstrip()[:-1] + ', "annotations": []}', "it has 'annotations' twice"),
        (lambda text: '\ufeff' + text, 'begins with a byte-order mark'),
        (lambda text: text[:-9], 'no panoptic annotation file of COCO'),
        (lambda text: '{"images": {"a": 1}}', 'lacks id'),
    ],
)
def test_texts_that_are_no_panoptic_annotations_are_refused(root, change_text, message):
    path = root / 'annotations/panoptic_train2017.json'
    path.write_text(change_text(path.read_text()))
    with pytest.raises(UserError, match=message):
        check(root)


def test_a_picture_that_disagrees_is_refused(root):
    path = sorted((root / 'annotations/panoptic_train2017').iterdir())[0]
    cv2.imwrite(str(path), np.full_like(cv2.imread(str(path)), 77))
    with pytest.raises(UserError, match='segments in its pixels that'):
        check(root)
    path.write_bytes(b'no picture')
    with pytest.raises(UserError, match='does not decode'):
        check(root)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match='is a folder; replace it by the file'):
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


def test_classes_are_those_of_the_data_set_in_use(root):
    cfg = config(root)
    with pytest.raises(UserError, match='are not among the classes of the config'):
        check_panoptic(cfg, cfg.train_dataloader.dataset, ADE20KPanopticDataset, 'train')
