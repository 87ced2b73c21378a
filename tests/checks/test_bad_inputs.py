"""Data as users bring them: each damage is refused, or said, or rightly accepted.

All go through what tools/train.py and tools/check_data.py do: the checks before a run, then loading
each sample.
"""

import gzip
import json
import logging
import re
import zlib
from pathlib import Path

import labelling_tools as tools
import numpy as np
import pytest
from labelling_tools import POLYGON as POINTS
from mmengine.config import Config
from mmengine.logging import MMLogger
from PIL import Image

from kat_mm import checks
from kat_mm.checks.every_file import read_every_file
from kat_mm.errors import UserError

WIDTH, HEIGHT = 40, 30
TURNED = Image.Exif()
TURNED[0x0112] = 6


@pytest.fixture
def examine(caplog):
    """Check data and read all of them: problems, what was logged, and classes without a pixel."""
    logger = MMLogger.get_instance('test_bad_inputs')
    logger.addHandler(caplog.handler)

    def run(cfg):
        problems, absent = [], []
        with caplog.at_level(logging.INFO, 'test_bad_inputs'):
            for split in ('train', 'val'):
                try:
                    checks.check_config(cfg, (split,))
                    for report in read_every_file(cfg, split):
                        problems += report.damaged
                        absent += report.absent
                except UserError as error:
                    problems.append(str(error))
            if not problems:
                try:
                    checks.check_config(cfg, ('train', 'val'))
                except UserError as error:
                    problems.append(str(error))
        lines = [line for line in caplog.messages if 'default scope' not in line]
        return problems, '\n'.join(lines), absent

    yield run
    logger.removeHandler(caplog.handler)


def picture(size=(WIDTH, HEIGHT), mode='RGB'):
    array = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(array).convert(mode)


def decide(examine, cfg, refused=None, said=None):
    """Compare what was found with a pattern of a refusal, of a line in the log, or with neither."""
    problems, log, _ = examine(cfg)
    if refused:
        assert any(re.search(refused, problem, re.DOTALL) for problem in problems), problems or log
        assert len(set(problems)) <= 2  # one for each split
    else:
        assert problems == []
        if said:
            assert re.search(said, log), log
        else:
            assert log == ''


# Classification


@pytest.fixture
def classes(tmp_path):
    import mmpretrain.datasets  # noqa: F401

    for split in ('train', 'val'):
        for name in ('cat', 'dog'):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(2):
                picture().save(tmp_path / split / name / f'{number}.jpg')
    return tmp_path


def classification(root, num_classes=2, **changes):
    def loader(split):
        pipeline = [dict(type='LoadImageFromFile')]
        dataset = dict(type='CustomDataset', data_root=str(root), data_prefix=split)
        return dict(dataset=dict(dataset, pipeline=pipeline, **changes))

    return Config(
        dict(
            default_scope='mmpretrain',
            model=dict(head=dict(num_classes=num_classes)),
            train_dataloader=loader('train'),
            val_dataloader=loader('val'),
            val_evaluator=dict(type='Accuracy', topk=(1,)),
        )
    )


def write_list(root, content):
    path = root / 'list.txt'
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


FIRST = 'train/cat/0.jpg'


@pytest.mark.parametrize(
    'damage, refused, said',
    [
        (lambda r: None, None, None),
        (lambda r: (r / FIRST).write_bytes(b''), r'0.jpg is empty \(0 bytes\)', None),
        (lambda r: (r / FIRST).write_text('text'), 'cannot load the sample .*0.jpg', None),
        (lambda r: (r / FIRST).write_bytes((r / FIRST).read_bytes()[:400]), 'cannot load', None),
        (lambda r: (r / FIRST).with_name('9.jpg').symlink_to('x'), None, 'cat/9.jpg'),
        (lambda r: picture().save(r / 'train/cat/2.webp'), None, '1 of 5 .*: 1 .webp; read are'),
        (lambda r: picture().save(r / 'train/cat/2.tiff'), None, '1 of 5 .*: 1 .tiff'),
        (lambda r: picture().save(r / 'train/cat/2.JPG', 'JPEG'), None, None),
        (lambda r: picture().save(r / 'train/cat/2.jpeg'), None, None),
        (lambda r: (r / 'train/cat/2.jpg').mkdir(), None, None),
        (lambda r: (r / 'train/list.csv').touch(), None, 'not in a class folder|Not in a class'),
        (lambda r: (r / 'train/.cache').mkdir(), 'hidden folders, .*: .cache; remove', None),
        (lambda r: (r / 'train/fox').mkdir(), '1 of 3 class folders .* hold no images', None),
        (lambda r: picture().save(_made(r / 'train/fox') / '0.jpg'), 'is 3; set it to 3', None),
        (lambda r: (r / 'val/dog').rename(r / 'val/wolf'), 'train alone has dog, val alone', None),
        (lambda r: picture(mode='CMYK').save(r / FIRST), None, None),
        (lambda r: picture(mode='L').save(r / FIRST), None, None),
        (lambda r: picture((1, 1)).save(r / FIRST), None, None),
        (lambda r: picture((3000, 3)).save(r / FIRST), None, None),
        (lambda r: picture().save(r / FIRST, exif=TURNED), None, None),
        (lambda r: picture(mode='P').save(r / FIRST, 'PNG'), None, None),
        (
            lambda r: Image.fromarray(np.zeros((9, 9), np.uint16)).save(r / FIRST, 'PNG'),
            None,
            '0.jpg has 16 bits per channel, of which the upper 8',
        ),
    ],
)
def test_images_in_class_folders(examine, classes, damage, refused, said):
    damage(classes)
    decide(examine, classification(classes), refused, said)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    'content, refused',
    [
        ('cat/0.jpg 0\ndog/1.jpg 1\n', None),
        ('cat/0.jpg 0\r\ndog/1.jpg 1\r\n', None),
        ('cat/0.jpg 0\ncat/0.jpg 1\n', 'line 2: cat/0.jpg has the label 1, and on a line before'),
        ('cat/0.jpg\t0\n', 'must be an image, and behind a space'),
        ('cat/0.jpg cat\n', 'must be an image, and behind a space'),
        ('cat/0.jpg 0.0\n', 'must be an image, and behind a space'),
        (f'{"a" * 5000} 0\ndog/1.jpg 1\n', 'cannot be read: File name too long'),
        ('cat/\0.jpg 0\ndog/1.jpg 1\n', 'does not exist. Repair or replace the file'),
        (
            gzip.compress(b'cat/0.jpg 0\n', mtime=0),
            r'list.txt is compressed \(gzip or zip\); unpack it',
        ),
        ('', 'list.txt is empty; each line is: IMAGE LABEL'),
        ('cat/0.jpg 0\n\n', "line 2: '' must be an image, and behind a space its label"),
        (' 0\n', "line 1: ' 0' must be an image, and behind"),
        ('cat/0.jpg 2\n', 'its label of 0 to 1'),
        ('cat/0.jpg -1\n', 'its label of 0 to 1'),
        ('cat/0.jpg,0\n', 'its label of 0 to 1'),
        ('cat/9.jpg 0\n', '9.jpg does not exist, although the data set lists it'),
        (b'\xef\xbb\xbfcat/0.jpg 0\n', 'list.txt begins with a byte-order mark'),
        ('cat/0.jpg 0\n'.encode('utf-16'), 'list.txt is in UTF-16'),
        ('k\xe4tze/0.jpg 0\n'.encode('latin-1'), 'list.txt is not in UTF-8'),
    ],
)
def test_lists_of_images(examine, classes, content, refused):
    write_list(classes, content)
    decide(examine, classification(classes, ann_file='list.txt'), refused)


@pytest.mark.parametrize(
    'content, said',
    [
        ('cat/0.jpg 0\n', 'list.txt has no image of 1 labels: 1'),
        ('cat/0.jpg 0\ncat/0.jpg 0\ndog/1.jpg 1\n', 'list.txt lists 1 images more than once'),
    ],
)
def test_what_lists_lack_is_said(examine, classes, content, said):
    write_list(classes, content)
    decide(examine, classification(classes, ann_file='list.txt'), said=said)


# Segmentation


@pytest.fixture
def scenes(tmp_path):
    import mmseg.datasets  # noqa: F401

    for split in ('train', 'val'):
        (tmp_path / 'images' / split).mkdir(parents=True)
        (tmp_path / 'labels' / split).mkdir(parents=True)
        for number in range(2):
            picture().save(tmp_path / f'images/{split}/{number}.jpg')
            save_labels(tmp_path, halves(0, 1), split, number)
    return tmp_path


def halves(left, right, dtype=np.uint8, size=(WIDTH, HEIGHT)):
    labels = np.full(size[::-1], left, dtype)
    labels[:, size[0] // 2 :] = right
    return labels


def save_labels(root, labels, split='train', number=0, suffix='.png'):
    image = labels if isinstance(labels, Image.Image) else Image.fromarray(labels)
    image.save(root / f'labels/{split}/{number}{suffix}')


def all_labels(root, labels):
    for split in ('train', 'val'):
        for number in range(2):
            save_labels(root, labels, split, number)


def segmentation(root, num_classes=2, head=None, **changes):
    def loader(split):
        pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='CheckLabels', num_classes=num_classes),
        ]
        dataset = dict(
            type='BaseSegDataset',
            data_root=str(root),
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'labels/{split}'),
            metainfo=dict(classes=tuple('abcdefg'[:num_classes])),
            pipeline=pipeline,
        )
        return dict(dataset=dict(dataset, **changes))

    return Config(
        dict(
            default_scope='mmseg',
            model=dict(decode_head=dict(num_classes=head or num_classes)),
            train_dataloader=loader('train'),
            val_dataloader=loader('val'),
            val_evaluator=dict(type='IoUMetric'),
        )
    )


def _circle(path: Path):
    path.unlink()
    path.symlink_to(path.name)


def _many_pixels(path: Path, side: int):
    """A PNG that says so; the rest is that of a small one."""
    picture(mode='L').save(path, 'PNG')
    content = bytearray(path.read_bytes())
    content[16:24] = side.to_bytes(4, 'big') * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, 'big')
    path.write_bytes(content)


FIRST_LABELS = 'labels/train/0.png'
FIRST_SCENE = 'images/train/0.jpg'


@pytest.mark.parametrize(
    'damage, refused, said',
    [
        (lambda r: None, None, None),
        (
            lambda r: save_labels(r, halves(0, 256, np.uint16)),
            r'0.png has the values \[256\]',
            None,
        ),
        (lambda r: save_labels(r, halves(1, 1, np.uint16)), None, None),
        (
            lambda r: save_labels(r, Image.fromarray(halves(0, 3)).convert('LA')),
            'one channel',
            None,
        ),
        (lambda r: _many_pixels(r / FIRST_LABELS, 20_000), '0.png: Image size .400000000', None),
        (lambda r: _many_pixels(r / FIRST_SCENE, 40_000), '0.jpg, .*cannot|cannot .*0.jpg', None),
        (lambda r: save_labels(r, Image.fromarray(halves(0, 3)).convert('RGB')), 'shape', None),
        (
            lambda r: save_labels(r, Image.fromarray(halves(0, 3)).convert('RGBA')),
            'one channel',
            None,
        ),
        (lambda r: save_labels(r, Image.fromarray(halves(0, 1) > 0)), None, None),
        (lambda r: save_labels(r, halves(0, 7)), r'0.png: label values \[7\] are outside', None),
        (lambda r: save_labels(r, halves(255, 255)), None, None),
        (lambda r: _circle(r / FIRST_LABELS), '0.png cannot be read: Too many levels of', None),
        (lambda r: (r / 'images/train/x').symlink_to('.'), 'cannot be read: Too many lev', None),
        (lambda r: all_labels(r, halves(0, 255)), 'class 0 alone, .* foreground 1', None),
        (lambda r: all_labels(r, halves(255, 255)), 'no pixel of a class: all are ign', None),
        (lambda r: save_labels(r, halves(0, 1, size=(20, 15))), '20x15 pixels, but its', None),
        (lambda r: save_labels(r, halves(0, 1, size=(30, 40))), '30x40 pixels, but its', None),
        (lambda r: save_labels(r, halves(0, 1, size=(40, 29))), '40x29 pixels, but its', None),
        (lambda r: picture().save(r / FIRST_SCENE, exif=TURNED), 'turned by the orient', None),
        (lambda r: (r / FIRST_LABELS).unlink(), '1 of 2 images .* lack their annotation', None),
        (lambda r: (r / FIRST_SCENE).unlink(), None, '1 of 2 annotations .* left out: 0.png'),
        (lambda r: (r / FIRST_SCENE).rename(r / 'images/train/0.JPG'), None, 'left out: 0.JPG'),
        (lambda r: (r / FIRST_LABELS).write_bytes(b''), r'0.png is empty \(0 bytes\)', None),
        (lambda r: (r / FIRST_LABELS).write_text('text'), 'cannot load the sample .*0.png', None),
        (lambda r: save_labels(r, picture(mode='L')), 'label values .* are outside of the 2', None),
        (lambda r: (r / 'labels/val').rename(r / 'labels/validation'), 'labels/val does not', None),
        (lambda r: (r / FIRST_SCENE).write_bytes(b'\xff\xd8'), 'cannot load the sample', None),
    ],
)
def test_images_and_label_images(examine, scenes, damage, refused, said):
    damage(scenes)
    decide(examine, segmentation(scenes), refused, said)


def test_a_class_without_a_pixel_is_named(examine, scenes):
    problems, _, absent = examine(segmentation(scenes, num_classes=4))
    assert (problems, absent) == ([], ['c', 'd'] * 2)


@pytest.mark.parametrize(
    'options, refused',
    [
        (dict(head=19), 'model.decode_head.num_classes=19, but the train data set has 2 classes'),
        (dict(reduce_zero_label=True), 'have class 0 alone'),
        (dict(img_suffix='.png'), r'holds no images \*.png, .* other images there: 0.jpg, 1.jpg'),
        (dict(seg_map_suffix='_mask.png'), '2 of 2 images .* lack their annotation'),
        (dict(ann_file='train.txt'), 'ann_file .*train.txt does not exist'),
    ],
)
def test_settings_of_a_segmentation_data_set(examine, scenes, options, refused):
    decide(examine, segmentation(scenes, **options), refused)


# Detection


@pytest.fixture
def boxes(tmp_path):
    import mmdet.datasets  # noqa: F401

    (tmp_path / 'images').mkdir()
    for name in 'ab':
        picture().save(tmp_path / 'images' / f'{name}.jpg')
    return tmp_path


def coco():
    return dict(
        images=[dict(id=i, file_name=f'{n}.jpg', width=WIDTH, height=HEIGHT) for i, n in IMAGES],
        annotations=[
            dict(
                id=i, image_id=i, category_id=1, bbox=[25, 10, 10, 12], area=120, iscrowd=0,
                segmentation=[[25, 10, 35, 10, 35, 22, 25, 22]],
            )
            for i, _ in IMAGES
        ],
        categories=[dict(id=1, name='cell')],
    )  # fmt: skip


IMAGES = ((1, 'a'), (2, 'b'))


def detection(root, content, num_classes=1, prefix='images', with_mask=True):
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    (root / 'train.json').write_bytes(text if isinstance(text, bytes) else text.encode())

    def loader(split):
        dataset = dict(
            type='CocoDataset',
            data_root=str(root),
            ann_file='train.json',
            data_prefix=dict(img=prefix),
            metainfo=dict(classes=('cell',)),
            test_mode=split == 'val',
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True, with_mask=with_mask),
            ],
        )
        return dict(dataset=dataset)

    return Config(
        dict(
            default_scope='mmdet',
            model=dict(roi_head=dict(bbox_head=dict(num_classes=num_classes))),
            train_dataloader=loader('train'),
            val_dataloader=loader('val'),
            val_evaluator=dict(type='CocoMetric', ann_file=str(root / 'train.json')),
        )
    )


def sizes(width, height):
    return lambda c: [image.update(width=width, height=height) for image in c['images']]


def objects(**changes):
    return lambda c: [a.update(changes) for a in c['annotations']]


def first(**changes):
    return lambda c: c['annotations'][0].update(changes)


def twice(**changes):
    return lambda c: c['annotations'].append(dict(c['annotations'][0], **changes))


def run_lengths(counts, size=(HEIGHT, WIDTH)):
    return objects(segmentation=dict(counts=counts, size=list(size)))


@pytest.mark.parametrize(
    'damage, refused, said',
    [
        (lambda c: None, None, None),
        (sizes(2 * WIDTH, 2 * HEIGHT), 'a.jpg has 80x60 pixels, but it has 40x30', None),
        (sizes(WIDTH - 1, HEIGHT - 1), 'a.jpg has 39x29 pixels, but it has 40x30', None),
        (sizes(HEIGHT, WIDTH), 'a.jpg has 30x40 pixels, but it has 40x30', None),
        (sizes(-1, -1), 'width must be a whole number of pixels from 1', None),
        (objects(bbox=[25, 10, 35, 22], area=120), 'look like', None),
        (objects(bbox=[0.6, 0.3, 0.25, 0.4]), 'are fractions of 1', None),
        (objects(bbox=[10, 25, 12, 10]), 'its polygon lies outside of the box', None),
        (objects(bbox=[-1, -1, -1, -1], segmentation=[[0, 0, 1, 0, 1, 1]]), 'no object', None),
        (first(bbox=[25, 10, 1e9, 12]), 'reaches further outside', None),
        (first(segmentation=[[25, 10, 1e9, 10, 35, 22]]), 'its polygon reaches further', None),
        (first(segmentation=[[25, 10, 35, 10]]), 'must be polygons', None),
        (first(segmentation=[25, 10, 35, 10, 35, 22]), 'must be polygons', None),
        (first(segmentation=[[25, 10, float('nan'), 10, 35, 22]]), 'must be polygons', None),
        (run_lengths([0, 10]), 'add up to 10 pixels', None),
        (run_lengths([]), 'add up to 0 pixels', None),
        (run_lengths([1190, 20, -10]), 'one is negative', None),
        (run_lengths([0, 2**40]), 'add up to', None),
        (run_lengths('0'), 'add up to 0 pixels', None),
        (run_lengths([760, 12, 428]), None, None),
        (run_lengths([0, 12, 1188]), 'its mask, as run lengths, lies outside of the box', None),
        (run_lengths([760, 12, 428], (WIDTH, HEIGHT)), 'is of another size', None),
        (objects(iscrowd=1), '2 crowds .iscrowd=1; set it to 0', None),
        (first(iscrowd=1), None, '1 of 2 objects are crowds'),
        (first(area=[]), r'has the area \[\]; area must be a number', None),
        (first(image_id='1'), 'image_id must be a number', None),
        (first(category_id=7), 'is of category 7, which the file does not list', None),
        (first(id=2), 'has two annotations of id 2', None),
        (twice(id=3), None, '1 objects are there twice, .*: annotations 3'),
        (twice(id=3, bbox=[25, 10, 10, 11]), None, None),
        (twice(id=3, bbox=[25, 10, 0, 12]), None, '1 boxes without area'),
        (first(bbox=['25', '10', '10', '12']), 'bbox must be', None),
        (first(bbox=[25, 10, 10, 12, 0.9]), 'bbox must be', None),
        (first(iscrowd=2), 'iscrowd must be 0 or 1', None),
        (first(segmentation=[[[25, 10], [35, 10], [35, 22]]]), 'must be polygons', None),
        (run_lengths([760, 12, 428], ('30', '40')), 'must be polygons', None),
        (run_lengths([1200], (10**6, 10**6)), 'add up to 1200 pixels', None),
        (lambda c: c['categories'][0].update(name='cell '), 'cell of the config are not am', None),
        (lambda c: c['images'][0].update(file_name='http://x/a.jpg'), 'a.jpg is there: mend', None),
        (lambda c: c['images'][0].update(file_name='a\0.jpg'), 'are missing in', None),
        (first(id=0), None, 'annotation 0 is counted as never found'),
        (lambda c: c['categories'].insert(0, dict(id=0, name='cell')), "same name 'cell'", None),
        (lambda c: c['categories'].insert(0, dict(id=0, name='cells')), None, None),
        (lambda c: c['images'][0].update(file_name='./a.jpg'), None, None),
        (lambda c: c['images'][0].update(file_name='../images/a.jpg'), None, None),
        (lambda c: c['images'][0].update(file_name='x\\a.jpg'), r"write / for Windows' \\", None),
        (lambda c: c['images'][0].update(file_name='\ud800.jpg'), 'a string of Unicode', None),
        (lambda c: c['images'][0].update(file_name='z.jpg'), 'missing in .*images, the', None),
        (lambda c: c['images'].pop(), 'annotation 2 .* is of image 2, which', None),
        (lambda c: (c['images'].pop(), c['annotations'].pop()), None, 'does not list, .*: b.jpg'),
    ],
)
def test_annotation_files(examine, boxes, damage, refused, said):
    content = coco()
    damage(content)
    decide(examine, detection(boxes, content), refused, said)


@pytest.mark.parametrize(
    'text, refused',
    [
        ('', 'is no readable JSON'),
        (json.dumps(coco())[:-40], 'is no readable JSON'),
        (json.dumps(coco())[:-1] + ',}', 'is no readable JSON'),
        ('{"images": []}\n{"images": []}\n', 'is no readable JSON: Extra data'),
        (json.dumps(coco()).replace('25', '9' * 5000), 'is no readable JSON: Exceeds the limit'),
        (
            gzip.compress(json.dumps(coco()).encode(), mtime=0),
            r'is compressed \(gzip or zip\); unpack',
        ),
        ('\ufeff' + json.dumps(coco()), 'begins with a byte-order mark'),
        (json.dumps(coco()).encode('utf-16'), 'is in UTF-16'),
        (json.dumps(coco())[:-1] + ', "annotations": []}', "it has 'annotations' twice"),
        ('[' * 99_999 + ']' * 99_999, 'are nested too deeply'),
        (json.dumps([coco()]), "is not COCO's"),
        ('[]', "is not COCO's: .* it holds a list"),
        ('null', "is not COCO's: .* it holds a list or a single value"),
        (json.dumps(dict(coco(), categories={})), "is not COCO's"),
    ],
)
def test_texts_that_are_no_annotations(examine, boxes, text, refused):
    decide(examine, detection(boxes, text), refused)


@pytest.mark.parametrize(
    'damage, refused, said',
    [
        (lambda p: p.write_bytes(b''), r'a.jpg is empty', None),
        (lambda p: p.unlink(), 'the first a.jpg; add the files', None),
        (lambda p: picture().save(p, exif=TURNED), 'turned by the orientation in its EXIF', None),
        (lambda p: picture((20, 15)).save(p), 'a.jpg has 40x30 pixels, but it has 20x15', None),
        (lambda p: picture(mode='CMYK').save(p), None, None),
        (lambda p: picture().save(p.with_suffix('.JPG'), 'JPEG'), None, 'does not list, .*a.JPG'),
    ],
)
def test_images_of_annotation_files(examine, boxes, damage, refused, said):
    damage(boxes / 'images' / 'a.jpg')
    decide(examine, detection(boxes, coco()), refused, said)


def test_a_head_of_another_number_of_classes(examine, boxes):
    cfg = detection(boxes, coco(), num_classes=80)
    decide(examine, cfg, 'bbox_head.num_classes=80, but the train data set has 1 classes: cell')


# What labelling tools write in COCO's format.


def export_to(boxes, content, folder='.', rename='{}.jpg', with_mask=True):
    """A config of an export, its annotations in the folder that the names of images begin at."""
    (boxes / 'images').rename(boxes / 'raw')
    (boxes / folder).mkdir(parents=True, exist_ok=True)
    for name in 'ab':
        target = boxes / folder / rename.format(name)
        target.parent.mkdir(exist_ok=True)
        (boxes / 'raw' / f'{name}.jpg').rename(target)
    return detection(boxes, content, prefix=folder, with_mask=with_mask)


NEVER_FOUND = 'annotation 0 is counted as never found'
HASH = '1f0c24a7-{}.jpg'


@pytest.mark.parametrize(
    'content, layout, said',
    [
        (tools.cvat(), dict(folder='images'), None),
        (tools.cvat('rectangle'), dict(folder='images', with_mask=False), None),
        (tools.label_studio(), dict(rename='images/{}.jpg'), NEVER_FOUND),
        (
            tools.label_studio(name=f'images/{HASH}'),
            dict(rename=f'images/{HASH}'),
            NEVER_FOUND,
        ),
        (tools.label_studio('box'), dict(rename='images/{}.jpg', with_mask=False), NEVER_FOUND),
        (tools.roboflow(), dict(folder='train'), NEVER_FOUND),
        (tools.labelme(), dict(rename='JPEGImages/{}.jpg'), NEVER_FOUND),
        (tools.via(), dict(folder='images'), None),
    ],
)
def test_exports_of_labelling_tools_are_read(examine, boxes, content, layout, said):
    decide(examine, export_to(boxes, content, **layout), None, said)


def changed(content, *changes):
    for change in changes:
        change(content)
    return content


def windows(content):
    for image in content['images']:
        image['file_name'] = image['file_name'].replace('/', '\\')


def absolute(boxes):
    return lambda c: [i.update(file_name=str(boxes / i['file_name'])) for i in c['images']]


def test_paths_of_another_converter_of_labelme_are_read(examine, boxes):
    content = tools.labelme(folder='images/')
    cfg = detection(boxes, changed(content, absolute(boxes)))
    decide(examine, cfg, None, NEVER_FOUND)


@pytest.mark.parametrize(
    'content, layout, refused, said',
    [
        # CVAT: a brush's masks are crowds; rectangles have no mask.
        (
            tools.cvat('brush'),
            dict(folder='images'),
            'but 2 crowds .iscrowd=1; set it to 0 for single objects',
            None,
        ),
        (
            changed(tools.cvat('brush'), first(iscrowd=0)),
            dict(folder='images'),
            None,
            '1 of 2 objects are crowds',
        ),
        (changed(tools.cvat('brush'), objects(iscrowd=0)), dict(folder='images'), None, None),
        (tools.cvat('rectangle'), dict(folder='images'), 'no segmentation.* boxes alone', None),
        # Label Studio: paths of its host, of Windows, and of images by their own names.
        (
            tools.label_studio(name='../../label-studio/data/media/upload/1/' + HASH),
            dict(rename=HASH),
            '1f0c24a7-a.jpg is there: mend file_name in the annotations, or data_prefix',
            None,
        ),
        (
            tools.label_studio(name='../../label-studio/data/media/upload/1/' + HASH),
            {},
            "a.jpg is there: take the folder and Label Studio's 1f0c24a7- out of file_name",
            None,
        ),
        (
            tools.label_studio(name='/data/local-files/?d={}.jpg'),
            {},
            'a.jpg is there: mend file_name',
            None,
        ),
        (
            changed(tools.label_studio(name='images/{}.jpg'), windows),
            dict(rename='images/{}.jpg'),
            r"images/a.jpg is there: write / for Windows' \\ in file_name",
            None,
        ),
        (
            changed(tools.label_studio(name='{}.jpg'), sizes(None, None)),
            {},
            'has the width null; width must be a whole number of pixels',
            None,
        ),
        (tools.label_studio('box', name='{}.jpg'), {}, 'no segmentation.* boxes alone', None),
        # Two annotators of one task.
        (
            changed(tools.label_studio(name='a.jpg'), lambda c: c['annotations'][0].update(id=5)),
            {},
            None,
            'lists 1 images more than once: a.jpg',
        ),
        # Roboflow: a project of the name of its class.
        (tools.roboflow('cell'), {}, "same name 'cell': of id 0 with 0 objects, 1 with 2", None),
        # labelme: a rectangle's two corners are no polygon, alone or in a group.
        (tools.labelme(POINTS[:4], folder=''), {}, 'must be polygons .* of three points', None),
        (
            tools.labelme(POINTS[:4], POINTS, folder=''),
            {},
            "begin with a polygon of fewer than three points, on which COCO's evaluation fails",
            None,
        ),
        (
            changed(tools.labelme(folder='JPEGImages/'), windows),
            dict(rename='JPEGImages/{}.jpg'),
            "write / for Windows'",
            None,
        ),
        # VIA: images that it did not load, points, a region with two attributes, a circle at the
        # edge, and what its first releases wrote.
        (changed(tools.via(), sizes(0, 0)), {}, 'a whole number of pixels from 1', None),
        (changed(tools.via(), sizes(-1, -1)), {}, 'a whole number of pixels from 1', None),
        (
            changed(tools.via(), first(segmentation=[[]], area=[], bbox=[])),
            {},
            r'has the bbox \[\]',
            None,
        ),
        (
            changed(tools.via(), lambda c: c['annotations'].append(c['annotations'][0])),
            {},
            'has two annotations of id 1; give each object a number of its own, and leave out what '
            'is there twice',
            None,
        ),
        (
            changed(
                tools.via(),
                first(bbox=[30, 5, 14, 14], segmentation=[[44, 12, 37, 19, 30, 12, 37, 5]]),
            ),
            {},
            None,
            '1 boxes reach outside of their image',
        ),
        (changed(tools.via(), first(bbox=[24, 9, 11, 13])), {}, None, None),
        (
            changed(tools.via(), first(image_id='1')),
            {},
            'has the image_id "1"; image_id must be a number, without quotation marks',
            None,
        ),
        (
            changed(tools.via(), first(segmentation=POINTS)),
            {},
            r'it must be polygons \[\[x1, y1',
            None,
        ),
        # Without export, as the tools keep their own projects.
        ({'a.jpg9': dict(filename='a.jpg', regions=[])}, {}, 'a project of VIA: export', None),
        ([dict(id=1, annotations=[], data={})], {}, "Label Studio's tasks: export the", None),
        (dict(shapes=[], imagePath='a.jpg'), {}, "labelme's file of one image", None),
    ],
)
def test_exports_that_must_be_changed_say_what(examine, boxes, content, layout, refused, said):
    decide(examine, export_to(boxes, content, **layout), refused, said)


def test_a_class_without_an_object_as_a_tools_root_category_is_named(examine, boxes):
    cfg = export_to(boxes, tools.roboflow())
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.metainfo.classes = ('cells', 'cell')
    cfg.model.roi_head.bbox_head.num_classes = 2
    problems, _, absent = examine(cfg)
    assert (problems, absent) == ([], ['cells'] * 2)
