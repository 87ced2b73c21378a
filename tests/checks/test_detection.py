import sys

import pytest
from mmengine.config import Config

from kat_mm import checks
from kat_mm.errors import UserError
from kat_mm.sample_data import SampleSettings, make_sample_data


@pytest.fixture
def coco_cfg(tmp_path):
    """A config on sample data in COCO's layout, with a folder of its own."""
    import mmdet.datasets  # noqa: F401

    make_sample_data(['coco'], tmp_path, SampleSettings(3, 2, 48, 32))
    classes = ('person', 'car', 'airplane', 'bus', 'boat', 'bird', 'sheep', 'umbrella')
    loaders = {
        f'{split}_dataloader': dict(
            dataset=dict(
                type='CocoDataset',
                data_root=str(tmp_path / 'coco'),
                ann_file=f'annotations/instances_{split}2017.json',
                data_prefix=dict(img=f'{split}2017'),
                metainfo=dict(classes=classes),
                pipeline=[dict(type='LoadAnnotations', with_bbox=True, with_mask=True)],
            )
        )
        for split in ('train', 'val')
    }
    heads = dict(bbox_head=[dict(num_classes=8)], mask_head=dict(num_classes=8))
    return Config(
        dict(
            default_scope='mmdet',
            model=dict(rpn_head=dict(num_classes=1), roi_head=heads),
            val_evaluator=dict(
                type='CocoMetric',
                ann_file=str(tmp_path / 'coco/annotations/instances_val2017.json'),
            ),
            **loaders,
        )
    )


def check_coco_config(cfg):
    checks.check_config(cfg, ('train', 'val'))


def test_a_sound_detection_config_passes(coco_cfg):
    check_coco_config(coco_cfg)


def test_coco_is_checked_inside_of_wrappers(coco_cfg):
    inner = coco_cfg.train_dataloader.dataset
    wrapped = dict(type='ConcatDataset', datasets=[dict(type='RepeatDataset', dataset=inner)])
    coco_cfg.train_dataloader.dataset = wrapped
    check_coco_config(coco_cfg)
    inner.ann_file = 'annotations/nowhere.json'
    coco_cfg.train_dataloader.dataset = wrapped
    with pytest.raises(UserError, match='annotations/nowhere.json does not exist'):
        check_coco_config(coco_cfg)


def test_a_missing_coco_folder_names_coco(coco_cfg):
    coco_cfg.train_dataloader.dataset.data_root = '/nowhere'
    with pytest.raises(UserError) as error:
        check_coco_config(coco_cfg)
    assert 'data folder /nowhere/train2017 does not exist' in str(error.value)
    assert 'Get COCO 2017' in str(error.value)
    assert 'make_sample_data.py all' in str(error.value)
    assert 'configs/kat_t_mask_rcnn_sample.py' in str(error.value)


def test_files_that_another_data_set_reads_otherwise_are_left_to_it(coco_cfg, tmp_path):
    (tmp_path / 'coco/annotations/instances_val2017.json').write_text('{"images": []}')
    coco_cfg.val_dataloader.dataset.type = 'LVISV1Dataset'
    check_coco_config(coco_cfg)


def test_images_that_the_annotations_list_must_be_there(coco_cfg, tmp_path):
    (tmp_path / 'coco/val2017/000000000002.jpg').unlink()
    with pytest.raises(UserError, match='1 of 2 images .*val2017, the first 000000000002.jpg'):
        check_coco_config(coco_cfg)


@pytest.mark.parametrize('classes', ['person', ('person')])
def test_classes_that_are_a_string_are_refused(coco_cfg, classes):
    coco_cfg.train_dataloader.dataset.metainfo.classes = classes
    with pytest.raises(
        UserError, match="metainfo.classes of the train .* 'person'.*with its comma"
    ):
        check_coco_config(coco_cfg)


def test_heads_need_the_number_of_classes_of_the_data(coco_cfg):
    coco_cfg.model.roi_head.bbox_head[0].num_classes = 80
    with pytest.raises(
        UserError, match=r'model.roi_head.bbox_head.0.num_classes=80, .* has 8 classes: person, car'
    ):
        check_coco_config(coco_cfg)


def test_a_metric_of_other_annotations_is_refused(coco_cfg):
    coco_cfg.val_evaluator = [dict(coco_cfg.val_evaluator, ann_file='other.json')]
    with pytest.raises(UserError, match='val_evaluator.ann_file is other.json, but .*same file'):
        check_coco_config(coco_cfg)


def test_a_data_set_must_name_the_folder_of_its_images(coco_cfg):
    coco_cfg.train_dataloader.dataset.data_prefix = dict()
    with pytest.raises(UserError, match='data_prefix of the train .* folder of the images'):
        check_coco_config(coco_cfg)


def test_images_below_min_size_are_refused_in_training_alone(coco_cfg):
    filter_cfg = dict(filter_empty_gt=True, min_size=33)  # the images are of 48x32
    coco_cfg.val_dataloader.dataset.update(filter_cfg=filter_cfg, test_mode=True)
    check_coco_config(coco_cfg)
    coco_cfg.train_dataloader.dataset.filter_cfg = filter_cfg
    with pytest.raises(UserError, match='train2017.json .* images below filter_cfg.min_size=33'):
        check_coco_config(coco_cfg)


def test_a_test_servers_images_have_no_annotations(coco_cfg, tmp_path):
    (tmp_path / 'coco/annotations/instances_val2017.json').write_text('{"images": []}')
    coco_cfg.val_evaluator.format_only = True
    check_coco_config(coco_cfg)


def test_an_mmcv_without_operators_is_refused_with_the_way_to_get_them(coco_cfg, monkeypatch):
    for name in [name for name in sys.modules if name.startswith('mmcv.ops')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)
    with pytest.raises(
        UserError, match='mmcv has no compiled operators.*make operators.*--no-build-isolation'
    ):
        check_coco_config(coco_cfg)
