"""The first compiled training step of KAT-S and of timm's ViT-S: how long, and where the time goes.

Each model is compiled in processes of its own with empty caches of torch.compile and Triton: once
for the time, with PyTorch's own clocks of the stages, and once more under cProfile, which slows it,
for the functions that look through Triton kernels for what they change: once for each kernel and
its sizes (``kat_mm/ops/common/tracing.py``), not once for each call and stage.
"""

import argparse
import cProfile
import json
import os
import pstats
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
# Of torch._higher_order_ops.triton_kernel_wrap: the first up to PyTorch 2.11, the second in 2.14.
ANALYSIS = ('identify_mutated_tensors', 'identify_accessed_tensors', 'generate_ttir')


def run(out_dir: Path, quick: bool) -> None:
    """Measure, print and write results.json; each model is saved at once."""
    contenders = QUICK if quick else CONTENDERS
    batch = 2 if quick else BATCH
    results = dict(
        settings=dict(batch_size=batch, dtype='bfloat16 autocast', target=TARGET),
        machine=machine(),
        models={},
    )
    for name, (kind, arch) in contenders.items():
        found = fresh_process(kind, arch, batch, profiled=False)
        found['profile'] = fresh_process(kind, arch, batch, profiled=True)
        results['models'][name] = found
        save(results, out_dir / 'results.json')
        print_model(name, found)
    if not quick:
        ours, timm = (results['models'][name]['first_step_seconds'] for name in contenders)
        results['ratio_to_timm'] = round(ours / timm, 3)
        print(f'KAT-S over timm ViT-S: {ours / timm:.2f} (target {TARGET})')
        save(results, out_dir / 'results.json')


def fresh_process(kind: str, arch: str | dict, batch: int, profiled: bool) -> dict:
    """What a process that never compiled anything says of its first step."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'found.json'
        caches = {
            variable: str(Path(folder) / variable)
            for variable in ('TORCHINDUCTOR_CACHE_DIR', 'TRITON_CACHE_DIR')
        }
        arguments = [kind, json.dumps(arch), str(batch), str(path)]
        if profiled:
            arguments.append('--profiled')
        subprocess.run([sys.executable, __file__, *arguments], check=True, env=os.environ | caches)
        return json.loads(path.read_text())


def print_model(name: str, found: dict) -> None:
    print(f'{name}: first step {found["first_step_seconds"]:.1f} s, the next', end=' ')
    print(f'{found["second_step_seconds"]:.2f} s')
    for stage, seconds in found['stages_seconds'].items():
        print(f'    {seconds:7.1f} s {stage}')
    for function, one in found['profile']['analysis'].items():
        print(f'    {one["seconds"]:7.1f} s {function}, {one["calls"]} calls, under cProfile')


def first_step(kind: str, arch: str | dict, batch: int, profiled: bool) -> dict:
    """Compile and take two steps; times by stage, or with cProfile by function."""
    from torch._dynamo.utils import compile_times

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.backends.cuda.matmul.allow_tf32 = True
    model = torch.compile(classifiers.build(kind, arch).to(device))
    step = classifiers.training_step(model, batch)
    synchronize()
    profile = cProfile.Profile()
    if profiled:
        profile.enable()
    seconds = [timed(step)]
    profile.disable()
    seconds.append(timed(step))
    found = dict(first_step_seconds=seconds[0], second_step_seconds=seconds[1])
    if profiled:
        return found | dict(analysis=analysis(profile))
    clocks = dict(zip(*compile_times(repr='csv', aggregate=True), strict=True))
    clocks = {name: float(value) for name, value in clocks.items()}
    return found | dict(
        stages_seconds={
            stage: round(clocks[name], 3) for stage, name in STAGES.items() if name in clocks
        },
        clocks_seconds={name: value for name, value in clocks.items() if value >= 0.1},
    )


def timed(step) -> float:
    start = time.perf_counter()
    step()
    synchronize()
    return round(time.perf_counter() - start, 3)


def analysis(profile: cProfile.Profile) -> dict[str, dict]:
    """Calls and cumulative seconds of the functions of ANALYSIS."""
    found = {}
    for (file, _, name), (_, calls, _, seconds, _) in pstats.Stats(profile).stats.items():
        if name in ANALYSIS and file.endswith('triton_kernel_wrap.py'):
            found[name] = dict(calls=calls, seconds=round(seconds, 3))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description='One process of benchmarks/run.py compile.')
    parser.add_argument('kind')
    parser.add_argument('arch', type=json.loads)
    parser.add_argument('batch', type=int)
    parser.add_argument('path', type=Path)
    parser.add_argument('--profiled', action='store_true')
    args = parser.parse_args()
    found = first_step(args.kind, args.arch, args.batch, args.profiled)
    args.path.write_text(json.dumps(found))


if __name__ == '__main__':
    run_tool(main)
