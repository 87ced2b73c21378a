"""Draw samples of a data set as they are augmented, with their truth, and count their classes."""

import argparse
import json
from pathlib import Path

import numpy as np

from kat_mm import checks
from kat_mm.analysis.browse import Statistics, build_dataset, draw_sample, samples
from kat_mm.engine.launch import add_common_arguments, load_config, run_tool
from kat_mm.errors import UserError
from kat_mm.visualization.files import write_image
from kat_mm.visualization.predictions import Classes


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or the name of one')
    parser.add_argument('--split', choices=['train', 'val', 'test'], default='train')
    parser.add_argument('--out', type=Path, required=True, help='folder for pictures and counts')
    parser.add_argument(
        '--num-pictures', type=int, default=20, help='samples to draw (default: %(default)s)'
    )
    parser.add_argument(
        '--num-counted', type=int, default=500, help='samples to count (default: %(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0, help='which samples, and their augmentation')
    parser.set_defaults(work_dir=None)
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    checks.check_whole('--num-pictures', args.num_pictures, 0)
    checks.check_whole('--num-counted', args.num_counted, 0)
    checks.check_whole('--seed', args.seed, 0, 2**32 - 1)
    if not args.num_pictures and not args.num_counted:
        raise UserError('--num-pictures 0 and --num-counted 0 leave nothing to show')
    cfg = load_config(args)
    checks.check_out_dir(str(args.out), '--out')
    checks.check_config(cfg, (args.split,))
    dataset = build_dataset(cfg, args.split)
    classes = Classes.of(dataset.metainfo, getattr(dataset, 'METAINFO', None) or {})
    number = min(max(args.num_pictures, args.num_counted), len(dataset))
    rng = np.random.default_rng(args.seed)
    indices = sorted(rng.choice(len(dataset), number, replace=False).tolist())
    # The same number of pictures over the whole of them.
    drawn = set(np.linspace(0, number - 1, min(args.num_pictures, number)).astype(int).tolist())
    preprocessor = {**cfg.get('data_preprocessor', {}), **cfg.model.get('data_preprocessor', {})}
    is_bgr = preprocessor.get('bgr_to_rgb') or preprocessor.get('to_rgb', False)
    np.random.seed(args.seed)
    statistics = Statistics()
    args.out.mkdir(parents=True, exist_ok=True)
    for position, sample in enumerate(samples(dataset, indices, is_bgr)):
        statistics.add(sample.truth)
        if position in drawn:
            picture = draw_sample(sample, classes)[..., ::-1]
            write_image(args.out / f'{args.split}_{indices[position]:06d}.png', picture)
    rows = statistics.rows(classes)
    (args.out / f'{args.split}_classes.json').write_text(json.dumps(rows, indent=1) + '\n')
    print(f'{statistics.count} of {len(dataset)} samples, as augmented, {len(drawn)} drawn')
    width = max(len(row['name']) for row in rows) + 2
    print(f'{"class":{width}}{"images":>8}{"amount":>12}{"share":>9}')
    for row in rows:
        share = f'{100 * row["share"]:.2f} %'
        print(f'{row["name"]:{width}}{row["images"]:8}{row["amount"]:12}{share:>9}')
    missing = [row['name'] for row in rows if not row['images']]
    if missing:
        print(f'not seen: {", ".join(missing)}')


if __name__ == '__main__':
    run_tool(main)
