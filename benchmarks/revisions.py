"""Training and inference of KAT with two revisions of this project, in turns in one run.

    git worktree add ../before REVISION
    python benchmarks/revisions.py ../before

Each turn is a process of its own. A case is a size, a batch, and what was done to the model:
nothing, a hook on one block, LoRA on qkv, recomputation, FSDP. Measured are milliseconds of the
GPU's work, of a step with the host, of the host alone (a step of two images, which takes the GPU no
time), and peak memory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from mmengine.registry import MODELS
from model import Classifier, inference_step, training_step
from timing import allocated, allocated_mb, gpu_ms, machine, require_gpu, save, step_times
from torch import Tensor, nn

from kat_mm.engine.launch import run_tool

RESULTS = Path(__file__).parent / 'results' / 'revisions'
MODES = {'eager': None, 'compiled': {}, 'graphs': {'mode': 'reduce-overhead'}}


class LowRank(nn.Module):
    """LoRA: a linear map, frozen, and a learned one of rank 8 beside it."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 8, bias=False)
        self.up = nn.Linear(8, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def hook_block(model: Classifier) -> None:
    model.backbone.blocks[5].register_forward_hook(lambda *_: None)


def add_adapters(model: Classifier) -> None:
    for block in model.backbone.blocks:
        block.attn.qkv = LowRank(block.attn.qkv)


def recompute(model: Classifier) -> None:
    model.backbone.with_cp = True


def drop_paths(model: Classifier) -> None:
    model.backbone = MODELS.build(dict(type='KAT', arch='tiny', drop_path_rate=0.1))


def shard(model: Classifier) -> None:
    from torch.distributed.fsdp import fully_shard

    if not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group('nccl', store=store, rank=0, world_size=1)
    for block in model.backbone.blocks:
        fully_shard(block)
    fully_shard(model)


# Arch, batch, task, what is done to the model, mode.
CASES = {
    'T 256': ('tiny', 256, 'train', None, 'eager'),
    'T 512': ('tiny', 512, 'train', None, 'eager'),
    'S 256': ('small', 256, 'train', None, 'eager'),
    'B 128': ('base', 128, 'train', None, 'eager'),
    'T 512, inference': ('tiny', 512, 'infer', None, 'eager'),
    'B 128, inference': ('base', 128, 'infer', None, 'eager'),
    'T 2, host': ('tiny', 2, 'train', None, 'eager'),
    'T 2, host, drop path': ('tiny', 2, 'train', drop_paths, 'eager'),
    'T 2, host, inference': ('tiny', 2, 'infer', None, 'eager'),
    'S 256, hook on a block': ('small', 256, 'train', hook_block, 'eager'),
    'S 256, LoRA on qkv': ('small', 256, 'train', add_adapters, 'eager'),
    'S 256, recomputed': ('small', 256, 'train', recompute, 'eager'),
    'S 256, FSDP': ('small', 256, 'train', shard, 'eager'),
    'S 256, compiled': ('small', 256, 'train', None, 'compiled'),
    'B 128, compiled': ('base', 128, 'train', None, 'compiled'),
    'T 256, graphs': ('tiny', 256, 'train', None, 'graphs'),
}


def measure(name: str) -> dict:
    """One case with the package that is imported."""
    arch, batch, task, change, mode = CASES[name]
    torch.manual_seed(0)
    torch._dynamo.reset()
    held = allocated()
    model = Classifier(arch, 'GRKAN').cuda()
    if change is not None:
        change(model)
        model.cuda()
    if MODES[mode] is not None:
        model = torch.compile(model, **MODES[mode])
    step = (training_step if task == 'train' else inference_step)(model, batch)
    for _ in range(3):
        step()
    result = dict(allocated_mb=allocated_mb(step, held), gpu_ms=gpu_ms(step))
    # The least of single steps: hosts are disturbed by whoever shares them.
    times = step_times({name: step}, rounds=60 if batch < 8 else 15, steps=1)[name]
    result['ms'] = times['min']
    return result


def turn(tree: Path, cases: list[str]) -> dict:
    """All cases in a new process with the package of a checkout."""
    output = subprocess.run(
        [sys.executable, __file__, '--turn', json.dumps(cases)],
        env={**os.environ, 'PYTHONPATH': f'{tree}:{os.environ.get("PYTHONPATH", "")}'},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('before', nargs='?', type=Path, help='checkout of the other revision')
    parser.add_argument('--cases', nargs='+', choices=CASES, default=list(CASES))
    parser.add_argument('--rounds', type=int, default=3, help='turns of each revision')
    parser.add_argument('--out', type=Path, default=RESULTS / 'results.json')
    parser.add_argument('--turn', type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    require_gpu()
    torch.backends.cuda.matmul.allow_tf32 = True
    if args.turn:
        print(json.dumps({name: measure(name) for name in args.turn}))
        return
    trees = {'before': args.before.resolve(), 'after': Path(__file__).resolve().parents[1]}
    turns = {name: [] for name in trees}
    for _ in range(args.rounds):
        for name, tree in trees.items():
            turns[name].append(turn(tree, args.cases))
    results = dict(machine=machine(), cases={})
    for case in args.cases:
        entry = {
            name: {
                key: statistics.median(one[case][key] for one in found) for key in found[0][case]
            }
            for name, found in turns.items()
        }
        entry['ratio'] = {key: entry['after'][key] / entry['before'][key] for key in entry['after']}
        results['cases'][case] = entry
        row = ', '.join(f'{key} {value:.3f}' for key, value in entry['ratio'].items())
        print(f'{case:24} after over before: {row}', flush=True)
    save(results, args.out)


if __name__ == '__main__':
    run_tool(main)
