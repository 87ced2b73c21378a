"""Models to files and back: the file in its runtime against PyTorch, and what is refused."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from export_models import ARCH, classifier_config, detector_config, random_model, segmenter_config
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from small_configs import CONFIGS, shrink
from small_configs import load as load_config

from kat_mm.errors import UserError
from kat_mm.export import load
from kat_mm.export.convert import check_format
from kat_mm.export.description import parts_of
from kat_mm.export.export import export_model, metainfo
from kat_mm.export.networks import make_network
from kat_mm.export.sessions import open_session

pytestmark = pytest.mark.usefixtures('one_thread')
onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')


def quietly(_):
    pass


def export(cfg, model, path, formats=('onnx',), **options):
    """What stands beside each file."""
    return list(export_model(cfg, model, path, formats, report=quietly, **options).values())


def small(name):
    """The model of one of the project's configs at a small size, and the config."""
    (path,) = (path for path in CONFIGS if path.stem == name)
    cfg = load_config(path)
    head = cfg.model.get('panoptic_head') or cfg.model.get('decode_head') or {}
    if 'num_blocks' in head:
        head.num_blocks = 1
    shrink(cfg)
    if 'lsj' in name:  # sides that a frozen backbone's patches divide
        cfg.model.backbone.img_size = 70
    return cfg, random_model(cfg)


def image(height=70, width=99):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_classifier_in_onnx_openvino_and_torch_agrees_with_pytorch(tmp_path):
    pytest.importorskip('openvino')
    cfg = classifier_config()
    formats = ('onnx', 'openvino', 'torch')
    files = export_model(cfg, random_model(cfg), tmp_path / 'model', formats, report=quietly)
    assert [path.suffix for path in files] == ['.onnx', '.xml', '.pt2']
    for path, described in files.items():
        assert {entry['shape'][0] for entry in described.differences} == {1, 3}
        assert all(entry['differences']['logits'] < 1e-5 for entry in described.differences)
        assert load(path, allow_pickle=True)(image()).scores.shape == (10,)
    assert str(Path(torch.__file__).parent).encode() not in (tmp_path / 'model.onnx').read_bytes()


@pytest.mark.slow
def test_a_compiled_package_agrees_with_pytorch(tmp_path, monkeypatch):
    if shutil.which(os.environ.get('CXX', 'g++')) is None:
        with pytest.raises(UserError, match=r'needs a C\+\+ compiler'):
            check_format('aotinductor')
        pytest.skip('there is no C++ compiler')
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path / 'cache'))
    cfg = classifier_config()
    (described,) = export(cfg, random_model(cfg), tmp_path / 'model', ['aotinductor'])
    assert described.file == 'model.aoti.pt2'
    assert all(entry['differences']['logits'] < 1e-5 for entry in described.differences)
    assert load(tmp_path / 'model.aoti.pt2', allow_pickle=True)(image()).scores.shape == (10,)


# One of each family that exports; files of some are read by PyTorch too.
FAMILIES = {
    'kat_s_eomt_ade20k': ('onnx', 'openvino'),
    'kat_s_eomt_instance_coco': ('onnx', 'openvino'),
    'kat_s_eomt_panoptic_coco': ('onnx', 'openvino', 'torch'),
    'kat_s_fpn_ade20k': ('onnx', 'openvino'),
    'kat_s_linear_ade20k': ('onnx', 'openvino'),  # an FCN head
    'kat_s_segmenter_ade20k': ('onnx', 'openvino'),
    'kat_t_karat_cifar10': ('onnx', 'openvino'),
    'vit_t_karat_universal_cifar10': ('onnx', 'openvino'),
    'dinov2_b_upernet_ade20k': ('onnx', 'openvino'),
    'dinov3_b_upernet_ade20k': ('onnx', 'openvino'),
    'mae_b_mask_rcnn_lsj_coco': ('onnx', 'openvino'),
}
QUICK = ('kat_s_eomt_panoptic_coco', 'kat_t_karat_cifar10', 'dinov3_b_upernet_ade20k')


@pytest.mark.parametrize(
    'name', [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in FAMILIES]
)
def test_every_family_agrees_with_pytorch_in_its_runtimes(tmp_path, name):
    pytest.importorskip('openvino')
    cfg, model = small(name)
    side = -(-64 // cfg.model.backbone.get('patch_size', 16)) * 16
    for described in export(cfg, model, tmp_path / 'model', FAMILIES[name], size=(side, side + 16)):
        assert {entry['shape'][0] for entry in described.differences} == {1, 3}
        largest = max(max(entry['differences'].values()) for entry in described.differences)
        assert largest < (1e-2 if described.task == 'detection' else 1e-4)
        found = load(tmp_path / described.file, allow_pickle=True)(image(), score_threshold=0)
        if described.task == 'segmentation':
            assert found.labels.shape == (70, 99)
        elif described.task == 'panoptic':
            assert found.segments.shape == (70, 99)
            assert len(found.labels) == len(found.scores) == len(found.names)
        elif described.task != 'classification':
            assert found.masks.shape == (len(found.boxes), 70, 99) and len(found.boxes)


@pytest.mark.parametrize(
    'name', ['kat_s_dino_coco', 'kat_s_mask2former_ade20k', 'kat_s_mask2former_panoptic_coco']
)
def test_families_with_deformable_attention_are_refused_by_name(name):
    with pytest.raises(UserError, match=r'is deformable attention \(MultiScaleDeformable'):
        make_network(small(name)[1])


@pytest.mark.parametrize('name', ['kat_s_fcos_coco', 'kat_s_panoptic_fpn_coco'])
def test_what_does_not_export_whole_says_what_does(name):
    with pytest.raises(UserError, match='does not export whole: .* --features'):
        make_network(small(name)[1])


@pytest.mark.slow
@pytest.mark.parametrize('name', ['kat_s_fpn_ade20k', 'kat_s_eomt_ade20k'])
def test_dynamic_sizes_are_dynamic_whatever_the_head(tmp_path, name):
    cfg, model = small(name)
    cfg.model.test_cfg = dict(mode='whole')
    cfg.model.data_preprocessor.size = (64, 64)
    described = export(cfg, model, tmp_path / 'model', ('onnx', 'torch'), dynamic_size=True)
    for one in described:
        shapes = {tuple(entry['shape']) for entry in one.differences}
        # As large as the position embedding, odd and even numbers of patches.
        assert {(1, 3, 64, 64), (3, 3, 80, 112)} <= shapes and len(shapes) >= 7
        assert load(tmp_path / one.file, allow_pickle=True)(image()).labels.shape == (70, 99)


def test_a_rational_function_is_twenty_nodes_and_its_constants_are_folded(tmp_path):
    counts = {}
    for ffn in ('MLP', 'GRKAN'):
        cfg = classifier_config(ffn)
        path = tmp_path / f'{ffn}.onnx'
        export(cfg, random_model(cfg), path, batch=2)
        counts[ffn] = len(onnx.load(path).graph.node)
    # Two blocks of two functions in place of a GELU each, and the first is the identity.
    per_function = (counts['GRKAN'] - counts['MLP'] + 2) / 4
    assert per_function == 20  # 5 + 4 times multiply and add, absolute value, division


def test_a_segmenter_with_dynamic_sizes_and_its_normalisation_inside(tmp_path):
    cfg = segmenter_config()
    model = random_model(cfg)
    path = tmp_path / 'model.onnx'
    (described,) = export(cfg, model, path, preprocessing=True, dynamic_size=True)
    assert described.channel_order == 'rgb'
    assert len({tuple(entry['shape'][2:]) for entry in described.differences}) >= 4
    shape = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [bool(side.dim_param) for side in shape] == [True, False, True, True]
    picture = image(65, 100)
    labels = load(path)(picture).labels
    pixels = torch.from_numpy(picture.transpose(2, 0, 1).copy()).float()
    preprocessor = model.data_preprocessor
    normalised = (pixels - preprocessor.mean) / preprocessor.std
    meta = dict(img_shape=(65, 100), ori_shape=(65, 100))
    with torch.no_grad():
        logits = model.encode_decode(normalised[None], [meta])[0]
    assert (labels == logits.argmax(0).numpy()).mean() > 0.99


@pytest.mark.parametrize(
    'kind, format',
    [
        ('mask', 'onnx'),
        ('mask', 'openvino'),
        pytest.param('cascade', 'onnx', marks=pytest.mark.slow),
        pytest.param('cascade', 'openvino', marks=pytest.mark.slow),
    ],
)
def test_a_detector_finds_what_mmdet_finds(tmp_path, kind, format):
    pytest.importorskip(format)
    from mmdet.structures import DetDataSample

    cfg = detector_config(kind)
    model = random_model(cfg)
    files = export_model(cfg, model, tmp_path / 'model', [format], size=(64, 96), report=quietly)
    ((path, described),) = files.items()
    assert any(entry['inputs'] == 'padded images' for entry in described.differences)
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    meta = dict(img_shape=(60, 90), ori_shape=(60, 90), scale_factor=(1.0, 1.0))
    sample = DetDataSample(metainfo=dict(meta, batch_input_shape=(64, 96)))
    with torch.no_grad():
        expected = model.predict(image, [sample], rescale=False)[0].pred_instances
    session = load(path).session
    boxes, scores, labels, masks = session(image.numpy(), np.array([[60, 90]], np.float32))
    number = len(expected)
    assert 0 < number <= boxes.shape[1]
    assert not scores[0, number:].any() and scores[0, :number].all()
    np.testing.assert_allclose(scores[0, :number], expected.scores.numpy(), atol=1e-5)
    order = dict(zip(range(number), expected.labels.tolist(), strict=True))
    apart = np.abs(boxes[0, :number, None] - expected.bboxes.numpy()[None]).max(-1)
    apart += 1000 * (labels[0, :number, None] != expected.labels.numpy()[None])
    assert apart.min(1).max() < 1e-2 and set(apart.argmin(1)) == set(order)
    assert masks.shape[:2] == boxes.shape[:2]


@pytest.mark.slow
@pytest.mark.parametrize('format', ['onnx', 'openvino', 'torch'])
def test_a_detector_with_dynamic_sizes_pads_and_cuts_windows_at_every_size(tmp_path, format):
    if format == 'openvino':
        pytest.importorskip('openvino')
    cfg = detector_config('mask')
    (path,) = export_model(
        cfg, random_model(cfg), tmp_path / 'm', [format], dynamic_size=True, report=quietly
    )
    model = load(path, allow_pickle=True)
    shapes = {tuple(entry['shape'][2:]) for entry in model.description.differences}
    # Sides of 9 patches, as traced, are full windows of 3; others end in one.
    window = cfg.model.backbone.window_size * cfg.model.backbone.patch_size
    assert len({side % window for shape in shapes for side in shape}) >= 3
    assert model(image(), score_threshold=0).masks.shape[1:] == (70, 99)


@pytest.mark.parametrize('kind', ['onnx', 'openvino'])
def test_half_precision_weights_take_half_the_space(tmp_path, kind):
    pytest.importorskip(kind)
    cfg = classifier_config()
    cfg.model.backbone.update(arch=dict(ARCH, embed_dims=128, feedforward_channels=512))
    cfg.model.head.update(in_channels=128)
    model, sizes = random_model(cfg), []
    for half in (False, True):
        (path,) = export_model(
            cfg, model, tmp_path / f'{half}', [kind], half=half, batch=2, report=quietly
        )
        sizes.append(sum(part.stat().st_size for part in parts_of(path)))
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert 0.45 * weights < sizes[0] - sizes[1] < 0.55 * weights


def test_features_alone(tmp_path):
    cfg = detector_config('mask')
    path = tmp_path / 'model.onnx'
    export(cfg, random_model(cfg), path, features=True, size=(64, 96))
    maps = load(path)(np.zeros((64, 96, 3), np.uint8)).maps
    assert [tuple(level.shape[1:]) for level in maps][0] == (16, 24)


def test_a_file_that_differs_is_not_left_behind(tmp_path):
    cfg = classifier_config()
    path = tmp_path / 'model.onnx'
    with pytest.raises(UserError, match='more than the tolerance'):
        export(cfg, random_model(cfg), path, tolerance=1e-12, batch=2)
    assert not path.exists()


def test_an_image_to_compare_on_that_is_none_is_named_before_the_export(tmp_path):
    cfg = classifier_config()
    (tmp_path / 'image.png').write_text('no image')
    with pytest.raises(UserError, match='image.png is no image'):
        export(cfg, None, tmp_path / 'model.onnx', images=[str(tmp_path / 'image.png')])
    assert not (tmp_path / 'model.onnx').exists()


def test_files_that_could_not_be_compared_are_not_left_behind(tmp_path, monkeypatch):
    cfg = classifier_config()
    opened = []

    def open_first(path, **options):
        opened.append(path)
        if len(opened) > 1:
            raise UserError('its runtime is missing')
        return open_session(path, **options)

    monkeypatch.setattr('kat_mm.export.export.open_session', open_first)
    with pytest.raises(UserError, match='runtime is missing'):
        export(cfg, random_model(cfg), tmp_path / 'model', ['torch', 'onnx'], batch=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['model.pt2', 'model.pt2.json']


def test_what_does_not_export_is_named(tmp_path):
    cfg = detector_config('mask')
    model = random_model(cfg)

    class MultiScaleDeformableAttention(torch.nn.Module):
        pass

    model.neck.attention = MultiScaleDeformableAttention()
    with pytest.raises(UserError, match=r'model\.neck\.attention is deformable attention'):
        export_model(cfg, model, tmp_path / 'm.onnx')
    cfg.model.backbone.in_channels = 4
    with pytest.raises(UserError, match=r'model\.backbone has in_channels=4; models of RGB'):
        export_model(cfg, random_model(cfg), tmp_path / 'm.onnx')


def test_wrong_files_and_inputs_are_refused_by_name(tmp_path):
    cfg = classifier_config()
    path = tmp_path / 'model.onnx'
    export(cfg, random_model(cfg), path, batch=1)
    model = load(path)
    with pytest.raises(UserError, match='takes images of 64 x 64'):
        model.run(np.zeros((1, 3, 32, 64), np.float32))
    with pytest.raises(UserError, match='takes 1 images at once, and was given 2'):
        model.run(np.zeros((2, 3, 64, 64), np.float32))
    text = tmp_path / 'text.jpg'
    text.write_text('no image')
    with pytest.raises(UserError, match='is no image'):
        model(text)
    with pytest.raises(UserError, match='is no image; it must be'):
        model(np.zeros((4, 4), np.uint8))
    Image.new('L', (40, 30)).save(tmp_path / 'grey.png')
    assert model(tmp_path / 'grey.png').names in model.description.classes
    beside = tmp_path / 'model.onnx.json'
    content = json.loads(beside.read_text())
    beside.write_text(json.dumps({**content, 'sha256': '0'}))
    with pytest.raises(UserError, match='describes another file'):
        load(path)
    beside.unlink()
    with pytest.raises(UserError, match='has no model.onnx.json beside it'):
        load(path)


def test_classes_are_those_of_the_data_sets_inside_of_wrappers():
    inner = dict(type='ADE20KDataset', metainfo=dict(classes=('sky', 'tree')))
    joined = dict(type='ConcatDataset', datasets=[dict(type='RepeatDataset', dataset=inner)] * 2)
    init_default_scope('mmseg')
    found = metainfo(Config(dict(test_dataloader=dict(dataset=joined))))
    assert found['classes'] == ['sky', 'tree']
    assert found['palette'][0] == [120, 120, 120]
