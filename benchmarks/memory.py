"""What a training step needs of a GPU's memory, by config and batch, and so what a card can train.

Each of our configs for dense prediction takes training steps as tools/train.py --amp makes them, of
random images at the size of its crops, with more and more images until the memory is full: as it
is, with blocks recomputed in the backward pass (``with_cp``), and, where all images of a run have
one size, in CUDA graphs. A figure is what PyTorch holds at most. From results.json comes the table
of docs/memory.md: the batch for a card, and how many are accumulated to the recipe's total.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import detection
import segmentation
import torch
from contenders import NotRecorded, clear, graphed_forwards, require_graphs, reserved_peak
from fixed_proposals import fix_heads, random_proposals
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from timing import allocated, machine, save
from torch import nn

import kat_mm  # noqa: F401  registers KAT
from kat_mm.backbones import drop_start_weights
from kat_mm.dense import graph_parts, use_segmentation_kernels
from kat_mm.dense.detection import use_fast_heads
from kat_mm.engine.float32_boxes import keep_boxes_in_float32

ROOT = Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'memory.md'
# Height and width of the largest image of a run, and whether graphs are of use: where all images
# have that size.
SIZES = {
    'upernet_ade20k': ((512, 512), True),
    'eomt_ade20k': ((512, 512), True),
    'mask_rcnn_coco': ((800, 1344), False),  # 1333, padded
    'mask_rcnn_lsj_coco': ((1024, 1024), True),
}
NAMES = DEFAULT = (
    *(f'kat_{size}_upernet_ade20k' for size in 'tsb'),
    *(f'kat_{size}_mask_rcnn_coco' for size in 'sb'),
    'kat_b_mask_rcnn_lsj_coco',
    *(f'kat_{size}_eomt_ade20k' for size in 'sb'),
)
QUICK = ('kat_t_upernet_sample', 'kat_t_mask_rcnn_sample')
PLAIN, RECOMPUTED, GRAPHS = KINDS = ('plain', 'with_cp', 'CUDA graphs')
BATCHES = (1, 2, 4, 8, 16)
CARDS = (24, 48, 80)
GB = 10**9


def run(out_dir: Path, configs: list[str], quick: bool) -> None:
    """Measure, print, and write results.json and the page; each row is saved at once."""
    results = dict(
        settings=dict(dtype='bfloat16 autocast', batches=BATCHES[:2] if quick else BATCHES),
        machine=machine(),
        configs={},
    )
    for name in QUICK if quick else configs:
        measured = Measured(name, quick)
        rows = results['configs'][name] = dict(size=measured.size, total_batch=measured.total_batch)
        for kind in measured.kinds():
            rows[kind] = measured.row(kind, results['settings']['batches'])
            print(name, kind, rows[kind], flush=True)
            save(results, out_dir / 'results.json')
    if not quick:
        write_page(results, out_dir)


class Measured:
    """A config, its model on the host, and steps of copies of it."""

    def __init__(self, name: str, quick: bool):
        self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
        self.cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
        init_default_scope(self.cfg.default_scope)
        family = name.split('_', 2)[2]
        self.size, self.is_graphed = ((128, 128), True) if quick else SIZES[family]
        self.is_detector = self.cfg.default_scope == 'mmdet'
        self.total_batch = self.cfg.auto_scale_lr.base_batch_size
        if self.is_detector:
            self.cfg.model.data_preprocessor.batch_augments = None  # images have their size
            self.cfg.model.rpn_head.type = 'FixedFastRPNHead'
        self.model = revert_sync_batchnorm(MODELS.build(self.cfg.model))
        drop_start_weights(self.model)  # nothing is downloaded
        self.model.init_weights()
        # Convolutions choose their algorithms, and with them their memory, as in a run.
        torch.backends.cudnn.benchmark = self.cfg.env_cfg.get('cudnn_benchmark', False)

    def kinds(self) -> tuple[str, ...]:
        """Ways to train it that are measured."""
        return KINDS if self.is_graphed and self.device == 'cuda' else KINDS[:-1]

    def row(self, kind: str, batches: tuple[int, ...]) -> dict[str, float | None]:
        """GB by the number of images; None where memory is full, and no more behind it."""
        found = {}
        for images in batches:
            if images == 1 and self.has_batch_norm():
                continue  # which cannot tell anything from one value of a channel
            try:
                found[str(images)] = round(self.step_memory(kind, images) / GB, 2)
            except (torch.OutOfMemoryError, NotRecorded):
                found[str(images)] = None
                break
        return found

    def has_batch_norm(self) -> bool:
        kinds = nn.modules.batchnorm._BatchNorm
        return any(isinstance(module, kinds) for module in self.model.modules())

    def step_memory(self, kind: str, images: int) -> int:
        """Bytes that PyTorch holds at most in a step, but for what it holds before."""
        clear()
        before = allocated()
        model, step = self.step(kind, images)
        for _ in range(2):  # the optimizer's state, and graphs
            step()
        require_graphs(graphed_forwards(model), training=True)
        return reserved_peak(step, before)

    def step(self, kind: str, images: int) -> tuple[nn.Module, Callable[[], dict]]:
        """A copy of the model, and its training step."""
        model = copy.deepcopy(self.model).to(self.device).train()
        if self.is_detector:
            keep_boxes_in_float32(model)
            use_fast_heads(model)
            batch = detection.random_batch(self.size, images, self.classes())
            # Boxes on objects, as a trained model proposes them, for the mask head to work on.
            count = self.cfg.model.train_cfg.rpn_proposal.max_per_img
            proposals = random_proposals(batch, self.size, count)
            fix_heads(model, proposals)
        else:
            use_segmentation_kernels(model)
            sizes = [(self.size, self.size)] * images
            batch = segmentation.random_batch(sizes, self.classes())
        if kind == RECOMPUTED:
            model.backbone.with_cp = True
        elif kind == GRAPHS:
            graph_parts(model)
        wrapper = dict(self.cfg.optim_wrapper, type='AmpOptimWrapper', dtype='bfloat16')
        if self.device == 'cpu':
            wrapper.update(type='OptimWrapper')
            del wrapper['dtype']
        optim_wrapper = build_optim_wrapper(model, wrapper)
        return model, lambda: model.train_step(batch, optim_wrapper)

    def classes(self) -> int:
        if self.is_detector:
            return self.cfg.model.roi_head.bbox_head.num_classes
        return min(self.cfg.model.decode_head.num_classes, 20)  # of which a map has some


def largest(row: dict[str, float | None], card: int, total: int) -> int | None:
    """The largest batch that a card of ``card`` GB can train; not more than the recipe's.

    Such cards have ``card`` GiB, 7 % more, which are for the driver and the libraries.
    """
    fits = [
        int(n) for n, gb in row.items() if gb is not None and gb <= card and total % int(n) == 0
    ]
    return max((images for images in fits if images <= total), default=None)


def cell(images: int | None, total: int) -> str:
    """``4 x 4``: batches of 4, 4 of them accumulated to the recipe's 16."""
    if images is None:
        return 'no'
    return f'{images}' if images == total else f'{images} x {total // images}'


def table_of_cards(configs: dict[str, dict]) -> str:
    lines = [
        '| config | total batch | | ' + ' | '.join(f'{card} GB' for card in CARDS) + ' |',
        '| --- | --- | --- |' + ' --- |' * len(CARDS),
    ]
    for name, rows in configs.items():
        total = rows['total_batch']
        for kind in KINDS:
            if kind in rows:
                cells = (cell(largest(rows[kind], card, total), total) for card in CARDS)
                lines.append(f'| `{name}` | {total} | {kind} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def table_of_memory(configs: dict[str, dict]) -> str:
    lines = [
        '| config | images of | | ' + ' | '.join(map(str, BATCHES)) + ' |',
        '| --- | --- | --- |' + ' --- |' * len(BATCHES),
    ]
    for name, rows in configs.items():
        size = 'x'.join(map(str, rows['size']))
        for kind in KINDS:
            if kind in rows:
                found = (rows[kind].get(str(images), '') for images in BATCHES)
                cells = ('full' if gb is None else str(gb) for gb in found)
                lines.append(f'| `{name}` | {size} | {kind} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def recipe(configs: dict[str, dict], card: int) -> str:
    """A line for each config on one GPU: plain where it fits, else recomputed."""
    lines = []
    for name, rows in configs.items():
        for kind in (PLAIN, RECOMPUTED):
            images = largest(rows.get(kind, {}), card, rows['total_batch'])
            if images:
                lines.append(command(name, kind, images, rows['total_batch']))
                break
    return '\n'.join(lines)


def command(name: str, kind: str, images: int, total: int) -> str:
    options = [f'train_dataloader.batch_size={images}']
    if images < total:
        options.append(f'optim_wrapper.accumulative_counts={total // images}')
    if kind == RECOMPUTED:
        options.append('model.backbone.with_cp=True')
    start = f'    python tools/train.py configs/{name}.py --amp --cfg-options'
    return f'{start} \\\n        {" ".join(options)}'


def page(results: dict) -> str:
    """docs/memory.md."""
    configs = results['configs']
    recipes = '\n\n'.join(f'On {card} GB:\n\n{recipe(configs, card)}' for card in CARDS)
    return f"""# Memory: what fits on a card

Written by `python benchmarks/run.py memory` from
[its results](../benchmarks/results/memory/results.json): training steps on one
{results['machine']['device']}, bfloat16, with this package's heads. The largest batch of 1, 2, 4, 8
and 16 that a card can train, and how many of them are accumulated to the recipe's total batch:
`4 x 4` is four batches of 4 images. A batch fits where PyTorch holds at most as many GB (10^9
bytes) as the card has GiB; the 7 % between them are for the driver and the libraries. `with_cp`
recomputes the blocks of the backbone in the backward pass. CUDA graphs are of use where all
images of a run have one size; a row that is missing was not measured. Batch norm needs two images.

{table_of_cards(configs)}

## One GPU

Iterations count batches, not steps of the optimizer: with batches accumulated N times, multiply
`max_iters`, the times of `param_scheduler` and `val_interval` by N. Batch norm sees the batch
alone, not what is accumulated.

{recipes}

## Memory of a step

GB by the number of images; `full` is more than the GPU had.

{table_of_memory(configs)}
"""


def write_page(results: dict, _: Path) -> None:
    PAGE.write_text(page(results))
    print(f'page: {PAGE}')
