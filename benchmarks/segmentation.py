"""A segmentor's step and its validation: mmseg's own heads against the same with our operators.

Models of a config and of its ViT twin, each with and without, take turns in one process, as
tools/train.py --amp trains them and tools/test.py validates: raw images and labels come from the
host, predictions are compared with labels there. Images, labels and weights are random. Behind
these, each operator stands against a copy on the device that moves the same bytes.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from operators import OPERATORS
from ops import measure
from timing import kernel_profile, machine, save, step_times

import kat_mm  # noqa: F401  registers KAT
from kat_mm.backbones import drop_start_weights
from kat_mm.dense import graph_parts, use_segmentation_kernels
from kat_mm.engine.runtime_info import on_the_way

CONFIGS = Path(__file__).parents[1] / 'configs'
# Heights and widths that ADE20K's images have after Resize, and before: two windows, and three.
VALIDATION = (((512, 683), (512, 683)), ((512, 683), (1024, 1365)), ((512, 768), (683, 1024)))
KINDS = ('mmseg', 'kernels', 'kernels, graphs')
QUICK_VALIDATION = (((128, 160), (160, 200)),)
TARGETS = {'train ms': 75, 'train memory': 0.6, 'validation speed': 2.0}
KERNELS_KEPT = 30
# The operators that a segmentor's heads use.
MEASURED = ('resize', 'resized_cross_entropy', 'resampled_argmax')


def run(out_dir: Path, quick: bool) -> None:
    """Measure, print and write results.json."""
    names = ('kat_t_upernet_sample',) if quick else ('kat_s_upernet_ade20k', 'vit_s_upernet_ade20k')
    turns = dict(rounds=1, steps=1) if quick else dict(rounds=5, steps=5)
    batch_size = 2 if quick else 16
    results = dict(
        settings=dict(batch_size=batch_size, dtype='bfloat16, validation float32', **turns),
        machine=machine(),
        targets=TARGETS,
    )
    torch.backends.cudnn.benchmark = True  # as the configs set it
    segmentors = {
        f'{name}, {kind}': Segmentor(
            CONFIGS / f'{name}.py',
            kind,
            batch_size,
            QUICK_VALIDATION if quick else VALIDATION,
        )
        for name in names
        for kind in KINDS
    }
    models = {name: segmentor.measure_training() for name, segmentor in segmentors.items()}
    times = step_times({name: s.train for name, s in segmentors.items()}, **turns)
    for name, segmentor in segmentors.items():
        models[name]['train_ms'] = times[name]
        segmentor.prepare_validation()
        models[name]['validation_gpu_ms'] = gpu_ms(segmentor.validate)
        models[name]['validation_mb'] = segmentor.peak_mb(segmentor.validate)
    times = step_times({name: s.validate for name, s in segmentors.items()}, **turns)
    for name in segmentors:
        models[name]['validation_ms'] = times[name]
    results['models'] = models
    results['comparison'] = compare(models, names)
    del segmentors
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        results['operators'] = {
            name: [measure(case) for case in OPERATORS[name](quick)] for name in MEASURED
        }
    save(results, out_dir / 'results.json')
    print_table(results)


class Segmentor:
    """A model of a config, its heads by mmseg or by our operators, and its steps."""

    def __init__(self, config: Path, kind: str, batch_size: int, validation: tuple):
        torch.manual_seed(0)
        cfg = Config.fromfile(config)
        init_default_scope(cfg.default_scope)
        self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
        self.kind, self.before = kind, allocated()
        self.model = MODELS.build(cfg.model)
        drop_start_weights(self.model)  # nothing is downloaded
        self.model.init_weights()
        self.model.to(self.device)
        if kind != 'mmseg':
            use_segmentation_kernels(self.model)
        if kind.endswith('graphs') and self.device == 'cuda':
            graph_parts(self.model)
        # The learning rate is zero: the models stay equal.
        wrapper = dict(cfg.optim_wrapper, optimizer=dict(cfg.optim_wrapper.optimizer, lr=0.0))
        if self.device == 'cuda':
            wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
        self.optim_wrapper = build_optim_wrapper(self.model, wrapper)
        classes = cfg.model.decode_head.num_classes
        size = cfg.crop_size
        self.batch = random_batch([(size, size)] * batch_size, classes)
        self.images = [random_batch([sizes], classes) for sizes in validation]
        self.evaluator = IoU(classes)

    def train(self) -> None:
        """A step, and what the hook of the runner does with its losses."""
        losses = self.model.train_step(self.batch, self.optim_wrapper)
        if self.kind == 'mmseg':
            [value.item() for value in losses.values()]  # mmengine's RuntimeInfoHook
        else:
            on_the_way(losses)  # LateRuntimeInfoHook

    def peak_mb(self, step: Callable[[], object]) -> float | None:
        """MB allocated at most, but for what was there before this model."""
        if self.device == 'cpu':
            return None
        torch.cuda.reset_peak_memory_stats()
        held = allocated()
        step()
        own = torch.cuda.max_memory_allocated() - held
        return round((own + self.held) / 1e6, 1)

    def measure_training(self) -> dict:
        """Memory, the GPU's work, and its kernels; losses of the first step."""
        self.model.train()
        losses = self.model.train_step(self.batch, self.optim_wrapper)
        losses = {name: float(value) for name, value in losses.items()}
        self.train()
        # Weights, gradients and the optimizer's state.
        self.held = allocated() - self.before
        profile = kernel_profile(self.train, self.device == 'cuda')
        most = sorted(profile.items(), key=lambda item: -item[1])[:KERNELS_KEPT]
        return dict(
            losses=losses,
            train_mb=self.peak_mb(self.train),
            train_gpu_ms=round(sum(profile.values()), 3),
            train_kernels_ms={name[:120]: round(ms, 3) for name, ms in most},
        )

    def prepare_validation(self) -> None:
        self.model.eval()
        for _ in range(2):
            self.validate()

    @torch.no_grad()
    def validate(self) -> None:
        """One image of each size, as ValLoop does."""
        for batch in self.images:
            samples = self.model.val_step(batch)
            self.evaluator.process(samples)


class IoU:
    """What IoUMetric does with each sample."""

    def __init__(self, classes: int):
        from mmseg.evaluation import IoUMetric

        self.metric = IoUMetric()
        self.metric.dataset_meta = dict(classes=[str(i) for i in range(classes)])

    def process(self, samples: list) -> None:
        self.metric.process({}, [sample.to_dict() for sample in samples])
        self.metric.results.clear()


def random_batch(sizes: list[tuple], classes: int) -> dict:
    """Images of the first size of each pair, labels of the second; a twentieth is ignored."""
    from mmseg.structures import SegDataSample

    rng = np.random.default_rng(0)
    inputs, samples = [], []
    for size, label_size in sizes:
        coarse = torch.tensor(rng.integers(classes, size=(1, 1, 16, 16)), dtype=torch.float32)
        labels = F.interpolate(coarse, label_size)[0].long()
        labels[torch.tensor(rng.random(labels.shape) < 0.05)] = 255
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
        sample.set_metainfo(dict(img_shape=size, ori_shape=label_size))
        samples.append(sample)
        inputs.append(torch.tensor(rng.integers(256, size=(3, *size)), dtype=torch.uint8))
    return dict(inputs=inputs, data_samples=samples)


def allocated() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def gpu_ms(step: Callable[[], object]) -> float:
    """Milliseconds of the GPU's work in a step; on a CPU, of operators."""
    return round(sum(kernel_profile(step, torch.cuda.is_available()).values()), 3)


def compare(models: dict, names: tuple[str, ...]) -> dict:
    """What each config gains, beside the targets of the first."""
    comparison = {}
    for name, kind in itertools.product(names, KINDS[1:]):
        mmseg, ours = models[f'{name}, {KINDS[0]}'], models[f'{name}, {kind}']
        one = {
            'train ms': ours['train_ms']['median'],
            'train speed': mmseg['train_ms']['median'] / ours['train_ms']['median'],
            'train speed, GPU alone': mmseg['train_gpu_ms'] / ours['train_gpu_ms'],
            'validation speed': mmseg['validation_ms']['median'] / ours['validation_ms']['median'],
        }
        if ours['train_mb'] is not None:
            one['train memory'] = ours['train_mb'] / mmseg['train_mb']
        comparison[f'{name}, {kind}'] = {key: round(value, 3) for key, value in one.items()}
    return comparison


def print_table(results: dict) -> None:
    for name, model in results['models'].items():
        print(
            f'{name:36} train {model["train_ms"]["median"]:8.2f} ms '
            f'(GPU {model["train_gpu_ms"]:8.2f}, {model["train_mb"]} MB), validation '
            f'{model["validation_ms"]["median"]:8.2f} ms (GPU {model["validation_gpu_ms"]:8.2f})'
        )
        print(f'{"":36} {model["losses"]}')
    for name, gains in results['comparison'].items():
        print(name, gains)
    for name, cases in results.get('operators', {}).items():
        for case in cases:
            medians = {key: round(value['median'], 4) for key, value in case['times'].items()}
            print(name, case['shape'], medians)
    kernels = next(m for n, m in results['models'].items() if n.endswith('kernels'))
    for name, ms in kernels['train_kernels_ms'].items():
        print(f'{ms:9.3f} {name}')
