"""A detector's whole step as tools/train.py makes it: mmdet's own heads against ours, and graphs.

Beside them the same detector by mmdet on mmpretrain's ViTSAM, which has ViTDet's windows, global
blocks and relative positions (mmdetection's own ViTDet is a project beside its package). The
variants take turns, in one process, with the same images, objects and proposals (a quarter of
them on objects). A training step is what a run's iteration does: seeding, images and masks from the
host, losses, backward pass, optimizer, and the losses' values for the log. ``train_reserved_mb`` is
what a card has to have free for it beside CUDA's context: what PyTorch holds at most in a training
step of the variant alone, before the turns (see ``contenders.py``).
"""

import copy
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from contenders import (
    build_beside,
    fitting_step_times,
    graphed_forwards,
    measure_alone,
    require_graphs,
    reserved_peak,
)
from detection import random_batch
from fixed_proposals import fix_heads, random_proposals
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from step_plot import Bar, draw_steps
from timing import MB, allocated, gpu_ms, in_words, machine, save
from torch.utils._python_dispatch import TorchDispatchMode

from kat_mm.backbones.archs import resolve_arch
from kat_mm.dense import compile_parts, graph_parts
from kat_mm.dense.detection import use_fast_heads
from kat_mm.engine.float32_boxes import keep_boxes_in_float32
from kat_mm.engine.runtime_info import on_the_way

CONFIG = Path(__file__).parents[1] / 'configs' / 'kat_b_mask_rcnn_lsj_coco.py'
QUICK_CONFIG = CONFIG.with_name('kat_t_mask_rcnn_sample.py')
PLOT = 'steps.png'
QUICK = {
    'model.backbone.arch': dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64),
    'model.backbone.global_attn_indices': (1,),
    'model.neck.in_channels': 32,
}
# Which of our heads, CUDA graphs and torch.compile a variant has.
RIVAL = 'mmdet on ViTSAM'
VARIANTS = {
    RIVAL: ('rival',),
    'mmdet': (),
    'graphs': ('graphs',),
    'fast heads': ('heads',),
    'fast heads, graphs': ('heads', 'graphs'),
    'fast heads, compile': ('heads', 'compile'),
}
# Milliseconds of a training step and of inference on one H100, by the number of images.
TARGETS = {2: {'train': 84}, 6: {'train': 220, 'predict': 94}}
# What the host does in a step, in modules and beside them; all that is RoI is in the first of it.
AFTER_PROPOSALS, UPDATE = 'RoI: losses, all of it', 'backward and optimizer'
PARTS = {
    'preprocessing': 'data_preprocessor',
    'backbone': 'backbone',
    'neck': 'neck',
    'RPN: convolutions': 'rpn_head',
    'RPN: losses': None,
    'RPN: proposals': None,
    AFTER_PROPOSALS: None,
    'RoI: box features': 'roi_head.bbox_roi_extractor',
    'RoI: box head': 'roi_head.bbox_head',
    'RoI: mask features': 'roi_head.mask_roi_extractor',
    'RoI: mask head': 'roi_head.mask_head',
    UPDATE: None,
}
# Operators whose result the host needs: a GPU is waited for.
WAITS = (
    'aten::_local_scalar_dense',
    'aten::nonzero',
    'aten::masked_select',
    'aten::_unique2',
    'aten::unique_dim',
    'aten::equal',
)


class Detector:
    """A model of one variant, and its steps."""

    def __init__(self, cfg: Config, parts: tuple[str, ...], batch: dict, proposals: list):
        torch.manual_seed(0)
        self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
        self.batch, self.parts, self.steps, self.before = batch, parts, 0, allocated()
        cfg = copy.deepcopy(cfg)
        if 'rival' in parts:
            cfg.model.backbone = mmpretrain_vit(cfg.model.backbone)
        cfg.model.rpn_head.type = 'FixedFastRPNHead' if 'heads' in parts else 'FixedRPNHead'
        self.model = MODELS.build(cfg.model).to(self.device)
        wrapper = dict(cfg.optim_wrapper)
        if self.device == 'cuda':
            wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
        self.optim_wrapper = build_optim_wrapper(self.model, wrapper)
        keep_boxes_in_float32(self.model)
        if 'heads' in parts:
            use_fast_heads(self.model)
        fix_heads(self.model, proposals)
        self.set_mode(training=True)

    def set_mode(self, training: bool) -> None:
        """Graphs and compiled parts are those of a run of one kind."""
        self.model.train(training)
        if 'compile' in self.parts:
            compile_parts(self.model, training)
        if 'graphs' in self.parts and self.device == 'cuda' and training:
            graph_parts(self.model)
        self.graphed = graphed_forwards(self.model)

    def start(self) -> None:
        for _ in range(2):
            self.train()

    def train(self) -> None:
        self.steps += 1
        torch.manual_seed(self.steps)  # SeedIterationHook
        losses = self.model.train_step(self.batch, self.optim_wrapper)
        if 'heads' in self.parts:
            on_the_way(losses)  # LateRuntimeInfoHook
        else:
            [value.item() for value in losses.values()]  # mmengine's RuntimeInfoHook
        require_graphs(self.graphed, training=True)

    @torch.no_grad()
    def predict(self) -> list:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == 'cuda'):
            predictions = self.model.test_step(self.batch)
        require_graphs(self.graphed, training=False)
        return predictions

    def measure_memory(self) -> dict:
        peak = reserved_peak(self.train, self.before)
        return dict(train_reserved_mb=round(peak / MB, 1))


def load_config(path: Path, size: int) -> Config:
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.img_size = size
    cfg.optim_wrapper.optimizer.lr = 0.0  # the fixed weights of the heads stay
    return cfg


def mmpretrain_vit(backbone: dict) -> dict:
    """mmpretrain's ViTSAM in the place of a KAT, without the layers that SAM has behind it."""
    import mmpretrain.models  # noqa: F401  registers it

    arch = {**resolve_arch(backbone.arch), 'global_attn_indexes': backbone.global_attn_indices}
    shared = ('img_size', 'patch_size', 'drop_path_rate', 'window_size', 'use_rel_pos', 'out_type')
    return dict(
        type='mmpretrain.ViTSAM',
        arch=arch,
        out_channels=0,
        **{key: backbone[key] for key in shared},
    )


def measure(cfg: Config, size: int, images: int, names: list[str], rounds: int, steps: int) -> dict:
    """Of each variant: its memory, alone; in turns milliseconds of its steps, and the GPU's work.

    One that cannot go on is left out, and has what was measured before.
    """
    builders = detectors_of(cfg, size, images, names)
    results = measure_alone(builders, Detector.measure_memory)
    # Nothing else holds a detector: it may have to go.
    detectors = build_beside(builders, results)
    for kind in ('train', 'predict'):
        if kind == 'predict':
            for name in detectors:
                detectors[name].set_mode(training=False)
        for name, ms in fitting_step_times(detectors, results, kind, rounds, steps).items():
            gpu = gpu_ms(getattr(detectors[name], kind))
            results[name][kind] = dict(ms=ms, gpu_ms=round(gpu, 2))
    return results


def detectors_of(
    cfg: Config, size: int, images: int, names: list[str]
) -> dict[str, Callable[[], Detector]]:
    """What builds each variant; all see the same images and proposals."""
    batch = random_batch(size, images, cfg.model.roi_head.bbox_head.num_classes)
    proposals = random_proposals(batch, size, count=cfg.model.train_cfg.rpn_proposal.max_per_img)
    return {name: partial(Detector, cfg, VARIANTS[name], batch, proposals) for name in names}


class Watch:
    """Who is told when a part of a step begins and when it ends."""

    def enter(self, name: str) -> None:
        raise NotImplementedError

    def leave(self, name: str) -> None:
        raise NotImplementedError

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.enter(name)
        try:
            yield
        finally:
            self.leave(name)
            if name == 'RPN: proposals':
                self.enter(AFTER_PROPOSALS)  # to the end of the model's forward


class Clock(Watch):
    """Seconds of the host in each part."""

    def __init__(self):
        self.spent, self.started = Counter(), {}

    def enter(self, name: str) -> None:
        self.started[name] = time.perf_counter()

    def leave(self, name: str) -> None:
        self.spent[name] += time.perf_counter() - self.started[name]


class Count(Watch, TorchDispatchMode):
    """Operators of each part, and those that wait."""

    def __init__(self):
        super().__init__()
        self.operators, self.waits, self.within = Counter(), {}, ['the rest']

    def enter(self, name: str) -> None:
        self.within.append(name)

    def leave(self, name: str) -> None:
        self.within.pop()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        part, name = self.within[-1], function._schema.name
        self.operators[part] += 1
        if _waits(name, args, kwargs or {}):
            self.waits.setdefault(part, Counter())[name.removeprefix('aten::')] += 1
        return function(*args, **(kwargs or {}))


def _waits(name: str, args: tuple, kwargs: dict) -> bool:
    if name in WAITS:
        return True
    if name in ('aten::index', 'aten::index_put_') and len(args) > 1:
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    if name == 'aten::_to_copy' and kwargs.get('device') is not None:
        moves = torch.device(kwargs['device']).type != args[0].device.type
        return moves and not kwargs.get('non_blocking')
    if name == 'aten::copy_':
        moves = args[0].device.type != args[1].device.type
        return moves and not (len(args) > 2 and args[2]) and not kwargs.get('non_blocking')
    return False


class WatchedOptimWrapper:
    """An optimizer wrapper as ``train_step`` uses it, whose update is watched."""

    def __init__(self, wrapper: OptimWrapper, watch: Watch):
        self.wrapper, self.watch = wrapper, watch
        self.optim_context = wrapper.optim_context

    def update_params(self, loss: torch.Tensor) -> None:
        with self.watch(UPDATE):
            self.wrapper.update_params(loss)


@contextmanager
def watching(detector: Detector, watch: Watch) -> Iterator[None]:
    """Tell ``watch`` of the parts of a detector's steps."""
    model, wrapper = detector.model, detector.optim_wrapper
    hooks = [model.register_forward_hook(lambda *_: watch.leave(AFTER_PROPOSALS))]
    modules = dict(model.named_modules())
    for name, path in PARTS.items():
        if path not in modules:  # a detector without masks, or no module
            continue
        module = modules[path]
        hooks += [
            module.register_forward_pre_hook(lambda *_, name=name: watch.enter(name)),
            module.register_forward_hook(lambda *_, name=name: watch.leave(name)),
        ]
    model.rpn_head.watch = watch
    detector.optim_wrapper = WatchedOptimWrapper(wrapper, watch)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        del model.rpn_head.watch
        detector.optim_wrapper = wrapper


def profile(detector: Detector, steps: int = 5) -> dict:
    """Host milliseconds, operators and waits of each part of a training step."""
    clock, count = Clock(), Count()
    with watching(detector, clock):
        for _ in range(steps):
            with clock('step'):
                detector.train()
    with watching(detector, count), count:
        detector.train()
    spent = clock.spent
    return {
        name: dict(
            host_ms=round(1000 * spent[name] / steps, 2) if name in spent else None,
            operators=count.operators[name],
            waits=dict(count.waits.get(name, {})),
        )
        for name in ('step', *PARTS, 'the rest')
        if name in spent or name == 'the rest'
    }


def run(out_dir: Path, images: list[int], variants: list[str], quick: bool, profiles: bool) -> None:
    size = 64 if quick else 1024
    cfg = load_config(QUICK_CONFIG if quick else CONFIG, size)
    if quick:
        cfg.merge_from_dict(QUICK)
    rounds, steps = (1, 1) if quick else (5, 5)
    results = dict(
        settings=dict(
            config=(QUICK_CONFIG if quick else CONFIG).name, size=size, rounds=rounds, steps=steps
        ),
        machine=machine(),
        images={},
    )
    for count in images:
        result = measure(cfg, size, count, variants, rounds, steps)
        results['images'][str(count)] = result
        save(results, out_dir / 'results.json')
        for name, one in result.items():
            for kind in ('train', 'predict'):
                if kind not in one:
                    continue
                ms, target = one[kind]['ms'], TARGETS.get(count, {}).get(kind)
                wanted = f', target {target}' if target and not quick else ''
                print(
                    f'{count} images, {kind:7} {name:20} {in_words(ms)}, '
                    f'GPU {one[kind]["gpu_ms"]:.1f}, '
                    f'{one["train_reserved_mb"]:.0f} MB{wanted}'
                )
    if profiles:
        builders = detectors_of(cfg, size, images[0], variants)
        results['profile'] = measure_alone(builders, profile)
        for name, table in results['profile'].items():
            if 'left_out' in table:
                continue
            print(f'\n{name}, {images[0]} images: host ms, operators, waits')
            for part, row in table.items():
                waits = ', '.join(f'{key} {value}' for key, value in row['waits'].items())
                ms = '' if row['host_ms'] is None else f'{row["host_ms"]:.2f}'
                print(f'  {part:24} {ms:>8} {row["operators"]:6} {waits}')
    save(results, out_dir / 'results.json')
    draw(results, out_dir)


def draw(results: dict, out_dir: Path) -> None:
    """Training and inference by the number of images."""
    titles = {'train': 'a training step', 'predict': 'inference'}
    draw_steps(
        {
            f'{titles[kind]}, {count} images, ms': {
                name: Bar.of(one[kind]['ms'], one[kind]['gpu_ms'])
                for name, one in result.items()
                if kind in one
            }
            for kind in titles
            for count, result in results['images'].items()
        },
        results['machine']['device'],
        out_dir / PLOT,
    )
