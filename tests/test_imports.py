"""What can be imported without the packages that kat_mm can do without."""

import subprocess
import sys

import pytest

# Hides packages as if they were not installed: the finder of installed ones does not find them.
HIDE = """
import sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition('.')[0] in {hidden!r}
        return None if hidden else PathFinder.find_spec(name, path, target)

sys.meta_path = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
"""
TORCH_ALONE = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'triton', 'numpy', 'scipy')
TRAIN = """
import torch
from kat_mm.backbones import KAT

arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
model = KAT(arch, img_size=32, patch_size=8, attn_cfg=dict(type='SoftmaxAttention'))
model.init_weights()
model(torch.randn(2, 3, 32, 32))[0].sum().backward()
assert all(parameter.grad is not None for parameter in model.parameters())
"""


def run(code, hidden=()):
    code = HIDE.format(hidden=set(hidden)) + code
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)


@pytest.mark.parametrize(
    'hidden',
    [TORCH_ALONE, ('mmengine',), ('mmcv',), ('triton',)],
    ids=lambda names: '+'.join(names),
)
def test_operators_layers_and_a_backbone_need_torch_alone(hidden):
    imports = 'import kat_mm, kat_mm.ops, kat_mm.fits, kat_mm.layers, kat_mm.checkpoints\n'
    result = run(imports + TRAIN, hidden)
    assert result.returncode == 0, result.stderr
    assert 'Traceback' not in result.stderr


def test_names_are_registered_where_mmengine_is():
    code = """
import kat_mm
from mmengine.registry import DATASETS, FUNCTIONS, HOOKS, MODELS, RUNNERS, TRANSFORMS
for registry, name in (
    (MODELS, 'KAT'), (MODELS, 'LN2d'), (MODELS, 'SimpleFeaturePyramid'),
    (HOOKS, 'SeedIterationHook'), (RUNNERS, 'CheckpointRunner'), (TRANSFORMS, 'CheckLabels'),
    (DATASETS, 'TorchvisionArrays'), (FUNCTIONS, 'compact_collate'),
    (FUNCTIONS, 'packed_collate'),
):
    assert registry.get(name).__module__.startswith('kat_mm.'), name
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_an_import_leaves_how_other_models_read_files():
    code = """
import torch
from mmengine.fileio.handlers import PickleHandler
before = torch.load, PickleHandler.load_from_fileobj
import kat_mm
assert (torch.load, PickleHandler.load_from_fileobj) == before
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_a_broken_mmengine_raises(tmp_path):
    (tmp_path / 'mmengine').mkdir()
    (tmp_path / 'mmengine' / '__init__.py').write_text("raise OSError('broken installation')")
    code = f'import sys; sys.path.insert(0, {str(tmp_path)!r}); import kat_mm'
    result = run(code)
    assert result.returncode != 0 and 'broken installation' in result.stderr


def test_names_are_found_where_scripts_of_others_import_them_from():
    code = """
from kat_mm.checkpoints import convert_for_model, load_pretrained
from kat_mm.engine.class_folders import find_class_folders
from kat_mm import backbones, checkpoints
from kat_mm.checks import classification
assert load_pretrained is backbones.load_pretrained
assert convert_for_model is backbones.convert_for_model
assert find_class_folders is classification.find_class_folders
assert not hasattr(checkpoints, 'nothing')
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_importing_leaves_out_what_is_heavy_and_rare():
    code = 'import sys, kat_mm; print({"matplotlib", "scipy", "mmdet"} & sys.modules.keys())'
    assert run(code).stdout.strip() == 'set()'


def test_heads_of_mmdet_run_without_mmseg():
    """Whose imports may fail, as its own do without ftfy."""
    result = run('import kat_mm.dense.detection', ('mmseg',))
    assert result.returncode == 0, result.stderr
    code = 'import sys, kat_mm.dense.detection\nassert "mmseg" not in sys.modules'
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_heads_of_mmseg_run_without_the_compiled_operators_of_mmcv():
    code = """
import sys
sys.modules['mmcv._ext'] = None  # as if it were not there
from mmengine.registry import init_default_scope
import mmseg.models
from mmseg.registry import MODELS
from kat_mm.dense import use_segmentation_kernels
init_default_scope('mmseg')
model = MODELS.build(dict(
    type='EncoderDecoder',
    backbone=dict(type='KAT', img_size=32, out_indices=0, out_type='featmap'),
    decode_head=dict(type='FCNHead', in_channels=192, channels=8, num_classes=3),
    test_cfg=dict(mode='whole'),
))
use_segmentation_kernels(model)
assert 'loss_by_feat' in vars(model.decode_head)
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
