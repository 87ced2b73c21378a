import shutil

import cv2
import numpy as np
import pytest
from mmengine.config import Config, ConfigDict

from kat_mm import checks
from kat_mm.checks import segmentation
from kat_mm.checks.data import check_data
from kat_mm.errors import UserError
from kat_mm.sample_data import SampleSettings, make_sample_data


@pytest.fixture(scope='module')
def sample(tmp_path_factory):
    import mmseg.datasets  # noqa: F401

    folder = tmp_path_factory.mktemp('sample')
    make_sample_data(['ade20k'], folder, SampleSettings(3, 2, 48, 32))
    return folder / 'ade' / 'ADEChallengeData2016'


@pytest.fixture
def root(sample, tmp_path):
    shutil.copytree(sample, tmp_path / 'data')
    return tmp_path / 'data'


def dataset(root, **kwargs):
    prefix = dict(img_path='images/training', seg_map_path='annotations/training')
    return ConfigDict(type='mmseg.ADE20KDataset', data_root=str(root), data_prefix=prefix, **kwargs)


def check(dataset, split):
    check_data(Config({f'{split}_dataloader': dict(dataset=dataset)}), (split,))


def test_complete_data_pass(root):
    check(dataset(root), 'train')


def test_a_missing_folder_is_named_with_what_belongs_there(root):
    shutil.rmtree(root / 'annotations' / 'training')
    expected = 'data folder .*/annotations/training does not exist: .*ADE20KDataset expects '
    with pytest.raises(UserError, match=expected + 'seg_map_path of the val split there'):
        check(dataset(root), 'val')


def test_the_data_set_is_checked_inside_of_wrappers(root):
    inner = dataset(root / 'nowhere')
    with pytest.raises(UserError, match='nowhere/images/training does not exist'):
        check(ConfigDict(type='RepeatDataset', times=2, dataset=inner), 'train')


def crops(root, crop_size, *later, size=(128, 96)):
    pipeline = [dict(type='RandomCrop', crop_size=(32, 32)), dict(type='Pad', size=(256, 256))]
    pipeline += [dict(type='mmseg.RandomCrop', crop_size=crop_size), *later]
    check_data(
        Config(
            dict(
                model=dict(data_preprocessor=dict(size=size)),
                train_dataloader=dict(dataset=dataset(root, pipeline=pipeline)),
            )
        ),
        ('train',),
    )


@pytest.mark.parametrize('crop_size', [(128, 128), (256, 96), 100])
def test_crops_larger_than_what_a_batch_is_padded_to_are_refused(crop_size, root):
    with pytest.raises(UserError, match=r'padded to .*size=\(128, 96\), which is smaller'):
        crops(root, crop_size)
    crops(root, crop_size, dict(type='Resize', scale=(96, 128)))
    crops(root, crop_size, size=None)


def test_a_folder_without_images_is_refused(root):
    for path in (root / 'images' / 'training').iterdir():
        path.rename(path.with_suffix('.tif'))
    with pytest.raises(UserError, match=r'images/training holds no images \*\.jpg'):
        check(dataset(root), 'train')


def test_images_without_annotations_are_counted_and_the_first_is_named(root):
    for number in (2, 3):
        (root / f'annotations/training/ADE_train_0000000{number}.png').unlink()
    expected = '2 of 3 images .* lack their annotation .* the first ADE_train_00000002.png'
    with pytest.raises(UserError, match=expected):
        check(dataset(root), 'train')


def test_pairs_are_matched_by_the_suffixes_of_the_config(root):
    for path in (root / 'annotations' / 'training').iterdir():
        path.rename(path.with_name(path.stem + '_labels.png'))
    with pytest.raises(UserError, match='3 of 3 images'):
        check(dataset(root), 'train')
    check(dataset(root, seg_map_suffix='_labels.png'), 'train')


def test_the_data_set_is_found_in_the_scope_of_the_config(root):
    # As configs name it: without a scope. Its own suffixes are needed to match the pairs.
    (root / 'annotations/training/ADE_train_00000002.png').unlink()
    loader = dict(dataset=dict(dataset(root), type='ADE20KDataset'))
    cfg = Config(dict(default_scope='mmseg', train_dataloader=loader))
    with pytest.raises(UserError, match='1 of 3 images .* lack their annotation'):
        checks.check_config(cfg, ('train',))


def test_splits_that_are_not_needed_are_not_checked(root):
    loaders = dict(
        train_dataloader=dict(dataset=dataset(root)),
        test_dataloader=dict(dataset=dataset('/nowhere')),
    )
    cfg = Config(dict(model=dict(), **loaders))
    checks.check_config(cfg, ('train', 'val'))
    with pytest.raises(UserError, match='/nowhere'):
        checks.check_config(cfg, ('test',))


@pytest.fixture
def lines(monkeypatch):
    """What is said in the log."""
    found = []
    monkeypatch.setattr(segmentation, 'print_log', lambda message, *_: found.append(message))
    return found


def test_the_share_of_padding_around_crops_is_told(root, lines):
    crops(root, (128, 96), dict(type='RandomFlip', prob=0.5))
    crops(root, (126, 94))  # padded to whole patches
    assert not lines
    crops(root, 64)
    (line,) = lines
    assert 'crop_size=(64, 64), which model.data_preprocessor.size=(128, 96) pads: 67%' in line


@pytest.mark.parametrize('suffix', ['.JPG', '.jpeg', '.webp', '.tiff', '.gif'])
def test_images_of_other_endings_are_counted_and_so_are_their_labels(root, lines, suffix):
    path = root / 'images/training/ADE_train_00000002.jpg'
    path.rename(path.with_suffix(suffix))
    check(dataset(root), 'train')
    images, annotations = lines
    assert '1 of 3 images in' in images and f'ADE_train_00000002{suffix}' in images
    assert '1 of 3 annotations in' in annotations and 'ADE_train_00000002.png' in annotations


def test_links_that_lead_nowhere_are_counted(root, lines):
    path = root / 'images/training/ADE_train_00000002.jpg'
    path.unlink()
    path.symlink_to(root / 'elsewhere.jpg')
    check(dataset(root), 'train')
    assert '1 links in' in lines[0] and 'lead nowhere' in lines[0]


def test_complete_data_pass_without_a_word(root, lines):
    (root / 'images' / 'training' / 'notes.txt').touch()
    check(dataset(root), 'train')
    assert lines == []


@pytest.mark.parametrize(
    'content, message',
    [
        (b'\xef\xbb\xbfADE_train_00000001\n', 'list.txt begins with a byte-order mark'),
        ('ADE_train_00000001\n'.encode('utf-16'), 'list.txt is in UTF-16'),
        ('\xe4\n'.encode('latin-1'), 'list.txt is not in UTF-8'),
        (b'ADE_train_00000001.jpg\n', "1 of 1 lines .* are no images .*, the first '.*1.jpg'"),
        (b'ADE_train_00000001\n\n', "1 of 2 lines .* are no images .*, the first ''"),
        (b'', 'list.txt is empty; each line is an image'),
        (None, 'ann_file .*list.txt does not exist; each line is an image without .jpg'),
    ],
)
def test_lists_of_images_are_checked_line_by_line(root, content, message):
    listed = dataset(root, ann_file='list.txt')
    (root / 'list.txt').write_text('ADE_train_00000001\nADE_train_00000003\n')
    check(listed, 'train')
    if content is None:
        (root / 'list.txt').unlink()
    else:
        (root / 'list.txt').write_bytes(content)
    with pytest.raises(UserError, match=message):
        check(listed, 'train')


def masks(tmp_path, *labels, classes=('a', 'b'), **kwargs):
    """A data set of label images, and black images of their size."""
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    for number, label in enumerate(labels):
        label = np.array(label, np.uint8)
        cv2.imwrite(str(tmp_path / f'labels/{number}.png'), label)
        cv2.imwrite(str(tmp_path / f'images/{number}.jpg'), np.zeros((*label.shape[:2], 3)))
    return dict(
        type='mmseg.BaseSegDataset',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=classes),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='mmseg.LoadAnnotations'),
            dict(type='CheckLabels', num_classes=len(classes)),
        ],
        **kwargs,
    )


FOREGROUND = [[0, 255], [0, 255]]


def test_masks_of_0_and_255_are_refused(tmp_path):
    data = masks(tmp_path, FOREGROUND, FOREGROUND)
    expected = 'the 2 label images of the train .*0.png, have class 0 alone, .* foreground 1'
    with pytest.raises(UserError, match=expected):
        check(data, 'train')


@pytest.mark.parametrize('split', ['train', 'val'])
def test_masks_that_are_ignored_as_a_whole_are_refused(tmp_path, split):
    data = masks(tmp_path, np.zeros((2, 2)), [[255, 255], [0, 0]], reduce_zero_label=True)
    with pytest.raises(UserError, match=f'the 2 label images of the {split} .* no pixel of a cla'):
        check(data, split)


@pytest.mark.parametrize(
    'labels, classes',
    [
        ([FOREGROUND, [[1, 1], [1, 1]]], ('a', 'b')),
        ([FOREGROUND, [[255, 255], [255, 255]], [[1, 0], [0, 0]]], ('a', 'b')),
        ([FOREGROUND], ('a',)),
    ],
)
def test_masks_with_as_many_classes_as_can_be_learned_pass(tmp_path, labels, classes):
    check(masks(tmp_path, *labels, classes=classes), 'train')


def test_evaluation_may_be_on_one_class(tmp_path):
    check(masks(tmp_path, FOREGROUND), 'val')


def test_the_parts_of_a_split_are_looked_at_together(tmp_path):
    parts = []
    for name, labels in (('first', [[0, 0]]), ('second', [[1, 1]])):
        (tmp_path / name).mkdir()
        parts.append(masks(tmp_path / name, labels))
    check(dict(type='ConcatDataset', datasets=parts), 'train')
    with pytest.raises(UserError, match='the 1 label images'):
        check(parts[0], 'train')


def test_label_images_are_read_no_further_than_needed(tmp_path):
    data = masks(tmp_path, [[0, 1], [1, 0]], [[0, 1], [1, 0]])
    (tmp_path / 'labels' / '1.png').write_bytes(b'damaged')
    check(data, 'train')
