"""Each tool ends a bad input with one message, and leaves nothing half-made."""

import importlib
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kat_mm.backbones import KAT

ROOT = Path(__file__).resolve().parents[2]
SMALL = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
CONFIG = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[0.0] * 3, std=[1.0] * 3),
    backbone=dict(type='KAT', arch=dict({arch}), img_size=32, patch_size=8),
)
"""


class Command:
    """A pickle of it runs a command of the shell when it is read."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def fails(monkeypatch, tmp_path, capsys):
    """Run a tool that must end in one message and leave the files as before: the message."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    monkeypatch.chdir(tmp_path)
    # Handlers of earlier tests write to streams that pytest has closed.
    monkeypatch.setattr(logging, 'raiseExceptions', False)
    (tmp_path / 'a_file').touch()
    (tmp_path / 'a_folder').mkdir()
    model = KAT(SMALL, img_size=32, patch_size=8)
    torch.save(model.state_dict(), tmp_path / 'kat.pth')
    for name, value in (('nan', float('nan')), ('inf', float('inf'))):
        state = dict(model.state_dict())
        for part in ('mlp.act1.weight_numerator', 'attn.qkv.weight'):
            state[f'blocks.1.{part}'] = torch.full_like(state[f'blocks.1.{part}'], value)
        torch.save(state, tmp_path / f'{name}.pth')
    arch = ', '.join(f'{key}={value}' for key, value in SMALL.items())
    (tmp_path / 'config.py').write_text(CONFIG.format(arch=arch))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / 'image.png')
    (tmp_path / 'text.png').write_text('no image')

    torch.save({**model.state_dict(), 'code': Command(f'touch {tmp_path}/ran')}, 'evil.pth')

    def run(tool, *args):
        before = sorted(tmp_path.rglob('*'))
        module = importlib.import_module(tool)
        monkeypatch.setattr(sys, 'argv', [f'{tool}.py', *map(str, args)])
        with pytest.raises(SystemExit) as end:
            main = module.main
            module.run_tool(main) if hasattr(module, 'run_tool') else main()
        assert sorted(tmp_path.rglob('*')) == before
        assert 'Traceback' not in capsys.readouterr().err
        message = str(end.value.code)
        assert message.startswith('error: ') and '\n' not in message
        return message

    return run


NOTHING = ['--num-pictures', '0', '--num-counted', '0']
INFER = ['config.py', 'kat.pth', 'image.png', '--out', 'x']
HUGE = ['--size', '1000000000', '1000000000']
ATTENTION = ['--model', 'config.py', 'kat.pth']


@pytest.mark.parametrize(
    'tool, args, message',
    [
        ('convert_checkpoint', ['nan.pth', 'out.pth'], 'NaN or infinite, in 2 of'),
        ('convert_checkpoint', ['inf.pth', 'out.safetensors'], 'the first blocks.1.'),
        ('convert_checkpoint', ['kat.pth', 'a_folder'], 'must end in .pth or .safetensors'),
        ('convert_checkpoint', ['kat.pth', 'a_file/out.pth'], 'cannot write a_file/out.pth'),
        ('convert_checkpoint', ['a_file', 'out.pth'], 'a_file is an empty file'),
        ('convert_checkpoint', ['a_folder', 'out.pth'], 'a_folder is a folder'),
        ('convert_checkpoint', ['evil.pth', 'out.pth'], 'evil.pth holds more than tensors'),
        ('plot_rationals', ['evil.pth'], 'evil.pth holds more than tensors'),
        ('plot_attention', ['image.png', *ATTENTION[:2], 'evil.pth'], 'would run code'),
        ('test', ['config.py', 'evil.pth'], 'would run code'),
        ('plot_rationals', ['nan.pth'], 'nan.pth has weights that are NaN or infinite'),
        ('plot_rationals', ['inf.pth'], 'inf.pth has weights that are NaN or infinite'),
        ('plot_rationals', ['kat.pth', '--out', 'a_folder'], 'its ending must be one of'),
        ('plot_rationals', ['kat.pth', '--out', 'kat.xyz'], 'its ending must be one of'),
        ('plot_rationals', ['kat.pth', '--out', 'a_file/kat.png'], 'cannot write a_file/kat.png'),
        ('plot_attention', ['text.png', *ATTENTION], 'text.png is no image that can be read'),
        ('plot_attention', ['none.png', *ATTENTION], 'none.png is no image that can be read'),
        ('plot_attention', ['image.png', *ATTENTION[:2], 'nan.pth'], 'NaN or infinite'),
        ('plot_attention', ['image.png', *ATTENTION, '--out', 'a_file/x.png'], 'cannot write'),
        ('plot_attention', ['image.png', *ATTENTION, '--out', 'x.txt'], 'its ending must be one'),
        ('plot_attention', ['image.png', *ATTENTION, '--blocks', '7'], 'block'),
        ('plot_attention', ['image.png', *ATTENTION, '--query', '9', '0'], 'outside of the grid'),
        ('make_sample_data', ['ade20k', '--out', 'a_file'], 'cannot write'),
        ('make_sample_data', ['ade20k', '--size', '0', '5'], 'must be'),
        ('make_sample_data', ['ade20k', '--num-train', '-1'], 'must be'),
        ('fit_rational', ['x*9**9**9'], 'cannot be evaluated'),
        ('fit_rational', ['gelu', '--out-dir', 'a_file'], 'cannot write'),
        ('voc_to_coco', ['a_folder'], 'Annotations does not exist; Pascal VOC has'),
        ('test', ['config.py', 'kat.pth', '--out', 'a_file'], '--out a_file: a_file is a file'),
        ('test', ['config.py', 'kat.pth', '--show-dir', 'a_file/x'], 'a_file is a file; name'),
        ('analyze_model', ['config.py', '--size', '0', '9'], 'whole numbers from 1 to 8192'),
        (
            'analyze_model',
            ['config.py', '--size', '9', '1000000000'],
            '--size 9 1000000000 must be',
        ),
        ('analyze_model', ['config.py', '--batch-size', '1000000000'], 'from 1 to 4096'),
        ('analyze_model', ['config.py', '--out', 'a_folder'], 'is a folder; name a JSON file'),
        ('analyze_model', ['config.py', '--out', 'a_file/x.json'], 'a_file is a file; name'),
        ('browse_dataset', ['config.py', '--out', 'x', '--seed', '-3'], '--seed -3 must be'),
        ('browse_dataset', ['config.py', '--out', 'x', *NOTHING], 'leave nothing to show'),
        ('knn', ['config.py', 'kat.pth', '--k', '0'], '--k 0 must be a whole number from 1'),
        ('knn', ['config.py', 'kat.pth', '--temperature', '0'], '--temperature 0.0 must be'),
        ('knn', ['config.py', 'kat.pth', '--temperature', 'nan'], '--temperature nan must be'),
        ('knn', ['config.py', 'kat.pth', '--temperature', 'inf'], '--temperature inf must be'),
        ('infer', [*INFER, '--batch-size', '1000000000'], 'from 1 to 4096'),
        ('infer', [*INFER, '--score-threshold', 'nan'], 'must lie in [0, 1]'),
        (
            'export',
            ['config.py', 'kat.pth', '--format', 'onnx', '--batch', '0'],
            '--batch 0 must be',
        ),
        ('export', ['config.py', 'kat.pth', '--format', 'onnx', *HUGE], 'from 1 to 8192'),
        ('check_data', ['none.py'], 'config none.py does not exist'),
    ],
)
def test_bad_inputs_of_tools(fails, tool, args, message):
    assert message in fails(tool, *args)
