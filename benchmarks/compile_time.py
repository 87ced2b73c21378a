"""The first compiled training step of KAT-S and of timm's ViT-S: how long, and where the time goes.

Each step is taken in a process of its own with empty caches of torch.compile and Triton, with
PyTorch's own clocks of the stages, and how often PyTorch looked through a kernel of Triton for what
it changes: once for each kernel and its sizes (``kat_mm/ops/common/tracing.py``), not once for each
call and stage. The models take turns, of which the first does not count: it reads gigabytes of
PyTorch, CUDA and compilers from the disk.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import model as classifiers
import torch
from timing import machine, save, synchronize

from kat_mm.engine.launch import run_tool

CONTENDERS = {'KAT-S': ('KAT', 'small'), 'timm ViT-S': ('timm', 'small')}
TURNS = 2
QUICK_ARCH = dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=64)
QUICK = {'a small KAT': ('KAT', QUICK_ARCH)}
BATCH = 256
TARGET = 1.2
# Clocks of PyTorch, of forward and backward together. Waiting is a part of loading, or of code
# generation where kernels are chosen by timing; the others are apart.
STAGES = {
    'tracing of Python': 'bytecode_tracing',
    'tracing of forward and backward': 'aot_trace_joint_graph',
    'passes over the joint graph': '_recursive_joint_graph_passes',
    'lowering': 'GraphLowering.run',
    'code generation': 'GraphLowering.codegen',
    'loading of generated code': 'PyCodeCache.load_by_key_path',
    'waiting for compiled kernels': 'async_compile.wait',
}
# Of torch._higher_order_ops.triton_kernel_wrap, up to PyTorch 2.11 and in 2.14.
ANALYSES = 'identify_mutated_tensors', 'identify_accessed_tensors'


def run(out_dir: Path, quick: bool) -> None:
    """Measure, print and write results.json; each turn is saved at once."""
    contenders = QUICK if quick else CONTENDERS
    batch = 2 if quick else BATCH
    models = {name: dict(first_steps_seconds=[]) for name in contenders}
    results = dict(
        settings=dict(batch_size=batch, dtype='bfloat16 autocast', turns=TURNS, target=TARGET),
        machine=machine(),
        models=models,
    )
    for turn in range(TURNS):
        for name, contender in contenders.items():
            take(models[name], fresh_process(*contender, batch), counts=turn > 0)
            save(results, out_dir / 'results.json')
    for name, found in models.items():
        print_model(name, found)
    if not quick:
        timm = models['timm ViT-S']['first_step_seconds']
        results['ratio_to_timm'] = {
            name: round(found['first_step_seconds'] / timm, 3) for name, found in models.items()
        }
        print(f'over timm ViT-S (target {TARGET}): {results["ratio_to_timm"]}')
        save(results, out_dir / 'results.json')


def take(model: dict, found: dict, counts: bool) -> None:
    """Note a turn; of those that count the fastest is kept."""
    model['first_steps_seconds'].append(found['first_step_seconds'])
    if counts and found['first_step_seconds'] <= model.get('first_step_seconds', float('inf')):
        model.update(found)


def fresh_process(kind: str, arch: str | dict, batch: int) -> dict:
    """What a process that never compiled anything says of its first step."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'found.json'
        variables = {
            variable: str(Path(folder) / variable)
            for variable in ('TORCHINDUCTOR_CACHE_DIR', 'TRITON_CACHE_DIR')
        }
        command = [sys.executable, __file__, kind, json.dumps(arch), str(batch), str(path)]
        subprocess.run(command, check=True, env=os.environ | variables)
        return json.loads(path.read_text())


def print_model(name: str, found: dict) -> None:
    print(f'{name}: first step {found["first_step_seconds"]:.1f} s, the next', end=' ')
    print(f'{found["second_step_seconds"]:.2f} s; first steps by turn', end=' ')
    print(*(f'{seconds:.1f}' for seconds in found['first_steps_seconds']))
    for stage, seconds in found['stages_seconds'].items():
        print(f'    {seconds:7.1f} s {stage}')
    for function, one in found['analyses'].items():
        print(f'    {one["seconds"]:7.1f} s {function}, {one["calls"]} calls')


def first_step(kind: str, arch: str | dict, batch: int) -> dict:
    """Compile and take two steps; times by stage."""
    from torch._dynamo.utils import compile_times

    analyses = count_analyses()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.backends.cuda.matmul.allow_tf32 = True
    model = torch.compile(classifiers.build(kind, arch).to(device))
    step = classifiers.training_step(model, batch)
    synchronize()
    seconds = [timed(step), timed(step)]
    clocks = dict(zip(*compile_times(repr='csv', aggregate=True), strict=True))
    clocks = {name: float(value) for name, value in clocks.items()}
    return dict(
        first_step_seconds=seconds[0],
        second_step_seconds=seconds[1],
        stages_seconds={
            stage: round(clocks[name], 3) for stage, name in STAGES.items() if name in clocks
        },
        clocks_seconds={name: value for name, value in clocks.items() if value >= 0.1},
        analyses=analyses,
    )


def count_analyses() -> dict[str, dict]:
    """Calls and seconds of PyTorch's functions of ANALYSES, from now on.

    cProfile cannot tell: in Python 3.12 it sees nothing of what torch.compile's frames call.
    """
    from torch._higher_order_ops import triton_kernel_wrap

    found = {}
    for name in ANALYSES:
        if hasattr(triton_kernel_wrap, name):
            found[name] = dict(calls=0, seconds=0.0)
            function = counted(getattr(triton_kernel_wrap, name), found[name])
            setattr(triton_kernel_wrap, name, function)
    return found


def counted(function, found: dict):
    @functools.wraps(function)
    def call(*args, **kwargs):
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            found['calls'] += 1
            found['seconds'] = round(found['seconds'] + time.perf_counter() - start, 3)

    return call


def timed(step) -> float:
    start = time.perf_counter()
    step()
    synchronize()
    return round(time.perf_counter() - start, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description='One process of benchmarks/run.py compile.')
    parser.add_argument('kind')
    parser.add_argument('arch', type=json.loads)
    parser.add_argument('batch', type=int)
    parser.add_argument('path', type=Path)
    args = parser.parse_args()
    found = first_step(args.kind, args.arch, args.batch)
    args.path.write_text(json.dumps(found))


if __name__ == '__main__':
    run_tool(main)
