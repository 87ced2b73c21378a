"""Speed and memory of KAT in ViTDet, against its ViT twin and against an explicit bias matrix.

    python benchmarks/detection.py --out-dir benchmarks/results/detection

Writes results.json and speed.png. Images, boxes and weights are random; times are medians. The time
of the GPU is that of its kernels, less than a step takes where the host does not keep up. It is
split into backbone, neck and optimizer, each measured alone, and the heads, which are the rest.
"Explicit bias" is the same model with a bias for each pair of tokens, on PyTorch's fused kernel
that takes one; "matrix" holds the attention matrix too, as ViTDet's own code does.
"""

import argparse
import datetime
import functools
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from timing import kernel_profile
from torch import Tensor, nn

from kat_mm.engine.float32_boxes import keep_boxes_in_float32
from kat_mm.engine.launch import run_tool
from kat_mm.layers import attention, rel_pos

OBJECTS_PER_IMAGE = 7  # as COCO has


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--config', type=Path, default=Path('configs/kat_b_mask_rcnn_lsj_coco.py'))
    parser.add_argument('--size', type=int, default=1024, help='side of the images in pixels')
    parser.add_argument('--batch-size', type=int, default=2)
    parser.add_argument('--iterations', type=int, default=20)
    parser.add_argument('--warmup', type=int, default=8)
    parser.add_argument('--out-dir', type=Path, default=Path('benchmarks/results/detection'))
    return parser.parse_args()


def bias_matrix(q: Tensor, grid: tuple[int, int], tables: tuple[Tensor, Tensor]) -> Tensor:
    """(B, heads, H * W, H * W)."""
    rows = q.unflatten(2, grid)
    in_rows, in_columns = (rel_pos._by_query_and_key(table) for table in tables)
    bias = torch.einsum('bnhwd,hkd->bnhwk', rows, in_rows)[..., :, None]
    bias = bias + torch.einsum('bnhwd,wkd->bnhwk', rows, in_columns)[..., None, :]
    return bias.flatten(4, 5).flatten(2, 3)


def explicit_bias(q, k, v, grid, tables, **kwargs) -> Tensor:
    bias = bias_matrix(q, grid, tables).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, **kwargs)


def matrix(q, k, v, grid, tables, dropout_p=0.0) -> Tensor:
    logits = (q / math.sqrt(q.shape[-1])) @ k.mT + bias_matrix(q, grid, tables)
    return logits.softmax(dim=-1).to(v.dtype) @ v


ATTENTIONS = {
    'fused': rel_pos.rel_pos_attention,
    'explicit bias': explicit_bias,
    'matrix': matrix,
}


@contextmanager
def attention_by(name: str):
    before = attention.rel_pos_attention
    attention.rel_pos_attention = ATTENTIONS[name]
    try:
        yield
    finally:
        attention.rel_pos_attention = before


class Meter:
    """Median time of a step, and its memory, which is 0 on a CPU."""

    def __init__(self, device: torch.device, iterations: int, warmup: int):
        self.device, self.iterations, self.warmup = device, iterations, warmup

    def synchronize(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize()

    def measure(self, step: Callable[[], object]) -> tuple[float, float, float]:
        """Milliseconds, peak MB of the process, and how many MB of these the step itself took."""
        for _ in range(self.warmup):
            step()
        self.synchronize()
        on_gpu = self.device.type == 'cuda'
        before = torch.cuda.memory_allocated() if on_gpu else 0
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(self.iterations):
            start = time.perf_counter()
            step()
            self.synchronize()
            times.append(1000 * (time.perf_counter() - start))
        peak = torch.cuda.max_memory_allocated() if on_gpu else 0
        megabytes = round(peak / 1e6, 1), round((peak - before) / 1e6, 1)
        return round(statistics.median(times), 3), *megabytes

    def gpu_ms(self, step: Callable[[], object]) -> float:
        """Milliseconds of the GPU's work in a step; on a CPU, of operators."""
        return round(sum(kernel_profile(step, self.device.type == 'cuda').values()), 3)


def random_batch(size: int, batch_size: int, num_classes: int) -> dict:
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    rng = np.random.default_rng(0)
    inputs, samples = [], []
    for _ in range(batch_size):
        corner = rng.uniform(0, 0.7, (OBJECTS_PER_IMAGE, 2))
        extent = rng.uniform(0.05, 0.3, (OBJECTS_PER_IMAGE, 2))
        boxes = np.concatenate([corner, corner + extent], axis=1) * size
        masks = np.zeros((OBJECTS_PER_IMAGE, size, size), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
            mask[y1:y2, x1:x2] = 1
        instances = InstanceData(
            bboxes=HorizontalBoxes(torch.tensor(boxes, dtype=torch.float32)),
            labels=torch.tensor(rng.integers(num_classes, size=OBJECTS_PER_IMAGE)),
            masks=BitmapMasks(masks, size, size),
        )
        sample = DetDataSample(gt_instances=instances)
        shape = (size, size)
        sample.set_metainfo(dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0)))
        samples.append(sample)
        inputs.append(torch.tensor(rng.integers(256, size=(3, size, size)), dtype=torch.uint8))
    return dict(inputs=inputs, data_samples=samples)


def load_config(path: Path, size: int) -> Config:
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.img_size = size
    cfg.model.data_preprocessor.batch_augments = None
    return cfg


@torch.no_grad()
def fix_detections(model: nn.Module) -> None:
    """Let every proposal be an object of the first class, so that all models find as many."""
    classifier = model.roi_head.bbox_head.fc_cls
    classifier.weight.zero_()
    classifier.bias.fill_(-10)
    classifier.bias[0] = 0


def measure_model(cfg: Config, batch: dict, meter: Meter) -> dict:
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).to(meter.device)
    keep_boxes_in_float32(model)
    optim_wrapper = build_optim_wrapper(model, dict(cfg.optim_wrapper, type='OptimWrapper'))
    autocast = functools.partial(torch.autocast, meter.device.type, dtype=torch.bfloat16)

    def loss() -> Tensor:
        with autocast():
            data = model.data_preprocessor(batch, training=True)
            return model.parse_losses(model(**data, mode='loss'))[0]

    def train() -> None:
        optim_wrapper.update_params(loss())

    def predict() -> list:
        with torch.no_grad(), autocast():
            return model.test_step(batch)

    model.train()
    images = model.data_preprocessor(batch, training=True)['inputs']

    def part(module: nn.Module, inputs) -> Callable[[], None]:
        def run() -> None:
            model.zero_grad()
            with autocast():
                outputs = module(inputs)
            torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])

        return run

    train_ms, train_mb, _ = meter.measure(train)
    train_gpu_ms = meter.gpu_ms(train)
    loss().backward()
    parts = dict(optimizer=meter.gpu_ms(optim_wrapper.optimizer.step))
    *_, backbone_mb = meter.measure(part(model.backbone, images))
    parts['backbone'] = meter.gpu_ms(part(model.backbone, images))
    with torch.no_grad(), autocast():
        maps = model.backbone(images)
    maps = [level.requires_grad_() for level in maps]
    part(model.neck, maps)()
    parts['neck'] = meter.gpu_ms(part(model.neck, maps))
    model.zero_grad()
    del maps
    model.eval()
    fix_detections(model)
    predict_ms, predict_mb, _ = meter.measure(predict)
    predict_gpu_ms = meter.gpu_ms(predict)
    count = len(batch['inputs'])
    return dict(
        train_ms_per_image=round(train_ms / count, 2),
        train_gpu_ms_per_image=round(train_gpu_ms / count, 2),
        # With the weights, their gradients and the optimizer's state, but for the backbone alone.
        train_mb=train_mb,
        backbone_mb=backbone_mb,
        inference_ms_per_image=round(predict_ms / count, 2),
        inference_gpu_ms_per_image=round(predict_gpu_ms / count, 2),
        inference_mb=predict_mb,
        detections_per_image=round(
            sum(len(sample.pred_instances) for sample in predict()) / count, 1
        ),
        train_step_gpu_ms=dict(**parts, heads=round(train_gpu_ms - sum(parts.values()), 3)),
    )


def measure_attention(cfg: Config, size: int, batch_size: int, meter: Meter) -> dict:
    """Forward and backward of one call, for a global block and for one with windows."""
    model = MODELS.build(cfg.model).backbone
    results = {}
    for name, index in (('global', cfg.model.backbone.global_attn_indices[0]), ('windows', 0)):
        block = model.blocks[index]
        heads = block.attn.num_heads
        head = model.embed_dims // heads
        side = block.window_size or size // cfg.model.backbone.patch_size
        grid_side = size // cfg.model.backbone.patch_size
        windows = math.ceil(grid_side / side) ** 2
        dtype = torch.bfloat16
        shape = (batch_size * windows, heads, side * side, head)
        q, k, v = (
            torch.randn(shape, device=meter.device, dtype=dtype, requires_grad=True)
            for _ in range(3)
        )
        tables = tuple(
            torch.randn(2 * side - 1, head, device=meter.device, dtype=dtype, requires_grad=True)
            for _ in range(2)
        )
        grad = torch.randn(shape, device=meter.device, dtype=dtype)
        results[name] = dict(shape=shape)

        def step(function, inputs=(q, k, v), tables=tables, grid=(side, side), grad=grad):
            out = function(*inputs, grid, tables)
            torch.autograd.grad(out, (*inputs, *tables), grad)

        for kind, function in ATTENTIONS.items():
            milliseconds, _, megabytes = meter.measure(functools.partial(step, function))
            gpu_ms = meter.gpu_ms(functools.partial(step, function))
            results[name][kind] = dict(ms=milliseconds, gpu_ms=gpu_ms, mb=megabytes)
    return results


def plot(results: dict, out_file: Path) -> None:
    from matplotlib.figure import Figure

    models = results['models']
    figure = Figure(figsize=(9, 3.6), layout='constrained')
    times, memory = figure.subplots(1, 2)
    left = np.zeros(len(models))
    count = results['settings']['batch_size']
    for part in ('backbone', 'neck', 'heads', 'optimizer'):
        values = np.array([model['train_step_gpu_ms'][part] for model in models.values()]) / count
        times.barh(list(models), values, left=left, label=part)
        left += values
    whole = [model['train_ms_per_image'] for model in models.values()]
    times.plot(whole, list(models), 'k|', markersize=20, label='with the host')
    times.set(xlabel='training step, ms per image, of the GPU', xlim=(0, None))
    memory.barh(list(models), [model['train_mb'] / 1000 for model in models.values()])
    memory.set(xlabel=f'peak memory in training, GB for {count} images', yticks=[])
    for axis in (times, memory):
        axis.invert_yaxis()
        axis.grid(axis='x', alpha=0.3)
    figure.legend(loc='outside lower center', ncols=5, frameon=False)
    figure.savefig(out_file, dpi=120)


def main() -> None:
    args = parse_args()
    args.out_dir.mkdir(parents=True, exist_ok=True)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    meter = Meter(device, args.iterations, args.warmup)
    kat = load_config(args.config, args.size)
    vit = load_config(args.config.with_name(args.config.name.replace('kat_', 'vit_')), args.size)
    classes = kat.model.roi_head.mask_head.num_classes
    batch = random_batch(args.size, args.batch_size, classes)
    letter = kat.model.backbone.arch[0].upper()
    results = dict(
        settings=dict(
            config=args.config.name,
            size=args.size,
            batch_size=args.batch_size,
            dtype='bfloat16',
            objects_per_image=OBJECTS_PER_IMAGE,
            iterations=args.iterations,
        ),
        environment=dict(
            date=datetime.date.today().isoformat(),
            device=torch.cuda.get_device_name() if device.type == 'cuda' else platform.processor(),
            torch=torch.__version__,
        ),
        attention=measure_attention(kat, args.size, args.batch_size, meter),
        models={},
    )
    for name, cfg, kind in (
        (f'KAT-{letter}', kat, 'fused'),
        (f'ViT-{letter}', vit, 'fused'),
        (f'KAT-{letter}, explicit bias', kat, 'explicit bias'),
        (f'KAT-{letter}, matrix', kat, 'matrix'),
    ):
        with attention_by(kind):
            results['models'][name] = measure_model(cfg, batch, meter)
        print(name, results['models'][name], flush=True)
        if device.type == 'cuda':
            torch.cuda.empty_cache()
    (args.out_dir / 'results.json').write_text(json.dumps(results, indent=1) + '\n')
    plot(results, args.out_dir / 'speed.png')
    print(json.dumps(results['attention'], indent=1))


if __name__ == '__main__':
    run_tool(main)
