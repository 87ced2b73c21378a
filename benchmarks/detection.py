"""Speed and memory of KAT in ViTDet, against its ViT twin and against an explicit bias matrix.

    python benchmarks/detection.py --batch-size 2
    python benchmarks/detection.py --batch-size 6

Writes results.json and speed.png. The models take turns. Images, boxes and weights are random; the
RPN does its work, but what it proposes is replaced by boxes that are the same for all models, a
quarter of them on objects. The time of the GPU is that of its kernels, less than a step takes where
the host does not keep up. Both times are split into backbone, neck and optimizer, each measured
alone, and the heads, which are the rest: losses and preprocessing too. "Explicit bias" is the same
model with a bias for each pair of tokens, on PyTorch's fused kernel that takes one; "matrix" holds
the attention matrix too, as ViTDet's own code does. These are layers of their own, of which the
last bias alone is not added by the next block's normalisation.
"""

import argparse
import copy
import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bias_attention import explicit_bias, matrix
from fixed_proposals import fix_heads, random_proposals
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from timing import allocated, allocated_mb, gpu_ms, machine, save, step_times
from torch import Tensor, nn

from kat_mm.engine.float32_boxes import keep_boxes_in_float32
from kat_mm.engine.launch import run_tool
from kat_mm.layers.rel_pos import rel_pos_attention

RESULTS = Path(__file__).parent / 'results'
OBJECTS_PER_IMAGE = 7  # as COCO has
# Ways to compute attention with relative positions: the function, and the layer.
ATTENTIONS = {
    'fused': (rel_pos_attention, 'SoftmaxAttention'),
    'explicit bias': (explicit_bias, 'ExplicitBiasAttention'),
    'matrix': (matrix, 'MatrixAttention'),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--config',
        type=Path,
        default=Path('configs/kat_b_mask_rcnn_lsj_coco.py'),
        help='Mask R-CNN on KAT with windows, in a file kat_*.py beside that of its twin, vit_*.py',
    )
    parser.add_argument('--size', type=int, default=1024, help='side of the images in pixels')
    parser.add_argument('--batch-size', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=5, help='turns of each model')
    parser.add_argument('--steps', type=int, default=5, help='timed steps in a turn')
    parser.add_argument(
        '--out-dir', type=Path, help='default: benchmarks/results/detection_batch_BATCH_SIZE'
    )
    return parser.parse_args()


def random_batch(size: int | tuple[int, int], batch_size: int, num_classes: int) -> dict:
    """Images of a height and a width, or of one side, with objects on them."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    shape = height, width = (size, size) if isinstance(size, int) else size
    rng = np.random.default_rng(0)
    inputs, samples = [], []
    for _ in range(batch_size):
        corner = rng.uniform(0, 0.7, (OBJECTS_PER_IMAGE, 2))
        extent = rng.uniform(0.05, 0.3, (OBJECTS_PER_IMAGE, 2))
        boxes = np.concatenate([corner, corner + extent], axis=1)
        boxes *= (width, height, width, height)
        masks = np.zeros((OBJECTS_PER_IMAGE, *shape), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
            mask[y1:y2, x1:x2] = 1
        instances = InstanceData(
            bboxes=HorizontalBoxes(torch.tensor(boxes, dtype=torch.float32)),
            labels=torch.tensor(rng.integers(num_classes, size=OBJECTS_PER_IMAGE)),
            masks=BitmapMasks(masks, *shape),
        )
        sample = DetDataSample(gt_instances=instances)
        sample.set_metainfo(dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0)))
        samples.append(sample)
        inputs.append(torch.tensor(rng.integers(256, size=(3, *shape)), dtype=torch.uint8))
    return dict(inputs=inputs, data_samples=samples)


def load_config(path: Path, size: int) -> Config:
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.img_size = size
    cfg.model.data_preprocessor.batch_augments = None
    # A step does all its work, but the heads' fixed weights stay.
    cfg.optim_wrapper.optimizer.lr = 0.0
    cfg.model.rpn_head.type = 'FixedRPNHead'
    return cfg


def with_attention(cfg: Config, kind: str) -> Config:
    """A copy of a config whose blocks attend in another way."""
    cfg = copy.deepcopy(cfg)
    _, name = ATTENTIONS[kind]
    cfg.model.backbone.attn_cfg = dict(cfg.model.backbone.get('attn_cfg') or {}, type=name)
    return cfg


def host_ms(step: Callable[[], object]) -> float:
    """Milliseconds of a step, host included."""
    return round(step_times({'step': step}, rounds=1)['step']['median'], 3)


class Detector:
    """A model and its steps."""

    def __init__(self, cfg: Config, batch: dict, proposals: list[Tensor]):
        torch.manual_seed(0)
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        self.held_by_others = allocated()
        self.batch = batch
        self.model = MODELS.build(cfg.model).to(device)
        self.held_by_weights = allocated() - self.held_by_others
        keep_boxes_in_float32(self.model)
        fix_heads(self.model, proposals)
        self.optim_wrapper = build_optim_wrapper(
            self.model, dict(cfg.optim_wrapper, type='OptimWrapper')
        )
        self.autocast = functools.partial(torch.autocast, device, dtype=torch.bfloat16)

    def loss(self) -> Tensor:
        with self.autocast():
            data = self.model.data_preprocessor(self.batch, training=True)
            return self.model.parse_losses(self.model(**data, mode='loss'))[0]

    def train(self) -> None:
        self.optim_wrapper.update_params(self.loss())

    @torch.no_grad()
    def predict(self) -> list:
        with self.autocast():
            return self.model.test_step(self.batch)

    def part(self, module: nn.Module, make_inputs: Callable) -> Callable[[], None]:
        """Forward and backward of a part of the model, without gradients from before."""

        def step() -> None:
            self.model.zero_grad()
            with self.autocast():
                outputs = module(make_inputs())
            torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])

        return step

    def measure_parts(self, clock: Callable[[Callable], float]) -> dict[str, float]:
        """What ``clock`` says of a training step, and of its parts."""
        times = dict(whole=clock(self.train))
        self.loss().backward()
        times['optimizer'] = clock(self.optim_wrapper.step)
        images = self.model.data_preprocessor(self.batch, training=True)['inputs']
        times['backbone'] = clock(self.part(self.model.backbone, lambda: images))
        with torch.no_grad(), self.autocast():
            maps = self.model.backbone(images)
        times['neck'] = clock(
            self.part(self.model.neck, lambda: [m.detach().requires_grad_() for m in maps])
        )
        self.model.zero_grad()
        times['heads'] = round(2 * times['whole'] - sum(times.values()), 3)
        return times

    def measure_training(self) -> dict:
        """Memory, and milliseconds in parts: of the GPU's work, and with the host."""
        self.train()
        result = dict(train_allocated_mb=allocated_mb(self.train, self.held_by_others))
        images = self.model.data_preprocessor(self.batch, training=True)['inputs']
        backbone = self.part(self.model.backbone, lambda: images)
        backbone()
        self.model.zero_grad()
        # What a step takes beside the weights and the optimizer's state.
        result['backbone_allocated_mb'] = allocated_mb(backbone, allocated())
        gpu = self.measure_parts(gpu_ms)
        with_host = self.measure_parts(host_ms)
        del with_host['whole']  # measured in turns with the other models
        return dict(
            result,
            train_gpu_ms=gpu.pop('whole'),
            train_gpu_ms_of_parts=gpu,
            train_ms_of_parts=with_host,
        )

    def measure_inference(self) -> dict:
        """The same of inference, and how many objects it finds."""
        detections = sum(len(sample.pred_instances) for sample in self.predict())
        return dict(
            inference_allocated_mb=allocated_mb(self.predict, allocated() - self.held_by_weights),
            inference_gpu_ms=gpu_ms(self.predict),
            detections=detections,
        )


def measure_models(configs: dict[str, Config], batch: dict, args) -> dict:
    """Of each model: milliseconds, megabytes and detections of a step with all its images."""
    proposals = random_proposals(batch, args.size, count=1000)
    detectors, results = {}, {}
    for name, cfg in configs.items():
        detectors[name] = detector = Detector(cfg, batch, proposals)
        detector.model.train()
        results[name] = detector.measure_training()
    turns = dict(rounds=args.rounds, steps=args.steps)
    times = step_times({name: d.train for name, d in detectors.items()}, **turns)
    for name, detector in detectors.items():
        results[name]['train_ms'] = times[name]
        detector.model.eval()
        results[name].update(detector.measure_inference())
    times = step_times({name: d.predict for name, d in detectors.items()}, **turns)
    for name in detectors:
        results[name]['inference_ms'] = times[name]
    return results


def compare(models: dict, attention: dict) -> dict:
    """What KAT is to be measured by: ratios, each with its target."""
    kat, vit, explicit = (models[name] for name in list(models)[:3])
    fused, biased = (attention['global'][kind] for kind in ('fused', 'explicit bias'))

    def speed(key: str, other: dict, target: float | None) -> dict:
        own, its = kat[key], other[key]
        ratio = its['median'] / own['median'] if isinstance(own, dict) else its / own
        return dict(ratio=round(ratio, 3), target=target)

    ratios = {
        'training speed over ViT': speed('train_ms', vit, 1.0),
        'training speed over ViT, GPU alone': speed('train_gpu_ms', vit, 1.0),
        'inference speed over ViT': speed('inference_ms', vit, 1.0),
        'inference speed over ViT, GPU alone': speed('inference_gpu_ms', vit, 1.0),
        'training speed over explicit bias': speed('train_ms', explicit, 1.5),
        'training speed over explicit bias, GPU alone': speed('train_gpu_ms', explicit, 1.5),
    }
    if kat['train_allocated_mb'] is not None:
        over_vit = kat['train_allocated_mb'] / vit['train_allocated_mb']
        over_bias = fused['allocated_mb'] / biased['allocated_mb']
        ratios['training memory over ViT'] = dict(ratio=round(over_vit, 3), target=1.0)
        ratios['attention memory over explicit bias'] = dict(ratio=round(over_bias, 3), target=0.5)
    return ratios


def measure_attention(cfg: Config, args) -> dict:
    """Forward and backward of one call, for a global block and for one with windows."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = MODELS.build(cfg.model).backbone
    results = {}
    for name, index in (('global', cfg.model.backbone.global_attn_indices[0]), ('windows', 0)):
        block = model.blocks[index]
        heads = block.attn.num_heads
        head = model.embed_dims // heads
        side = block.attn.window_size or args.size // cfg.model.backbone.patch_size
        grid_side = args.size // cfg.model.backbone.patch_size
        windows = math.ceil(grid_side / side) ** 2
        shape = (args.batch_size * windows, heads, side * side, head)
        make = functools.partial(torch.randn, device=device, dtype=torch.bfloat16)
        q, k, v = (make(shape, requires_grad=True) for _ in range(3))
        tables = tuple(make(2 * side - 1, head, requires_grad=True) for _ in range(2))
        grad = make(shape)

        def step(function, inputs=(q, k, v), tables=tables, grid=(side, side), grad=grad):
            out = function(*inputs, grid, tables)
            torch.autograd.grad(out, (*inputs, *tables), grad)

        steps = {kind: functools.partial(step, ATTENTIONS[kind][0]) for kind in ATTENTIONS}
        times = step_times(steps, rounds=args.rounds, steps=args.steps)
        results[name] = dict(shape=shape)
        for kind, one in steps.items():
            results[name][kind] = dict(
                ms=times[kind], gpu_ms=gpu_ms(one), allocated_mb=allocated_mb(one, allocated())
            )
    return results


def plot(results: dict, out_file: Path) -> None:
    from matplotlib.figure import Figure

    models = results['models']
    figure = Figure(figsize=(9, 3.6), layout='constrained')
    times, memory = figure.subplots(1, 2)
    left = np.zeros(len(models))
    for part in ('backbone', 'neck', 'heads', 'optimizer'):
        values = np.array([model['train_gpu_ms_of_parts'][part] for model in models.values()])
        times.barh(list(models), values, left=left, label=part)
        left += values
    whole = [model['train_ms']['median'] for model in models.values()]
    times.plot(whole, list(models), 'k|', markersize=20, label='with the host')
    count = results['settings']['batch_size']
    times.set(xlabel=f'training step with {count} images, ms of the GPU', xlim=(0, None))
    memory.barh(
        list(models), [(model['train_allocated_mb'] or 0) / 1000 for model in models.values()]
    )
    memory.set(xlabel='peak memory in training, GB', yticks=[])
    for axis in (times, memory):
        axis.invert_yaxis()
        axis.grid(axis='x', alpha=0.3)
    figure.legend(loc='outside lower center', ncols=5, frameon=False)
    figure.savefig(out_file, dpi=120)


def main() -> None:
    args = parse_args()
    out_dir = args.out_dir or RESULTS / f'detection_batch_{args.batch_size}'
    kat = load_config(args.config, args.size)
    vit = load_config(args.config.with_name(args.config.name.replace('kat_', 'vit_')), args.size)
    classes = kat.model.roi_head.mask_head.num_classes
    batch = random_batch(args.size, args.batch_size, classes)
    results = dict(
        settings=dict(
            config=args.config.name,
            size=args.size,
            batch_size=args.batch_size,
            dtype='bfloat16',
            objects_per_image=OBJECTS_PER_IMAGE,
            rounds=args.rounds,
            steps=args.steps,
        ),
        machine=machine(),
        attention=measure_attention(kat, args),
    )
    configs = {
        'KAT': kat,
        'ViT': vit,
        'KAT, explicit bias': with_attention(kat, 'explicit bias'),
        'KAT, matrix': with_attention(kat, 'matrix'),
    }
    results['models'] = measure_models(configs, batch, args)
    results['comparison'] = compare(results['models'], results['attention'])
    save(results, out_dir / 'results.json')
    plot(results, out_dir / 'speed.png')
    for name, result in results['models'].items():
        print(name, result)
    for name, result in results['comparison'].items():
        print(f'{name:46} {result["ratio"]:6.3f} (target {result["target"]})')


if __name__ == '__main__':
    run_tool(main)
