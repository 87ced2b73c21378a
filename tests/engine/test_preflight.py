import errno
import os
import shutil
import sys

import pytest
import torch
from mmengine.config import Config, ConfigDict
from torch import nn

from kat_mm.datasets.sample_data import SampleSettings, make_sample_data
from kat_mm.engine import preflight
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


def weights(**shapes):
    model = nn.Module()
    for name, shape in shapes.items():
        module, _, name = name.rpartition('_')
        if not hasattr(model, module):
            model.add_module(module, nn.Module())
        getattr(model, module).register_parameter(name, nn.Parameter(torch.ones(shape)))
    return model


def test_complete_data_pass(root):
    preflight.check_dataset(dataset(root), 'train')


def test_a_missing_folder_is_named_with_what_belongs_there(root):
    shutil.rmtree(root / 'annotations' / 'training')
    expected = 'data folder .*/annotations/training does not exist: .*ADE20KDataset expects '
    with pytest.raises(UserError, match=expected + 'seg_map_path of the val split there'):
        preflight.check_dataset(dataset(root), 'val')


def test_the_data_set_is_checked_inside_of_wrappers(root):
    inner = dataset(root / 'nowhere')
    with pytest.raises(UserError, match='nowhere/images/training does not exist'):
        preflight.check_dataset(ConfigDict(type='RepeatDataset', times=2, dataset=inner), 'train')


def test_a_folder_without_images_is_refused(root):
    for path in (root / 'images' / 'training').iterdir():
        path.rename(path.with_suffix('.tif'))
    with pytest.raises(UserError, match=r'images/training holds no images \*\.jpg'):
        preflight.check_dataset(dataset(root), 'train')


def test_images_without_annotations_are_counted_and_the_first_is_named(root):
    for number in (2, 3):
        (root / f'annotations/training/ADE_train_0000000{number}.png').unlink()
    expected = '2 of 3 images .* lack their annotation .* the first ADE_train_00000002.png'
    with pytest.raises(UserError, match=expected):
        preflight.check_dataset(dataset(root), 'train')


def test_pairs_are_matched_by_the_suffixes_of_the_config(root):
    for path in (root / 'annotations' / 'training').iterdir():
        path.rename(path.with_name(path.stem + '_labels.png'))
    with pytest.raises(UserError, match='3 of 3 images'):
        preflight.check_dataset(dataset(root), 'train')
    preflight.check_dataset(dataset(root, seg_map_suffix='_labels.png'), 'train')


def test_the_data_set_is_found_in_the_scope_of_the_config(root):
    # As configs name it: without a scope. Its own suffixes are needed to match the pairs.
    (root / 'annotations/training/ADE_train_00000002.png').unlink()
    loader = dict(dataset=dict(dataset(root), type='ADE20KDataset'))
    cfg = Config(dict(default_scope='mmseg', train_dataloader=loader))
    with pytest.raises(UserError, match='1 of 3 images .* lack their annotation'):
        preflight.check_config(cfg, ('train',))


def test_splits_that_are_not_needed_are_not_checked(root):
    loaders = dict(
        train_dataloader=dict(dataset=dataset(root)),
        test_dataloader=dict(dataset=dataset('/nowhere')),
    )
    cfg = Config(dict(model=dict(), **loaders))
    preflight.check_config(cfg, ('train', 'val'))
    with pytest.raises(UserError, match='/nowhere'):
        preflight.check_config(cfg, ('test',))


def test_a_misspelt_key_gets_a_suggestion_and_the_known_keys():
    backbone = dict(type='KAT', out_indicies=(2, 5))
    with pytest.raises(UserError) as error:
        preflight.check_arguments(backbone, 'model.backbone')
    message = str(error.value)
    assert 'model.backbone.out_indicies is not an argument of KAT' in message
    assert 'did you mean out_indices?' in message
    assert 'drop_path_rate' in message


def test_keys_of_the_parts_of_the_backbone_are_checked_too():
    backbone = dict(type='KAT', ffn_cfg=dict(type='GRKAN', num_group=4))
    with pytest.raises(UserError, match='model.backbone.ffn_cfg.num_group .*num_groups'):
        preflight.check_arguments(backbone, 'model.backbone')


def test_right_keys_and_other_projects_backbones_pass():
    preflight.check_arguments(dict(type='KAT', ffn_cfg=dict(type='MLP', bias=False)), 'here')
    preflight.check_arguments(dict(type='mmseg.ResNet', anything=1), 'here')
    preflight.check_arguments(dict(), 'here')


def test_a_misspelt_key_is_found_wherever_it_stands():
    cfg = Config(dict(model=dict(type='mmseg.EncoderDecoder', parts=[dict(type='KAT', arhc='x')])))
    with pytest.raises(UserError, match=r'model\.parts\[0\]\.arhc .*did you mean arch'):
        preflight.check_config(cfg, ())


def test_pretrained_weights_are_tried(tmp_path):
    settings = dict(type='KAT', arch='tiny', img_size=32, out_indices=0)
    path = tmp_path / 'weights.pth'
    torch.save(preflight.build_model(Config(dict(model=settings))).state_dict(), path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    right = Config(dict(model=dict(settings, init_cfg=init_cfg)))
    preflight.check_pretrained(preflight.build_model(right))
    wrong = Config(dict(model=dict(settings, arch='small', init_cfg=[init_cfg])))
    with pytest.raises(UserError, match='weights.pth has weights of other shapes'):
        preflight.check_pretrained(preflight.build_model(wrong))


@pytest.mark.parametrize('error', [TypeError, KeyError, AssertionError, FileNotFoundError])
def test_what_fails_while_building_is_a_mistake_in_the_config(error):
    with pytest.raises(UserError, match='the config cannot be built: .*num_heads'):
        with preflight.config_errors():
            raise error('num_heads')


def test_bugs_while_building_are_no_users_mistakes():
    with pytest.raises(ZeroDivisionError):
        with preflight.config_errors():
            raise ZeroDivisionError


def test_the_model_is_built_without_using_up_its_config():
    model = dict(type='KAT', arch='tiny', img_size=32, out_indices=0, ffn_cfg=dict(type='MLP'))
    cfg = Config(dict(model=model))
    assert len(preflight.build_model(cfg).blocks) == 1
    assert cfg.model == model


def test_a_model_that_cannot_be_built_is_a_users_mistake():
    with pytest.raises(UserError, match="the config cannot be built: .*arch='huge' is unknown"):
        preflight.build_model(Config(dict(model=dict(type='KAT', arch='huge'))))


MODEL = nn.Linear(1000, 1000, bias=False)  # 4 MB, and twice that for Adam


def test_checking_the_work_folder_leaves_nothing(tmp_path):
    preflight.check_work_dir(str(tmp_path / 'a' / 'b'), MODEL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'code, why', [(errno.ENOSPC, 'the disk is full'), (errno.EROFS, 'Read-only file system')]
)
def test_a_work_folder_that_takes_no_data_is_refused(tmp_path, monkeypatch, code, why):
    def fsync(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, 'fsync', fsync)
    with pytest.raises(UserError, match=f'cannot write to the work folder .*: {why}; .*--work-dir'):
        preflight.check_work_dir(str(tmp_path / 'new'), MODEL)


def test_a_disk_without_room_for_one_checkpoint_is_refused(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage._replace(free=11_900_000))
    with pytest.raises(UserError, match='has 12 MB free, and one checkpoint takes about 12 MB'):
        preflight.check_work_dir(str(tmp_path / 'new'), MODEL)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage._replace(free=12_000_000))
    preflight.check_work_dir(str(tmp_path / 'new'), MODEL)


def test_resuming_needs_a_checkpoint(tmp_path):
    with pytest.raises(UserError, match='--resume found no checkpoint in'):
        preflight.latest_checkpoint(str(tmp_path))
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_4.pth'))
    with pytest.raises(UserError, match='--resume found no checkpoint in'):
        preflight.latest_checkpoint(str(tmp_path))
    (tmp_path / 'iter_4.pth').touch()
    assert preflight.latest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_4.pth')


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'model.pth'
    torch.save(dict(state_dict=weights(backbone_a=(2, 3), head_b=(4,)).state_dict()), path)
    return str(path)


def test_a_checkpoint_of_the_model_passes(checkpoint):
    preflight.check_checkpoint(checkpoint, weights(backbone_a=(2, 3), head_b=(4,)), strict=True)


def test_other_heads_pass_for_fine_tuning_alone(checkpoint):
    model = weights(backbone_a=(2, 3), head_b=(5,))
    preflight.check_checkpoint(checkpoint, model, strict=False)
    with pytest.raises(UserError, match=r'head.b: .*\[4\].*\[5\]'):
        preflight.check_checkpoint(checkpoint, model, strict=True)


def test_another_backbone_is_refused(checkpoint):
    with pytest.raises(UserError, match=r'backbone.a: .*\[2, 3\].*\[9, 3\]'):
        preflight.check_checkpoint(checkpoint, weights(backbone_a=(9, 3)), strict=False)


def test_missing_weights_are_counted(checkpoint):
    model = weights(backbone_a=(2, 3), head_b=(4,), head_c=(1,), head_d=(1,))
    preflight.check_checkpoint(checkpoint, model, strict=False)
    with pytest.raises(UserError, match='it lacks 2 tensors, such as head.c'):
        preflight.check_checkpoint(checkpoint, model, strict=True)


def test_a_checkpoint_of_something_else_is_refused(checkpoint):
    with pytest.raises(UserError, match='it lacks 1 tensors, such as other.z'):
        preflight.check_checkpoint(checkpoint, weights(other_z=(1,)), strict=False)


# Detection


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
    preflight.check_config(cfg, ('train', 'val'))


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
    assert 'make_sample_data.py coco' in str(error.value)
    assert 'configs/kat_t_mask_rcnn_sample.py' in str(error.value)


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


def test_a_test_servers_images_have_no_annotations(coco_cfg, tmp_path):
    (tmp_path / 'coco/annotations/instances_val2017.json').write_text('{"images": []}')
    coco_cfg.val_evaluator.format_only = True
    check_coco_config(coco_cfg)


def test_an_mmcv_without_operators_is_refused_with_the_way_to_get_them(coco_cfg, monkeypatch):
    for name in [name for name in sys.modules if name.startswith('mmcv.ops')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)
    with pytest.raises(UserError, match='mmcv has no compiled operators.*--no-build-isolation'):
        check_coco_config(coco_cfg)
