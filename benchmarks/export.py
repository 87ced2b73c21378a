"""Exported KATs and their ViT twins on a CPU: nodes, file sizes, latency, differences.

    python benchmarks/export.py --threads 2          # every model; needs kat_mm[export]
    python benchmarks/export.py --models classifier rational --seconds 60
    python benchmarks/export.py --table              # docs/export.md from the results

Weights are random, at the configs' own sizes, one image at a time. KAT and ViT are measured in
turns, for some seconds in each runtime, and what is told of their ratio is the median of the turns'
ratios and its quartiles: on a machine with other work a single latency says little. ``floor`` is
the KAT with a copy, one read and one write, in place of each rational function: what elementwise
functions cost at least that are not fused. ``rational`` measures the function itself, on
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
from export_tables import PAGE, RESULTS, in_words, write_tables
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
# Name: config of KAT behind 'kat_s_', and of its twin behind 'vit_s_'; sides; whether the floor is
# measured, which takes half as long again.
MODELS_MEASURED = {
    'classifier': ('in1k', 224, True),
    'eomt': ('eomt_panoptic_coco', 640, True),
    'upernet': ('upernet_ade20k', 512, False),
    'mask_rcnn': ('mask_rcnn_coco', 1024, False),
}
# Rounds of a model that takes longer than its seconds, and of a quick one.
LEAST_ROUNDS, MOST_ROUNDS = 3, 101
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


class Copy(nn.Module):
    """One read and one write of what a rational function takes."""

    def forward(self, x):
        return x + 1.0


def without_rationals(network: nn.Module) -> nn.Module:
    """A network with a copy in place of each of its rational functions."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, GroupRational):
                setattr(module, name, Copy())
    return network


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
        session = open_session(file, threads, allow_pickle=True)
        (entry,) = compare(network, session, [('', inputs)])
        size = sum(part.stat().st_size for part in parts_of(file))
        files[name] = dict(megabytes=size / 1e6, differences=entry['differences'])
        functions[name] = lambda session=session: session(*arrays)
    if 'onnx' in paths:
        import onnx

        files['onnx']['nodes'] = len(onnx.load(paths['onnx'], load_external_data=False).graph.node)
    return files, functions


def in_turns(functions: dict[str, Callable], seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each function in each round; there are as many as the seconds have room."""
    for function in functions.values():
        function()
    samples = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    for turn in range(MOST_ROUNDS):
        if turn >= LEAST_ROUNDS and time.perf_counter() > end:
            break
        order = list(functions) if turn % 2 else list(reversed(functions))
        for name in order:
            start = time.perf_counter()
            functions[name]()
            samples[name].append(1000 * (time.perf_counter() - start))
    return samples


def quartiles(values: list[float]) -> dict:
    low, median, high = np.percentile(values, (25, 50, 75)).tolist()
    return dict(median=median, quartiles=[low, high], least=min(values), rounds=len(values))


def measure_pair(name: str, folder: Path, formats: list[str], threads: int, seconds: float):
    config, side, with_floor = MODELS_MEASURED[name]
    result, functions = {'size': side}, {}
    for kind in ('vit', 'kat', 'floor')[: 2 + with_floor]:
        network = build(f'{"vit" if kind == "vit" else "kat"}_s_{config}')
        if kind == 'floor':
            without_rationals(network)
        pixels = torch.from_numpy(sample_images(1, (side, side))).float()
        inputs = ((pixels - 120) / 58,)
        if len(network.inputs) > 1:
            inputs += (torch.tensor([[side, side]], dtype=torch.float32),)
        result[kind], functions[kind] = export(
            network, inputs, folder / f'{kind}_{name}', formats, threads
        )
    result['latency'] = {}
    for runtime in functions['kat']:
        samples = in_turns({kind: own[runtime] for kind, own in functions.items()}, seconds)
        measured = {f'{kind}_ms': quartiles(values) for kind, values in samples.items()}
        for kind, key in (('kat', 'ratio'), ('floor', 'floor_ratio')):
            pairs = zip(samples.get(kind, ()), samples['vit'], strict=False)
            if ratios := [own / vit for own, vit in pairs]:
                measured[key] = quartiles(ratios)
        result['latency'][runtime] = measured
        told = ', '.join(f'{kind} {statistics.median(v):.1f} ms' for kind, v in samples.items())
        print(f'{name} {side} {runtime}: {told}; KAT over ViT {in_words(measured)}', flush=True)
    return result


def measure_rational(folder: Path, formats: list[str], threads: int, seconds: float):
    torch.manual_seed(0)
    kinds = dict(copy=Copy(), gelu=nn.GELU(), rational=rational())
    results = {}
    for tokens in RATIONAL_TOKENS:
        inputs = (torch.randn(1, tokens, CHANNELS),)
        functions = {}
        for kind, function in kinds.items():
            path = folder / f'{kind}_{tokens}'
            _, of_runtimes = export(Function(function).eval(), inputs, path, formats, threads)
            functions.update({f'{kind} {name}': run for name, run in of_runtimes.items()})
        samples = in_turns(functions, seconds)
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
    parser.add_argument(
        '--seconds', type=float, default=15, help='for each model and runtime; default: 15'
    )
    parser.add_argument('--table', action='store_true', help='write docs/export.md alone')
    parser.add_argument('--out', type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    file = args.out / 'results.json'
    packages = {name: version(name) for name in ('onnxruntime', 'openvino', 'onnx')}
    for name in [] if args.table else args.models:
        with tempfile.TemporaryDirectory() as folder:
            options = args.threads, args.seconds
            if name == 'rational':
                formats = [*args.formats, 'aotinductor']
                result = measure_rational(Path(folder), formats, *options)
            else:
                result = measure_pair(name, Path(folder), args.formats, *options)
        result |= {'machine': {**machine(), **packages}, 'threads': args.threads}
        # What was measured of other models before stays.
        results = json.loads(file.read_text()) if file.is_file() else {}
        save({**results, 'target': TARGET, name: result}, file)
    if args.out == RESULTS:
        write_tables(PAGE, RESULTS)


if __name__ == '__main__':
    main()
