"""A model called with images: the library's own predictions, for every task."""

import cv2
import numpy as np
import pytest
import torch
from export_models import classifier_config, detector_config, segmenter_config
from mmengine.dataset import Compose, pseudo_collate

from kat_mm import checks
from kat_mm.engine.configs import read_config
from kat_mm.engine.inference import Predictor, classes_of, read_image
from kat_mm.errors import UserError

CONFIGS = {
    'classification': classifier_config,
    'segmentation': segmenter_config,
    'detection': lambda: detector_config('mask'),
}


@pytest.fixture(scope='module', params=CONFIGS)
def trained(request, tmp_path_factory):
    """A task, its config, and a checkpoint with random weights."""
    torch.manual_seed(0)
    cfg = CONFIGS[request.param]()
    checks.check_config(cfg, ())
    path = tmp_path_factory.mktemp('weights') / 'model.pth'
    torch.save(dict(state_dict=checks.build_model(cfg).state_dict()), path)
    return request.param, cfg, path


@pytest.fixture
def images(tmp_path):
    """Files of two sizes."""
    rng = np.random.default_rng(0)
    paths = []
    for i, (height, width) in enumerate([(60, 80), (90, 70)]):
        blocks = rng.integers(0, 256, (height // 10, width // 10, 3), np.uint8)
        paths.append(tmp_path / f'{i}.png')
        cv2.imwrite(str(paths[-1]), np.kron(blocks, np.ones((10, 10, 1), np.uint8)))
    return paths


def outputs(sample) -> dict[str, torch.Tensor]:
    if 'pred_score' in sample:
        return dict(scores=sample.pred_score)
    if 'pred_sem_seg' in sample:
        return dict(labels=sample.pred_sem_seg.data)
    return dict(sample.pred_instances.items())


def test_predictions_are_those_of_the_library_on_the_same_files(trained, images):
    task, cfg, checkpoint = trained
    predictor = Predictor(cfg, checkpoint, device='cpu')
    assert predictor.task == task
    if task == 'detection':  # whose batches are padded to a common size, which a random model sees
        found = [predictor([path])[0] for path in images]
    else:
        found = predictor(images)
    # What a data set of the library does with a file.
    pipeline = [
        step for step in cfg.test_dataloader.dataset.pipeline
        if step['type'] not in ('LoadAnnotations', 'CheckLabels')
    ]  # fmt: skip
    for path, sample in zip(images, found, strict=True):
        assert sample.ori_shape == cv2.imread(str(path)).shape[:2]
        data = Compose(pipeline)(dict(img_path=str(path), img_id=0))
        with torch.no_grad():
            (expected,) = predictor.model.test_step(pseudo_collate([data]))
        for name, value in outputs(expected).items():
            got = outputs(sample)[name]
            got, value = (torch.as_tensor(x).float() for x in (got, value))
            assert got.shape == value.shape, name
            torch.testing.assert_close(got, value)


def test_images_are_grey_where_those_of_the_config_are(tmp_path, images):
    cfg = segmenter_config()
    cfg.model.backbone.in_channels = 1
    cfg.model.data_preprocessor.update(mean=[116.0], std=[57.0], bgr_to_rgb=False)
    pipeline = cfg.test_dataloader.dataset.pipeline
    pipeline[0].color_type = 'grayscale'
    checks.check_config(cfg, ())
    torch.save(dict(state_dict=checks.build_model(cfg).state_dict()), tmp_path / 'model.pth')
    predictor = Predictor(cfg, tmp_path / 'model.pth', device='cpu')
    steps = [step for step in pipeline if step['type'] not in ('LoadAnnotations', 'CheckLabels')]
    for path in images:
        found = predictor.prepare(read_image(path))['inputs']
        expected = Compose(steps)(dict(img_path=str(path), img_id=0))['inputs']
        assert found.shape == expected.shape and len(found) == 1
        # Decoders round as they like.
        assert (found.int() - expected.int()).abs().max() <= 1
    assert len(predictor(images)) == 2


def test_half_precision_is_near_and_not_the_same(trained, images):
    task, cfg, checkpoint = trained
    if task != 'classification':
        pytest.skip('a label or a box may change altogether')
    whole, half = (
        Predictor(cfg, checkpoint, 'cpu', half)(images)[0].pred_score for half in (False, True)
    )
    assert not torch.equal(whole, half)
    torch.testing.assert_close(whole, half.float(), rtol=0, atol=0.02)


def test_a_prediction_is_drawn_on_its_image(trained, images):
    _, cfg, checkpoint = trained
    predictor = Predictor(cfg, checkpoint, 'cpu')
    picture = predictor.draw(images[0], predictor(images[:1])[0], score_threshold=0.0)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    # Enlarged for its writing, and a legend below it.
    assert picture.shape[1] == 480 and picture.shape[0] > 360


def test_a_config_by_name_has_the_colours_of_its_data():
    cfg = read_config('kat_t_upernet_sample')
    classes = classes_of(cfg, cfg.test_dataloader.dataset)
    # ADE20K's own.
    assert classes.name(0) == 'sky' and classes.color(0) == (6, 230, 230)
    assert classes.name(3) == 'grass' and classes.color(3) == (4, 250, 7)


@pytest.mark.parametrize(
    'image', [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((3, 4, 4), np.uint8)]
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(UserError, match=r'must be \(H, W, 3\), BGR, uint8'):
        read_image(image)


@pytest.mark.parametrize(
    ('device', 'message'), [('gpu', "name 'cpu', 'cuda'"), ('cuda:99', 'this machine has')]
)
def test_a_device_that_is_not_there_is_named(trained, device, message):
    _, cfg, checkpoint = trained
    with pytest.raises(UserError, match=message):
        Predictor(cfg, checkpoint, device)


def test_an_image_of_which_no_row_is_left_is_named(tmp_path):
    cfg = detector_config('mask')
    checks.check_config(cfg, ())
    checkpoint = tmp_path / 'model.pth'
    torch.save(dict(state_dict=checks.build_model(cfg).state_dict()), checkpoint)
    predictor = Predictor(cfg, checkpoint, device='cpu')
    with pytest.raises(UserError, match='does not take an image of 2 x 6000 pixels'):
        predictor([np.zeros((2, 6000, 3), np.uint8)])
