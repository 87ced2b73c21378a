import errno
import os
import shutil

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
    with pytest.raises(UserError, match='weights.pth is a KAT of width 192 .* Give its sizes'):
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


def test_a_backbone_with_a_class_token_passes_for_one_without(tmp_path):
    arch = dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=64)
    options = dict(type='KAT', arch=arch, img_size=32, final_norm=False, out_type='featmap')
    classifier, detector = (
        nn.ModuleDict(dict(backbone=preflight.build_model(Config(dict(model={**options, **more})))))
        for more in (dict(), dict(with_cls_token=False, window_size=2, use_rel_pos=True))
    )
    torch.save(classifier.state_dict(), tmp_path / 'classifier.pth')
    preflight.check_checkpoint(str(tmp_path / 'classifier.pth'), detector, strict=False)


def test_a_backbone_for_images_that_are_no_square_passes_for_others(tmp_path):
    arch = dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=64)
    options = dict(type='KAT', arch=arch, patch_size=8)
    wide, square = (
        nn.ModuleDict(
            dict(backbone=preflight.build_model(Config(dict(model=dict(options, img_size=size)))))
        )
        for size in ((16, 40), 32)
    )
    torch.save(wide.state_dict(), tmp_path / 'wide.pth')
    preflight.check_checkpoint(str(tmp_path / 'wide.pth'), square, strict=False)


def test_another_backbone_is_refused(checkpoint):
    with pytest.raises(UserError, match=r'backbone.a: .*\[2, 3\].*\[9, 3\]'):
        preflight.check_checkpoint(checkpoint, weights(backbone_a=(9, 3)), strict=False)


def test_missing_weights_are_counted(checkpoint):
    model = weights(backbone_a=(2, 3), head_b=(4,), head_c=(1,), head_d=(1,))
    preflight.check_checkpoint(checkpoint, model, strict=False)
    with pytest.raises(UserError, match='it lacks 2 tensors, such as head.c'):
        preflight.check_checkpoint(checkpoint, model, strict=True)


def test_weights_alone_are_nothing_to_resume_from(checkpoint, tmp_path):
    model = weights(backbone_a=(2, 3), head_b=(4,))
    with pytest.raises(UserError, match='has no message_hub, meta, optimizer: .*load_from=.*model'):
        preflight.check_checkpoint(checkpoint, model, strict=True, resume=True)
    state = dict(meta={}, message_hub={}, optimizer={}, state_dict=model.state_dict())
    torch.save(state, tmp_path / 'run.pth')
    preflight.check_checkpoint(str(tmp_path / 'run.pth'), model, strict=True, resume=True)


def test_a_checkpoint_of_something_else_is_refused(checkpoint):
    with pytest.raises(UserError, match='it lacks 1 tensors, such as other.z'):
        preflight.check_checkpoint(checkpoint, weights(other_z=(1,)), strict=False)
