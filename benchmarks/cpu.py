"""Training step of KAT-T and of its ViT twin on a CPU."""

import statistics
import time
from pathlib import Path

import torch
from model import build
from timing import machine, save, spread
from torch.nn import functional as F

BATCH, THREADS, ROUNDS, TARGET = 8, 2, 7, 1.3


def run(out_dir: Path) -> None:
    """Measure in turns, print and write results.json."""
    torch.set_num_threads(THREADS)
    images, labels = torch.randn(BATCH, 3, 224, 224), torch.randint(1000, (BATCH,))
    models = {name: build(name, 'tiny') for name in ('ViT', 'KAT')}
    samples = {name: [] for name in models}
    for _ in range(ROUNDS + 1):
        for name, model in models.items():
            start = time.perf_counter()
            F.cross_entropy(model(images), labels).backward()
            model.zero_grad(set_to_none=True)
            samples[name].append(time.perf_counter() - start)
    seconds = {name: spread(values[1:]) for name, values in samples.items()}
    ratios = [kat / vit for kat, vit in zip(samples['KAT'], samples['ViT'], strict=True)][1:]
    results = {
        'machine': machine(),
        'threads': THREADS,
        'batch': BATCH,
        'seconds': seconds,
        'ratio': spread(ratios),
        'target': TARGET,
    }
    for name, value in seconds.items():
        print(f'{name}-T  {value["median"]:.3f} s')
    print(f'ratio {statistics.median(ratios):.2f} (target {TARGET})')
    save(results, out_dir / 'results.json')
