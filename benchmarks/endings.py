"""Do two processes end as one does? Trains in two processes, again and again.

    python benchmarks/endings.py [--endings 100]                  # on CPUs, with gloo
    python benchmarks/endings.py [--endings 100] --backend nccl   # on two GPUs

Each kind of ending is made that many times, the last two so that a thread of the backend
may wait for Python's lock when its process ends: whether it meets the end of the interpreter is
then no matter of luck.
Prints the exit statuses, and writes them to benchmarks/results/endings: gloo's to results.json,
NCCL's to nccl.json.
"""

import argparse
import atexit
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import distributed, nn
from torch.utils.data import Dataset

from kat_mm.engine import CheckpointRunner
from kat_mm.engine.launch import run_tool
from kat_mm.errors import UserError

RESULTS = Path(__file__).parent / 'results' / 'endings'
# What the kinds of ending should exit with.
KINDS = {
    'all is done': 0,
    'the other process is late': 0,
    'a mistake while the other process is late': 1,
}
LATE = 1  # seconds
# PyTorch then counts GPUs without CUDA.
NVML = 'PYTORCH_NVML_BASED_CUDA_CHECK'


class Numbers(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(inputs=torch.ones(4), data_samples=index)


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, inputs, data_samples, mode='tensor'):
        return dict(loss=self.linear(torch.stack(inputs)).sum())


class LateHook(Hook):
    """At the end of the run starts a collective which the second process joins late."""

    def after_run(self, runner):
        if distributed.get_rank() == 1:
            time.sleep(LATE)
        else:
            # Holds Python's lock for longer than that, until the interpreter's end: it runs no
            # bytecode, between which the lock changes hands, and so do no functions after it.
            atexit._clear()
            atexit.register(sum, range(100_000_000))
        device = next(runner.model.parameters()).device
        distributed.all_reduce(torch.ones(4, device=device), async_op=True)


def train(kind: str, backend: str, rank: int, folder: str) -> None:
    os.environ['LOCAL_RANK'] = str(rank)
    if backend == 'nccl':
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        backend, init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    runner = CheckpointRunner(
        model=Model(),
        work_dir=folder,
        train_dataloader=dict(
            dataset=Numbers(), batch_size=2, sampler=dict(type='InfiniteSampler', shuffle=False)
        ),
        train_cfg=dict(by_epoch=False, max_iters=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        cfg=dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None)),
        launcher='pytorch',
        env_cfg=dict(dist_cfg=dict(backend=backend)),
        default_hooks=dict(checkpoint=None),
        custom_hooks=[] if kind == 'all is done' else [LateHook()],
        log_level='ERROR',
        experiment_name='endings',
    )
    runner.train()
    if kind.startswith('a mistake'):
        raise UserError('as it was told')


def end(kind: str, backend: str) -> list[int]:
    """Exit statuses of two processes, or the negative number of the signal that ended them."""
    folder = tempfile.mkdtemp()
    processes = []
    for rank in range(2):
        process = os.fork()
        if process == 0:
            # Ends as a script does, through the end of the interpreter.
            log = os.open(f'{folder}/{rank}.log', os.O_CREAT | os.O_WRONLY)
            os.dup2(log, 1)
            os.dup2(log, 2)
            run_tool(lambda rank=rank: train(kind, backend, rank, folder))
            sys.exit()
        processes.append(process)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    for rank, status in enumerate(statuses):
        if status != KINDS[kind]:
            print(f'process {rank}, status {status}:', Path(folder, f'{rank}.log').read_text())
    shutil.rmtree(folder)
    return statuses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--endings', type=int, default=100, help='of each kind (default: 100)')
    parser.add_argument('--backend', choices=['gloo', 'nccl'], default='gloo')
    parser.add_argument('--out-dir', type=Path, default=RESULTS)
    args = parser.parse_args()
    # No process may begin CUDA before it forks, and mmengine asks for GPUs when it is imported.
    if args.backend == 'nccl' and NVML not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {NVML: '1'})
    if args.backend == 'nccl' and torch.cuda.device_count() < 2:
        raise UserError('--backend nccl needs two GPUs, one for each process')
    torch.set_num_threads(1)
    results = []
    for kind, expected in KINDS.items():
        found = Counter(status for _ in range(args.endings) for status in end(kind, args.backend))
        results.append(
            dict(
                kind=kind,
                backend=args.backend,
                endings=args.endings,
                expected=expected,
                statuses={str(status): number for status, number in sorted(found.items())},
            )
        )
        print(f'{args.endings} times, {kind}: statuses {dict(found)}, expected {expected}')
    args.out_dir.mkdir(parents=True, exist_ok=True)
    name = 'results.json' if args.backend == 'gloo' else f'{args.backend}.json'
    (args.out_dir / name).write_text(json.dumps(results, indent=1) + '\n')
    if any(result['statuses'].keys() != {str(result['expected'])} for result in results):
        raise UserError('some processes did not end as expected')


if __name__ == '__main__':
    run_tool(main)
