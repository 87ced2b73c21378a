"""Predictions of a trained model for images that belong to no data set."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS
from torch import nn

from kat_mm import checks
from kat_mm.datasets.wrappers import inner_datasets, type_name
from kat_mm.engine.configs import read_config
from kat_mm.engine.sources import find_images
from kat_mm.errors import UserError
from kat_mm.visualization.data_samples import draw_prediction
from kat_mm.visualization.predictions import Classes

# Steps of a pipeline that read what is given here, or the truth.
READING = ('LoadImageFromFile', 'LoadAnnotations', 'LoadPanopticAnnotations', 'CheckLabels')


class Predictor:
    """A model with weights, called with images.

    Args:
        config: A config, its file, or the name of one that comes with the package, such as
            'kat_s_in1k'.
        checkpoint: File, URL or published name of its weights; all of them must be there.
        device: For example 'cpu' or 'cuda'. Default: 'cuda' where there is one.
        half: Compute in bfloat16 (autocast). Default: False.

    Attributes:
        task: 'classification', 'segmentation', 'detection' or 'panoptic'.
        classes: Their names and colours.

    Raises:
        UserError: The config or the checkpoint cannot be read, or they do not fit each other.
    """

    def __init__(
        self,
        config: Config | str | Path,
        checkpoint: str | Path,
        device: str | None = None,
        half: bool = False,
    ):
        cfg = config if isinstance(config, Config) else read_config(config)
        model = checks.prepare(cfg, (), str(checkpoint))
        self.device = find_device(device)
        self.model, self.half = model.to(self.device).eval(), half
        self.task = _task(model)
        dataset = _dataset(cfg)
        self.is_grey = any(step.get('color_type') == 'grayscale' for step in dataset['pipeline'])
        steps = [step for step in dataset['pipeline'] if type_name(step) not in READING]
        self.pipeline = Compose(steps)
        self.classes = classes_of(cfg, dataset)

    def __call__(self, images: Sequence[np.ndarray | str | Path]) -> list:
        """Predictions (the library's data samples, at the images' sizes).

        Args:
            images: Files, or BGR images (H, W, 3), uint8. They are one batch, but for classifiers
                and segmenters whose images have other sizes once they are prepared.

        Raises:
            UserError: A file is no image, or the config's pipeline or the model does not take one.
        """
        return self.predict([self.prepare(read_image(image)) for image in images])

    def prepare(self, image: np.ndarray) -> dict:
        """What the config's pipeline makes of a BGR image (H, W, 3), uint8.

        Raises:
            UserError: It does not take the image, such as one of which no row is left once it is
                resized.
        """
        size = image.shape[:2]
        if self.is_grey:  # as LoadImageFromFile gives them
            image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        sample = dict(img=image, img_shape=size, ori_shape=size, img_path='', img_id=0)
        try:
            return self.pipeline(sample)
        except (cv2.error, ValueError, ArithmeticError) as error:
            text = ' '.join(str(error).split())
            raise UserError(
                f"the config's pipeline does not take an image of {size[0]} x {size[1]} pixels "
                f'(height x width): {text}'
            ) from error

    @torch.inference_mode()
    def predict(self, data: list[dict]) -> list:
        """Predictions for images as :meth:`prepare` gives them.

        Raises:
            UserError: The model does not take images of their size.
        """
        # Detectors alone pad images to a common size.
        alike = [self.task in ('detection', 'panoptic') or d['inputs'].shape for d in data]
        results = [None] * len(data)
        for shape in dict.fromkeys(alike):
            places = [i for i, own in enumerate(alike) if own == shape]
            samples = self._test_step([data[i] for i in places])
            for place, sample in zip(places, samples, strict=True):
                results[place] = sample
        return results

    def _test_step(self, data: list[dict]) -> list:
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                return self.model.test_step(pseudo_collate(data))
        except RuntimeError as error:  # nothing is left in a stride, or no memory
            sizes = {tuple(one['inputs'].shape[1:]) for one in data}
            text = ' or '.join(f'{height} x {width}' for height, width in sorted(sizes))
            raise UserError(
                f'the model fails at {len(data)} image(s) of {text} pixels (height x width), '
                f"as the config's pipeline gives them: {error}"
            ) from error

    def draw(
        self,
        image: np.ndarray | str | Path,
        sample,
        score_threshold: float = 0.3,
        legend_rows: int | None = None,
    ) -> np.ndarray:
        """The image with its prediction and a legend, BGR, uint8, as OpenCV writes it.

        The legend has as many rows as it needs, or, for pictures of one size, ``legend_rows``.
        """
        rgb = cv2.cvtColor(read_image(image), cv2.COLOR_BGR2RGB)
        picture = draw_prediction(rgb, sample, self.classes, score_threshold, legend_rows)
        return cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)


def read_image(image: np.ndarray | str | Path) -> np.ndarray:
    """An image of a file, (H, W, 3), BGR, uint8; an array as it is.

    Raises:
        UserError: The file is no image, or the array is none.
    """
    if isinstance(image, str | Path):
        found = next(find_images([str(image)]))
        if found.pixels is None:
            raise UserError(found.problem)
        return found.pixels
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UserError(
            f'an image must be (H, W, 3), BGR, uint8, and this is {image.shape}, {image.dtype}'
        )
    return image


def find_device(name: str | None) -> torch.device:
    """The device of a name; without, the GPU where there is one.

    Raises:
        UserError: It is none, or not there.
    """
    if name is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} is none; name 'cpu', 'cuda' or 'cuda:1'") from error
    count = torch.cuda.device_count()
    if device.type == 'cuda' and (device.index or 0) >= count:
        raise UserError(f"device {name!r} is not there: this machine has {count} GPUs; name 'cpu'")
    return device


def _task(model: nn.Module) -> str:
    from mmengine.model import BaseModel

    kinds = {cls.__name__ for cls in type(model).__mro__}
    for task, bases in (
        ('classification', {'BaseClassifier'}),
        ('segmentation', {'BaseSegmentor'}),
        ('panoptic', {'TwoStagePanopticSegmentor'}),
        ('detection', {'BaseDetector'}),
    ):
        if kinds & bases:
            is_panoptic = task == 'detection' and (model.test_cfg or {}).get('panoptic_on')
            return 'panoptic' if is_panoptic else task
    raise UserError(
        f'{type(model).__name__} is no classifier, segmenter or detector'
        f'{"" if isinstance(model, BaseModel) else " of OpenMMLab"}'
    )


def _dataset(cfg: Config) -> dict:
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if not loader:
        raise UserError('the config has no test_dataloader, whose pipeline prepares images')
    return next(inner_datasets(loader['dataset']))


def classes_of(cfg: Config, dataset: dict) -> Classes:
    """Names and colours of a data set's classes; those chosen from a known one have its colours.

    Args:
        cfg: The config.
        dataset: Its data set, without wrappers.
    """
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        cls = registry.get(dataset['type'])
    given = dict(dataset.get('metainfo') or {})
    if dataset.get('classes'):
        given['classes'] = dataset['classes']
    return Classes.of(given, getattr(cls, 'METAINFO', None) or {})
