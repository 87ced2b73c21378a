"""Print a model's parameters and floating-point operations, and measure time and memory."""

import argparse
import json
from pathlib import Path

import torch
from mmengine.config import Config

from kat_mm import checks
from kat_mm.analysis.complexity import KINDS, Complexity, count_complexity
from kat_mm.analysis.speed import Speed, measure
from kat_mm.engine.inference import find_device
from kat_mm.engine.launch import add_common_arguments, load_config, run_tool
from kat_mm.errors import UserError
from kat_mm.whole_files import write_whole


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or the name of one')
    parser.add_argument(
        '--size', type=int, nargs=2, metavar=('H', 'W'), help="default: the backbone's img_size"
    )
    parser.add_argument('--speed', action='store_true', help='measure time and memory too')
    parser.add_argument('--batch-size', type=int, default=1, help='for --speed: %(default)s')
    parser.add_argument('--device', help='for --speed: cuda where there is one, else cpu')
    parser.add_argument('--half', action='store_true', help='for --speed: bfloat16')
    parser.add_argument('--out', type=Path, help='JSON file for the numbers')
    parser.set_defaults(work_dir=None)
    add_common_arguments(parser)
    return parser.parse_args()


def image_size(cfg: Config) -> tuple[int, int]:
    """Height and width of the images that the backbone of a config is made for."""
    size = cfg.model.get('backbone', {}).get('img_size')
    if size is None:
        raise UserError('the backbone of the config has no img_size: give --size H W')
    return (size, size) if isinstance(size, int) else tuple(size)


def print_complexity(found: Complexity) -> None:
    """Print a row for each part of a model, and a column for each kind of operation."""
    kinds = [kind for kind in KINDS if found.of_kind(kind)]
    print(f'{"":16}{"parameters":>12}' + ''.join(f'{kind:>13}' for kind in kinds) + f'{"all":>11}')
    for part in dict.fromkeys([*found.parameters, *found.flops]):
        flops = found.flops.get(part, {})
        cells = ''.join(f'{flops.get(kind, 0) / 1e9:13.3f}' for kind in kinds)
        million = found.parameters.get(part, 0) / 1e6
        print(f'{part:16}{million:10.3f} M{cells}{sum(flops.values()) / 1e9:11.3f}')
    cells = ''.join(f'{found.of_kind(kind) / 1e9:13.3f}' for kind in kinds)
    million = sum(found.parameters.values()) / 1e6
    print(f'{"all":16}{million:10.3f} M{cells}{found.total() / 1e9:11.3f}  GFLOPs')
    print('A multiplication and an addition are two operations.')
    for kind in found.uncounted:
        print(f'Of {kind}, products of matrices alone are counted.')


def print_speed(found: Speed, batch: int, device: torch.device) -> None:
    """Print time, throughput and memory."""
    kind = 'peak of tensors' if device.type == 'cuda' else 'resident memory of the process'
    print(
        f'{1e3 * found.median:.2f} ms (quartiles {1e3 * found.low:.2f}, {1e3 * found.high:.2f}), '
        f'{batch / found.median:.1f} images/s, {kind} {found.memory / 2**30:.2f} GiB'
    )


def main() -> None:
    args = parse_args()
    checks.check_whole('--batch-size', args.batch_size, 1, 4096)
    checks.check_whole('--size', args.size, 1, 8192)
    if args.out:
        checks.check_out_dir(args.out.parent, '--out')
        if args.out.is_dir():
            raise UserError(f'--out {args.out} is a folder; name a JSON file')
    cfg = load_config(args)
    size = tuple(args.size) if args.size else image_size(cfg)
    model = checks.prepare(cfg, ())
    complexity = count_complexity(model, size)
    print(f'{args.config}, images of {size[0]} x {size[1]}')
    print_complexity(complexity)
    numbers = dict(config=args.config, size=size, **complexity._asdict())
    if args.speed:
        device = find_device(args.device)
        speed = measure(model, size, args.batch_size, str(device), args.half)
        print_speed(speed, args.batch_size, device)
        numbers['speed'] = dict(batch=args.batch_size, device=str(device), **speed._asdict())
    if args.out:
        with write_whole(args.out) as temporary:
            temporary.write_text(json.dumps(numbers, indent=1) + '\n')


if __name__ == '__main__':
    run_tool(main)
