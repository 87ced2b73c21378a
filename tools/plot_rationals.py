"""Draw the learned functions of a KAT: act1 and act2 of each block, by group.

The function that each started as is dashed: with --config that of the config, else the published
start, identity and swish. With --config, the histogram of what goes into each is behind it, from
images of the config's test set.
"""

import argparse
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from kat_mm import checks
from kat_mm.checkpoints import to_official
from kat_mm.engine.launch import load_config, run_tool
from kat_mm.visualization.activations import PreActivations
from kat_mm.visualization.files import save_figure
from kat_mm.visualization.rational import plot_rationals, starting_fits
from kat_mm.weights import read_weights


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        'checkpoint', help='file, URL or published name of a KAT, alone or in a model'
    )
    parser.add_argument('--config', help='config of its model, for the histograms')
    parser.add_argument('--num-images', type=int, default=64, help='default: %(default)s')
    parser.add_argument(
        '--out', type=Path, help='default: CHECKPOINT, as .png; of a URL its last part, here'
    )
    parser.set_defaults(
        cfg_options=None, launcher='none', work_dir=None, local_rank=0, allow_pickle=False
    )
    return parser.parse_args()


@torch.no_grad()
def count_inputs(cfg: Config, checkpoint: str, num_images: int) -> tuple[nn.Module, PreActivations]:
    """Run a model on images of its test set: the model, and what went into its activations."""
    model = checks.prepare(cfg, ('test',), checkpoint, strict=False).eval()
    if torch.cuda.is_available():
        model.cuda()
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    seen = 0
    with PreActivations(model) as inputs:
        for batch in Runner.build_dataloader(cfg.test_dataloader):
            model.test_step(batch)
            seen += len(batch['inputs'])
            if seen >= num_images:
                break
    return model, inputs


def main() -> None:
    args = parse_args()
    checks.check_whole('--num-images', args.num_images, 1)
    if args.config:
        model, inputs = count_inputs(load_config(args), args.checkpoint, args.num_images)
        state, starts = model.state_dict(), starting_fits(model)
    else:
        state, _ = to_official(read_weights(args.checkpoint), args.checkpoint)
        inputs = starts = None
    source = args.checkpoint
    drawn = Path(source.rpartition('/')[2] if '://' in source else source).with_suffix('.png')
    out = args.out or drawn
    save_figure(plot_rationals(state, inputs, starts), out, 100)
    print(f'wrote {out}')
    for name, (low, high) in inputs.ranges.items() if inputs else ():
        middle = inputs.quantile(name, 0.001), inputs.quantile(name, 0.999)
        print(f'{name}: {low:.2f} to {high:.2f}, 99.8 % in [{middle[0]:.2f}, {middle[1]:.2f}]')


if __name__ == '__main__':
    run_tool(main)
