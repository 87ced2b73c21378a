"""A file in the place of a model's network; PyTorch's own network plays the runtime here."""

import copy

import pytest
import torch
from export_models import classifier_config, detector_config, random_model, segmenter_config
from small_configs import CONFIGS, shrink
from small_configs import load as load_config

from kat_mm.dense import use_segmentation_kernels
from kat_mm.errors import UserError
from kat_mm.export import ExportedModel
from kat_mm.export.evaluation import use_exported
from kat_mm.export.export import describe
from kat_mm.export.networks import make_network

pytestmark = pytest.mark.usefixtures('one_thread')
SIZES = [(64, 80), (65, 90), (100, 47)]


@pytest.fixture
def exported(monkeypatch):
    """Make ``load`` return a model that computes by PyTorch."""

    def make(cfg, model, **changes):
        network = make_network(model)
        described = describe(cfg, model, network)
        described.multiple, described.file = 16, 'model.onnx'
        for name, value in changes.items():
            setattr(described, name, value)

        def session(*arrays):
            with torch.no_grad():
                outputs = network(*map(torch.from_numpy, arrays))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            return [output.numpy() for output in outputs]

        file = ExportedModel(described, session)
        monkeypatch.setattr('kat_mm.export.evaluation.load', lambda _: file)

    return make


def blank(cfg):
    """A model of the config that only a file lets predict."""
    model = random_model(cfg)
    for parameter in model.parameters():
        parameter.data.zero_()
    return model


def segmented(model, image):
    from mmseg.structures import SegDataSample

    size = tuple(image.shape[1:])
    sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=(77, 91), pad_shape=size))
    with torch.no_grad():
        return model.predict(image[None], [sample])[0].pred_sem_seg.data


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('kernels', [False, True])
def test_a_segmenter_predicts_what_pytorch_does_at_any_size(exported, size, kernels):
    cfg = segmenter_config()
    model, other = random_model(cfg), blank(cfg)
    exported(cfg, copy.deepcopy(model))
    use_exported(other, 'model.onnx', cfg)
    if kernels:
        use_segmentation_kernels(other)
    image = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    expected, found = segmented(model, image), segmented(other, image)
    assert len(expected.unique()) > 1
    assert (found == expected).float().mean() > 0.999


def small(name):
    (path,) = (path for path in CONFIGS if path.stem == name)
    cfg = load_config(path)
    cfg.model.get('panoptic_head', cfg.model.get('decode_head')).num_blocks = 1
    shrink(cfg)
    return cfg


@pytest.mark.parametrize('size', SIZES[:2])
def test_a_label_map_of_queries_is_that_of_pytorch(exported, size):
    cfg = small('kat_s_eomt_ade20k')
    cfg.model.test_cfg = dict(mode='whole')
    model, other = random_model(cfg), blank(cfg)
    exported(cfg, model)
    image = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    expected = segmented(model, image)
    use_exported(other, 'model.onnx', cfg)
    assert (segmented(other, image) == expected).float().mean() > 0.999


@pytest.mark.parametrize('kind', ['panoptic', 'instance'])
def test_segments_and_objects_of_queries_are_those_of_pytorch(exported, kind):
    from mmdet.structures import DetDataSample

    cfg = small(f'kat_s_eomt_{kind}_coco')
    cfg.model.test_cfg.object_mask_thr = 0.0
    model, other = random_model(cfg), blank(cfg)
    exported(cfg, model)
    use_exported(other, 'model.onnx', cfg)
    image = torch.randn(1, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    meta = dict(img_shape=(60, 77), ori_shape=(60, 77), batch_input_shape=(64, 80))
    with torch.no_grad():
        expected, found = (
            each.predict(image, [DetDataSample(metainfo=meta)])[0] for each in (model, other)
        )
    if kind == 'panoptic':
        same = found.pred_panoptic_seg.sem_seg == expected.pred_panoptic_seg.sem_seg
        assert same.float().mean() > 0.999
    else:
        torch.testing.assert_close(
            found.pred_instances.scores.sort().values,
            expected.pred_instances.scores.sort().values,
        )
        assert len(expected.pred_instances) == 100


def test_a_file_of_another_model_is_refused_with_what_differs(exported):
    classifier, segmenter = classifier_config(), segmenter_config()
    exported(classifier, random_model(classifier))
    model = random_model(segmenter)
    with pytest.raises(UserError, match=r'is of classification \(logits\), and the config of segm'):
        use_exported(model, 'model.onnx', segmenter)
    eomt = small('kat_s_eomt_ade20k')
    exported(eomt, random_model(eomt))
    with pytest.raises(UserError, match='class_logits, mask_logits.* of different models'):
        use_exported(model, 'model.onnx', segmenter)
    detector = detector_config('mask')
    with pytest.raises(UserError, match='and the config of detection'):
        use_exported(random_model(detector), 'model.onnx', detector)


def test_other_classes_are_refused_by_name_and_by_number(exported):
    cfg = segmenter_config()
    model = random_model(cfg)
    exported(cfg, model, classes=['road', 'pole', 'sky'])
    with pytest.raises(UserError, match=r'has 3 classes and the config \d+, differing in 0: road'):
        use_exported(model, 'model.onnx', cfg)
    exported(cfg, random_model(cfg), classes=None)
    other = segmenter_config()
    other.model.decode_head.num_classes = 4
    model = use_exported(random_model(other), 'model.onnx', other)
    with pytest.raises(UserError, match=r'predicts \d+ classes and the config 4'):
        segmented(model, torch.zeros(3, 64, 80))


def test_a_segmenter_of_a_fixed_size_takes_no_other(exported):
    cfg = segmenter_config()
    exported(cfg, random_model(cfg), size=[64, 96])
    model = use_exported(random_model(cfg), 'model.onnx', cfg)
    segmented(model, torch.zeros(3, 64, 90))  # PyTorch pads these to the same
    with pytest.raises(UserError, match=r'takes images of 64 x 96 .* --size or --dynamic-size'):
        segmented(model, torch.zeros(3, 64, 80))
