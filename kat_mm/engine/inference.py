"""Predictions of a trained model for images, folders, videos, cameras and addresses."""

import glob
import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, VISUALIZERS, init_default_scope
from torch import nn

from kat_mm.checks.files import IMAGE_SUFFIXES, list_files
from kat_mm.errors import UserError

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')
# Steps of a pipeline that read what is given here, or the truth.
_READING = ('LoadImageFromFile', 'LoadAnnotations', 'LoadPanopticAnnotations', 'CheckLabels')


class Image(NamedTuple):
    """An image to predict for; ``pixels`` are (H, W, 3), BGR, or None where it is damaged."""

    name: str
    pixels: np.ndarray | None
    problem: str = ''


def find_images(inputs: list[str]) -> Iterator[Image]:
    """Images of files, folders, patterns, videos, camera numbers and addresses, one by one.

    Of the same name in several places, the later ones get a number.

    Raises:
        UserError: There is nothing of a name, or a folder or video holds no images.
    """
    names = {}
    for image in _find(inputs):
        number = names[image.name] = names.get(image.name, -1) + 1
        stem, suffix = os.path.splitext(image.name)
        yield image._replace(name=f'{stem}-{number}{suffix}') if number else image


def _find(inputs: list[str]) -> Iterator[Image]:
    for name in inputs:
        if name.isdecimal() and not os.path.exists(name):
            yield from _frames(int(name), f'camera{name}')
        elif name.startswith(('http://', 'https://')):
            yield _download(name)
        elif os.path.isdir(name):
            files = [f for f in sorted(list_files(name)[0]) if _suffix(f) in IMAGE_SUFFIXES]
            if not files:
                raise UserError(f'the folder {name} holds no images ({", ".join(IMAGE_SUFFIXES)})')
            for file in files:
                yield _read(os.path.join(name, file), file)
        else:
            files = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
            if not files:
                raise UserError(f'{name} is no file, folder, pattern, camera number or address')
            for file in files:
                if _suffix(file) in VIDEO_SUFFIXES:
                    yield from _frames(file, Path(file).stem)
                elif os.path.isfile(file):
                    yield _read(file, os.path.basename(file))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _read(path: str, name: str) -> Image:
    return _decode(Path(path).read_bytes(), name, path)


def _decode(content: bytes, name: str, source: str) -> Image:
    pixels = None
    if content:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    return Image(name, pixels, '' if pixels is not None else f'{source} is no image')


def _download(address: str) -> Image:
    name = os.path.basename(address.partition('?')[0]) or 'image'
    try:
        with urllib.request.urlopen(address, timeout=30) as response:
            return _decode(response.read(), name, address)
    except OSError as error:
        return Image(name, None, f'{address} cannot be read: {error}')


def _frames(source: str | int, stem: str) -> Iterator[Image]:
    """Frames of a video or camera; an early end is a damaged image at its end."""
    video = cv2.VideoCapture(source)
    number, expected = 0, int(max(video.get(cv2.CAP_PROP_FRAME_COUNT), 0))
    try:
        while True:
            read, pixels = video.read()
            if not read:
                break
            yield Image(f'{stem}_{number:06d}.jpg', pixels)
            number += 1
    finally:
        video.release()
    if not number:
        raise UserError(f'{source} cannot be opened as a video or camera')
    if number < expected:
        yield Image(stem, None, f'{source} ends after {number} of {expected} frames')


class Predictor:
    """A model with weights, called with images.

    Args:
        cfg: Its config.
        model: The model; it is put on ``device``.
        device: For example 'cpu' or 'cuda'.
        half: Compute in half precision (autocast). Default: False.
    """

    def __init__(self, cfg: Config, model: nn.Module, device: str = 'cpu', half: bool = False):
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
        if not loader:
            raise UserError('the config has no test_dataloader, whose pipeline prepares images')
        dataset = loader.dataset
        steps = [s for s in dataset.pipeline if s['type'].rpartition('.')[2] not in _READING]
        self.pipeline = Compose(steps)
        self.model = model.to(device).eval()
        self.device, self.half = torch.device(device), half
        cls = DATASETS.get(dataset['type'])
        self.meta = _metainfo(getattr(cls, 'METAINFO', None) or {}, dataset.get('metainfo') or {})
        visualizer = {**cfg.visualizer, 'vis_backends': [], 'name': 'predictions'}
        self.visualizer = VISUALIZERS.build(visualizer)
        self.visualizer.dataset_meta = self.meta

    @property
    def task(self) -> str:
        if hasattr(self.model, 'decode_head'):
            return 'segmentation'
        return 'classification' if hasattr(self.model, 'head') else 'detection'

    @torch.inference_mode()
    def __call__(self, images: list[np.ndarray]) -> list:
        """Predictions (the library's data samples) for BGR images (H, W, 3), uint8."""
        data = [
            self.pipeline(
                dict(img=x, img_shape=x.shape[:2], ori_shape=x.shape[:2], img_path='', img_id=i)
            )
            for i, x in enumerate(images)
        ]
        # Only detectors pad images to a common size.
        shapes = [None if self.task == 'detection' else d['inputs'].shape for d in data]
        results = [None] * len(data)
        for shape in dict.fromkeys(shapes):
            places = [i for i, own in enumerate(shapes) if own == shape]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                samples = self.model.test_step(pseudo_collate([data[i] for i in places]))
            for i, sample in zip(places, samples, strict=True):
                results[i] = sample
        return results

    def draw(self, pixels: np.ndarray, sample, path: str, score_threshold: float) -> None:
        """Write an image with its prediction: boxes and masks, labels, or the best class."""
        rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        if self.task == 'classification':
            self.visualizer.visualize_cls(
                rgb, sample, classes=self.meta.get('classes'), draw_gt=False, out_file=path
            )
            return
        options = dict(pred_score_thr=score_threshold) if self.task == 'detection' else {}
        self.visualizer.add_datasample(
            'prediction', rgb, sample, draw_gt=False, show=False, out_file=path, **options
        )

    def describe(self, sample, name: str, out: str, score_threshold: float) -> dict:
        """What a prediction says, for JSON; labels of a segmenter are written as a PNG."""
        classes = self.meta.get('classes')
        if self.task == 'classification':
            scores = sample.pred_score.float().cpu()
            label = int(scores.argmax())
            result = dict(label=label, score=float(scores[label]))
            return dict(image=name, **result, **({'name': classes[label]} if classes else {}))
        if self.task == 'segmentation':
            labels = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
            path = os.path.join(out, 'labels', os.path.splitext(name)[0] + '.png')
            os.makedirs(os.path.dirname(path), exist_ok=True)
            cv2.imwrite(path, labels.astype(np.uint8 if labels.max() < 256 else np.uint16))
            seen, counts = np.unique(labels, return_counts=True)
            share = {
                str(classes[i] if classes else i): round(float(n / labels.size), 6)
                for i, n in zip(seen.tolist(), counts.tolist(), strict=True)
            }
            return dict(image=name, labels=os.path.relpath(path, out), share=share)
        found = sample.pred_instances.cpu()
        found = found[found.scores >= score_threshold]
        return dict(image=name, instances=list(_instances(found, classes)))


def _metainfo(of_class: dict, own: dict) -> dict:
    """Classes and palette; classes chosen from a data set have its colours."""
    meta = {**of_class, **own}
    known, colors = of_class.get('classes'), of_class.get('palette')
    classes = meta.get('classes')
    if 'palette' in own or not classes or classes == known:
        return meta
    table = dict(zip(known or (), colors or (), strict=False))
    drawn = np.random.default_rng(0).integers(40, 256, (len(classes), 3)).tolist()
    meta['palette'] = [table.get(n, c) for n, c in zip(classes, drawn, strict=True)]
    return meta


def _instances(found, classes) -> Iterator[dict]:
    """Objects as in COCO's results: boxes as left, top, width and height, masks as RLE."""
    from pycocotools import mask as coco

    for i in range(len(found)):
        left, top, right, bottom = found.bboxes[i].tolist()
        label = int(found.labels[i])
        entry = dict(
            category=classes[label] if classes else label,
            category_id=label,
            bbox=[left, top, right - left, bottom - top],
            score=float(found.scores[i]),
        )
        if 'masks' in found:
            rle = coco.encode(np.asfortranarray(found.masks[i].numpy().astype(np.uint8)))
            entry['segmentation'] = dict(size=rle['size'], counts=rle['counts'].decode())
        yield entry


def write_results(results: list[dict], out: str) -> None:
    """Write ``results.json`` to the folder of results."""
    with open(os.path.join(out, 'results.json'), 'w') as file:
        json.dump(results, file, indent=1)
