import logging
import shutil

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from kat_mm import checks
from kat_mm.checks.classification import (
    check_annotation_file,
    check_class_folders,
    find_class_folders,
)
from kat_mm.checks.data import check_data
from kat_mm.errors import UserError


@pytest.fixture
def root(tmp_path):
    for split in ('train', 'val'):
        for name in ('cat', 'dog', 'fox'):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / '1.JPG').touch()
    return tmp_path


def config(root, classes=('cat', 'dog', 'fox'), num_classes=3, **changes):
    def loader(split):
        metainfo = dict(classes=classes) if classes else None
        dataset = dict(
            type='CustomDataset', data_root=str(root), data_prefix=split, metainfo=metainfo
        )
        return dict(dataset={**dataset, **changes})

    return Config(
        dict(
            default_scope='mmpretrain',
            model=dict(type='ImageClassifier', head=dict(num_classes=num_classes)),
            train_dataloader=loader('train'),
            val_dataloader=loader('val'),
            val_evaluator=dict(type='Accuracy', topk=(1, 2)),
        )
    )


def check_dataset(dataset, split):
    check_data(Config({f'{split}_dataloader': dict(dataset=dataset)}), (split,))


def check(cfg):
    checks.check_config(cfg, ('train', 'val'))


def test_complete_data_pass(root):
    check(config(root))
    check(config(root, classes=None))


def test_images_may_lie_deeper(root):
    (root / 'train' / 'cat' / 'indoors').mkdir()
    (root / 'train' / 'cat' / '1.JPG').rename(root / 'train' / 'cat' / 'indoors' / '1.jpg')
    assert find_class_folders(root / 'train') == ['cat', 'dog', 'fox']


def test_a_missing_folder_is_named(root):
    with pytest.raises(UserError, match='folder .*/nowhere/train does not exist: CustomDataset'):
        check(config(root / 'nowhere'))


def test_imagenet_names_its_folder_by_the_split(root):
    dataset = ConfigDict(type='ImageNet', data_root=str(root), split='test')
    with pytest.raises(UserError, match='folder .*/test does not exist: ImageNet .*image-net.org'):
        check_dataset(dataset, 'test')


@pytest.mark.parametrize('name', ['CIFAR10', 'TorchvisionArrays'])
def test_a_data_set_that_downloads_itself_may_be_missing(tmp_path, name):
    init_default_scope('mmpretrain')
    # Its split is no folder.
    dataset = ConfigDict(type=name, data_root=str(tmp_path / 'nowhere'), split='train')
    check_dataset(dataset, 'train')


def test_a_data_set_that_has_a_split_and_does_not_download_is_missed(tmp_path):
    init_default_scope('mmpretrain')
    dataset = ConfigDict(type='Flowers102', data_root=str(tmp_path / 'nowhere'), split='trainval')
    with pytest.raises(UserError, match='folder .*/nowhere does not exist: .*robots.ox.ac.uk'):
        check_dataset(dataset, 'train')
    (tmp_path / 'nowhere').mkdir()
    check_dataset(dataset, 'train')


def test_images_without_class_folders_are_refused(root):
    with pytest.raises(UserError, match='has no class folders; .* one folder for each class'):
        find_class_folders(root / 'train' / 'cat')


def test_stray_files_are_ignored_with_a_word(root, caplog):
    logger = MMLogger.get_instance('test_class_folders')
    (root / 'train' / 'list.txt').touch()
    logger.addHandler(caplog.handler)  # one for all tests
    try:
        with caplog.at_level(logging.INFO, 'test_class_folders'):
            check(config(root))
    finally:
        logger.removeHandler(caplog.handler)
    assert 'train, and ignored: list.txt' in caplog.text


def test_an_empty_class_is_refused_in_each_split(root):
    (root / 'val' / 'dog' / '1.JPG').rename(root / 'val' / 'dog' / '1.txt')
    with pytest.raises(UserError, match='1 of 3 class folders in .*/val hold no images .*: dog;'):
        check(config(root))


def test_an_empty_folder_is_a_class_without_images_or_none_at_all(root):
    (root / 'train' / 'zzz').mkdir()
    with pytest.raises(UserError, match='zzz; add the images of those .* and remove the others'):
        check(config(root))


def test_a_hidden_folder_is_named(root):
    # mmpretrain would number the others from 1.
    (root / 'val' / '.ipynb_checkpoints').mkdir()
    with pytest.raises(UserError, match='val has hidden folders, .*: .ipynb_checkpoints; remove'):
        check(config(root))


def test_class_list_that_does_not_match_the_folders(root):
    expected = r'3 class folders, .* 2 classes \(missing: none, not among the classes: fox\)'
    with pytest.raises(UserError, match=expected):
        check(config(root, classes=('cat', 'dog'), num_classes=2))
    expected = r'3 class folders, .* 4 classes \(missing: cow, not among the classes: none\)'
    with pytest.raises(UserError, match=expected):
        check(config(root, classes=('cat', 'cow', 'dog', 'fox'), num_classes=4))
    with pytest.raises(UserError, match=r'3 class folders, .* 2 classes \(cat, dog, fox\)'):
        check(config(root, classes=('Felidae', 'Canidae'), num_classes=2))
    with pytest.raises(UserError, match='not in the order of the folders .*sort it: cat, dog, fox'):
        check(config(root, classes=('dog', 'cat', 'fox')))
    check(config(root, classes=('Cats', 'Dogs', 'Foxes')))  # other names in the folders' order


def test_class_list_that_does_not_match_the_head(root):
    expected = 'model.head.num_classes=1000, but the train data set has 3 classes: cat, dog, fox'
    with pytest.raises(UserError, match=expected):
        check(config(root, num_classes=1000))
    expected = 'head.num_classes=1000, but number of class folders in .*/train is 3; set it to 3'
    with pytest.raises(UserError, match=expected):
        check(config(root, classes=None, num_classes=1000))


def test_a_preprocessor_of_another_number_of_classes_than_the_head_is_refused(root):
    cfg = config(root)
    cfg.model.data_preprocessor = dict(num_classes=3)
    check(cfg)
    cfg.model.data_preprocessor.num_classes = 1000
    expected = 'data_preprocessor.num_classes=1000, but the train data set has 3 classes'
    with pytest.raises(UserError, match=expected):
        check(cfg)


@pytest.mark.parametrize('classes', [None, ('Cats', 'Dogs', 'Foxes')])
def test_splits_of_other_classes_are_refused_with_what_differs(root, classes):
    shutil.move(root / 'val' / 'dog', root / 'dog')
    expected = 'train and .*/val have other class folders, .* train alone has dog, val alone none'
    with pytest.raises(UserError, match=expected):
        check(config(root, classes=classes))
    shutil.move(root / 'dog', root / 'val' / 'wolf')
    with pytest.raises(UserError, match='train alone has dog, val alone wolf'):
        check(config(root, classes=classes))
    check_class_folders({})


def test_parts_of_a_split_need_the_same_folders(root):
    cfg = config(root)
    part = cfg.train_dataloader.dataset
    other = dict(part, data_prefix='val')
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[part, other])
    check(cfg)
    shutil.move(root / 'val' / 'dog', root / 'val' / 'wolf')
    with pytest.raises(UserError, match='train alone has dog, train, part 2 alone wolf'):
        checks.check_config(cfg, ('train',))


def test_top_5_of_3_classes_is_refused(root):
    cfg = config(root)
    cfg.val_evaluator.topk = (1, 5)
    with pytest.raises(UserError, match=r'val_evaluator.topk=.* best 5 of 3 classes'):
        check(cfg)


@pytest.mark.parametrize('line', ['b.jpg', 'b.jpg 3', 'b.jpg cat', ''])
def test_annotation_files_are_checked_line_by_line(root, line):
    path = root / 'train.txt'
    path.write_text('a.jpg 0\na b.jpg 2\n')
    check_annotation_file(path, 3)
    check(config(root, ann_file='train.txt'))
    path.write_text(f'a.jpg 0\n{line}\n')
    with pytest.raises(UserError, match=f'train.txt, line 2: .*{line}.* label of 0 to 2'):
        check(config(root, ann_file='train.txt'))
