"""Does a run that is killed go on by itself, and end as one never killed?

    python benchmarks/kills.py [--folders DISK TMPFS]

A small segmentation with drop path, an average of the weights and one checkpoint kept is trained by
tools/train.py in 1 and 2 processes on CPUs, in each folder. All its processes get SIGKILL while it
trains, validates, is half through writing a checkpoint, or has and has not renamed one; then it is
started again with --resume. On a folder with less than 1 GB of room, the disk fills up as well.
Prints each kill, and writes them to benchmarks/results/kills.
"""

import argparse
import json
import os
import runpy
import shutil
import signal
import socket
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from kat_mm.checkpoints import read_checkpoint
from kat_mm.engine.launch import run_tool
from kat_mm.errors import UserError
from kat_mm.sample_data import SampleSettings, make_sample_data

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / 'results' / 'kills'
# What the run does when it is killed, and at which iterations, files or renamings.
KILLS = {
    'training': (2, 3, 6),
    'validating': (2, 4, 6),
    'writing': (1, 2, 4),
    'renaming': (1, 2, 5, 8),
}
CONFIG = """
_base_ = {base!r}
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='EMAHook', momentum=0.1),
    dict(type='KillHook'),
]
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64
        ),
        img_size=64,
        drop_path_rate=0.3,
        out_indices=(0, 1, 2, 3),
    ),
    neck=dict(embed_dim=32),
    decode_head=dict(in_channels=[32] * 4, channels=32),
    auxiliary_head=dict(in_channels=32, channels=32),
)
sizes = dict(
    RandomResize=dict(scale=(96, 64)),
    Resize=dict(scale=(96, 64)),
    RandomCrop=dict(crop_size=(64, 64)),
)
[
    transform.update(sizes.get(transform['type'], dict()))
    for transform in _base_.train_pipeline + _base_.test_pipeline
]
data_root = {data_root!r}
train_dataloader = dict(
    batch_size=2, dataset=dict(data_root=data_root, pipeline=_base_.train_pipeline)
)
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=6, val_interval=2)
param_scheduler = [dict(type='PolyLR', by_epoch=False, begin=0, end=6)]
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=2, max_keep_ckpts=1, save_best='mIoU')
)
"""


@HOOKS.register_module()
class KillHook(Hook):
    """Kills all processes of the run at the moment that the environment names."""

    def __init__(self):
        self.moment, _, at = os.environ.get('KILL', '').partition(' ')
        self.at = int(at or 0)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.moment == 'training' and runner.iter + 1 == self.at:
            kill()

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if self.moment == 'validating' and runner.iter == self.at and batch_idx == 1:
            kill()

    def before_train(self, runner):
        if self.moment == 'writing':
            LocalBackend.put = self.counted(LocalBackend.put, self.write_half)
        elif self.moment == 'renaming':
            os.replace = self.counted(os.replace, self.rename)

    def counted(self, original, last):
        count = 0

        def call(*args):
            nonlocal count
            count += 1
            if count == self.at:
                last(original, *args)
                kill()
            original(*args)

        return call

    def write_half(self, put, backend, content, path):
        put(backend, content[: len(content) // 2], path)

    def rename(self, replace, source, target):
        if self.at % 2 == 0:  # otherwise killed before it
            replace(source, target)


def kill():
    os.killpg(0, signal.SIGKILL)


def train(config: Path, work_dir: Path, processes: int, resume: bool, moment: str) -> list[int]:
    """Exit statuses of the processes of one run; its output is beside the work folder."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            os.setpgid(0, children[0] if children else 0)
            log = os.open(f'{work_dir}.{rank}.log', os.O_CREAT | os.O_APPEND | os.O_WRONLY)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.update(
                KILL=moment,
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(processes),
                MASTER_ADDR='127.0.0.1',
                MASTER_PORT=str(port),
            )
            sys.argv = [str(ROOT / 'tools/train.py'), str(config), '--work-dir', str(work_dir)]
            sys.argv += ['--resume'] * resume
            sys.argv += ['--launcher', 'pytorch'] * (processes > 1)
            runpy.run_path(sys.argv[0], run_name='__main__')
            sys.exit()
        children.append(child)
        # Also here: the next one joins the group.
        os.setpgid(child, children[0])
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def wholes(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob('[!.]*.pth') if zipfile.is_zipfile(path))


def same(first: Path, second: Path) -> bool:
    """Whether two finished runs have the same checkpoints, bit for bit."""
    if wholes(first) != wholes(second):
        return False
    keys = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')
    for name in wholes(first):
        found, expected = (read_checkpoint(folder / name) for folder in (first, second))
        if not all(equal(found.get(key), expected.get(key)) for key in keys):
            return False
    return True


def equal(found, expected) -> bool:
    if isinstance(found, dict):
        return found.keys() == expected.keys() and all(
            equal(found[key], expected[key]) for key in found
        )
    if isinstance(found, list | tuple):
        return len(found) == len(expected) and all(map(equal, found, expected))
    if isinstance(found, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    return found == expected


def make_config(folder: Path) -> Path:
    make_sample_data(['ade20k'], folder, SampleSettings(12, 5, 96, 64))
    config = folder / 'config.py'
    data_root = folder / 'ade' / 'ADEChallengeData2016'
    base = ROOT / 'configs' / 'kat_t_upernet_sample.py'
    config.write_text(CONFIG.format(base=str(base), data_root=str(data_root)))
    return config


def run_kill(config, folder, processes, moment, expected) -> dict:
    work_dir = folder / 'run'
    statuses = train(config, work_dir, processes, False, moment)
    if statuses != [-signal.SIGKILL] * processes:
        raise UserError(f'{moment}: not killed, but {statuses}; see {work_dir}.0.log')
    left = wholes(work_dir)
    statuses = train(config, work_dir, processes, True, '')
    return dict(
        moment=moment,
        whole_when_killed=left,
        went_on=statuses == [0] * processes,
        same_bits=same(work_dir, expected),
    )


def run_full(config, folder, processes, expected) -> dict:
    """The disk fills up behind the first checkpoint; later there is room again."""
    work_dir, filler = folder / 'run', folder / 'filler'
    (size,) = {path.stat().st_size for path in expected.glob('iter_*.pth')}
    room = shutil.disk_usage(folder).free - int(2.5 * size)
    with open(filler, 'wb') as file:
        os.posix_fallocate(file.fileno(), 0, room)
    statuses = train(config, work_dir, processes, False, '')
    left = wholes(work_dir)
    messages = [
        line
        for line in Path(f'{work_dir}.0.log').read_text().splitlines()
        if line.startswith('error: cannot write checkpoint')
    ]
    filler.unlink()
    again = train(config, work_dir, processes, True, '')
    return dict(
        moment='disk full',
        messages=len(messages),
        whole_when_killed=left,
        went_on=0 not in statuses and again == [0] * processes,
        same_bits=same(work_dir, expected),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--folders',
        nargs='+',
        type=Path,
        default=[Path(tempfile.gettempdir()), Path('/dev/shm')],
        help='where to keep the runs (default: %(default)s)',
    )
    parser.add_argument('--kills', nargs='+', choices=KILLS, default=list(KILLS))
    parser.add_argument('--out-dir', type=Path, default=RESULTS)
    args = parser.parse_args()
    os.environ.update(CUDA_VISIBLE_DEVICES='', TRITON_INTERPRET='1')
    torch.set_num_threads(1)
    results = []
    # No context, which a forked process would leave at its end.
    data = tempfile.mkdtemp()
    config = make_config(Path(data))
    for processes in (1, 2):
        expected = Path(data, f'never_killed_{processes}')
        if any(train(config, expected, processes, False, '')):
            raise UserError(Path(f'{expected}.0.log').read_text())
        for place in args.folders:
            moments = [f'{kind} {at}' for kind in args.kills for at in KILLS[kind]]
            moments += ['disk full'] * (shutil.disk_usage(place).free < 1e9)
            for moment in moments:
                folder = Path(tempfile.mkdtemp(dir=place))
                if moment == 'disk full':
                    found = run_full(config, folder, processes, expected)
                else:
                    found = run_kill(config, folder, processes, moment, expected)
                found.update(processes=processes, folder=str(args.folders.index(place)))
                results.append(found)
                print(found, flush=True)
                if found['went_on'] and found['same_bits']:
                    shutil.rmtree(folder)
    shutil.rmtree(data)
    # The first kills of these kinds come before the first checkpoint is whole.
    early = {'training 2', 'writing 1', 'renaming 1'}
    summary = dict(
        kills=len(results),
        went_on=sum(found['went_on'] for found in results),
        same_bits=sum(found['same_bits'] for found in results),
        lost_all=sum(
            not found['whole_when_killed'] and found['moment'] not in early for found in results
        ),
    )
    print(summary)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    content = dict(summary=summary, kills=results)
    (args.out_dir / 'results.json').write_text(json.dumps(content, indent=1) + '\n')


if __name__ == '__main__':
    run_tool(main)
