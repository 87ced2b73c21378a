"""What is common to the data of all tasks: wrappers, numbers of classes, and who looks."""

import json

import pytest
from mmengine.config import Config

from kat_mm import checks
from kat_mm.checks.classes import check_numbers_of_classes, class_names
from kat_mm.checks.data import check_data
from kat_mm.checks.names import correct
from kat_mm.checks.progress import Progress
from kat_mm.datasets.wrappers import inner_datasets, type_name
from kat_mm.errors import UserError, some

DATA = dict(type='CustomDataset')


@pytest.mark.parametrize(
    'wrapped, types',
    [
        (dict(type='A'), 'A'),
        (dict(type='RepeatDataset', times=2, dataset=dict(type='A')), 'A'),
        (dict(type='ConcatDataset', datasets=[dict(type='A'), dict(type='B')]), 'AB'),
        (
            dict(
                type='ClassBalancedDataset',
                dataset=dict(
                    type='ConcatDataset',
                    datasets=[dict(type='A'), dict(type='RepeatDataset', dataset=dict(type='B'))],
                ),
            ),
            'AB',
        ),
        (dict(type='ConcatDataset', datasets=[]), ''),
    ],
)
def test_the_walk_enters_every_wrapper(wrapped, types):
    assert ''.join(dataset['type'] for dataset in inner_datasets(wrapped)) == types


def test_types_may_be_named_with_a_scope_or_be_classes():
    names = [type_name(dict(type=given)) for given in ('A', 'mmseg.A', 'a.b.A', Progress)]
    assert names == ['A', 'A', 'A', 'Progress']


def test_some_of_many_names():
    assert some([]) == 'none'
    assert some('abc') == 'a, b, c'
    assert some(range(10)) == '0, 1, 2, 3, 4, 5, 6, 7 and 2 more'


@pytest.mark.parametrize(
    'name, meant',
    [
        ('modle', 'model'), ('num_clases', 'num_classes'), ('data', None), ('classes', None),
        ('in_index', None), ('out_indicies', 'out_indices'),
    ],
)  # fmt: skip
def test_misspelt_names_and_others(name, meant):
    known = ['model', 'num_classes', 'ignore_index', 'out_indices', 'data_root']
    assert correct(name, known) == meant


def test_progress_is_shown_every_few_seconds(monkeypatch):
    from kat_mm.checks import progress

    lines, now = [], 0.0
    monkeypatch.setattr(progress, 'print_log', lambda message, *_: lines.append(message))
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now)
    show = Progress('reading a.json')
    for now in (1.0, 4.9, 5.0, 5.1, 10.2):
        show(int(now * 100_000), 2_000_000)
    show = Progress('files')
    now = 20.0
    show(1_234_567)
    assert lines == [
        'Checking: reading a.json, 25 %',
        'Checking: reading a.json, 51 %',
        'Checking: files, 1,234,567',
    ]


def numbers(model, *pipeline, split='train'):
    loader = dict(dataset=dict(type='RepeatDataset', dataset=dict(DATA, pipeline=list(pipeline))))
    return Config({'model': model, f'{split}_dataloader': loader})


CLASSES = dict(train=('cat', 'dog', 'fox'))


@pytest.mark.parametrize(
    'model, pipeline, message',
    [
        (
            dict(decode_head=dict(num_classes=4)),
            [],
            'model.decode_head.num_classes=4, but the train data set has 3 classes: cat, dog, fox; '
            'set it to 3, or mend the data',
        ),
        (
            dict(decode_head=dict(num_classes=3), auxiliary_head=[dict(num_classes=19)]),
            [],
            'model.auxiliary_head.0.num_classes=19, but',
        ),
        (dict(), [dict(type='CheckLabels', num_classes=2)], 'pipeline.0.num_classes=2, but'),
        (dict(roi_head=dict(mask_head=dict(num_classes=80))), [], 'mask_head.num_classes=80, but'),
        (dict(head=dict(loss=dict(num_classes=5))), [], 'model.head.loss.num_classes=5, but'),
    ],
)
def test_each_number_of_classes_must_be_that_of_the_data(model, pipeline, message):
    with pytest.raises(UserError) as error:
        check_numbers_of_classes(numbers(model, *pipeline), CLASSES)
    assert message in str(error.value)


def test_numbers_that_agree_or_count_something_else_pass():
    model = dict(
        head=dict(num_classes=3),
        rpn_head=dict(num_classes=1),
        backbone=dict(num_classes=1000),
        roi_head=dict(semantic_head=dict(num_classes=183)),
        auxiliary_head=[dict(type='mmseg.STDCHead', num_classes=2)],
    )
    check_numbers_of_classes(numbers(model, dict(type='CheckLabels', num_classes=3)), CLASSES)


def test_without_classes_of_the_data_the_numbers_must_agree_among_themselves():
    model = dict(decode_head=dict(num_classes=3), auxiliary_head=dict(num_classes=4))
    message = 'auxiliary_head.num_classes=4, but model.decode_head.num_classes is 3'
    with pytest.raises(UserError, match=message):
        check_numbers_of_classes(numbers(model), {})


def test_splits_of_other_classes_are_refused():
    cfg = numbers(dict())
    cfg.val_dataloader = cfg.train_dataloader
    for names in (('cat', 'fox', 'dog'), ('cat', 'dog')):
        with pytest.raises(UserError, match='data sets of train and val have other classes'):
            check_numbers_of_classes(cfg, dict(CLASSES, val=names))


@pytest.mark.parametrize(
    'loader, message',
    [
        (dict(batch_size=2), r'train_dataloader has no dataset=dict\(type=\.\.\., \.\.\.\)'),
        (dict(dataset=dict(data_root='x')), 'a data set of train_dataloader has no type'),
        (dict(dataset=dict(type='CustomDataste')), 'CustomDataste. is not .* did you mean Cust'),
    ],
)
def test_loaders_without_a_data_set_are_refused(loader, message):
    import mmpretrain.datasets  # noqa: F401

    with pytest.raises(UserError, match=message):
        checks.check_config(
            Config(dict(default_scope='mmpretrain', model={}, train_dataloader=loader)), ('train',)
        )


@pytest.mark.parametrize('classes', ['cat', ('cat'), (), (1, 2)])
@pytest.mark.parametrize('kind', ['mmseg.BaseSegDataset', 'mmpretrain.CustomDataset'])
def test_classes_that_are_no_names_are_refused_in_every_task(tmp_path, kind, classes):
    import mmseg.datasets  # noqa: F401

    dataset = dict(type=kind, data_root=str(tmp_path), metainfo=dict(classes=classes))
    with pytest.raises(UserError, match='metainfo.classes of the train .*with its comma'):
        check_data(Config(dict(train_dataloader=dict(dataset=dataset))), ['train'])


def test_imagenet_has_two_cranes():
    from mmpretrain.datasets import ImageNet

    names = class_names(dict(type='ImageNet'), ImageNet, 'train')
    assert len(names) == 1000 and list(names).count('crane') == 2


def test_a_class_that_is_named_twice_is_refused(tmp_path):
    import mmpretrain.datasets  # noqa: F401

    metainfo = dict(classes=('cat', 'dog', 'cat'))
    dataset = dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path), metainfo=metainfo)
    with pytest.raises(UserError, match='metainfo.classes of the train data set has cat twice'):
        check_data(Config(dict(train_dataloader=dict(dataset=dataset))), ['train'])


@pytest.mark.parametrize(
    'launcher, environment, looks',
    [
        ('none', dict(LOCAL_RANK='1'), True),
        ('pytorch', dict(LOCAL_RANK='0', RANK='8'), True),
        ('pytorch', dict(LOCAL_RANK='1', SLURM_LOCALID='0'), False),
        ('slurm', dict(LOCAL_RANK='0', SLURM_LOCALID='3'), False),
        ('slurm', dict(LOCAL_RANK='0', SLURM_LOCALID='0'), True),
        ('mpi', dict(OMPI_COMM_WORLD_LOCAL_RANK='2'), False),
    ],
)
def test_one_process_of_each_machine_looks_at_the_data(monkeypatch, launcher, environment, looks):
    seen = []
    monkeypatch.setattr('kat_mm.checks.config.check_data', lambda *args: seen.append(args))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    checks.check_config(Config(dict(model=dict(), launcher=launcher)), ('train',))
    assert bool(seen) == looks


def test_every_part_of_a_concatenated_set_is_checked(tmp_path):
    import mmdet.datasets  # noqa: F401

    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'a.jpg').touch()
    content = dict(
        images=[dict(id=1, file_name='a.jpg', width=9, height=9)],
        annotations=[dict(id=1, image_id=1, category_id=1, bbox=[1, 1, 5, 5], area=25, iscrowd=0)],
        categories=[dict(id=1, name='cell')],
    )
    (tmp_path / 'right.json').write_text(json.dumps(content))
    part = dict(
        type='CocoDataset', data_root=str(tmp_path), data_prefix=dict(img='images'),
        metainfo=dict(classes=('cell',)),
    )  # fmt: skip
    names = ('right.json', 'wrong.json')
    loader = dict(
        dataset=dict(type='ConcatDataset', datasets=[dict(part, ann_file=name) for name in names])
    )
    cfg = Config(dict(default_scope='mmdet', model={}, train_dataloader=loader))
    with pytest.raises(UserError, match='wrong.json does not exist'):
        checks.check_config(cfg, ('train',))
    # A metric that only writes predictions does not end the check of the others.
    cfg.train_evaluator = [dict(type='CocoMetric', format_only=True), dict(type='CocoMetric')]
    with pytest.raises(UserError, match='wrong.json does not exist'):
        checks.check_config(cfg, ('train',))
