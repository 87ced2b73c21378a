import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from kat_mm.backbones import KAT, load_pretrained

ROOT = Path(__file__).resolve().parents[2]
SMALL = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)


@pytest.fixture
def convert(monkeypatch, capsys):
    """Run the tool; returns its exit message (None for success) and what it printed."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import convert_checkpoint

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['convert_checkpoint.py', *map(str, args)])
        message = None
        try:
            convert_checkpoint.run_tool(convert_checkpoint.main)
        except SystemExit as end:
            message = end.code
        return message, capsys.readouterr().out

    return run


@pytest.fixture
def model():
    return nn.ModuleDict(
        {'backbone': KAT(SMALL, img_size=32, patch_size=8), 'decode_head': nn.Linear(16, 3)}
    )


def test_a_model_of_this_project_is_written_officially_and_back(convert, model, tmp_path):
    torch.save({'meta': {}, 'state_dict': model.state_dict()}, tmp_path / 'in.pth')
    message, output = convert(tmp_path / 'in.pth', tmp_path / 'kat.pth')
    assert message is None
    assert 'a KAT of width 16 with 2 blocks' in output
    assert 'left out: decode_head.weight, decode_head.bias' in output
    official = torch.load(tmp_path / 'kat.pth', weights_only=True)
    assert official.keys() == model['backbone'].state_dict().keys()
    convert(tmp_path / 'kat.pth', tmp_path / 'back.pth', '--layout', 'kat_mm')
    back = torch.load(tmp_path / 'back.pth', weights_only=True)
    for key, value in model['backbone'].state_dict().items():
        assert torch.equal(back[f'backbone.{key}'], value)


class Secret:
    """A class of someone's training script, which a checkpoint may hold."""


def test_a_pickle_is_read_when_it_is_allowed(convert, model, tmp_path):
    content = {'state_dict': model.state_dict(), 'settings': Secret()}
    torch.save(content, tmp_path / 'in.pth')
    message, _ = convert(tmp_path / 'in.pth', tmp_path / 'out.pth')
    assert 'would run code' in message and '--allow-pickle' in message
    assert not (tmp_path / 'out.pth').exists()
    message, _ = convert(tmp_path / 'in.pth', tmp_path / 'out.pth', '--allow-pickle')
    assert message is None
    assert isinstance(torch.load(tmp_path / 'out.pth', weights_only=True), OrderedDict)


@pytest.mark.parametrize('target', ['out.bin', 'folder/in.pth/out.pth'])
def test_what_cannot_be_written_is_said_and_leaves_nothing(convert, model, tmp_path, target):
    (tmp_path / 'folder').mkdir()
    torch.save(model.state_dict(), tmp_path / 'folder' / 'in.pth')
    before = sorted(tmp_path.rglob('*'))
    message, _ = convert(tmp_path / 'folder' / 'in.pth', tmp_path / target)
    assert message.startswith('error: ') and 'out.' in message
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize('act', [None, 'gelu_tanh'])
@pytest.mark.parametrize('gated', [False, True])
@torch.no_grad()
def test_a_vit_is_written_as_the_kat_that_starts_as_it(convert, gated, act, tmp_path):
    torch.manual_seed(0)
    options = dict(arch=SMALL, img_size=32, patch_size=8, num_registers=1)
    function = act or ('silu' if gated else 'gelu')
    vit = KAT(**options, ffn_cfg=dict(type='SwiGLU' if gated else 'MLP', act=function))
    torch.save(vit.state_dict(), tmp_path / 'vit.pth')
    choice = ['--act', act] if act else []
    message, _ = convert(tmp_path / 'vit.pth', tmp_path / 'kat.pth', '--to-kat', *choice)
    assert message is None
    # Other starts, which the file replaces.
    kind = dict(type='GatedGRKAN' if gated else 'GRKAN', act_init=('relu', 'tanh'))
    kat, x = KAT(**options, ffn_cfg=kind), torch.randn(4, 3, 32, 32)
    load_pretrained(kat, tmp_path / 'kat.pth')
    (got,), (want,) = kat(x), vit(x)
    assert (got - want).norm() < 0.01 * want.norm()
    message, _ = convert(tmp_path / 'kat.pth', tmp_path / 'again.pth', '--to-kat')
    assert 'becomes no KAT: it is a KAT already' in message
    message, _ = convert(tmp_path / 'vit.pth', tmp_path / 'k.pth', '--to-kat', '--groups', '5')
    assert '5 groups do not divide its 16 and 32 channels; choose a divisor of 16' in message


def test_what_is_ignored_is_left_out_and_said(convert, model, tmp_path):
    state = {**model['backbone'].state_dict(), 'surplus.weight': torch.ones(1)}
    torch.save(state, tmp_path / 'in.pth')
    message, output = convert(tmp_path / 'in.pth', tmp_path / 'out.pth', '--ignore', 'surplus')
    assert message is None and 'left out: surplus.weight' in output
    load_pretrained(KAT(SMALL, img_size=32, patch_size=8), tmp_path / 'out.pth')
