"""An exported file in the place of a model's network, for the config's own data and metrics."""

import math
import operator
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn

from kat_mm.errors import UserError, some

from .export import metainfo
from .model import ExportedModel, load
from .networks import make_network
from .postprocessing import paste_masks

SUFFIXES = ('.onnx', '.xml', '.pt2')


def use_exported(model: nn.Module, path: str, cfg: Config) -> nn.Module:
    """Let a model compute by an exported file what its network would.

    Preprocessing, windows, postprocessing and metrics stay the config's own.

    Args:
        model: Of the config; its weights are not used.
        path: The exported file.
        cfg: The config.

    Raises:
        UserError: The file is that of another task or has other classes, or cannot be read.
    """
    exported = load(Path(path))
    described = exported.description
    network = make_network(model)
    if described.task != network.task or described.outputs != list(network.outputs):
        raise UserError(
            f'{path} is of {described.task} ({", ".join(described.outputs)}), and the config of '
            f'{network.task} ({", ".join(network.outputs)}): they are of different models'
        )
    classes = metainfo(cfg).get('classes')
    if described.classes and classes and described.classes != classes:
        differing = [
            f'{i}: {a} / {b}'
            for i, (a, b) in enumerate(zip(described.classes, classes, strict=False))
            if a != b
        ]
        raise UserError(
            f'{path} has {len(described.classes)} classes and the config {len(classes)}, '
            f'differing in {some(differing or ["number"], 3)}: they are of different models'
        )
    run = _Runner(model, exported)
    if network.task == 'detection':
        model.predict = _Detection(model, run)
        return model
    model.extract_feat = lambda inputs, *_, **__: inputs
    if network.task == 'classification':
        model.head.forward = lambda inputs: run(inputs)[0]
    elif 'mask_logits' in network.outputs:
        network.head.forward = lambda inputs, *_: tuple([output] for output in run(inputs))
    else:
        model.decode_head.forward = lambda inputs: run(inputs)[0]
    return model


class _Runner:
    """Normalised batches through the file, image by image where it takes a fixed number."""

    def __init__(self, model: nn.Module, exported: ExportedModel):
        preprocessor = model.data_preprocessor
        self.exported = exported
        self.mean, self.std = getattr(preprocessor, 'mean', 0), getattr(preprocessor, 'std', 1)
        self.bgr = exported.description.channel_order == 'bgr'
        head = getattr(model, 'decode_head', None) or getattr(model, 'head', None)
        self.classes = getattr(head, 'out_channels', None) or getattr(head, 'num_classes', None)

    def __call__(self, inputs: Tensor, sizes: np.ndarray | None = None) -> list[Tensor]:
        described = self.exported.description
        size = inputs.shape[2:]
        padded = self._padded(size)
        images = nn.functional.pad(inputs, (0, padded[1] - size[1], 0, padded[0] - size[0]))
        if described.preprocessing:
            images = images * self.std + self.mean
            images = images.flip(1) if self.bgr else images
            images = images.round().clamp(0, 255).to(torch.uint8)
        arrays = images.cpu().numpy()
        if described.batch in (None, len(arrays)):
            outputs = self.exported.run(arrays, sizes)
        else:
            outputs = self._one_by_one(arrays, sizes, described.batch)
        if described.outputs[0] == 'logits' and self.classes not in (None, outputs[0].shape[1]):
            raise UserError(
                f'{described.file} predicts {outputs[0].shape[1]} classes and the config '
                f'{self.classes}: they are of different models'
            )
        tensors = [torch.from_numpy(output).to(inputs.device) for output in outputs]
        if 'mask_logits' in described.outputs:  # what lies beyond the image, as EoMTHead has it
            stride = described.postprocessing['stride']
            height, width = (math.ceil(side / stride) for side in size)
            tensors[1] = tensors[1][..., :height, :width]
        return tensors

    def _padded(self, size: tuple[int, int]) -> list[int]:
        """The size to which the file wants images of this size padded.

        PyTorch pads the images of classifiers and segmenters to its patches alone; what finds
        objects is made for padded images.
        """
        described, multiple = self.exported.description, self.exported.description.multiple
        own = [-(-side // multiple) * multiple for side in size]
        wanted = described.size or own
        exact = described.task in ('classification', 'segmentation')
        fits = wanted == own if exact else all(map(operator.ge, wanted, size))
        if not fits:
            raise UserError(
                f'{described.file} takes images of {"" if exact else "up to "}{wanted[0]} x '
                f"{wanted[1]} (height x width), and the config's pipeline gives {size[0]} x "
                f'{size[1]}; export it with --size or --dynamic-size'
            )
        return wanted

    def _one_by_one(self, arrays: np.ndarray, sizes: np.ndarray | None, batch: int) -> list:
        results = []
        for i in range(len(arrays)):
            image = np.repeat(arrays[i : i + 1], batch, axis=0)
            size = None if sizes is None else np.repeat(sizes[i : i + 1], batch, axis=0)
            results.append([output[:1] for output in self.exported.run(image, size)])
        return [np.concatenate(parts) for parts in zip(*results, strict=True)]


class _Detection:
    """``predict`` of a detector: the file's boxes, at the size of the original images."""

    def __init__(self, model: nn.Module, run: _Runner):
        self.model, self.run = model, run

    def __call__(self, batch_inputs: Tensor, batch_data_samples: list, rescale: bool = True):
        metas = [sample.metainfo for sample in batch_data_samples]
        sizes = np.array([meta['img_shape'][:2] for meta in metas], np.float32)
        outputs = self.run(batch_inputs, sizes)
        results = []
        for meta, boxes, scores, labels, *masks in zip(metas, *outputs, strict=True):
            found = scores > 0
            result = InstanceData(
                bboxes=boxes[found], scores=scores[found], labels=labels[found].long()
            )
            size = meta['img_shape'][:2]
            if rescale:
                size = meta['ori_shape'][:2]
                result.bboxes = result.bboxes / boxes.new_tensor(meta['scale_factor']).repeat(2)
            if masks:
                threshold = self.model.test_cfg.rcnn.mask_thr_binary
                pasted = paste_masks(
                    masks[0][found].cpu().numpy(), result.bboxes.cpu().numpy(), size, threshold
                )
                result.masks = torch.from_numpy(pasted)
            results.append(result)
        return self.model.add_pred_to_datasample(batch_data_samples, results)
