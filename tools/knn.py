"""Classify the validation images of a config by the nearest of its training images.

What the backbone has learned shows so, without training a head: the k most similar training images
vote.
"""

import argparse
import copy
import math

from mmengine.config import Config

from kat_mm import checks
from kat_mm.datasets.wrappers import inner_datasets, type_name
from kat_mm.engine.launch import add_common_arguments, build_runner, load_config, run_tool
from kat_mm.errors import UserError
from kat_mm.evaluation.knn import extract_features, knn_scores


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of a classifier')
    parser.add_argument(
        'checkpoint', nargs='?', help="default: what the config's backbone starts from"
    )
    parser.add_argument('--k', type=int, default=20, help='neighbours (default: %(default)s)')
    parser.add_argument('--temperature', type=float, default=0.07, help='default: %(default)s')
    parser.add_argument('--work-dir', help='folder for the log')
    add_common_arguments(parser)
    return parser.parse_args()


def known_images(cfg: Config) -> dict:
    """A loader of the training images without augmentation, each once."""
    dataset = copy.deepcopy(cfg.train_dataloader.dataset)
    while type_name(dataset) in ('RepeatDataset', 'ClassBalancedDataset'):
        dataset = dataset['dataset']
    pipeline = next(inner_datasets(cfg.val_dataloader.dataset))['pipeline']
    for inner in inner_datasets(dataset):
        inner['pipeline'] = pipeline
    return {**cfg.val_dataloader, 'dataset': dataset}


def main() -> None:
    args = parse_args()
    checks.check_whole('--k', args.k, 1)
    if not 0 < args.temperature < math.inf:
        raise UserError(f'--temperature {args.temperature} must be a finite number above 0')
    cfg = load_config(args)
    if args.launcher != 'none':
        raise UserError('k-NN compares all images in one process; leave --launcher out')
    if cfg.get('default_scope') != 'mmpretrain':
        raise UserError(f'{args.config} is no config of a classifier (default_scope mmpretrain)')
    cfg.load_from = args.checkpoint
    checks.prepare(cfg, ('train', 'val'), cfg.load_from, strict=False, work_dir=cfg.work_dir)
    runner = build_runner(cfg)
    if not cfg.load_from:
        runner.model.init_weights()
    runner.load_or_resume()
    images = [
        extract_features(runner.model, runner.build_dataloader(loader, seed=0))
        for loader in (known_images(cfg), dict(cfg.val_dataloader))
    ]
    (features, labels), (queries, truth) = images
    if args.k > len(features):
        raise UserError(f'--k {args.k} must lie from 1 to {len(features)}, the training images')
    classes = int(max(labels.max(), truth.max())) + 1
    scores = knn_scores(features, labels, queries, classes, args.k, args.temperature)
    right = scores.topk(min(5, classes), dim=1).indices == truth[:, None]
    top1, top5 = (100 * right[:, :n].any(1).float().mean().item() for n in (1, 5))
    print(f'{args.k} nearest of {len(features)}: top-1 {top1:.2f} %, top-5 {top5:.2f} %')


if __name__ == '__main__':
    run_tool(main)
