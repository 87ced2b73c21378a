"""Write small data sets of drawn scenes in the layouts of ADE20K, COCO and ImageNet."""

import argparse
import signal
import sys

from kat_mm.sample_data import WRITERS, SampleSettings, make_sample_data


def parse_args(args: list[str] | None = None) -> argparse.Namespace:
    default = SampleSettings()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('dataset', choices=[*WRITERS, 'all'], help='what to write')
    parser.add_argument('--out', default='data/sample', help='folder of the data sets')
    parser.add_argument('--num-train', type=int, default=default.num_train, help='training images')
    parser.add_argument('--num-val', type=int, default=default.num_val, help='validation images')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('WIDTH', 'HEIGHT'),
        default=(default.width, default.height),
        help='mean size of the images in pixels',
    )
    parser.add_argument('--seed', type=int, default=default.seed, help='another draws other images')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace sample data made with other settings'
    )
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> None:
    args = parse_args(args)
    names = list(WRITERS) if args.dataset == 'all' else [args.dataset]
    settings = SampleSettings(args.num_train, args.num_val, *args.size, args.seed)
    # End as Ctrl-C does, which removes what is half-written
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        results = make_sample_data(names, args.out, settings, args.overwrite)
    except KeyboardInterrupt:
        sys.exit('error: interrupted; the unfinished data set was removed')
    except OSError as error:
        if error.errno is None:
            sys.exit(f'error: {error}')
        path = error.filename or args.out
        sys.exit(f'error: cannot write {path}: {error.strerror}; choose another folder with --out')
    except ValueError as error:
        sys.exit(f'error: {error}')
    for folder, written in results:
        state = 'written' if written else 'there already, made with the same settings'
        print(f'{folder}: {settings.num_train} + {settings.num_val} images, {state}')


if __name__ == '__main__':
    main()
