"""Predict for images, folders, patterns, videos, cameras and addresses; write pictures and JSON."""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator

from kat_mm import checks
from kat_mm.engine.inference import Predictor
from kat_mm.engine.launch import add_common_arguments, load_config, run_tool
from kat_mm.engine.results import Results
from kat_mm.engine.sources import Image, find_images
from kat_mm.errors import UserError, some

# Seconds between two lines of progress.
PROGRESS = 2
# Rows of the legend of a video, whose frames have one size.
LEGEND_ROWS = 3


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or the name of one, such as kat_s_in1k')
    parser.add_argument('checkpoint', help='file, URL or published name, such as kat_s_in1k')
    parser.add_argument(
        'inputs', nargs='+', help='image, folder, pattern, video, camera number or address'
    )
    parser.add_argument('--out', required=True, help='folder for pictures and results')
    parser.add_argument(
        '--score-threshold', type=float, default=0.3, help='of objects (default: %(default)s)'
    )
    parser.add_argument(
        '--image-info',
        help="file of COCO whose numbers of images and categories the results get, as COCO's "
        'servers need them',
    )
    parser.add_argument('--batch-size', type=int, default=1, help='default: %(default)s')
    parser.add_argument('--device', help='default: cuda where there is one, else cpu')
    parser.add_argument('--half', action='store_true', help='compute in bfloat16')
    parser.add_argument('--no-pictures', action='store_true', help='results alone')
    parser.set_defaults(work_dir=None)
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    checks.check_whole('--batch-size', args.batch_size, 1, 4096)
    if not 0 <= args.score_threshold <= 1:
        raise UserError(f'--score-threshold {args.score_threshold} must lie in [0, 1]')
    cfg = load_config(args)
    checks.check_out_dir(args.out, '--out')
    predictor = Predictor(cfg, args.checkpoint, args.device, args.half)
    results = Results(
        args.out, predictor.task, predictor.classes, args.score_threshold, args.image_info
    )
    damaged = []
    try:
        predict(predictor, results, damaged, args)
    finally:
        # A camera has no end but the user's interrupt.
        results.close()
    if not results.entries:
        raise UserError(f'nothing was read: {some(damaged, 5, "; ")}')
    if damaged:
        raise UserError(f'{len(damaged)} inputs were skipped: {some(damaged, 5, "; ")}')


def predict(
    predictor: Predictor, results: Results, damaged: list[str], args: argparse.Namespace
) -> None:
    """Predict for all inputs, and note what is skipped."""
    began = told = time.monotonic()
    images = find_images(args.inputs)
    while chunk := list(itertools.islice(images, args.batch_size)):
        for image, sample in predict_batch(predictor, chunk, damaged):
            results.add(image, sample)
            if not args.no_pictures:
                rows = LEGEND_ROWS if image.video else None
                drawn = predictor.draw(image.pixels, sample, args.score_threshold, rows)
                results.add_picture(image, drawn)
        now = time.monotonic()
        if now - told >= PROGRESS:
            told = now
            print(_progress(len(results.entries), now - began), flush=True)
    print(f'{_progress(len(results.entries), time.monotonic() - began)}, in {args.out}')


def predict_batch(
    predictor: Predictor, images: list[Image], damaged: list[str]
) -> Iterator[tuple[Image, object]]:
    """Images with their predictions; what cannot be read, prepared or predicted for is noted."""
    taken, data = [], []
    for image in images:
        try:
            data.append(prepare(predictor, image))
            taken.append(image)
        except UserError as error:
            skip(str(error), damaged)
    try:
        samples = predictor.predict(data)
    except UserError as error:
        if len(taken) == 1:
            skip(f'{taken[0].name}: {error}', damaged)
            return
        # Which it is, is seen one by one.
        for image in taken:
            yield from predict_batch(predictor, [image], damaged)
    else:
        yield from zip(taken, samples, strict=True)


def skip(problem: str, damaged: list[str]) -> None:
    damaged.append(problem)
    print(f'skipped: {problem}', file=sys.stderr)


def prepare(predictor: Predictor, image: Image) -> dict:
    """An image as the model takes it.

    Raises:
        UserError: It cannot be read or prepared.
    """
    if image.pixels is None:
        raise UserError(image.problem)
    try:
        return predictor.prepare(image.pixels)
    except UserError as error:
        raise UserError(f'{image.name}: {error}') from error


def _progress(count: int, seconds: float) -> str:
    return f'{count} images, {count / seconds:.1f} images/s'


if __name__ == '__main__':
    run_tool(main)
