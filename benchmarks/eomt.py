"""EoMT against the backbone that it is made of, and its training step with and without masks.

Inference is of the whole model to mask logits, compiled, against the bare backbone, compiled; a
training step is what tools/train.py makes of one: images and masks from the host, matching, losses,
backward pass, optimizer; on a GPU with --cuda-graphs as well. Contenders take turns; images,
objects and weights are random. What follows the logits (masks at the size of the image, the objects
that are kept) is measured apart.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from contenders import graphed_forwards, require_graphs
from detection import random_batch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from timing import gpu_ms, machine, save, step_times
from torch import nn

import kat_mm  # noqa: F401  registers KAT
from kat_mm.backbones import drop_start_weights
from kat_mm.dense import graph_parts
from kat_mm.dense.detection import use_fast_heads
from kat_mm.engine.float32_boxes import keep_boxes_in_float32
from kat_mm.engine.runtime_info import clip_late, on_the_way

CONFIGS = Path(__file__).parents[1] / 'configs'
NAMES = ('kat_s_eomt_instance_coco', 'kat_b_eomt_instance_coco')
# Images/s over those of the backbone; a step's time over that of another, and over the GPU's work.
TARGETS = {
    'inference, S': 0.70,
    'inference, B': 0.75,
    'training, masked over annealed': 1.15,
    'training, step over GPU': 1.15,
}
QUICK_ARCH = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64)


def run(out_dir: Path, quick: bool) -> None:
    """Measure, print and write results.json."""
    size, batch_size, train_size = (64, 1, 2) if quick else (640, 16, 8)
    turns = dict(rounds=1, steps=1) if quick else dict(rounds=5, steps=5)
    torch.backends.cuda.matmul.allow_tf32 = True
    results = dict(
        settings=dict(
            size=size,
            images=batch_size,
            training_images=train_size,
            queries=10 if quick else 200,
            dtype='bfloat16 autocast',
            **turns,
        ),
        machine=machine(),
        targets=TARGETS,
    )
    names = NAMES[:1] if quick else NAMES
    results['models'] = {name: {} for name in names}
    for part, measure in (
        ('training', lambda cfg: measure_training(cfg, size, train_size, turns)),
        ('post-processing', lambda cfg: measure_post_processing(cfg, size, turns)),
        ('inference', lambda cfg: measure_inference(cfg, size, batch_size, quick, turns)),
    ):
        for name in names:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            results['models'][name][part] = one = measure(load(name, size, quick))
            print(name, part, one, flush=True)
            save(results, out_dir / 'results.json')


def load(name: str, size: int, quick: bool) -> Config:
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.img_size = size
    cfg.model.data_preprocessor.batch_augments = None
    cfg.optim_wrapper.optimizer.lr = 0.0  # the weights stay as they are
    if quick:
        cfg.model.backbone.arch = QUICK_ARCH
        cfg.model.panoptic_head.update(in_channels=QUICK_ARCH['embed_dims'], num_queries=10)
    return cfg


def build(cfg: Config) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    drop_start_weights(model)  # nothing is downloaded
    model.init_weights()
    return model.to(device())


def device() -> str:
    return 'cuda' if torch.cuda.is_available() else 'cpu'


def waits(step: Callable[[], object]) -> int | None:
    """How often PyTorch lets the host wait for the GPU in a step, but for the events of ours."""
    if not torch.cuda.is_available():
        return None
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        torch.cuda.set_sync_debug_mode('warn')
        step()
        torch.cuda.set_sync_debug_mode('default')
    return sum('called a synchronizing CUDA operation' in str(one.message) for one in found)


def measure_inference(cfg: Config, size: int, images: int, quick: bool, turns: dict) -> dict:
    """The model to logits and its backbone, plain and compiled, in milliseconds."""
    model = build(cfg).eval()
    head, backbone = model.panoptic_head, model.backbone
    batch = torch.randn(images, 3, size, size, device=device())

    def whole(batch: torch.Tensor) -> tuple:
        return head(model.extract_feat(batch))

    contenders = {'backbone': backbone, 'EoMT': whole}
    if not quick:  # compiling takes a minute
        compiled = {
            f'{name}, compiled': torch.compile(part, fullgraph=True)
            for name, part in contenders.items()
        }
        contenders.update(compiled)
    with torch.no_grad(), torch.autocast(device(), torch.bfloat16, enabled=device() == 'cuda'):
        functions = {name: lambda part=part: part(batch) for name, part in contenders.items()}
        times = step_times(functions, **turns)
        work = {name: gpu_ms(function) for name, function in functions.items()}
    result = {name: dict(ms=ms, gpu_ms=work[name]) for name, ms in times.items()}
    for suffix in ('', ', compiled')[: len(contenders) // 2]:
        ratio = times[f'backbone{suffix}']['median'] / times[f'EoMT{suffix}']['median']
        result[f'ratio{suffix}'] = round(ratio, 3)
    return result


def measure_training(cfg: Config, size: int, images: int, turns: dict) -> dict:
    """A step with the masks of all blocks, and with none, in milliseconds."""
    batch = random_batch(size, images, cfg.model.panoptic_head.num_things_classes)
    functions = {
        'masked': training_step(cfg, batch, 1.0),
        'annealed': training_step(cfg, batch, 0.0),
    }
    if torch.cuda.is_available():
        for name, rate in (('masked, graphs', 1.0), ('annealed, graphs', 0.0)):
            functions[name] = training_step(cfg, batch, rate, graphs=True)
            functions[name]()  # recorded
    times = step_times(functions, **turns)
    result = {
        name: dict(ms=times[name], gpu_ms=gpu_ms(function)) for name, function in functions.items()
    }
    masked, annealed = result['masked'], result['annealed']
    return dict(
        result,
        waits=waits(functions['masked']),
        masked_over_annealed=round(masked['ms']['median'] / annealed['ms']['median'], 3),
        masked_over_annealed_gpu=round(masked['gpu_ms'] / annealed['gpu_ms'], 3),
        step_over_gpu={
            name: round(one['ms']['median'] / one['gpu_ms'], 3) for name, one in result.items()
        },
    )


def training_step(cfg: Config, batch: dict, rate: float, graphs: bool = False) -> Callable:
    """A model's step as tools/train.py makes it, where queries are masked at this rate."""
    model = build(cfg).train()
    wrapper = dict(cfg.optim_wrapper)
    if device() == 'cpu':
        wrapper = dict(wrapper, type='OptimWrapper')
        wrapper.pop('dtype')
    optim_wrapper = build_optim_wrapper(model, wrapper)
    clip_late(optim_wrapper)  # LateRuntimeInfoHook
    keep_boxes_in_float32(model)  # Float32BoxesHook
    use_fast_heads(model)  # FastDetectionHook
    if graphs:
        graph_parts(model)
    graphed = graphed_forwards(model)

    def train() -> None:
        model.panoptic_head.set_mask_rates([rate] * model.panoptic_head.num_blocks)
        on_the_way(model.train_step(batch, optim_wrapper))  # LateRuntimeInfoHook
        require_graphs(graphed, training=True)

    return train


def measure_post_processing(cfg: Config, size: int, turns: dict) -> dict:
    """From the logits of one image to its 100 best objects, in milliseconds, and all of it."""
    model = build(cfg).eval()
    use_fast_heads(model)  # FastDetectionHook
    batch = random_batch(size, 1, cfg.model.panoptic_head.num_things_classes)
    head = model.panoptic_head

    @torch.no_grad()
    def predict() -> None:
        with torch.autocast(device(), torch.bfloat16, enabled=device() == 'cuda'):
            model.test_step(batch)

    times = {'from the image': step_times({'all': predict}, **turns)['all']}
    with torch.no_grad():
        classes, masks = head(model.extract_feat(torch.randn(1, 3, size, size, device=device())))

    @torch.no_grad()
    def finish() -> None:
        """What ``test_step`` does beside the model: images to the device, and what follows."""
        with torch.autocast(device(), torch.bfloat16, enabled=device() == 'cuda'):
            samples = model.data_preprocessor(batch, training=False)['data_samples']
            shape = samples[0].batch_input_shape
            whole = F.interpolate(masks[-1], shape, mode='bilinear', align_corners=False)
            fuse = model.panoptic_fusion_head.predict
            found = fuse(classes[-1], whole, samples, rescale=True)
            model.add_pred_to_datasample(samples, found)

    times['from the logits'] = step_times({'all': finish}, **turns)['all']
    return times
