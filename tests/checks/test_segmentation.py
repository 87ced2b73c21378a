import shutil

import pytest
from mmengine.config import Config, ConfigDict

from kat_mm import checks
from kat_mm.checks.data import check_data
from kat_mm.datasets.sample_data import SampleSettings, make_sample_data
from kat_mm.errors import UserError


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
