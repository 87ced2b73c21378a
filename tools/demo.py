"""Make sample data, train KAT-T with UperNet on it, evaluate it, and draw what it predicts."""

import argparse
from pathlib import Path

from mmengine.config import Config

from kat_mm import checks
from kat_mm.engine.launch import build_runner, run_tool
from kat_mm.errors import UserError
from kat_mm.sample_data import SampleSettings, make_sample_data
from kat_mm.visualization.predict import predict
from kat_mm.visualization.segmentation import plot_segmentation

ROOT = Path(__file__).resolve().parent.parent


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', default='work_dirs/demo', help='default: %(default)s')
    parser.add_argument('--max-iters', type=int, help="default: the config's")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    checks.check_whole('--max-iters', args.max_iters, 1)
    cfg = Config.fromfile(ROOT / 'configs/kat_t_upernet_sample.py')
    cfg.work_dir = args.work_dir
    cfg.launcher = 'none'
    if args.max_iters:
        cfg.train_cfg.update(max_iters=args.max_iters, val_interval=args.max_iters)
    # data/sample/ade/ADEChallengeData2016
    sample_dir = Path(cfg.data_root).parent.parent
    try:
        make_sample_data(['ade20k'], sample_dir, SampleSettings())
    except OSError as error:
        raise UserError(f'cannot make sample data in {sample_dir}: {error}') from error
    checks.prepare(cfg, ('train', 'val'), work_dir=cfg.work_dir)
    runner = build_runner(cfg, trains=True)
    runner.train()

    metrics = runner.test()
    dataset = runner.test_dataloader.dataset
    picture = Path(args.work_dir) / 'demo.png'
    rows = range(0, len(dataset), 5)
    plot_segmentation({'prediction': predict(runner, dataset, rows)}, dataset, rows, picture)
    print(f'mIoU on {len(dataset)} unseen images: {metrics["mIoU"]:.1f} %')
    print(f'Image, truth and prediction: {picture}')


if __name__ == '__main__':
    run_tool(main)
