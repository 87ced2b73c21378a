"""Compare finished runs of tools/train.py: figures, curves and pictures of one comparison.

    python benchmarks/compare.py bccd      # or camvid, cifar10, karat_cifar10

How its runs are trained stands at each comparison below. Writes results.json, curves.png and, of
detectors and segmenters, predictions.jpg. A run that is missing keeps what results.json says of it.
The speed is that of a run's logged iterations behind the 100th; where runs shared a GPU,
--speed-dirs names runs that had it alone.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config
from runs import (
    WITH_SEED,
    images_per_second,
    load_config,
    load_runner,
    plot_curves,
    read_runs,
    read_scalars,
    short_name,
    summarize,
)
from timing import machine, save

from kat_mm.engine.launch import run_tool
from kat_mm.errors import UserError
from kat_mm.visualization.detection import plot_detection
from kat_mm.visualization.predict import predict
from kat_mm.visualization.segmentation import plot_segmentation


@dataclass
class Comparison:
    """Which runs are compared, and by what.

    Attributes:
        titles: Of each work folder, or with ``seeds`` of each beginning of FOLDER_SEED.
        metric: Key in the log, of the curve.
        ylabel: What the metric is.
        seeds: Whether runs have seeds.
        xlabel: What the log counts when it evaluates.
        tested: Whether the last checkpoint is tested; else the last logged scores count.
        plot: Draws predictions by title for rows of a data set. Default: none.
        rows: How many images it draws.
        more: Further figures of a run from its config.
        published: Top-1 that was published for a folder.
    """

    titles: dict[str, str]
    metric: str
    ylabel: str
    seeds: bool = False
    xlabel: str = 'iteration'
    tested: bool = True
    plot: Callable | None = None
    rows: int = 6
    more: Callable[[Config], dict] | None = None
    published: dict[str, float] = field(default_factory=dict)

    def find(self, work_dirs: Path) -> dict[str, Path]:
        """Work folders of the runs that are there, by title."""
        found = {}
        for folder, title in self.titles.items():
            if not self.seeds:
                found[title] = work_dirs / folder
                continue
            for path in sorted(work_dirs.glob(f'{folder}_*')):
                seed = path.name.removeprefix(f'{folder}_')
                if seed.isdecimal():
                    found[WITH_SEED.format(title=title, seed=seed)] = path
        found = {title: path for title, path in found.items() if path.is_dir()}
        if not found:
            example = ', '.join(folder + '_0' * self.seeds for folder in self.titles)
            raise UserError(f'{work_dirs} holds none of the runs {example}')
        return found


def function_init(cfg: Config) -> dict:
    """How functions of KArAt started; all as they do if 'scaled', before that had a name."""
    attn_cfg = cfg.model.backbone.attn_cfg
    start = None
    if attn_cfg['type'] == 'KArAt':
        start = attn_cfg.get('function_init', 'scaled' if 'operator' in attn_cfg else 'normal')
    return dict(seed=cfg.randomness.seed, function_init=start)


def is_scaled(figures: dict) -> bool:
    """Whether a run's functions started as before they had the published start."""
    return figures.get('function_init') == 'scaled'


COMPARISONS = {
    # python tools/voc_to_coco.py data/bccd --classes RBC WBC Platelets
    # python tools/train.py configs/kat_t_faster_rcnn_bccd.py, and vit_t_...; and from the
    # classifiers of cifar10, with --work-dir work_dirs/kat_t_faster_rcnn_bccd_pretrained and
    # --cfg-options model.backbone.init_cfg.type=Pretrained
    #     model.backbone.init_cfg.checkpoint=work_dirs/cifar10/kat_0/epoch_100.pth
    'bccd': Comparison(
        {
            'kat_t_faster_rcnn_bccd': 'KAT-T',
            'vit_t_faster_rcnn_bccd': 'ViT-T',
            'kat_t_faster_rcnn_bccd_pretrained': 'KAT-T, pretrained',
            'vit_t_faster_rcnn_bccd_pretrained': 'ViT-T, pretrained',
        },
        metric='coco/bbox_mAP',
        ylabel='validation AP, %',
        plot=plot_detection,
        rows=5,
    ),
    # python tools/train.py configs/kat_t_upernet_camvid.py, and vit_t_...
    'camvid': Comparison(
        {'kat_t_upernet_camvid': 'KAT-T', 'vit_t_upernet_camvid': 'ViT-T'},
        metric='mIoU',
        ylabel='validation mIoU, %',
        plot=plot_segmentation,
    ),
    # W=work_dirs/cifar10; for seed in 0 1 2, and so for kat:
    #     python tools/train.py configs/vit_t_cifar10.py --work-dir $W/vit_$seed \
    #         --cfg-options randomness.seed=$seed
    # V="load_from=$W/vit_0/epoch_100.pth randomness.seed=0"
    # T=configs/kat_t_from_vit_cifar10.py; F=model.backbone.ffn_cfg
    # python tools/train.py $T --work-dir $W/gelu_0 --cfg-options $V
    # python tools/train.py $T --work-dir $W/swish_0 --cfg-options $V $F.act_init=identity,swish
    # python tools/train.py $T --work-dir $W/mlp_0 --cfg-options $V $F._delete_=True $F.type=MLP
    'cifar10': Comparison(
        {
            'vit': 'ViT-T from scratch',
            'kat': 'KAT-T from scratch',
            'mlp': 'ViT-T, trained on',
            'gelu': 'KAT-T from ViT-T, GELU start',
            'swish': 'KAT-T from ViT-T, swish start',
        },
        metric='accuracy/top1',
        ylabel='test top-1, %',
        xlabel='epoch',
        seeds=True,
        tested=False,
    ),
    # python tools/train.py configs/vit_t_softmax_cifar10.py, and so on; for 30 epochs with
    # --cfg-options train_cfg.max_epochs=30 param_scheduler.1.end=30, else 100, as published (KArAt,
    # Maity et al. 2025). karat.py measures their speed.
    'karat_cifar10': Comparison(
        {
            'vit_t_softmax_cifar10': 'ViT-T',
            'vit_t_karat_cifar10': 'ViT-T + KArAt G3B',
            'vit_t_karat_universal_cifar10': 'ViT-T + KArAt G3U',
            'kat_t_karat_cifar10': 'KAT-T + KArAt G3B',
        },
        metric='accuracy/top1',
        ylabel='test top-1, %',
        xlabel='epoch',
        tested=False,
        more=function_init,
        published={
            'vit_t_softmax_cifar10': 72.76,
            'vit_t_karat_cifar10': 76.69,
            'vit_t_karat_universal_cifar10': 75.56,
        },
    ),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('what', choices=COMPARISONS)
    parser.add_argument(
        '--work-dirs', type=Path, help='default: work_dirs; work_dirs/WHAT where runs have seeds'
    )
    parser.add_argument('--speed-dirs', type=Path, help='default: --work-dirs')
    parser.add_argument('--out-dir', type=Path, help='default: benchmarks/results/WHAT')
    args = parser.parse_args()
    seeds = COMPARISONS[args.what].seeds
    args.work_dirs = args.work_dirs or Path('work_dirs') / (args.what if seeds else '')
    args.out_dir = args.out_dir or Path('benchmarks/results') / args.what
    return args


def main() -> None:
    args = parse_args()
    comparison = COMPARISONS[args.what]
    path = args.out_dir / 'results.json'
    runs, runners = read_runs(path, comparison.titles), {}
    for title, work_dir in comparison.find(args.work_dirs).items():
        final = None
        if comparison.tested:
            runners[title] = load_runner(work_dir)
            final = runners[title].test()
        runs[title] = summarize(work_dir, comparison.metric, final)
        speed_dir = (args.speed_dirs or args.work_dirs) / work_dir.name
        if speed_dir.is_dir():
            runs[title]['train_images_per_second'] = images_per_second(
                read_scalars(speed_dir), load_config(speed_dir).train_dataloader.batch_size
            )
        if comparison.more:
            runs[title].update(comparison.more(load_config(work_dir)))
        if comparison.published:
            runs[title]['published_top1'] = comparison.published.get(work_dir.name)
        print(title, {key: value for key, value in runs[title].items() if 'curve' not in key})
    save(dict(runs=runs, machine=machine()), path)
    panels = [
        ('loss_curve', 'iteration', 'training loss'),
        (short_name(comparison.metric) + '_curve', comparison.xlabel, comparison.ylabel),
    ]
    labelled = {
        title + ', scaled start' * is_scaled(figures): figures for title, figures in runs.items()
    }
    plot_curves(labelled, panels, args.out_dir / 'curves.png')
    if comparison.plot:
        dataset = next(iter(runners.values())).test_dataloader.dataset
        last, count = len(dataset) - 1, comparison.rows
        rows = [round(i * last / (count - 1)) for i in range(count)]
        found = {title: predict(runner, dataset, rows) for title, runner in runners.items()}
        comparison.plot(found, dataset, rows, args.out_dir / 'predictions.jpg')


if __name__ == '__main__':
    run_tool(main)
