"""Exported KATs and their ViT twins on a CPU: nodes, file sizes, latency, differences.

    python benchmarks/export.py                      # every model; needs kat_mm[export]
    python benchmarks/export.py --models classifier rational --rounds 30

Weights are random, at the configs' own sizes, one image at a time. KAT and ViT are measured in
turns, and what is told of their ratio is the median of the turns' ratios and its quartiles: on a
machine with other work a single latency says little. ``rational`` measures the function itself, on
the activations of a feed-forward of KAT-S, beside what it can cost at least: a copy, one read and
one write; and beside one kernel for the whole function, as AOTInductor makes it. Of these the least
is told: other work on the machine adds milliseconds to a call of microseconds.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from timing import machine, save, version
from torch import nn

from kat_mm.export.convert import SUFFIXES, trace, write
from kat_mm.export.description import parts_of
from kat_mm.export.networks import make_network
from kat_mm.export.proof import compare, sample_images
from kat_mm.export.sessions import open_session
from kat_mm.layers import GroupRational

ROOT = Path(__file__).resolve().parents[1]
# Name: config of KAT behind 'kat_s_', and of its twin behind 'vit_s_'; sides; rounds.
MODELS_MEASURED = {
    'classifier': ('in1k', 224, 31),
    'upernet': ('upernet_ade20k', 512, 7),
    'eomt': ('eomt_panoptic_coco', 640, 11),
    'mask_rcnn': ('mask_rcnn_coco', 1024, 5),
}
# Tokens of the activations: a classifier's, and those of an image of 640 x 640; 1536 channels.
RATIONAL_TOKENS, CHANNELS = (197, 1600), 1536
TARGET = 1.10  # latency of KAT over that of ViT in OpenVINO


def build(config: str) -> nn.Module:
    """The network of a config, with random weights."""
    cfg = Config.fromfile(ROOT / 'configs' / f'{config}.py')
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
    return make_network(model)


class Function(nn.Module):
    """A function of activations (B, N, C) as something to export."""

    task, inputs, outputs = 'features', ('x',), ('y',)

    def __init__(self, function: Callable):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def rational() -> nn.Module:
    function = GroupRational(CHANNELS)
    for parameter in function.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    return function


def export(network: nn.Module, inputs: tuple, path: Path, formats: list[str], threads: int):
    """Files, what is told of them, and functions to measure: PyTorch's, then each runtime's."""
    program = trace(network, inputs, batch=1, multiple=None)
    paths = {name: path.with_name(path.name + SUFFIXES[name]) for name in formats}
    write(program, network, paths)
    arrays = [value.numpy() for value in inputs]

    def eager():
        with torch.inference_mode():
            network(*inputs)

    files, functions = {}, {'pytorch': eager}
    for name, file in paths.items():
        session = open_session(file, threads)
        (entry,) = compare(network, session, [('', inputs)])
        size = sum(part.stat().st_size for part in parts_of(file))
        files[name] = dict(megabytes=size / 1e6, differences=entry['differences'])
        functions[name] = lambda session=session: session(*arrays)
    if 'onnx' in paths:
        import onnx

        files['onnx']['nodes'] = len(onnx.load(paths['onnx'], load_external_data=False).graph.node)
    return files, functions


def in_turns(functions: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each function in each round."""
    for function in functions.values():
        function()
    samples = {name: [] for name in functions}
    for turn in range(rounds):
        order = list(functions) if turn % 2 else list(reversed(functions))
        for name in order:
            start = time.perf_counter()
            functions[name]()
            samples[name].append(1000 * (time.perf_counter() - start))
    return samples


def quartiles(values: list[float]) -> dict:
    low, median, high = np.percentile(values, (25, 50, 75)).tolist()
    return dict(median=median, quartiles=[low, high], least=min(values), rounds=len(values))


def measure_pair(name: str, folder: Path, formats: list[str], threads: int, rounds: int | None):
    config, side, own_rounds = MODELS_MEASURED[name]
    result, functions = {'size': side}, {}
    for kind in ('vit', 'kat'):
        network = build(f'{kind}_s_{config}')
        pixels = torch.from_numpy(sample_images(1, (side, side))).float()
        inputs = ((pixels - 120) / 58,)
        if len(network.inputs) > 1:
            inputs += (torch.tensor([[side, side]], dtype=torch.float32),)
        result[kind], functions[kind] = export(
            network, inputs, folder / f'{kind}_{name}', formats, threads
        )
    result['latency'] = {}
    for runtime in functions['kat']:
        pair = {kind: functions[kind][runtime] for kind in ('vit', 'kat')}
        samples = in_turns(pair, rounds or own_rounds)
        ratios = [kat / vit for kat, vit in zip(samples['kat'], samples['vit'], strict=True)]
        result['latency'][runtime] = dict(
            vit_ms=quartiles(samples['vit']),
            kat_ms=quartiles(samples['kat']),
            ratio=quartiles(ratios),
        )
        ratio = result['latency'][runtime]['ratio']
        print(
            f'{name} {side} {runtime}: ViT-S {statistics.median(samples["vit"]):.1f} ms, KAT-S '
            f'{statistics.median(samples["kat"]):.1f} ms, ratio {ratio["median"]:.3f} '
            f'({ratio["quartiles"][0]:.3f} to {ratio["quartiles"][1]:.3f})',
            flush=True,
        )
    return result


def measure_rational(folder: Path, formats: list[str], threads: int, rounds: int):
    torch.manual_seed(0)
    kinds = dict(copy=lambda x: x + 1.0, gelu=nn.GELU(), rational=rational())
    results = {}
    for tokens in RATIONAL_TOKENS:
        inputs = (torch.randn(1, tokens, CHANNELS),)
        functions = {}
        for kind, function in kinds.items():
            path = folder / f'{kind}_{tokens}'
            _, of_runtimes = export(Function(function).eval(), inputs, path, formats, threads)
            functions.update({f'{kind} {name}': run for name, run in of_runtimes.items()})
        samples = in_turns(functions, rounds)
        results[f'{tokens} x {CHANNELS}'] = {
            name: quartiles(values) for name, values in samples.items()
        }
        for name, values in samples.items():
            print(f'{tokens} x {CHANNELS} {name}: {min(values):.3f} ms at the least', flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*MODELS_MEASURED, 'rational']
    parser.add_argument('--models', nargs='+', choices=names, default=names)
    parser.add_argument(
        '--formats', nargs='+', choices=list(SUFFIXES), default=['onnx', 'openvino'],
        help='default: onnx and openvino; rational is also compiled by AOTInductor',
    )  # fmt: skip
    parser.add_argument('--threads', type=int, default=1, help='default: 1')
    parser.add_argument('--rounds', type=int, help='default: by the size of the model')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results' / 'export')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    file = args.out / 'results.json'
    packages = {name: version(name) for name in ('onnxruntime', 'openvino', 'onnx')}
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            if name == 'rational':
                formats = [*args.formats, 'aotinductor']
                result = measure_rational(Path(folder), formats, args.threads, args.rounds or 101)
            else:
                result = measure_pair(name, Path(folder), args.formats, args.threads, args.rounds)
        result |= {'machine': {**machine(), **packages}, 'threads': args.threads}
        # What was measured of other models before stays.
        results = json.loads(file.read_text()) if file.is_file() else {}
        save({**results, 'target': TARGET, name: result}, file)


if __name__ == '__main__':
    main()
