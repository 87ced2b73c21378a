"""A trained model of a config to a file, with proof."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, init_default_scope
from torch import nn

from kat_mm.backbones import KAT
from kat_mm.datasets.wrappers import inner_datasets, type_name
from kat_mm.errors import UserError
from kat_mm.installed import is_installed
from kat_mm.version import __version__

from .convert import SUFFIXES, check_format, trace, write
from .description import Description, parts_of
from .model import ExportedModel, read_image
from .networks import Preprocessed, make_network
from .proof import compare, sample_images, worst
from .sessions import open_session

# Relative to the largest output: float32 in another order of sums, and float16 weights.
TOLERANCE, HALF_TOLERANCE = 1e-3, 2e-2


def export_model(
    cfg: Config,
    model: nn.Module,
    path: Path,
    formats: Sequence[str] = ('onnx',),
    features: bool = False,
    preprocessing: bool = False,
    size: tuple[int, int] | None = None,
    dynamic_size: bool = False,
    batch: int | None = None,
    half: bool = False,
    images: list[str] = (),
    tolerance: float | None = None,
    report: Callable[[str], None] = print,
) -> dict[Path, Description]:
    """Export a model, run each file in its runtime, and write what was measured beside it.

    Args:
        cfg: The model's config.
        model: With its weights.
        path: The file; each format gives it its suffix.
        formats: 'onnx', 'openvino', 'torch', 'aotinductor', one or several.
        features: Backbone and neck alone. Default: False.
        preprocessing: Put the normalisation into the file, which then takes RGB pixels.
        size: (H, W) of the images. Default: None, the config's own.
        dynamic_size: Any sides that are multiples of the patch.
        batch: Number of images that the file takes. Default: None, any.
        half: Weights as float16.
        images: Files to compare on, besides drawn images.
        tolerance: Largest difference that is accepted. Default: None, 1e-3, or 2e-2 with ``half``.
        report: Gets a line for each comparison.

    Returns:
        The files, and what stands beside each.

    Raises:
        UserError: The model does not export, one of ``images`` is none, or a file cannot be
            compared or is further from PyTorch than ``tolerance``; it is not left behind then.
    """
    for format in formats:
        check_format(format)
    if half and not {'onnx', 'openvino'}.issuperset(formats):
        raise UserError('--half is for onnx and openvino; a torch program keeps its dtypes')
    real = [(str(file), read_image(file)) for file in images]
    paths = {format: with_suffix(path, format) for format in formats}
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = revert_sync_batchnorm(model).cpu().float().eval()
    network = make_network(model, features)
    multiple = _multiple(model)
    size = tuple(size or default_size(cfg, model))
    if any(side % multiple for side in size):
        size = tuple(-(-side // multiple) * multiple for side in size)
        report(f'sides are rounded up to multiples of the patch: {size[0]} x {size[1]}')
    described = describe(cfg, model, network)
    described.multiple, described.batch, described.half = multiple, batch, half
    described.preprocessing = preprocessing
    described.size = None if dynamic_size else list(size)
    described.tolerance = tolerance or (HALF_TOLERANCE if half else TOLERANCE)
    if dynamic_size and described.resize['mode'] != 'crop':
        described.resize = dict(mode='as_is')
    if preprocessing:
        network = Preprocessed(
            network, described.mean, described.std, described.channel_order == 'bgr'
        )
    network.eval()

    inputs = _Inputs(described)
    example_size = [side + multiple for side in size] if dynamic_size else size
    example = inputs.of_pixels(sample_images(batch or 2, example_size))
    program = trace(network, example, batch, multiple if dynamic_size else None)
    write(program, network, paths, half)
    results = {}
    try:
        for format, file in paths.items():
            batches = inputs.batches(size, real, dynamic_size)
            differences = _prove(file, network, batches, described.tolerance, report)
            results[file] = dataclasses.replace(
                described, file=file.name, format=format, differences=differences
            )
            results[file].write(file)
    finally:
        # A file that was not compared to the end is none to be found later.
        for file in paths.values() - results.keys():
            for part in parts_of(file):
                part.unlink(missing_ok=True)
    return results


def with_suffix(path: Path, format: str) -> Path:
    """A file with the suffix of a format, in the place of one that it has."""
    own = next((suffix for suffix in SUFFIXES.values() if path.name.endswith(suffix)), '')
    return path.with_name(path.name.removesuffix(own) + SUFFIXES[format])


def _prove(
    path: Path,
    network: nn.Module,
    batches: Iterable[tuple],
    tolerance: float,
    report: Callable[[str], None],
) -> list[dict]:
    """The differences of a file from PyTorch, of which none may be above the tolerance."""
    differences = []
    for entry in compare(network, open_session(path, allow_pickle=True), batches):
        differences.append(entry)
        values = ', '.join(f'{k} {v:.1e}' for k, v in entry['differences'].items())
        report(f'{path.name}, {entry["inputs"]} {tuple(entry["shape"])}: {values}')
    at = max(differences, key=lambda entry: worst([entry]))
    if not worst([at]) <= tolerance:
        raise UserError(
            f'{path} differs from PyTorch by {worst([at]):.1e} for {at["inputs"]} of shape '
            f'{tuple(at["shape"])}, more than the tolerance {tolerance:.1e}; it was deleted'
        )
    return differences


class _Inputs:
    """Batches for the comparison."""

    def __init__(self, described: Description):
        self.described = described
        self.model = ExportedModel(described, None)

    def of_pixels(self, pixels: np.ndarray, used: tuple[int, int] | None = None) -> tuple:
        """Inputs of the network from RGB pixels (B, 3, H, W)."""
        prepared = [self.model.prepare(image.transpose(1, 2, 0)) for image in pixels]
        return self.of_arrays(np.stack(prepared), used)

    def of_arrays(self, arrays: np.ndarray, used: tuple[int, int] | None = None) -> tuple:
        """Inputs of the network from arrays as it takes them, (B, 3, H, W)."""
        image = torch.from_numpy(arrays)
        if len(self.described.inputs) == 1:
            return (image,)
        size = torch.tensor([used or image.shape[2:]], dtype=torch.float32)
        return image, size.expand(len(image), 2).contiguous()

    def batches(self, size: tuple[int, int], images: list[tuple[str, np.ndarray]], dynamic: bool):
        """Drawn and real images; other numbers and sizes where the file takes them."""
        batch, multiple = self.described.batch, self.described.multiple
        numbers = [batch] if batch else [1, 3]
        sizes = [size]
        if dynamic:
            height, width = size
            sizes += [(height + multiple, width + 3 * multiple), (max(multiple * 3, 48), width)]
        for number in numbers:
            for pair in sizes:
                yield 'drawn images', self.of_pixels(sample_images(number, pair, seed=number))
        if len(self.described.inputs) > 1:  # images smaller than the file's, behind padding
            pixels = sample_images(numbers[-1], size, seed=9)
            used = size[0] - multiple + 1, size[1] - multiple + 1
            yield 'padded images', self.of_pixels(pixels, used)
        odd = sample_images(1, (size[0] * 3 // 4 + 1, size[1] * 5 // 4 + 3), seed=7)
        for name, pixels in [('an image of odd size', odd[0].transpose(1, 2, 0)), *images]:
            array, _, used = self.model.fit(pixels)
            yield name, self.of_arrays(np.repeat(array[None], batch or 1, axis=0), used)


def _multiple(model: nn.Module) -> int:
    backbone = getattr(model, 'backbone', None)
    return backbone.patch_embed.patch_size if isinstance(backbone, KAT) else 32


def default_size(cfg: Config, model: nn.Module) -> tuple[int, int]:
    """(H, W) that a config trains or tests with."""
    preprocessor = cfg.model.get('data_preprocessor') or {}
    backbone = cfg.model.get('backbone') or {}
    places = [
        (cfg.model.get('test_cfg') or {}).get('crop_size'),
        preprocessor.get('size') if cfg.get('default_scope') == 'mmseg' else None,
        backbone.get('img_size'),
        224,
    ]
    found = next(place for place in places if place)
    return (found, found) if isinstance(found, int) else tuple(found)


def describe(cfg: Config, model: nn.Module, network: nn.Module) -> Description:
    """What a config and its model tell of a file; how it was exported is still to be set."""
    mean, std, order = _normalisation(model)
    fitted = network.task in ('detection', 'panoptic', 'instance')
    resize = dict(mode='fit' if fitted else 'stretch')
    if network.task == 'classification':
        resize = _classifier_resize(cfg) or resize
    meta = metainfo(cfg)
    packages = ['torch', 'mmengine', 'onnx', 'onnxruntime', 'openvino']
    versions = {name: _version(name) for name in packages if is_installed(name)}
    return Description(
        file='',
        format='',
        task=network.task,
        inputs=list(network.inputs),
        outputs=list(network.outputs),
        batch=None,
        size=None,
        multiple=1,
        mean=mean,
        std=std,
        channel_order=order,
        preprocessing=False,
        half=False,
        resize=resize,
        postprocessing=network.postprocessing,
        classes=meta.get('classes'),
        palette=meta.get('palette'),
        model=Path(cfg.filename).stem if cfg.filename else type(model).__name__,
        versions=dict(kat_mm=__version__, **versions),
    )


def _version(package: str) -> str:
    from importlib import import_module

    return getattr(import_module(package), '__version__', '')


def _normalisation(model: nn.Module) -> tuple[list[float], list[float], str]:
    """Mean and std of a model's preprocessor, and the order of the channels that they are of."""
    preprocessor = model.data_preprocessor
    mean, std = getattr(preprocessor, 'mean', None), getattr(preprocessor, 'std', None)
    if mean is None:
        mean, std = torch.zeros(3), torch.ones(3)
    # Images are read as BGR; mmengine's preprocessors, from which all come, note whether they turn.
    turned = getattr(preprocessor, '_channel_conversion', False)
    means, stds = ([round(float(x), 4) for x in values.flatten()] for values in (mean, std))
    return means, stds, 'rgb' if turned else 'bgr'


def _classifier_resize(cfg: Config) -> dict | None:
    """What the test pipeline does to an image, where it is the usual resize and crop."""
    steps = {type_name(step): step for step in _test_dataset(cfg).get('pipeline') or []}
    edge, crop = steps.get('ResizeEdge'), steps.get('CenterCrop')
    if edge is None:
        return None
    side = edge['scale']
    if crop is None:
        return dict(mode='stretch')
    return dict(mode='crop', short_side=side, interpolation=edge.get('interpolation', 'bilinear'))


def _test_dataset(cfg: Config) -> dict:
    """What a model is tested on, without wrappers; empty where the config names nothing."""
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    return next(inner_datasets(loader.get('dataset') or {}))


def metainfo(cfg: Config) -> dict:
    """Classes and palette, from the config or the data set's class."""
    dataset = _test_dataset(cfg)
    own = dict(dataset.get('metainfo') or {})
    with DATASETS.switch_scope_and_registry(None) as registry:  # that of the default scope
        cls = registry.get(dataset['type']) if 'type' in dataset else None
    meta = {**(getattr(cls, 'METAINFO', None) or {}), **own}
    found = {}
    if meta.get('classes') is not None and not isinstance(meta['classes'], str):
        found['classes'] = list(meta['classes'])
    if isinstance(meta.get('palette'), list | tuple):
        found['palette'] = [list(map(int, colour)) for colour in meta['palette']]
    return found
