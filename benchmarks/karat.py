"""Speed and memory of KArAt in training: softmax, KArAt as its basis is written, and KArAt fused.

    python benchmarks/karat.py

ViT-T and ViT-S at 224x224 on one GPU, bfloat16 autocast, AdamW: images per second of whole training
steps, and the peak of allocated memory. The kinds take turns, so that what else happens to the
machine happens to all of them. A profile of one step with each kind says where its time goes.
Writes results.json.
"""

import argparse
import statistics
import time
from collections import Counter
from pathlib import Path

import torch
from timing import allocated_mb, kernel_profile, machine, save
from torch import nn

from kat_mm.backbones import KAT
from kat_mm.engine.launch import run_tool
from kat_mm.errors import UserError

FOURIER = dict(type='KArAt', basis=dict(type='fourier', grid=3))
KINDS = {
    'softmax': dict(type='SoftmaxAttention'),
    'KArAt plain': dict(**FOURIER, fused=False),
    'KArAt fused': FOURIER,
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--archs', nargs='+', default=['tiny', 'small'])
    parser.add_argument('--batch-size', type=int, default=256)
    parser.add_argument('--img-size', type=int, default=224)
    parser.add_argument('--steps', type=int, default=20, help='timed steps in a turn')
    parser.add_argument('--turns', type=int, default=3)
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--out-dir', type=Path, default=Path('benchmarks/results/karat'))
    return parser.parse_args()


class Trainer:
    """Whole training steps of a classifier on random images."""

    def __init__(self, arch: str, attn_cfg: dict, args: argparse.Namespace):
        torch.manual_seed(0)
        self.device = torch.device(args.device)
        backbone = KAT(arch, args.img_size, ffn_cfg=dict(type='MLP'), attn_cfg=attn_cfg)
        self.model = nn.ModuleList([backbone, nn.Linear(backbone.embed_dims, 1000)])
        self.model.to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        size = args.img_size
        self.images = torch.randn(args.batch_size, 3, size, size, device=self.device)
        self.labels = torch.randint(0, 1000, (args.batch_size,), device=self.device)

    def step(self) -> None:
        backbone, head = self.model
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = nn.functional.cross_entropy(head(backbone(self.images)[0]), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def seconds_per_step(self, steps: int) -> float:
        self.wait()
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        self.wait()
        return (time.perf_counter() - start) / steps

    def wait(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize()


def measure(arch: str, args: argparse.Namespace) -> dict:
    """Images per second, memory and profile of each kind, for one size of model."""
    results, times = {}, {}
    for kind, attn_cfg in KINDS.items():
        trainer = Trainer(arch, attn_cfg, args)
        for _ in range(3):  # compiles the kernels, and makes the optimizer's state
            trainer.step()
        results[kind] = dict(allocated_mb=peak_memory(trainer), kernels_ms=profile(trainer))
        times[kind] = []
        del trainer
    for _ in range(args.turns):
        for kind, attn_cfg in KINDS.items():
            trainer = Trainer(arch, attn_cfg, args)
            trainer.seconds_per_step(args.steps // 4 or 1)  # warms up
            times[kind].append(trainer.seconds_per_step(args.steps))
            del trainer
    for kind, result in results.items():
        speeds = [args.batch_size / seconds for seconds in times[kind]]
        result['images_per_second'] = round(statistics.median(speeds), 1)
        result['images_per_second_of_turns'] = [round(speed, 1) for speed in speeds]
        for name, key in (('speed', 'images_per_second'), ('memory', 'allocated_mb')):
            if results['softmax'][key]:
                result[f'{name}_to_softmax'] = round(result[key] / results['softmax'][key], 3)
    return results


def peak_memory(trainer: Trainer) -> float | None:
    """MB allocated at most in a step; None on a CPU."""
    return allocated_mb(trainer.step, held=0) if trainer.device.type == 'cuda' else None


def profile(trainer: Trainer, rows: int = 12) -> dict[str, float]:
    """Milliseconds of a step in all kernels and in each of the longest, by name."""
    times = Counter()
    for name, milliseconds in kernel_profile(trainer.step, trainer.device.type == 'cuda').items():
        times[name[:100]] += milliseconds
    longest = sorted(times, key=times.get, reverse=True)[:rows]
    return {
        'all': round(sum(times.values()), 3),
        **{name: round(times[name], 3) for name in longest},
    }


def main() -> None:
    args = parse_args()
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('no GPU is visible; --device cpu runs the same on the CPU')
    settings = dict(batch_size=args.batch_size, img_size=args.img_size, steps=args.steps)
    results = dict(machine=machine(), settings=settings)
    for arch in args.archs:
        results[arch] = measure(arch, args)
        for kind, result in results[arch].items():
            shown = {key: value for key, value in result.items() if key != 'kernels_ms'}
            print(f'ViT {arch}, {kind}: {shown}', flush=True)
    save(results, args.out_dir / 'results.json')


if __name__ == '__main__':
    run_tool(main)
