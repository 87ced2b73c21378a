"""Read all data that a config names, and report every damaged file at once."""

import argparse

from mmengine.config import DictAction

from kat_mm import checks
from kat_mm.checks.every_file import Report, read_every_file
from kat_mm.datasets.wrappers import type_name
from kat_mm.engine.launch import load_config, run_tool
from kat_mm.errors import UserError, some

SPLITS = ('train', 'val', 'test')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or the name of one of kat_mm')
    parser.add_argument(
        '--splits', nargs='+', choices=SPLITS, default=['train', 'val'], help='default: train val'
    )
    parser.add_argument('--num-workers', type=int, default=4, help='default: %(default)s')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='as for tools/train.py')
    parser.add_argument('--allow-pickle', action='store_true', help='as for tools/train.py')
    parser.set_defaults(launcher='none', work_dir=None, local_rank=0)
    return parser.parse_args()


def print_report(split: str, report: Report) -> None:
    name = f'{split}: {type_name(report.dataset)}'
    print(f'{name} of {report.samples} samples, {len(report.damaged)} damaged')
    if report.many_bits:
        number = len(report.many_bits)
        print(f'{name}: of {number} images the upper 8 bits are used: {some(report.many_bits)}')
    if report.absent:
        print(f'{name}: no sample has a pixel or an object of {some(report.absent)}')


def main() -> None:
    args = parse_args()
    checks.check_whole('--num-workers', args.num_workers, 0)
    cfg = load_config(args)
    problems = []
    for split in args.splits:
        try:
            checks.check_config(cfg, (split,))
        except UserError as error:
            problems.append(str(error))
            if cfg.get('default_scope') == 'mmdet':
                print(f'{split}: files were not read, since what lists them is wrong')
                continue
        try:
            for report in read_every_file(cfg, split, args.num_workers):
                print_report(split, report)
                problems += report.damaged
        except UserError as error:
            problems.append(str(error))
    problems = list(dict.fromkeys(problems))
    for problem in problems:
        print(f'  {problem}')
    if problems:
        raise UserError(f'{len(problems)} problems, named above')


if __name__ == '__main__':
    run_tool(main)
