"""DINOv3 from this project's class, as a ViT and as a KAT, against timm's own.

A training step of each (forward, backward, AdamW; bfloat16 autocast), in turns in one process,
eager and compiled. timm's model is the one with biases of q and v, as the authors' files have them.
Before, the logits of an image are compared, of timm's weights in all three.
"""

import functools
import tempfile
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from model import NUM_CLASSES, print_entry, take_turns, training_step
from safetensors.torch import save_file
from timing import load, machine, save
from torch import nn

import kat_mm  # noqa: F401  registers KAT
from kat_mm.backbones import load_pretrained
from kat_mm.backbones.archs import resolve_arch
from kat_mm.errors import UserError

CONFIG = Path(__file__).parents[1] / 'configs/_base_/backbones/dinov3.py'
# Name in timm and here, and pixels of a side with the batch: as many tokens a step.
SIZES = {
    'S': ('small', {224: 256, 512: 48}),
    'B': ('base', {224: 128, 512: 24}),
}
QUICK_SIZES = {'S': ('small', {64: 2})}
QUICK_DEPTH = 2
CONTENDERS = ('timm', 'KAT', 'ViT')
FFNS = {'ViT': dict(type='MLP'), 'KAT': dict(type='GRKAN', act_init=('identity', 'gelu'))}
TARGETS = {'eager': 1.20, 'compiled': 1.05}


class Classifier(nn.Module):
    """The backbone and a linear head on the mean of its patches, as timm's model has it."""

    def __init__(self, contender: str, arch: str, pixels: int, depth: int | None):
        super().__init__()
        cfg = dict(
            Config.fromfile(CONFIG).backbone,
            arch=resolve_arch(arch),
            img_size=pixels,
            out_type='avg_featmap',
            ffn_cfg=FFNS[contender],
        )
        if depth is not None:
            cfg['arch']['num_layers'] = depth
        self.backbone = MODELS.build(cfg)
        self.head = nn.Linear(self.backbone.embed_dims, NUM_CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(images)[0])


def build(contender: str, arch: str, pixels: int, depth: int | None) -> nn.Module:
    """One of the models, each with random weights."""
    torch.manual_seed(0)
    if contender != 'timm':
        return Classifier(contender, arch, pixels, depth)
    import timm

    return timm.create_model(
        f'vit_{arch}_patch16_dinov3_qkvb',
        img_size=pixels,
        num_classes=NUM_CLASSES,
        **({} if depth is None else dict(depth=depth)),
    )


@torch.no_grad()
def difference(arch: str, pixels: int, depth: int | None) -> dict[str, float]:
    """Relative distance of our logits from timm's, of the same weights, in float32."""
    theirs = build('timm', arch, pixels, depth).eval()
    for name, parameter in theirs.named_parameters():
        if 'gamma' in name:  # of order one, so that the blocks count
            nn.init.ones_(parameter)
    images = torch.randn(1, 3, pixels, pixels)
    want, apart = theirs(images), {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'timm.safetensors'
        save_file(theirs.state_dict(), file)
        for contender in FFNS:
            ours = build(contender, arch, pixels, depth).eval()
            load_pretrained(ours.backbone, file)
            ours.head.load_state_dict(theirs.head.state_dict())
            apart[contender] = ((ours(images) - want).norm() / want.norm()).item()
    return apart


def run(out_dir: Path, sizes: list[str], modes: list[str], quick: bool) -> None:
    """Measure, print and write results.json; cases that it has of the same machine are kept."""
    known = QUICK_SIZES if quick else SIZES
    cases = [
        (size, pixels, mode)
        for mode in modes
        if mode in (('eager',) if quick else TARGETS)
        for size in sizes
        if size in known
        for pixels in known[size][1]
    ]
    if not cases:
        raise UserError(
            f'foundation is measured for sizes {", ".join(known)} and modes {", ".join(TARGETS)}'
            f'{" (with --quick: eager)" * quick}, not {sizes} and {modes}'
        )
    torch.backends.cuda.matmul.allow_tf32 = True
    results = kept_results(out_dir / 'results.json')
    for size, pixels, mode in cases:
        entry = compare(known[size], size, pixels, mode, quick)
        case = size, pixels, mode
        results['entries'] = [e for e in results['entries'] if case_of(e) != case] + [entry]
        save(results, out_dir / 'results.json')


def compare(sizes: tuple[str, dict], size: str, pixels: int, mode: str, quick: bool) -> dict:
    arch, batches = sizes
    depth = QUICK_DEPTH if quick else None
    turns = dict(rounds=1, steps=1) if quick else {}
    builders = {name: functools.partial(build, name, arch, pixels, depth) for name in CONTENDERS}
    entry = {
        'size': size,
        'pixels': pixels,
        'mode': mode,
        'batch': batches[pixels],
        'logits_apart': difference(arch, pixels, depth),
        **take_turns(builders, training_step, batches[pixels], mode, pixels, **turns),
        'target': TARGETS[mode],
    }
    print_entry(f'DINOv3-{size} {pixels} {batches[pixels]} {mode:8}', entry)
    return entry


def case_of(entry: dict) -> tuple[str, int, str]:
    return entry['size'], entry['pixels'], entry['mode']


def kept_results(path: Path) -> dict:
    """What an earlier call on the same machine left, which may have measured other cases."""
    results = {'machine': machine(), 'entries': []}
    if path.exists():
        earlier = load(path)
        if {**earlier['machine'], 'date': None} == {**results['machine'], 'date': None}:
            results['entries'] = earlier['entries']
    return results
