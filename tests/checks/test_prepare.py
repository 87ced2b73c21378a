"""What every command line that runs a model does first, and that each of them does it."""

import ast
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from kat_mm import checks
from kat_mm.errors import UserError

TOOLS = Path(__file__).parents[2] / 'tools'
PARTS = {'build_model', 'check_channels', 'check_checkpoint', 'check_pretrained', 'check_work_dir'}


@pytest.fixture
def cfg():
    return Config(dict(model=dict(type='KAT', arch='tiny', img_size=32, out_indices=0)))


def test_the_model_comes_back_with_the_weights_of_the_checkpoint(cfg, tmp_path):
    path = tmp_path / 'model.pth'
    model = checks.build_model(cfg)
    torch.save(dict(state_dict=model.state_dict()), path)
    found = checks.prepare(cfg, (), str(path), work_dir=str(tmp_path / 'run')).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(found[name], value)
    assert [file.name for file in tmp_path.iterdir()] == ['model.pth']


def test_a_work_folder_below_a_file_is_refused(cfg, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot write to the work folder'):
        checks.prepare(cfg, (), work_dir=str(tmp_path / 'file' / 'run'))


@pytest.mark.parametrize('tool', sorted(TOOLS.glob('*.py')), ids=lambda path: path.stem)
def test_tools_do_no_part_of_it_by_themselves(tool):
    tree = ast.parse(tool.read_text())
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not names & PARTS
