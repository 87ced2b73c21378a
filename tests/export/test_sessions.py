"""Models of strangers: which files they are read from, and what is said where they do not fit."""

import json

import numpy as np
import pytest

from kat_mm.errors import UserError
from kat_mm.export import load
from kat_mm.export.description import Description, described
from kat_mm.export.sessions import open_session

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

SOUND = dict(
    file='model.onnx', format='onnx', task='classification', inputs=['image'], outputs=['logits'],
    batch=None, size=[8, 8], multiple=8, mean=[0.0] * 3, std=[1.0] * 3, channel_order='rgb',
    preprocessing=False, half=False, classes=['a', 'b'],
    resize=dict(mode='crop', short_side=9, interpolation='bicubic'),
)  # fmt: skip
IMAGE = np.full((10, 12, 3), 7, np.uint8)


def weights(value, location=None):
    array = np.tile(np.float32([value, 0]), (192, 1))
    tensor = onnx.numpy_helper.from_array(array, 'weights')
    if location is None:
        return tensor
    tensor.ClearField('raw_data')
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, text in (('location', location), ('offset', '0'), ('length', str(array.nbytes))):
        tensor.external_data.add(key=key, value=text)
    return tensor


def write(path, tensor, in_node=False):
    """A linear classifier, with weights of the graph or of a node."""
    helper, single = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node('Flatten', ['image'], ['flat']),
        helper.make_node('MatMul', ['flat', 'weights'], ['logits']),
    ]
    if in_node:
        nodes.insert(0, helper.make_node('Constant', [], ['weights'], value=tensor))
    graph = helper.make_graph(
        nodes,
        'location',  # a word that models without such weights have too
        [helper.make_tensor_value_info('image', single, [1, 3, 8, 8])],
        [helper.make_tensor_value_info('logits', single, [1, 2])],
        [] if in_node else [tensor],
    )
    opset = helper.make_opsetid('', 17)
    path.write_bytes(
        helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()
    )


@pytest.mark.parametrize('location', [None, 'model.onnx.data'])
def test_weights_of_the_file_and_of_the_one_beside_it_are_read(location, tmp_path):
    path = tmp_path / 'model.onnx'
    write(path, weights(1, location))
    np.tile(np.float32([1, 0]), (192, 1)).tofile(tmp_path / 'model.onnx.data')
    Description(**SOUND).write(path)
    assert load(path)(IMAGE).scores.tolist() == [1, 0]
    if location is not None:
        (tmp_path / location).write_bytes(bytes(1536))
        with pytest.raises(UserError, match='describes another file'):
            load(path)


@pytest.mark.parametrize('in_node', [False, True])
@pytest.mark.parametrize(
    'location', ['../secret', '{folder}/secret', 'other.data', '/dev/zero', './model.onnx.data']
)
def test_weights_in_other_files_are_refused(location, in_node, tmp_path):
    folder = tmp_path / 'model'
    folder.mkdir()
    for file in (tmp_path / 'secret', folder / 'other.data', folder / 'model.onnx.data'):
        file.write_bytes(bytes(1536))
    write(folder / 'model.onnx', weights(1, location.format(folder=tmp_path)), in_node)
    with pytest.raises(UserError, match=r"has weights in '.*'; they are to be in the file itself"):
        open_session(folder / 'model.onnx')


@pytest.mark.parametrize(
    'changes',
    [
        dict(inputs=['image', 'sizes']),
        dict(task='detection'),
        dict(task='segmentation'),
        dict(task='panoptic', outputs=['class_logits', 'mask_logits']),
        dict(preprocessing=True),
        dict(size=[16, 16], resize=dict(mode='stretch')),
        dict(batch=2),
        dict(task='instance', outputs=['class_logits', 'mask_logits']),
    ],
    ids=lambda changes: ' '.join(changes),
)
def test_a_file_that_computes_something_else_is_named(changes, tmp_path):
    path = tmp_path / 'model.onnx'
    write(path, weights(1))
    Description(**{**SOUND, **changes}).write(path)
    with pytest.raises(UserError, match='^model.onnx does not compute what model.onnx.json descr'):
        load(path)(IMAGE)


@pytest.mark.parametrize(
    'changes',
    [
        dict(size=[10**9, 10**9]),
        dict(size=[8, 8193]),
        dict(multiple=10**9),
        dict(batch=10**9),
        dict(mean=[10**400, 0, 0]),
        dict(resize=dict(mode='crop', short_side=10**9, interpolation='bicubic')),
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_sizes_that_fill_the_memory_are_refused(changes, tmp_path):
    path = tmp_path / 'model.onnx'
    write(path, weights(1))
    Description(**SOUND).write(path)
    content = json.loads(described(path).read_text())
    described(path).write_text(json.dumps({**content, **changes}))
    (name,) = changes
    with pytest.raises(UserError, match=f'does not describe an exported model: {name} is'):
        load(path)
