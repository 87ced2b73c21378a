"""Compare KAT-T with its ViT twin on BCCD, from the work folders of training runs.

    python tools/voc_to_coco.py data/bccd --classes RBC WBC Platelets
    python tools/train.py configs/kat_t_faster_rcnn_bccd.py
    python tools/train.py configs/vit_t_faster_rcnn_bccd.py
    I=model.backbone.init_cfg; D=t_faster_rcnn_bccd
    for model in kat vit; do    # from the classifiers of cifar10.py
        O="$I.type=Pretrained $I.checkpoint=work_dirs/cifar10/${model}_0/epoch_100.pth"
        W=work_dirs/${model}_${D}_pretrained
        python tools/train.py configs/${model}_$D.py --work-dir $W --cfg-options $O
    done
    python benchmarks/bccd.py

Writes results.json, curves.png and predictions.jpg. Runs that are missing are left out. AP is that
of the test split, of the last checkpoint. The speed is that of a run's logged iterations behind the
100th; where runs shared a GPU, --speed-dirs names runs that had it alone.
"""

import argparse
from pathlib import Path

from runs import images_per_second, load_runner, plot_curves, read_scalars, train_entries
from timing import machine, save

from kat_mm.engine.launch import run_tool
from kat_mm.errors import UserError
from kat_mm.visualization.detection import plot_detection

MODELS = {
    'KAT-T': 'kat_t_faster_rcnn_bccd',
    'ViT-T': 'vit_t_faster_rcnn_bccd',
    'KAT-T, pretrained': 'kat_t_faster_rcnn_bccd_pretrained',
    'ViT-T, pretrained': 'vit_t_faster_rcnn_bccd_pretrained',
}
PANELS = [
    ('loss_curve', 'iteration', 'training loss'),
    ('AP_curve', 'iteration', 'validation AP, %'),
]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dirs', type=Path, default=Path('work_dirs'))
    parser.add_argument('--speed-dirs', type=Path, help='default: --work-dirs')
    parser.add_argument('--out-dir', type=Path, default=Path('benchmarks/results/bccd'))
    return parser.parse_args()


def summarize(scalars: list[dict], final: dict) -> dict:
    train = train_entries(scalars)
    return dict(
        iterations=train[-1]['step'],
        **{key.removeprefix('coco/'): round(100 * float(final[key]), 1) for key in final},
        # Not logged on a CPU.
        train_memory_mb=max(entry.get('memory', 0) for entry in train),
        AP_curve=[
            [entry['step'], round(100 * entry['coco/bbox_mAP'], 1)]
            for entry in scalars
            if 'coco/bbox_mAP' in entry
        ],
        loss_curve=[[entry['step'], round(entry['loss'], 4)] for entry in train],
    )


def main() -> None:
    args = parse_args()
    folders = {
        name: folder for name, folder in MODELS.items() if (args.work_dirs / folder).is_dir()
    }
    if not folders:
        raise UserError(f'{args.work_dirs} holds none of the runs {", ".join(MODELS.values())}')
    runners, results = {}, {}
    for name, folder in folders.items():
        scalars = read_scalars(args.work_dirs / folder)
        runners[name] = runner = load_runner(args.work_dirs / folder)
        results[name] = summarize(scalars, runner.test())
        results[name]['train_images_per_second'] = images_per_second(
            read_scalars((args.speed_dirs or args.work_dirs) / folder),
            runner.cfg.train_dataloader.batch_size,
        )
    save(dict(results, machine=machine()), args.out_dir / 'results.json')
    plot_curves(results, PANELS, args.out_dir / 'curves.png')
    dataset = next(iter(runners.values())).test_dataloader.dataset
    rows = [round(i * (len(dataset) - 1) / 4) for i in range(5)]
    plot_detection(runners, dataset, rows, args.out_dir / 'predictions.jpg')
    for name, result in results.items():
        print(name, {key: value for key, value in result.items() if 'curve' not in key})


if __name__ == '__main__':
    run_tool(main)
