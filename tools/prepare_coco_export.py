"""Write annotation files and label images of a data set that a labelling tool exported as COCO."""

import argparse

from kat_mm.datasets.coco_export import describe, prepare_coco_export
from kat_mm.engine.launch import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', help='folder of the splits, each with _annotations.coco.json')
    for line in describe(prepare_coco_export(parser.parse_args().root)):
        print(line)


if __name__ == '__main__':
    run_tool(main)
