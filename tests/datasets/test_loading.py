import copy
import re

import cv2
import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.registry import TRANSFORMS
from PIL import Image

from kat_mm.datasets import CheckLabels, LoadChecked, check_loading, loading
from kat_mm.datasets.image_files import bits_per_channel, image_size
from kat_mm.errors import UserError


@pytest.fixture
def sample(tmp_path):
    """Files of an image and its labels, as mmseg's data sets hand them to a pipeline."""
    import mmseg.datasets  # noqa: F401

    image, labels = tmp_path / 'a.png', tmp_path / 'b.png'
    cv2.imwrite(str(image), np.full((2, 2, 3), 7, np.uint8))
    cv2.imwrite(str(labels), np.array([[0, 1], [2, 255]], np.uint8))
    return dict(
        img_path=str(image),
        seg_map_path=str(labels),
        reduce_zero_label=False,
        label_map=None,
        seg_fields=[],
        sample_idx=3,
    )


def load(num_classes=3):
    return LoadChecked(
        [
            dict(type='LoadImageFromFile'),
            dict(type='mmseg.LoadAnnotations'),
            dict(type='CheckLabels', num_classes=num_classes),
        ]
    )


def test_what_loads_is_loaded(sample):
    results = load()(sample)
    assert results['img'].tolist() == np.full((2, 2, 3), 7).tolist()
    assert results['gt_seg_map'].tolist() == [[0, 1], [2, 255]]


@pytest.mark.parametrize('key', ['img_path', 'seg_map_path'])
def test_a_missing_file_is_named(sample, key):
    path = sample[key] = sample[key].replace('.png', '_missing.png')
    with pytest.raises(UserError, match=f'^{re.escape(path)} does not exist, although'):
        load()(sample)


@pytest.mark.parametrize('key', ['img_path', 'seg_map_path'])
@pytest.mark.parametrize('content', [b'', b'text', b'\x89PNG\r\n\x1a\n broken'])
def test_a_file_that_does_not_decode_is_named(sample, key, content):
    with open(sample[key], 'wb') as file:
        file.write(content)
    with pytest.raises(UserError, match=f'cannot load .*{re.escape(sample[key])}') as error:
        load()(sample)
    assert 'Repair or replace' in str(error.value)


def test_labels_outside_of_the_classes_are_listed_with_their_file(sample):
    expected = rf'{re.escape(sample["seg_map_path"])}: label values \[1, 2\] are outside of the 1'
    with pytest.raises(UserError, match=expected):
        load(num_classes=1)(sample)


def test_bugs_keep_their_traceback(sample):
    def broken(results):
        raise ZeroDivisionError

    transform = load()
    transform.transforms.transforms.append(broken)
    with pytest.raises(ZeroDivisionError):
        transform(sample)


def test_the_loading_transforms_of_a_config_are_wrapped():
    pipeline = [
        dict(type='SeedAugmentation'),
        dict(type='LoadImageFromFile'),
        dict(type='mmseg.LoadAnnotations', reduce_zero_label=True),
        dict(type='CheckLabels', num_classes=3),
        dict(type='RandomFlip', prob=0.5),
    ]
    inner = dict(pipeline=copy.deepcopy(pipeline))
    check_loading(dict(type='RepeatDataset', dataset=inner))
    checked = [dict(type='LoadChecked', transforms=[transform]) for transform in pipeline[1:4]]
    assert inner['pipeline'] == [pipeline[0], *checked, pipeline[4]]
    # A second time changes nothing.
    check_loading(dict(type='ConcatDataset', datasets=[inner]))
    assert inner['pipeline'] == [pipeline[0], *checked, pipeline[4]]


RESIZED = [
    dict(type='Resize', scale=(64, 32), keep_ratio=True),
    dict(type='RandomResize', scale=(64, 32), ratio_range=(0.5, 2.0), keep_ratio=True),
]


def pipelines():
    """A resize and annotations in the places that pipelines have them: their names, and these."""
    load_image, pack = dict(type='LoadImageFromFile'), dict(type='mmseg.PackSegInputs')
    annotations = dict(type='mmseg.LoadAnnotations')
    augmented = dict(type='TestTimeAug', transforms=[RESIZED[:1], [annotations], [pack]])
    chosen = dict(type='RandomChoice', transforms=[[RESIZED[1]], [RESIZED[0]]])
    return {
        'Resize': [load_image, RESIZED[0], annotations, pack],
        'RandomResize': [load_image, annotations, RESIZED[1], pack],
        'TestTimeAug': [load_image, augmented],
        'RandomChoice': [load_image, chosen, annotations, pack],
    }


def run_pipeline(name, sample):
    dataset = dict(pipeline=copy.deepcopy(pipelines()[name]))
    check_loading(dataset)
    wrapped = copy.deepcopy(dataset)
    check_loading(dataset)  # a second time changes nothing
    assert dataset == wrapped
    return Compose(dataset['pipeline'])(sample)


@pytest.mark.parametrize('name', pipelines())
@pytest.mark.parametrize('size', [(10_000, 1), (1, 10_000)])
def test_an_image_that_vanishes_as_it_is_resized_is_named(sample, name, size):
    for path in (sample['img_path'], sample['seg_map_path']):
        Image.new('L', size).save(path)
    message = f'image {sample["img_path"]} of {size[0]}x{size[1]} pixels cannot be resized'
    with pytest.raises(UserError, match=message):
        run_pipeline(name, sample)


@pytest.mark.parametrize('name', pipelines())
def test_annotations_are_checked_wherever_they_are_loaded(sample, name):
    assert run_pipeline(name, copy.deepcopy(sample))
    with open(sample['seg_map_path'], 'wb') as file:
        file.write(b'text')
    with pytest.raises(UserError, match=f'cannot load the sample .*{sample["seg_map_path"]}'):
        run_pipeline(name, sample)


def check(labels, **settings):
    settings = dict(num_classes=3) | settings
    return CheckLabels(**settings)(dict(gt_seg_map=np.array(labels, np.uint8)))['gt_seg_map']


def test_labels_of_classes_and_ignored_ones_pass():
    assert check([[0, 1], [2, 255]]).tolist() == [[0, 1], [2, 255]]


def test_unlabelled_values_become_ignored():
    assert check([[0, 3, 7, 2]], unlabelled=(3, 7)).tolist() == [[0, 255, 255, 2]]
    assert check([[0, 3, 9]], unlabelled=(3,), ignore_index=9).tolist() == [[0, 9, 9]]


def test_other_values_are_refused_with_what_is_allowed():
    with pytest.raises(ValueError) as error:
        check([[0, 3, 9, 9, 254]], unlabelled=(3,))
    message = str(error.value)
    assert 'label values [9, 254] are outside of the 3 classes' in message
    assert 'allowed are 0 to 2, and as unlabelled [3, 255]' in message


@pytest.mark.parametrize(
    'settings, given, shift',
    [
        (dict(), [200], None),
        (dict(reduce_zero_label=True), [200], 'reduce_zero_label they are [199]'),
        (dict(label_map={0: 2, 1: 255}), [200], None),
        (dict(label_map={0: 2, 1: 255, 5: 4, 4: 255}), [5], 'label_map they are [4]'),
        (
            dict(label_map={0: 2, 1: 255}, reduce_zero_label=True),
            [200, 254],
            'reduce_zero_label and label_map they are [199, 253]',
        ),
    ],
)
def test_the_values_in_the_file_are_named(sample, settings, given, shift):
    sample.update(settings)
    labels = np.array([[0, 1, 2, 255, *given]] * 2, np.uint8)
    cv2.imwrite(sample['seg_map_path'], labels)
    cv2.imwrite(sample['img_path'], labels)
    with pytest.raises(UserError) as error:
        load()(sample)
    shift = f'after {shift}, and ' if shift else ''
    expected = f'label values {given} are outside of the 3 classes; {shift}allowed are 0 to 2'
    assert expected in str(error.value)


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(num_classes='3'), "num_classes='3' must be 1 to 255"),
        (dict(num_classes=0), 'num_classes=0 must be 1 to 255'),
        (dict(num_classes=2.0), 'num_classes=2.0 must be 1 to 255'),
        (dict(unlabelled=11), 'unlabelled=11 must be labels from 0 to 255'),
        (dict(unlabelled=(256,)), r'unlabelled=\(256,\) must be labels from 0 to 255'),
        (dict(ignore_index=-1), 'ignore_index=-1 must be labels from 0 to 255'),
    ],
)
def test_arguments_that_are_no_labels_are_named(settings, message):
    with pytest.raises(ValueError, match=f'CheckLabels: {message}'):
        check([[0]], **settings)


def test_255_is_a_wrong_value_where_another_one_is_ignored():
    with pytest.raises(ValueError, match=r'label values \[255\]'):
        check([[0, 255]], ignore_index=9)


def test_label_images_with_channels_are_refused():
    with pytest.raises(ValueError, match='one channel'):
        check(np.zeros((2, 2, 3)))


def test_without_labels_there_is_nothing_to_check():
    assert CheckLabels(num_classes=3)(dict(img=1)) == dict(img=1)


def test_the_checks_are_found_from_any_scope():
    assert TRANSFORMS.get('LoadChecked') is LoadChecked
    assert TRANSFORMS.get('CheckLabels') is CheckLabels


def load_image(results):
    return LoadChecked([dict(type='LoadImageFromFile')])(results)


def write_turned(path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new('RGB', (6, 4)).save(path, exif=exif)


def test_an_image_of_another_size_than_its_annotations_is_named_with_both(sample):
    cv2.imwrite(sample['img_path'], np.zeros((4, 6, 3), np.uint8))
    assert load_image(dict(sample, width=6, height=4.0))['img'].shape == (4, 6, 3)
    expected = f'{re.escape(sample["img_path"])} has 12x8 pixels, but it has 6x4 pixels, so that'
    with pytest.raises(UserError, match=expected):
        load_image(dict(sample, width=12, height=8))


@pytest.mark.parametrize('orientation, size', [(1, (6, 4)), (3, (6, 4)), (6, (4, 6)), (8, (4, 6))])
def test_sizes_are_those_that_exifs_orientation_gives(sample, tmp_path, orientation, size):
    path = tmp_path / 'turned.jpg'
    write_turned(path, orientation)
    sample['img_path'] = str(path)
    width, height = size
    assert image_size(path) == size
    load_image(dict(sample, width=width, height=height))
    with pytest.raises(UserError) as error:
        load_image(dict(sample, width=height, height=width))
    turned = 'turned by the orientation in its EXIF data'
    assert (turned in str(error.value)) == (orientation in (6, 8))


@pytest.mark.parametrize('shape', [(1, 3), (4, 2), (2, 3)])
def test_a_label_image_of_another_size_is_named_with_both(sample, shape):
    cv2.imwrite(sample['seg_map_path'], np.zeros(shape, np.uint8))
    image_shape = (1, 2) if shape == (1, 3) else (2, 2)
    cv2.imwrite(sample['img_path'], np.zeros(image_shape, np.uint8))
    height, width = image_shape
    expected = f'b.png has {shape[1]}x{shape[0]} .*, but its image .*a.png has {width}x{height} pix'
    with pytest.raises(UserError, match=expected):
        load()(sample)


@pytest.mark.parametrize('shape', [(1, 1), (1, 5), (5, 1)])
def test_a_side_of_one_pixel_stays(sample, shape):
    cv2.imwrite(sample['img_path'], np.zeros(shape, np.uint8))
    cv2.imwrite(sample['seg_map_path'], np.ones(shape, np.uint8))
    assert load()(sample)['gt_seg_map'].tolist() == np.ones(shape).tolist()


def test_a_label_image_of_a_turned_image_is_told_so(sample, tmp_path):
    path = tmp_path / 'turned.jpg'
    write_turned(path, 6)
    Image.new('L', (6, 4)).save(sample['seg_map_path'])
    with pytest.raises(UserError, match='b.png has 6x4 .* has 4x6 pixels, turned by the orient'):
        load()(sample | dict(img_path=str(path)))


def test_a_label_image_behind_a_resized_image_is_compared_with_the_file(sample):
    steps = [
        LoadChecked([dict(type='LoadImageFromFile')]),
        TRANSFORMS.build(dict(type='Resize', scale=(8, 8))),
        LoadChecked([dict(type='mmseg.LoadAnnotations')]),
    ]
    for step in steps:
        sample = step(sample)
    assert sample['img'].shape == (8, 8, 3) and sample['gt_seg_map'].shape == (2, 2)


@pytest.mark.parametrize('value', [256, 257, 26001, 65535])
def test_labels_beyond_8_bits_are_named_as_they_are_in_the_file(sample, value):
    labels = np.array([[0, 1], [2, value]], np.uint16)
    cv2.imwrite(sample['seg_map_path'], labels)
    with pytest.raises(UserError, match=rf'b.png has the values \[{value}\]; labels are whole'):
        load()(sample)


def test_labels_of_16_bits_below_256_are_right(sample):
    cv2.imwrite(sample['seg_map_path'], np.array([[0, 1], [2, 255]], np.uint16))
    assert load()(sample)['gt_seg_map'].tolist() == [[0, 1], [2, 255]]


def test_labels_with_fractions_are_refused(sample, tmp_path):
    path = tmp_path / 'labels.tif'
    Image.fromarray(np.array([[0, 1], [2, 0.5]], np.float32)).save(path)
    with pytest.raises(UserError, match=r'has the values \[0.5\]; labels are whole numbers'):
        load()(sample | dict(seg_map_path=str(path)))


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'LA'])
def test_label_images_of_colours_are_named(sample, mode):
    Image.new(mode, (2, 2)).save(sample['seg_map_path'])
    with pytest.raises(UserError, match='b.png: label image of shape .* one channel of class num'):
        load()(sample)


@pytest.mark.parametrize('mode', ['P', '1', 'L'])
def test_palettes_and_bits_are_labels(sample, mode):
    image = Image.new(mode, (2, 2))
    image.putdata([0, 1, 1, 0])
    if mode == 'P':
        image.putpalette([9, 9, 9, 200, 0, 0])
    image.save(sample['seg_map_path'])
    assert load()(sample)['gt_seg_map'].tolist() == [[0, 1], [1, 0]]


def test_an_image_of_16_bits_is_told_once(sample, monkeypatch):
    lines = []
    monkeypatch.setattr(loading, 'print_log', lambda message, *_: lines.append(message))
    cv2.imwrite(sample['img_path'], np.full((2, 2, 3), 512, np.uint16))
    transform = load()
    for _ in range(2):
        assert transform(dict(sample, seg_fields=[]))['img'].max() == 2
    (line,) = lines
    assert 'a.png has 16 bits per channel, of which the upper 8 are used' in line
    cv2.imwrite(sample['img_path'], np.zeros((2, 2, 3), np.uint8))
    load()(sample)
    assert len(lines) == 1


def test_the_reason_that_a_file_cannot_be_read_is_told(sample, tmp_path):
    path = tmp_path / 'other.png'
    results = sample | dict(img_path=str(path))
    path.write_bytes(b'')
    with pytest.raises(UserError, match=r'other.png is empty \(0 bytes\)\. Repair or replace'):
        load()(results)
    path.unlink()
    path.symlink_to('nowhere.png')
    with pytest.raises(UserError, match='other.png is a link to nowhere.png, which does not exist'):
        load()(results)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match='other.png is a folder'):
        load()(results)


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'bmp', 'tif', 'webp', 'gif'])
def test_a_file_that_ends_early_is_refused(sample, tmp_path, suffix):
    path = tmp_path / f'cut.{suffix}'
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8))
    image.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(UserError, match=f'cannot load the sample .*cut.{suffix}'):
        load_image(sample | dict(img_path=str(path)))


@pytest.mark.parametrize('size', [(1, 1), (10_000, 10), (1, 2000)])
@pytest.mark.parametrize('mode', ['RGB', 'L', 'RGBA', 'CMYK', 'P'])
def test_unusual_images_are_three_channels(sample, tmp_path, size, mode):
    path = tmp_path / ('image.jpg' if mode == 'CMYK' else 'image.png')
    Image.new('RGB', size, (200, 100, 50)).convert(mode).save(path)
    image = load_image(sample | dict(img_path=str(path)))['img']
    assert image.shape == (size[1], size[0], 3) and image.dtype == np.uint8
    if mode in ('RGB', 'CMYK', 'RGBA'):
        assert np.abs(image[0, 0].astype(int) - [50, 100, 200]).max() < 10


@pytest.mark.parametrize(
    'name, mode, dtype, bits',
    [
        ('a.png', None, np.uint16, 16),
        ('a.png', None, np.uint8, 8),
        ('a.tif', None, np.uint16, 16),
        ('a.tif', None, np.uint8, 8),
        ('a.jpg', None, np.uint8, 8),
        ('a.png', '1', np.uint8, 1),
    ],
)
def test_bits_of_a_channel(tmp_path, name, mode, dtype, bits):
    image = Image.fromarray(np.zeros((2, 2), dtype))
    (image.convert(mode) if mode else image).save(tmp_path / name)
    assert bits_per_channel(tmp_path / name) == bits


def test_colours_of_16_bits_are_seen(tmp_path):
    for name in ('a.png', 'a.tif'):
        cv2.imwrite(str(tmp_path / name), np.zeros((2, 2, 3), np.uint16))
        assert bits_per_channel(tmp_path / name) == 16
