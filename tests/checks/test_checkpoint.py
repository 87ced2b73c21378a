import pytest
import torch
from mmengine.config import Config
from torch import nn

from kat_mm import checks
from kat_mm.errors import UserError


def weights(**shapes):
    model = nn.Module()
    for name, shape in shapes.items():
        module, _, name = name.rpartition('_')
        if not hasattr(model, module):
            model.add_module(module, nn.Module())
        getattr(model, module).register_parameter(name, nn.Parameter(torch.ones(shape)))
    return model


def test_pretrained_weights_are_tried(tmp_path):
    settings = dict(type='KAT', arch='tiny', img_size=32, out_indices=0)
    path = tmp_path / 'weights.pth'
    torch.save(checks.build_model(Config(dict(model=settings))).state_dict(), path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    right = Config(dict(model=dict(settings, init_cfg=init_cfg)))
    checks.check_pretrained(checks.build_model(right))
    wrong = Config(dict(model=dict(settings, arch='small', init_cfg=[init_cfg])))
    with pytest.raises(UserError, match='weights.pth is a KAT of width 192 .* Give its sizes'):
        checks.check_pretrained(checks.build_model(wrong))


def test_frozen_blocks_want_a_start(tmp_path):
    settings = dict(type='KAT', arch='tiny', img_size=32, out_indices=0)
    checks.check_pretrained(checks.build_model(Config(dict(model=dict(settings, frozen_stages=0)))))
    settings['frozen_stages'] = 1
    with pytest.raises(UserError, match=r'model\.frozen_stages freezes .* load_from'):
        checks.check_pretrained(checks.build_model(Config(dict(model=settings))))
    model = checks.build_model(Config(dict(model=settings)))
    path = str(tmp_path / 'weights.pth')
    torch.save(model.state_dict(), path)
    model.init_cfg = dict(type='Pretrained', checkpoint=path)
    checks.check_pretrained(model)
    # Of a whole model that holds it.
    whole = nn.Module()
    whole.backbone = checks.build_model(Config(dict(model=settings)))
    with pytest.raises(UserError, match=r'model\.backbone\.init_cfg\.checkpoint'):
        checks.check_pretrained(whole)
    whole.init_cfg = model.init_cfg
    checks.check_pretrained(whole)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'model.pth'
    torch.save(dict(state_dict=weights(backbone_a=(2, 3), head_b=(4,)).state_dict()), path)
    return str(path)


def test_a_checkpoint_of_the_model_passes(checkpoint):
    checks.check_checkpoint(checkpoint, weights(backbone_a=(2, 3), head_b=(4,)), strict=True)


@pytest.mark.parametrize('strict', [True, False])
def test_parameters_are_finite_and_masks_in_buffers_need_not_be(tmp_path, strict):
    model = weights(backbone_a=(2, 3), backbone_b=(4,))
    model.backbone.register_buffer('mask', torch.tensor([-float('inf')]))
    state = model.state_dict()
    path = str(tmp_path / 'model.pth')
    torch.save(state, path)
    checks.check_checkpoint(path, model, strict)
    state['backbone.b'][2] = float('nan')
    torch.save(state, path)
    with pytest.raises(UserError, match='model.pth has weights that are NaN .*backbone.b'):
        checks.check_checkpoint(path, model, strict)


def test_other_heads_pass_for_fine_tuning_alone(checkpoint):
    model = weights(backbone_a=(2, 3), head_b=(5,))
    checks.check_checkpoint(checkpoint, model, strict=False)
    with pytest.raises(UserError, match=r'head.b: .*\[4\].*\[5\]'):
        checks.check_checkpoint(checkpoint, model, strict=True)


def test_a_backbone_with_a_class_token_passes_for_one_without(tmp_path):
    arch = dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=64)
    options = dict(type='KAT', arch=arch, img_size=32, final_norm=False, out_type='featmap')
    classifier, detector = (
        nn.ModuleDict(dict(backbone=checks.build_model(Config(dict(model={**options, **more})))))
        for more in (dict(), dict(with_cls_token=False, window_size=2, use_rel_pos=True))
    )
    torch.save(classifier.state_dict(), tmp_path / 'classifier.pth')
    checks.check_checkpoint(str(tmp_path / 'classifier.pth'), detector, strict=False)


def test_a_backbone_for_images_that_are_no_square_passes_for_others(tmp_path):
    arch = dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=64)
    options = dict(type='KAT', arch=arch, patch_size=8)
    wide, square = (
        nn.ModuleDict(
            dict(backbone=checks.build_model(Config(dict(model=dict(options, img_size=size)))))
        )
        for size in ((16, 40), 32)
    )
    torch.save(wide.state_dict(), tmp_path / 'wide.pth')
    checks.check_checkpoint(str(tmp_path / 'wide.pth'), square, strict=False)


def test_another_backbone_is_refused(checkpoint):
    with pytest.raises(UserError, match=r'backbone.a: .*\[2, 3\].*\[9, 3\]'):
        checks.check_checkpoint(checkpoint, weights(backbone_a=(9, 3)), strict=False)


def test_missing_weights_are_counted(checkpoint):
    model = weights(backbone_a=(2, 3), head_b=(4,), head_c=(1,), head_d=(1,))
    checks.check_checkpoint(checkpoint, model, strict=False)
    with pytest.raises(UserError, match='it lacks 2 tensors, such as head.c'):
        checks.check_checkpoint(checkpoint, model, strict=True)


def test_weights_alone_are_nothing_to_resume_from(checkpoint, tmp_path):
    model = weights(backbone_a=(2, 3), head_b=(4,))
    with pytest.raises(UserError, match='has no message_hub, meta, optimizer: .*load_from=.*model'):
        checks.check_checkpoint(checkpoint, model, strict=True, resume=True)
    state = dict(meta={}, message_hub={}, optimizer={}, state_dict=model.state_dict())
    torch.save(state, tmp_path / 'run.pth')
    checks.check_checkpoint(str(tmp_path / 'run.pth'), model, strict=True, resume=True)


def test_a_run_whose_parameters_had_other_names_is_no_run_to_resume(tmp_path):
    model = weights(backbone_a=(2, 3), head_b=(4,))
    old = weights(backbone_a=(2, 3), head_old=(4,)).state_dict()
    path = str(tmp_path / 'run.pth')
    torch.save(dict(meta={}, message_hub={}, optimizer={}, state_dict=old), path)

    def rename(module, state_dict, prefix, *_):
        if 'head.old' in state_dict:
            state_dict['head.b'] = state_dict.pop('head.old')

    model.register_load_state_dict_pre_hook(rename)
    checks.check_checkpoint(path, model, strict=True)
    with pytest.raises(UserError, match='such as head.b: .*another order.*load_from'):
        checks.check_checkpoint(path, model, strict=True, resume=True)


def test_a_checkpoint_of_something_else_is_refused(checkpoint):
    with pytest.raises(UserError, match='it lacks 1 tensors, such as other.z'):
        checks.check_checkpoint(checkpoint, weights(other_z=(1,)), strict=False)
