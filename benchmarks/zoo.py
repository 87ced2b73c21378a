"""The heads of the zoo side by side: parameters, operations, latency, memory and time of a step.

Every config of KAT-S for COCO and ADE20K and its ViT twin, which take turns, as tools/train.py and
tools/test.py build them: raw images and objects come from the host, losses and predictions go back.
Detectors and panoptic heads get images of one size whatever their config's, label maps of another.
Images, objects and weights are random, so that heads which suppress overlaps or keep confident
queries have as much to do as an untrained model gives them. A run that was stopped goes on with the
configs that its file lacks.
"""

import json
from pathlib import Path

import detection
import segmentation
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from timing import allocated, allocated_mb, machine, save, step_times
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import kat_mm  # noqa: F401  registers KAT
from kat_mm.backbones import drop_start_weights
from kat_mm.dense import use_segmentation_kernels
from kat_mm.dense.detection import use_fast_heads
from kat_mm.engine.float32_boxes import keep_boxes_in_float32
from kat_mm.engine.runtime_info import clip_late, on_the_way

CONFIGS = Path(__file__).parents[1] / 'configs'
SIZES = {'mmdet': 640, 'mmseg': 512}
# Classes that a random label map has, fewer than EoMT has queries.
LABELS = 20
NAMES = DEFAULT = tuple(
    path.stem for data in ('coco', 'ade20k') for path in sorted(CONFIGS.glob(f'kat_s_*_{data}.py'))
)
QUICK = ('kat_s_fcos_coco', 'kat_s_linear_ade20k')
QUICK_ARCH = dict(embed_dims=384, num_layers=4, num_heads=6, feedforward_channels=384)


def run(out_dir: Path, configs: list[str], quick: bool) -> None:
    """Measure, print and write results.json."""
    images = 1 if quick else 4
    turns = dict(rounds=1, steps=1) if quick else dict(rounds=3, steps=2)
    sizes = dict.fromkeys(SIZES, 64) if quick else SIZES
    results = dict(
        settings=dict(sizes=sizes, images=images, dtype='bfloat16 autocast', **turns),
        machine=machine(),
        configs={},
    )
    path = out_dir / 'results.json'
    if path.exists():  # of a run that was stopped
        before = json.loads(path.read_text())
        if all(before[key] == results[key] for key in ('settings', 'machine')):
            results['configs'] = before['configs']
    for name in QUICK if quick else configs:
        pair = (name, name.replace('kat_', 'vit_', 1))
        if all(one in results['configs'] for one in pair):
            continue
        models = {one: Model(one, sizes, images, quick) for one in pair}
        found = {one: model.measure() for one, model in models.items()}
        for key in ('train', 'predict'):
            functions = {one: getattr(model, key) for one, model in models.items()}
            for one, ms in step_times(functions, **turns).items():
                found[one][f'{key}_ms'] = ms
        results['configs'].update(found)
        for one in pair:
            print(row(one, found[one]), flush=True)
        save(results, path)
        del models, functions
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def attention_flops(query: tuple, key: tuple, value: tuple, *_, **__) -> int:
    """Of shapes, as the counter knows it of GPUs' kernels."""
    return sdpa_flop_count(query, key, value)


# Operations are counted before the model is on the GPU, where fused operators hide them.
ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}


class Model:
    """A model of a config, and its steps."""

    def __init__(self, name: str, sizes: dict[str, int], images: int, quick: bool):
        torch.manual_seed(0)
        cfg = Config.fromfile(CONFIGS / f'{name}.py')
        init_default_scope(cfg.default_scope)
        self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
        size = sizes[cfg.default_scope]
        self.prepare(cfg, size, quick)
        self.before = allocated()
        self.model = revert_sync_batchnorm(MODELS.build(cfg.model))
        drop_start_weights(self.model)  # nothing is downloaded
        self.model.init_weights()
        self.wrapper = dict(cfg.optim_wrapper)
        self.wrapper['optimizer'] = dict(cfg.optim_wrapper.optimizer, lr=0.0)
        if self.device == 'cuda':
            self.wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
        else:
            self.wrapper.update(type='OptimWrapper')
            self.wrapper.pop('dtype', None)
        make = {'mmdet': self.detection_batch, 'mmseg': self.segmentation_batch}[cfg.default_scope]
        self.batch, self.image = make(size, images), make(size, 1)
        self.is_detector = cfg.default_scope == 'mmdet'
        self.has_float32_boxes = any(hook.type == 'Float32BoxesHook' for hook in cfg.custom_hooks)

    @staticmethod
    def prepare(cfg: Config, size: int, quick: bool) -> None:
        cfg.model.backbone.img_size = size
        if cfg.default_scope == 'mmdet':
            cfg.model.data_preprocessor.batch_augments = None
        else:
            cfg.model.data_preprocessor.size = (size, size)
            cfg.model.test_cfg = dict(mode='whole')
        if quick:
            outputs = cfg.model.backbone.get('out_indices', -1)
            last = (-1,) if isinstance(outputs, int) else (0, 1, 2, 3)[-len(outputs) :]
            cfg.model.backbone.update(arch=QUICK_ARCH, out_indices=last)
            if cfg.model.backbone.get('global_attn_indices'):
                cfg.model.backbone.global_attn_indices = (3,)
            if cfg.model.backbone.get('frozen_stages', -1) > 0:
                cfg.model.backbone.frozen_stages = 4

    def detection_batch(self, size: int, images: int) -> dict:
        panoptic = getattr(self.model, 'panoptic_head', getattr(self.model, 'semantic_head', None))
        things = panoptic.num_things_classes if panoptic else 80
        batch = detection.random_batch(size, images, things)
        for sample in batch['data_samples'] if panoptic and panoptic.num_stuff_classes else ():
            regions = torch.randint(panoptic.num_stuff_classes, (4, 4)) + things
            labels = regions.repeat_interleave(size // 4, 0).repeat_interleave(size // 4, 1)
            sample.gt_sem_seg = PixelData(sem_seg=labels[None])
        return batch

    @staticmethod
    def segmentation_batch(size: int, images: int) -> dict:
        return segmentation.random_batch([((size, size), (size, size))] * images, LABELS)

    def measure(self) -> dict:
        """Size, operations, and the memory of a step; behind it the model is on the GPU."""
        self.model.eval()
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
            self.model.test_step(self.image)
        found = dict(
            parameters=sum(p.numel() for p in self.model.parameters()),
            flops=counter.get_total_flops(),
        )
        self.model.to(self.device)
        if self.has_float32_boxes:
            keep_boxes_in_float32(self.model)
        if self.is_detector:
            use_fast_heads(self.model)
        else:
            use_segmentation_kernels(self.model)
        self.optim_wrapper = build_optim_wrapper(self.model, self.wrapper)
        clip_late(self.optim_wrapper)  # LateRuntimeInfoHook
        self.train()
        self.train()
        found['train_allocated_mb'] = allocated_mb(self.train, self.before)
        return found

    def train(self) -> None:
        self.model.train()
        on_the_way(self.model.train_step(self.batch, self.optim_wrapper))  # LateRuntimeInfoHook

    @torch.no_grad()
    def predict(self) -> list:
        self.model.eval()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == 'cuda'):
            return self.model.test_step(self.image)


def row(name: str, found: dict) -> str:
    """A row of the table in docs/heads.md."""
    memory = found['train_allocated_mb']
    memory = '' if memory is None else f'{memory / 1e3:.1f}'
    return (
        f'| `{name}` | {found["parameters"] / 1e6:.1f} | {found["flops"] / 2e9:.0f} | '
        f'{found["predict_ms"]["median"]:.1f} | {found["train_ms"]["median"]:.0f} | {memory} |'
    )
