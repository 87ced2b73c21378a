from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.model import BaseTTAModel
from torch import nn

from kat_mm.engine import SegmentationKernelsHook, segmentation_kernels


class Wrapped(BaseTTAModel):
    def __init__(self, module):
        nn.Module.__init__(self)
        self.module = module

    def merge_preds(self, data_samples_list):
        raise NotImplementedError


@pytest.fixture
def changed(monkeypatch):
    calls = []
    monkeypatch.setattr(
        segmentation_kernels, 'use_segmentation_kernels', lambda *args: calls.append(args)
    )
    return calls


@pytest.mark.parametrize('keep_logits', [False, True])
def test_the_model_of_a_run_is_changed_before_it(changed, keep_logits):
    model = nn.Identity()
    hook = SegmentationKernelsHook(keep_logits=keep_logits)
    hook.before_run(SimpleNamespace(model=model))
    assert changed == [(model, keep_logits)]


def test_test_time_augmentation_averages_logits_and_so_keeps_them(changed):
    model = nn.Identity()
    SegmentationKernelsHook().before_run(SimpleNamespace(model=Wrapped(model)))
    assert changed == [(model, True)]


def test_one_line_leaves_the_model_to_mmseg(changed):
    SegmentationKernelsHook(enabled=False).before_run(SimpleNamespace(model=nn.Identity()))
    assert not changed


@pytest.mark.parametrize('name', ['kat_s_upernet_ade20k', 'kat_t_upernet_camvid'])
def test_our_configs_have_the_hook_and_one_line_turns_it_off(name):
    cfg = Config.fromfile(f'configs/{name}.py')
    assert cfg.default_hooks.segmentation_kernels == dict(type='SegmentationKernelsHook')
    cfg.merge_from_dict({'default_hooks.segmentation_kernels.enabled': False})
    kwargs = dict(cfg.default_hooks.segmentation_kernels)
    assert kwargs.pop('type') == 'SegmentationKernelsHook'
    assert not SegmentationKernelsHook(**kwargs).enabled
