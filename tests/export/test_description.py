"""What stands beside an exported file: whatever is wrong in it is named."""

import json
import os
import zipfile

import pytest
import torch
from torch import nn

from kat_mm.errors import UserError
from kat_mm.export import load
from kat_mm.export.description import Description, described
from kat_mm.export.sessions import open_session

SOUND = dict(
    file='model.onnx', format='onnx', task='classification', inputs=['image'], outputs=['logits'],
    batch=None, size=[32, 32], multiple=8, mean=[0.0] * 3, std=[1.0] * 3, channel_order='rgb',
    preprocessing=False, half=False, classes=['a', 'b'],
    resize=dict(mode='crop', short_side=36, interpolation='bicubic'),
)  # fmt: skip


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'model.onnx'
    path.write_bytes(b'a model')
    Description(**SOUND).write(path)
    return path


def test_a_sound_one_is_read(path):
    assert Description.read(path).size == [32, 32]


@pytest.mark.parametrize(
    'changes',
    [
        dict(task='nothing'),
        dict(task=['classification']),
        dict(inputs=[]),
        dict(inputs='image'),
        dict(inputs=['a', 'b', 'c']),
        dict(outputs=[]),
        dict(outputs=None),
        dict(batch='x'),
        dict(batch=0),
        dict(size='abc'),
        dict(size=[32]),
        dict(size=[0, 32]),
        dict(size=[32.5, 32]),
        dict(multiple=0),
        dict(multiple=True),
        dict(mean=[1]),
        dict(mean=None),
        dict(std=[0, 1, 1]),
        dict(std=[float('nan')] * 3),
        dict(channel_order='xyz'),
        dict(preprocessing='no'),
        dict(half=1),
        dict(resize={}),
        dict(resize=None),
        dict(resize=dict(mode='crop', short_side=36, interpolation='best')),
        dict(resize=dict(mode='crop', short_side=0, interpolation='bicubic')),
        dict(resize=dict(mode='turn')),
        dict(postprocessing=[1]),
        dict(classes=5),
        dict(classes=['a', 7]),
    ],
)
def test_values_that_no_model_has_are_named(path, changes):
    content = json.loads(described(path).read_text())
    described(path).write_text(json.dumps({**content, **changes}))
    (name,) = changes
    with pytest.raises(UserError, match=rf'model.onnx.json does not describe .*: {name} is '):
        Description.read(path)


@pytest.mark.parametrize(
    'text', ['', '[1]', '{"file": 5}', '{"more": 1}', b'\xff\xfe', '[' * 100_000], ids=range(6)
)
def test_other_texts_are_refused(path, text):
    described(path).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match='does not describe an exported model'):
        load(path)


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.fixture
def program(tmp_path):
    """A program of torch.export with open sizes."""
    path, sizes = tmp_path / 'model.pt2', {'x': {0: torch.export.Dim('n', min=2)}}
    torch.export.save(torch.export.export(Double(), (torch.ones(3),), dynamic_shapes=sizes), path)
    return path


def test_programs_of_pytorch_are_opened_where_they_are_trusted(program):
    for name in ('model.pt2', 'model.aoti.pt2'):
        with pytest.raises(UserError, match='is a program, .* say --allow-pickle'):
            open_session(program.with_name(name))
    (found,) = open_session(program, allow_pickle=True)(torch.ones(3).numpy())
    assert found.tolist() == [2, 2, 2]


def test_a_size_in_a_program_may_run_code(program, tmp_path):
    # PyTorch evaluates it, whatever it is: the reason of the test above.
    ran, evil = tmp_path / 'ran', program.with_name('evil.pt2')
    with zipfile.ZipFile(program) as source, zipfile.ZipFile(evil, 'w') as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith('models/model.json'):
                text = content.decode()
                call = f"__import__('os').mkdir('{ran}')"
                at = text.index('"expr_str": "') + len('"expr_str": "')
                content = (text[:at] + call + text[text.index('"', at) :]).encode()
            target.writestr(name, content)
    with pytest.raises(UserError, match='is a program'):
        open_session(evil)
    assert not os.path.exists(ran)
    with pytest.raises(UserError, match='cannot be read'):
        open_session(evil, allow_pickle=True)
    assert os.path.exists(ran)
