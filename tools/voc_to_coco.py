"""Write COCO's annotation files for a folder in Pascal VOC's layout."""

import argparse

from kat_mm.datasets.voc import voc_to_coco
from kat_mm.engine.launch import run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', help='folder with Annotations, ImageSets/Main and JPEGImages')
    parser.add_argument(
        '--classes', nargs='+', help='in the order of the labels (default: all, sorted)'
    )
    parser.add_argument('--splits', nargs='+', help='lists in ImageSets/Main (default: all)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    for split, content in voc_to_coco(args.root, args.classes, args.splits).items():
        boxes = ', '.join(f'{count} {name}' for name, count in content['boxes'].items())
        print(f'{args.root}/annotations/{split}.json: {content["images"]} images, {boxes}')
        for name in content['left_out']:
            print(f'  left out: a box without area in {name}')
        for name in content['outside']:
            print(f'  reaches outside of its image: a box in {name}')


if __name__ == '__main__':
    run_tool(main)
