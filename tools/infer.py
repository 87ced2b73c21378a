"""Predict for images, folders, patterns, videos, cameras and addresses; write pictures and JSON."""

import argparse
import itertools
import os
import sys
import time

import torch

from kat_mm import checks
from kat_mm.engine.inference import Predictor, find_images, write_results
from kat_mm.engine.launch import add_common_arguments, load_config, run_tool
from kat_mm.errors import UserError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        'inputs', nargs='+', help='image, folder, pattern, video, camera number or address'
    )
    parser.add_argument('--out', required=True, help='folder for pictures and results')
    parser.add_argument('--score-threshold', type=float, default=0.3, help='of boxes: 0.3')
    parser.add_argument('--batch-size', type=int, default=1, help='images at once: 1')
    parser.add_argument('--device', help='default: cuda where there is one, else cpu')
    parser.add_argument('--half', action='store_true', help='compute in bfloat16')
    parser.add_argument('--no-pictures', action='store_true', help='results alone')
    parser.add_argument('--work-dir', help=argparse.SUPPRESS)
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.batch_size < 1:
        raise UserError(f'--batch-size {args.batch_size} must be a whole number from 1')
    if not 0 <= args.score_threshold <= 1:
        raise UserError(f'--score-threshold {args.score_threshold} must lie in [0, 1]')
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    if device.startswith('cuda') and not torch.cuda.is_available():
        raise UserError(f'--device {device}: there is no GPU; leave it out')
    cfg = load_config(args)
    checks.check_out_dir(args.out, '--out')
    checks.check_config(cfg, ())
    model = checks.build_model(cfg)
    checks.check_checkpoint(args.checkpoint, model, strict=True)
    predictor = Predictor(cfg, model, device, args.half)
    os.makedirs(args.out, exist_ok=True)
    damaged, results = predict(predictor, args)
    write_results(results, args.out)
    if not results:
        raise UserError(f'none of the {len(damaged)} inputs is an image')
    if damaged:
        raise UserError(f'{len(damaged)} inputs were skipped: {"; ".join(damaged[:5])}')


def predict(predictor: Predictor, args: argparse.Namespace) -> tuple[list[str], list[dict]]:
    """What was skipped, and the results of the rest."""
    damaged, results, began = [], [], time.monotonic()
    images = find_images(args.inputs)
    while chunk := list(itertools.islice(images, args.batch_size)):
        for image in chunk:
            if image.pixels is None:
                damaged.append(image.problem)
                print(f'skipped: {image.problem}', file=sys.stderr)
        chunk = [image for image in chunk if image.pixels is not None]
        if not chunk:
            continue
        for image, sample in zip(chunk, predictor([i.pixels for i in chunk]), strict=True):
            entry = predictor.describe(sample, image.name, args.out, args.score_threshold)
            results.append(entry)
            if not args.no_pictures:
                path = os.path.join(args.out, 'pictures', image.name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                predictor.draw(image.pixels, sample, path, args.score_threshold)
        rate = len(results) / (time.monotonic() - began)
        print(f'{len(results)} images, {rate:.1f} images/s, last {chunk[-1].name}', flush=True)
    return damaged, results


if __name__ == '__main__':
    run_tool(main)
