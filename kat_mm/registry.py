"""Names in the registries of mmengine: all that a config can name, and nowhere else.

In the root registries, where the scopes of mmdet, mmseg and mmpretrain find it. What is built on
mmdet has a registry of its own, which imports it when a config names it: ``kat_mm.EoMT``.
"""

import logging
from types import ModuleType

from mmengine import registry
from mmengine.logging import print_log

from kat_mm import backbones, engine, layers, necks
from kat_mm.engine.configs import config_root, extend_mmengine_configs
from kat_mm.engine.loading import extend_mmengine
from kat_mm.installed import after_import, is_installed

# Names that need mmdet: a config's ``kat_mm.NAME`` imports them, `import kat_mm` does not.
MODELS_ON_MMDET, METRICS_ON_MMDET, TRANSFORMS_ON_MMDET = (
    registry.Registry(
        parent.name, parent=parent, scope='kat_mm', locations=['kat_mm.registry_mmdet']
    )
    for parent in (registry.MODELS, registry.METRICS, registry.TRANSFORMS)
)


class _ToMMEngine(logging.Handler):
    """Hand what this package logs to the log of the run."""

    def emit(self, record: logging.LogRecord) -> None:
        print_log(record.getMessage(), 'current', record.levelno)


def _register_all() -> None:
    for model in (
        backbones.KAT,
        layers.GRKAN,
        layers.GatedGRKAN,
        layers.MLP,
        layers.SwiGLU,
        layers.SoftmaxAttention,
        layers.KArAt,
        necks.SimpleFeaturePyramid,
    ):
        registry.MODELS.register_module(module=model)
    registry.MODELS.register_module('LN2d', module=layers.LayerNorm2d)
    for hook in (
        engine.AtomicCheckpointHook,
        engine.AverageLossHook,
        engine.FastDetectionHook,
        engine.FiniteLossHook,
        engine.Float32BoxesHook,
        engine.LateRuntimeInfoHook,
        engine.MaskAnnealingHook,
        engine.PicturesHook,
        engine.PlotRationalsHook,
        engine.PreemptionHook,
        engine.SeedIterationHook,
        engine.SegmentationKernelsHook,
    ):
        registry.HOOKS.register_module(module=hook)
    registry.OPTIM_WRAPPER_CONSTRUCTORS.register_module(
        module=engine.LayerDecayOptimWrapperConstructor
    )
    registry.PARAM_SCHEDULERS.register_module(module=engine.TwoWarmupsPolyLR)
    registry.LOOPS.register_module(module=engine.ResumableEpochLoop)
    registry.RUNNERS.register_module(module=engine.CheckpointRunner)
    extend_mmengine()
    extend_mmengine_configs()
    after_import('mmpretrain.apis.model', _register_classifiers)
    if is_installed('mmcv'):  # whose transforms they are
        _register_datasets()


def _register_classifiers(mmpretrain_models: ModuleType) -> None:
    """Have mmpretrain's ``list_models`` and ``get_model`` know this project's classifiers."""
    root = config_root()
    for metafile in ('metafile_classification.yml', 'metafile_karat.yml') if root else ():
        mmpretrain_models.ModelHub.register_model_index(root / 'configs' / metafile, root)


def _register_datasets() -> None:
    from kat_mm import datasets

    registry.DATASETS.register_module(module=datasets.TorchvisionArrays)
    for sampler in (
        datasets.SeededAspectRatioSampler,
        datasets.SeededInfiniteSampler,
        datasets.SeededSampler,
    ):
        registry.DATA_SAMPLERS.register_module(module=sampler)
    for transform in (
        datasets.CheckLabels,
        datasets.LoadChecked,
        datasets.ResizeChecked,
        datasets.SeedAugmentation,
    ):
        registry.TRANSFORMS.register_module(module=transform)
    for collate in (datasets.compact_collate, datasets.packed_collate):
        registry.FUNCTIONS.register_module(module=collate)


_register_all()
_logger = logging.getLogger('kat_mm')
_logger.setLevel(logging.INFO)
_logger.addHandler(_ToMMEngine())
