import copy
import re

import cv2
import numpy as np
import pytest
from mmengine.registry import TRANSFORMS

from kat_mm.datasets import CheckLabels, LoadChecked, check_loading
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
    cv2.imwrite(sample['seg_map_path'], np.array([[0, 1, 2, 255, *given]] * 2, np.uint8))
    with pytest.raises(UserError) as error:
        load()(sample)
    shift = f'after {shift}, and ' if shift else ''
    expected = f'label values {given} are outside of the 3 classes; {shift}allowed are 0 to 2'
    assert expected in str(error.value)


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
