"""Throughput and memory of KAT and of its ViT twin against timm's ViT of the same size."""

import functools
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from timing import (
    allocated,
    allocated_mb,
    kernel_profile,
    machine,
    require_gpu,
    save,
    step_times,
    synchronize,
)
from torch import nn

import kat_mm  # noqa: F401
from kat_mm.errors import UserError

PLOT = 'throughput.png'
# Of so few images, which take the GPU no time, a step is as long as the host needs to start it.
HOST_BATCH = 2
HOST_TARGET = 1.00
# Name in timm and here, and batch sizes. Steps of the smallest model are so short that the host may
# not keep up with the GPU; the larger batch tells.
SIZES = {'T': ('tiny', (HOST_BATCH, 256, 512)), 'S': ('small', (256,)), 'B': ('base', (128,))}
TARGETS = {
    ('train', 'eager'): 1.10,
    ('train', 'compiled'): 1.00,
    ('train', 'graphs'): 1.00,
    ('infer', 'eager'): 1.10,
    ('infer', 'compiled'): 1.00,
    ('infer', 'graphs'): 1.00,
}
# Options of torch.compile. With CUDA graphs the host starts a whole pass at once, which tells where
# it is the limit: for the smallest model.
MODES = {'eager': None, 'compiled': {}, 'graphs': {'mode': 'reduce-overhead'}}
HOST_BOUND = ('T',)
NUM_CLASSES = 1000
KERNELS_KEPT = 20


class Classifier(nn.Module):
    """Backbone and linear head, as timm's models have it."""

    def __init__(self, arch: str | dict, ffn: str):
        super().__init__()
        self.backbone = MODELS.build(dict(type='KAT', arch=arch, ffn_cfg=dict(type=ffn)))
        self.head = nn.Linear(self.backbone.embed_dims, NUM_CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(images)[0])


def build(contender: str, arch: str | dict) -> nn.Module:
    torch.manual_seed(0)
    if contender == 'timm':
        import timm

        return timm.create_model(f'vit_{arch}_patch16_224', num_classes=NUM_CLASSES)
    return Classifier(arch, {'KAT': 'GRKAN', 'ViT': 'MLP'}[contender])


def training_step(model: nn.Module, batch: int, pixels: int = 224) -> Callable[[], None]:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    device = next(model.parameters()).device
    images = torch.randn(batch, 3, pixels, pixels, device=device)
    labels = torch.randint(NUM_CLASSES, (batch,), device=device)

    def step():
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def inference_step(model: nn.Module, batch: int, pixels: int = 224) -> Callable[[], None]:
    model.eval()
    device = next(model.parameters()).device
    images = torch.randn(batch, 3, pixels, pixels, device=device)

    @torch.inference_mode()
    def step():
        with torch.autocast(device.type, torch.bfloat16):
            model(images)

    return step


STEPS = {'train': training_step, 'infer': inference_step}


def compare(size: str, batch: int, task: str, mode: str) -> dict:
    """Images/s and peak memory of every contender, in turns in one process."""
    arch, _ = SIZES[size]
    contenders = ('timm', 'KAT', 'ViT') if mode == 'eager' else ('timm', 'KAT')
    builders = {name: functools.partial(build, name, arch) for name in contenders}
    entry = {
        'size': size,
        'task': task,
        'mode': mode,
        'batch': batch,
        **take_turns(builders, STEPS[task], batch, mode, rounds=20 if batch == HOST_BATCH else 5),
        'target': HOST_TARGET if batch == HOST_BATCH else TARGETS[task, mode],
    }
    print_entry(f'{size} {batch} {task:5} {mode:8}', entry)
    return entry


def take_turns(
    builders: dict[str, Callable[[], nn.Module]],
    step_of: Callable[..., Callable[[], None]],
    batch: int,
    mode: str,
    pixels: int = 224,
    **turns: int,
) -> dict:
    """What a step of each model takes, and how that stands to the first one's."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    steps, memory, first_steps = {}, {}, {}
    # What cuBLAS keeps for forward and backward would else count as memory of the first one.
    weight = torch.ones(8, 8, device=device, requires_grad=True)
    (weight @ weight).sum().backward()
    torch._dynamo.reset()  # not in between: what was compiled would be compiled again
    for name, builder in builders.items():
        model = builder().to(device)
        held = allocated() - sum(p.numel() * p.element_size() for p in model.parameters())
        if MODES[mode] is not None:
            model = torch.compile(model, **MODES[mode])
        step = step_of(model, batch, pixels)
        start = time.perf_counter()
        step()
        synchronize()
        first_steps[name] = time.perf_counter() - start
        step()
        if device == 'cuda' and mode != 'graphs':  # which own their memory
            memory[name] = allocated_mb(step, held)
        steps[name] = step
    times = step_times(steps, **turns)
    rates = {name: batch / t['median'] * 1000 for name, t in times.items()}
    profiles = {name: kernel_profile(step, device == 'cuda') for name, step in steps.items()}
    return {
        'ms': times,
        'images_per_second': rates,
        # What the GPU works in a step; where it is less than the step, the host is the limit.
        'gpu_ms': {name: sum(profile.values()) for name, profile in profiles.items()},
        'allocated_mb': memory,
        'kernels_ms': {name: longest(profile) for name, profile in profiles.items()},
        # Compilation of kernels included, where no earlier run left them in a cache.
        'first_step_seconds': first_steps,
        'ratio_to_timm': {name: rate / rates['timm'] for name, rate in rates.items()},
    }


def longest(profile: dict[str, float]) -> dict[str, float]:
    """The kernels that take most of a step."""
    most = sorted(profile.items(), key=lambda item: -item[1])[:KERNELS_KEPT]
    return {name[:120]: round(ms, 3) for name, ms in most}


def print_entry(case: str, entry: dict) -> None:
    for name, rate in entry['images_per_second'].items():
        memory = entry['allocated_mb']
        peak = f'{memory[name]:8.1f} MB, ' if name in memory else ''
        print(
            f'{case} {name:4} {rate:8.0f} '
            f'images/s {entry["ratio_to_timm"][name]:5.2f} (target {entry["target"]:.2f}) '
            f'{entry["gpu_ms"][name]:6.2f} of {entry["ms"][name]["median"]:6.2f} ms on the GPU, '
            f'{peak}first step {entry["first_step_seconds"][name]:.1f} s',
            flush=True,
        )


def run(out_dir: Path, sizes: list[str], tasks: list[str], modes: list[str]) -> None:
    """Measure, print and write results.json and the plot."""
    require_gpu()
    torch.backends.cuda.matmul.allow_tf32 = True
    cases = [
        (size, batch, task, mode)
        for mode in modes
        for task in tasks
        for size in sizes
        for batch in SIZES[size][1]
        if mode != 'graphs' or size in HOST_BOUND
        if mode == 'eager' or batch != HOST_BATCH
    ]
    if not cases:
        raise UserError(f'graphs is measured for size {", ".join(HOST_BOUND)}, not {sizes}')
    results = {'machine': machine(), 'entries': []}
    for case in cases:
        results['entries'].append(compare(*case))
        save(results, out_dir / 'results.json')
    draw(results, out_dir)


def draw(results: dict, out_dir: Path) -> None:
    """Speed over timm's ViT by size, task and mode."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colors = {'timm': '0.6', 'KAT': 'tab:blue', 'ViT': 'tab:orange'}
    labels = {'timm': "timm's ViT", 'KAT': 'kat_mm, GR-KAN', 'ViT': 'kat_mm, MLP'}
    titles = {'train': 'training', 'infer': 'inference', 'graphs': 'CUDA graphs'}
    entries = {}
    for entry in results['entries']:
        entries.setdefault((entry['task'], entry['mode']), []).append(entry)
    tasks, modes = (list(dict.fromkeys(values)) for values in zip(*entries, strict=True))
    figure = Figure(figsize=(3.2 * len(modes), 0.9 + 2.4 * len(tasks)), layout='constrained')
    axes = figure.subplots(len(tasks), len(modes), sharey=True, squeeze=False)
    for (task, mode), cases in entries.items():
        axis = axes[tasks.index(task)][modes.index(mode)]
        for index, entry in enumerate(cases):
            for place, (name, ratio) in enumerate(entry['ratio_to_timm'].items()):
                axis.bar(index + (place - 1) * 0.27, ratio, 0.25, color=colors[name])
        axis.set_xticks(range(len(cases)), [f'{case["size"]}\n{case["batch"]}' for case in cases])
        axis.set_title(f'{titles[task]}, {titles.get(mode, mode)}')
        axis.axhline(1, color='0.3', linewidth=0.8)
        axis.set_xlim(-0.6, max(map(len, entries.values())) - 0.4)
    for row in axes:
        row[0].set_ylabel("images/s over timm's ViT")
    handles = [Patch(color=color, label=labels[name]) for name, color in colors.items()]
    figure.legend(handles=handles, loc='outside lower center', ncols=3, frameon=False)
    device = results['machine']['device']
    figure.suptitle(f'{device}, bfloat16 autocast, 224x224; by size and batch', fontsize=9)
    path = out_dir / PLOT
    figure.savefig(path, dpi=150)
    print(f'plot: {path}')
