"""A segmentor's step and its validation: mmseg's own heads against the same with our operators.

Models of a config and of its ViT twin, each with and without, and the same heads by mmseg on
mmpretrain's ViT take turns in one process, as tools/train.py --amp trains them and tools/test.py
validates: raw images and labels come from the host, predictions are compared with labels there.
Images, labels and weights are random. Behind these, each operator stands against a copy on the
device that moves the same bytes.

``train_reserved_mb`` is what a card has to have free for a training step beside CUDA's context:
what PyTorch holds at most, the pools of graphs among it. It, like what else is measured of training
but for ``train_ms``, is of the model alone, before the turns (see ``contenders.py``).
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from contenders import (
    build_beside,
    fitting_step_times,
    free,
    graphed_forwards,
    measure_alone,
    require_graphs,
    reserved_peak,
    try_beside,
)
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from operators import OPERATORS
from ops import measure
from step_plot import Bar, draw_steps
from timing import MB, allocated, allocated_mb, gpu_ms, in_words, kernel_profile, machine, save

import kat_mm  # noqa: F401  registers KAT
from kat_mm.backbones import drop_start_weights
from kat_mm.dense import graph_parts, use_segmentation_kernels
from kat_mm.engine.runtime_info import on_the_way

CONFIGS = Path(__file__).parents[1] / 'configs'
# Heights and widths that ADE20K's images have after Resize, and before: two windows, and three.
VALIDATION = (((512, 683), (512, 683)), ((512, 683), (1024, 1365)), ((512, 768), (683, 1024)))
PLOT = 'steps.png'
NAMES = tuple(f'kat_{size}_upernet_ade20k' for size in 'tsb')
DEFAULT = NAMES[1:2]
QUICK_CONFIG = 'kat_t_upernet_sample'
RIVAL = "mmpretrain's DeiT"
KINDS = ('mmseg', 'kernels', 'kernels, graphs')
QUICK_VALIDATION = (((128, 160), (160, 200)),)
TARGETS = {'train ms': 75, 'train memory': 0.6, 'validation speed': 2.0}
KERNELS_KEPT = 30
# The operators that a segmentor's heads use.
MEASURED = ('resize', 'resized_cross_entropy', 'resampled_argmax')


def run(out_dir: Path, configs: list[str], quick: bool) -> None:
    """Measure, print, and write results.json and the plot; what is done is saved at once."""
    turns = dict(rounds=1, steps=1) if quick else dict(rounds=5, steps=5)
    batch_size = 2 if quick else 16
    results = dict(
        settings=dict(batch_size=batch_size, dtype='bfloat16, validation float32', **turns),
        machine=machine(),
        targets=TARGETS,
        models={},
        comparison={},
    )
    torch.backends.cudnn.benchmark = True  # as the configs set it

    def keep(group: dict) -> None:
        results['models'].update(group)
        save(results, out_dir / 'results.json')

    for name in [QUICK_CONFIG] if quick else configs:
        group = measure_group(contenders(name), batch_size, quick, turns, keep)
        complete = {name: model for name, model in group.items() if 'left_out' not in model}
        results['comparison'].update(compare(complete))
        keep(group)
        print_group(complete, results['comparison'])
    if torch.cuda.is_available():
        free()
        results['operators'] = {}
        for name in MEASURED:
            results['operators'][name] = [measure(case) for case in OPERATORS[name](quick)]
            save(results, out_dir / 'results.json')
    print_operators(results)
    draw(results, out_dir)


def contenders(name: str) -> dict[str, tuple[Config, str]]:
    """Those that stand beside each other, by name: the config and who computes its heads."""
    pair = (name, name.replace('kat_', 'vit_', 1))
    kinds = {
        f'{one}, {kind}': (Config.fromfile(CONFIGS / f'{one}.py'), kind)
        for one in pair
        if (CONFIGS / f'{one}.py').exists()  # the sample's has no twin
        for kind in KINDS
    }
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    cfg.model.backbone = mmpretrain_vit(cfg.model.backbone)
    size = name.removeprefix('kat_')[0]
    return {**kinds, f'{RIVAL}-{size.upper()}, {KINDS[0]}': (cfg, KINDS[0])}


def mmpretrain_vit(backbone: dict) -> dict:
    """mmpretrain's DeiT in the place of a KAT, with maps from the same blocks."""
    import mmpretrain.models  # noqa: F401  registers it

    shared = ('img_size', 'patch_size', 'drop_path_rate', 'out_type')
    return dict(
        type='mmpretrain.VisionTransformer',
        arch=f'deit-{backbone["arch"]}',
        out_indices=list(backbone['out_indices']),
        **{key: backbone[key] for key in shared},
    )


def measure_group(
    group: dict[str, tuple[Config, str]],
    batch_size: int,
    quick: bool,
    turns: dict[str, int],
    keep: Callable[[dict], None],
) -> dict[str, dict]:
    """What is measured of each contender, alone and in turns; ``keep`` gets what is there."""
    validation = QUICK_VALIDATION if quick else VALIDATION
    builders = {
        name: partial(Segmentor, cfg, kind, batch_size, validation)
        for name, (cfg, kind) in group.items()
    }
    models = measure_alone(builders, Segmentor.measure_training, keep)
    # Nothing else holds a segmentor: it may have to go.
    segmentors = build_beside(builders, models)
    for name, ms in fitting_step_times(segmentors, models, 'train', **turns).items():
        models[name]['train_ms'] = ms
    keep(models)
    for name in list(segmentors):
        try_beside(
            segmentors,
            models,
            name,
            lambda name=name: models[name].update(segmentors[name].measure_validation()),
        )
    for name, ms in fitting_step_times(segmentors, models, 'validate', **turns).items():
        models[name]['validation_ms'] = ms
    return models


class Segmentor:
    """A model of a config, its heads by mmseg or by our operators, and its steps."""

    def __init__(self, cfg: Config, kind: str, batch_size: int, validation: tuple):
        torch.manual_seed(0)
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
        self.graphed = graphed_forwards(self.model)
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

    def start(self) -> None:
        """The first steps; ``losses`` are those of the first."""
        self.model.train()
        losses = self.model.train_step(self.batch, self.optim_wrapper)
        self.losses = {name: float(value) for name, value in losses.items()}
        self.train()
        # Weights, gradients and the optimizer's state.
        self.held = allocated() - self.before

    def train(self) -> None:
        """A step, and what the hook of the runner does with its losses."""
        losses = self.model.train_step(self.batch, self.optim_wrapper)
        if self.kind == 'mmseg':
            [value.item() for value in losses.values()]  # mmengine's RuntimeInfoHook
        else:
            on_the_way(losses)  # LateRuntimeInfoHook
        require_graphs(self.graphed, training=True)

    def allocated_mb(self, step: Callable[[], object]) -> float | None:
        """MB allocated at most, but for what was there before this model."""
        return allocated_mb(step, allocated() - self.held)

    def reserved_mb(self) -> float | None:
        """MB held at most in a training step of this model alone."""
        if self.device == 'cpu':
            return None
        return round(reserved_peak(self.train, self.before) / MB, 1)

    def measure_training(self) -> dict:
        """Memory, the GPU's work, and its kernels; losses of the first step."""
        profile = kernel_profile(self.train, self.device == 'cuda')
        kernels = Counter()  # whose names are templates of hundreds of letters
        for name, ms in profile.items():
            kernels[name[:120]] += ms
        return dict(
            losses=self.losses,
            train_allocated_mb=self.allocated_mb(self.train),
            train_reserved_mb=self.reserved_mb(),
            train_gpu_ms=round(sum(profile.values()), 3),
            train_kernels_ms={name: round(ms, 3) for name, ms in kernels.most_common(KERNELS_KEPT)},
        )

    def measure_validation(self) -> dict:
        """The GPU's work, and memory; the model is then in evaluation mode."""
        self.model.eval()
        for _ in range(2):
            self.validate()
        return dict(
            validation_gpu_ms=gpu_ms(self.validate),
            validation_allocated_mb=self.allocated_mb(self.validate),
        )

    @torch.no_grad()
    def validate(self) -> None:
        """One image of each size, as ValLoop does."""
        for batch in self.images:
            samples = self.model.val_step(batch)
            self.evaluator.process(samples)
        require_graphs(self.graphed, training=False)


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


def compare(group: dict[str, dict]) -> dict[str, dict]:
    """What each model gains over mmseg's heads, and over those on mmpretrain's ViT."""
    rival = next((model for name, model in group.items() if name.startswith(RIVAL)), None)
    comparison = {}
    for name, ours in group.items():
        config, kind = name.split(', ', 1)
        mmseg = group.get(f'{config}, {KINDS[0]}')
        if kind == KINDS[0] or mmseg is None:
            continue
        own_ms = ours['train_ms']['median']
        one = {
            'train ms': own_ms,
            'train speed': mmseg['train_ms']['median'] / own_ms,
            'train speed, GPU alone': mmseg['train_gpu_ms'] / ours['train_gpu_ms'],
            'validation speed': mmseg['validation_ms']['median'] / ours['validation_ms']['median'],
        }
        if rival is not None:
            one["train speed over mmpretrain's ViT"] = rival['train_ms']['median'] / own_ms
        if ours['train_reserved_mb'] is not None:
            one['train memory'] = ours['train_reserved_mb'] / mmseg['train_reserved_mb']
        comparison[name] = {key: round(value, 3) for key, value in one.items()}
    return comparison


def print_group(group: dict[str, dict], comparison: dict[str, dict]) -> None:
    width = max(map(len, group), default=0)
    for name, model in group.items():
        print(
            f'{name:{width}} train {in_words(model["train_ms"])} '
            f'(GPU {model["train_gpu_ms"]:.2f}; MB allocated {model["train_allocated_mb"]}, '
            f'reserved {model["train_reserved_mb"]}), '
            f'validation {in_words(model["validation_ms"])} (GPU {model["validation_gpu_ms"]:.2f})'
        )
        print(f'{"":{width}} {model["losses"]}')
    for name in group:
        if name in comparison:
            print(name, comparison[name])
    kernels = next((model for name, model in group.items() if name.endswith(KINDS[1])), None)
    for name, ms in kernels['train_kernels_ms'].items() if kernels else ():
        print(f'{ms:9.3f} {name}')


def print_operators(results: dict) -> None:
    for name, cases in results.get('operators', {}).items():
        for case in cases:
            medians = {key: round(value['median'], 4) for key, value in case['times'].items()}
            print(name, case['shape'], medians)


def draw(results: dict, out_dir: Path) -> None:
    """Training steps and validation, by config and who computes the heads."""
    panels = {
        'a training step': ('train_ms', 'train_gpu_ms'),
        'validation of three images': ('validation_ms', 'validation_gpu_ms'),
    }
    draw_steps(
        {
            f'{title}, ms': {
                name: Bar.of(model[ms], model[gpu])
                for name, model in results['models'].items()
                if ms in model
            }
            for title, (ms, gpu) in panels.items()
        },
        results['machine']['device'],
        out_dir / PLOT,
    )
