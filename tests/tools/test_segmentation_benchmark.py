"""benchmarks/run.py segmentation, as a user runs it, at a small size."""

import json
import weakref
from collections import Counter

import pytest
import torch

from kat_mm.dense import graph_parts

KAT = 'kat_t_upernet_sample'


@pytest.mark.slow
def test_mmsegs_heads_and_ours_take_turns_and_lose_the_same(run_benchmark, tmp_path):
    assert run_benchmark('run.py', 'segmentation', '--quick', '--out-dir', 'o') == 0
    results = json.loads((tmp_path / 'o' / 'results.json').read_text())
    models = results['models']
    assert models.keys() == {
        f'{KAT}, mmseg',
        f'{KAT}, kernels',
        f'{KAT}, kernels, graphs',
        "mmpretrain's DeiT-T, mmseg",
    }
    for one in models.values():
        assert one['train_ms']['median'] > 0 and one['validation_ms']['median'] > 0
        assert one['train_gpu_ms'] > 0 and one['train_kernels_ms']
    mmseg = models[f'{KAT}, mmseg']['losses']
    assert models[f'{KAT}, kernels']['losses'] == pytest.approx(mmseg, rel=1e-5)
    assert results['comparison'].keys() == {f'{KAT}, kernels', f'{KAT}, kernels, graphs'}
    assert (tmp_path / 'o' / 'steps.png').stat().st_size > 0


def test_what_is_measured_is_saved_before_the_next_model(run_benchmark, monkeypatch, tmp_path):
    import segmentation

    def measure_group(group, *_args):
        keep = _args[-1]
        keep({next(iter(group)): dict(train_allocated_mb=1.0)})
        raise KeyboardInterrupt

    monkeypatch.setattr(segmentation, 'measure_group', measure_group)
    with pytest.raises(KeyboardInterrupt):
        segmentation.run(tmp_path, ['kat_s_upernet_ade20k'], quick=False)
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['models'] == {'kat_s_upernet_ade20k, mmseg': {'train_allocated_mb': 1.0}}


def test_a_rival_has_the_same_maps_and_heads(run_benchmark):
    import segmentation
    from mmengine.registry import MODELS

    group = segmentation.contenders('kat_b_upernet_ade20k')
    assert list(group) == [
        f'{name}_b_upernet_ade20k, {kind}' for name in ('kat', 'vit') for kind in segmentation.KINDS
    ] + ["mmpretrain's DeiT-B, mmseg"]
    (kat, _), (rival, kind) = group['kat_b_upernet_ade20k, mmseg'], list(group.values())[-1]
    assert kind == 'mmseg' and rival.model.decode_head == kat.model.decode_head
    assert rival.model.neck == kat.model.neck
    own, its = (MODELS.build(cfg.model.backbone) for cfg in (kat, rival))
    assert its.embed_dims == own.embed_dims and its.out_indices == [2, 5, 8, 11]


def test_what_does_not_fit_beside_the_others_is_left_out(run_benchmark):
    import segmentation

    def model(ms):
        keys = ('train_ms', 'validation_ms')
        times = {key: dict(median=ms, min=ms, max=ms) for key in keys}
        return dict(times, train_gpu_ms=ms, train_reserved_mb=ms)

    group = {'kat, mmseg': model(6.0), 'kat, kernels': model(2.0), 'vit, kernels': model(3.0)}
    gains = segmentation.compare(group)
    assert gains.keys() == {'kat, kernels'}  # mmseg's heads on the twin were too much
    assert gains['kat, kernels']['train memory'] == pytest.approx(1 / 3, abs=1e-3)
    group["mmpretrain's DeiT-S, mmseg"] = model(5.0)
    over_rival = segmentation.compare(group)['kat, kernels']["train speed over mmpretrain's ViT"]
    assert over_rival == 2.5


def test_unknown_configs_are_refused(run_benchmark):
    message = run_benchmark('run.py', 'segmentation', '--configs', 'kat_x', '--out-dir', 'o')
    assert 'kat_x' in message and 'kat_b_upernet_ade20k' in message


def test_a_picture_is_redrawn_from_results_alone(run_benchmark, tmp_path):
    message = run_benchmark('run.py', 'segmentation', '--redraw', '--out-dir', 'o')
    assert 'results.json is missing' in message
    ms = dict(median=2.0, min=1.0, max=3.0)
    model = dict(train_ms=ms, train_gpu_ms=1.5, validation_ms=ms, validation_gpu_ms=1.0)
    (tmp_path / 'o').mkdir()
    results = dict(machine=dict(device='a GPU'), models={'one': model, 'other': model})
    (tmp_path / 'o' / 'results.json').write_text(json.dumps(results))
    assert run_benchmark('run.py', 'segmentation', '--redraw', '--out-dir', 'o') == 0
    assert (tmp_path / 'o' / 'steps.png').read_bytes().startswith(b'\x89PNG')


class Stub:
    """A segmentor with little memory, by the number of the step in which it is full.

    It is built twice: two steps alone; beside the others one at its start, five in turns of
    training, one for what is measured of validation, and five in its turns.
    """

    def __init__(self, full, kind, batch_size, validation):
        self.full, self.steps = full, 2 * self.built[full]
        self.built[full] += 1

    def train(self):
        self.steps += 1
        if self.steps == self.full:
            raise torch.OutOfMemoryError('full')

    start = validate = train

    def measure_training(self):
        self.train()
        return dict(train_gpu_ms=1.0)

    def measure_validation(self):
        self.train()
        return dict(validation_gpu_ms=1.0)


def test_contenders_that_run_out_of_memory_say_so(run_benchmark, monkeypatch):
    import segmentation

    monkeypatch.setattr(segmentation, 'Segmentor', Stub)
    monkeypatch.setattr(Stub, 'built', Counter(), raising=False)
    fulls = dict(alone=1, at_once=3, in_turns=5, validating=9, late=11, never=0)
    group = {name: (full, '') for name, full in fulls.items()}
    saved = []
    found = segmentation.measure_group(group, 2, True, dict(rounds=1, steps=1), saved.append)
    assert list(found) == list(group) and len(saved) == 7
    beside = 'out of memory beside the others'
    left_out = {name: one['left_out'] for name, one in found.items() if 'left_out' in one}
    assert left_out.pop('alone') == 'out of memory'
    assert left_out == dict.fromkeys(('at_once', 'in_turns', 'validating', 'late'), beside)
    # Alone all of them had memory, but for one.
    assert [name for name, one in found.items() if 'train_gpu_ms' not in one] == ['alone']
    timed = {name for name, one in found.items() if 'train_ms' in one}
    assert timed == {'validating', 'late', 'never'}
    assert [name for name, one in found.items() if 'validation_ms' in one] == ['never']


def test_a_segmentor_without_its_graphs_takes_no_step(run_benchmark, fake_graphs):
    import segmentation
    from contenders import NotRecorded, graphed_forwards

    cfg, _ = segmentation.contenders(KAT)[f'{KAT}, kernels']
    segmentor = segmentation.Segmentor(cfg, 'kernels', 2, segmentation.QUICK_VALIDATION)

    def graph() -> None:  # as it is where there is a GPU
        for forward in segmentor.graphed:  # of before
            forward.part.forward = forward.plain
        graph_parts(segmentor.model)
        segmentor.graphed = graphed_forwards(segmentor.model)

    graph()
    names = [forward.name for forward in segmentor.graphed]
    assert names == ['backbone', 'neck', 'decode_head', 'auxiliary_head']
    segmentor.start()
    segmentor.measure_validation()
    fake_graphs(('neck', True), ('decode_head', False))
    graph()
    with pytest.raises(NotRecorded, match='no CUDA graph of neck$'):
        segmentor.start()
    segmentor.model.eval()
    segmentor.validate()  # a part is recorded when an input of its shape comes again
    with pytest.raises(NotRecorded, match='no CUDA graph of decode_head$'):
        segmentor.validate()


def test_a_segmentor_is_let_go_of_behind_what_is_measured_alone(run_benchmark, monkeypatch):
    import segmentation

    models = []

    class Watched(segmentation.Segmentor):
        def start(self):
            assert not any(model() for model in models)
            models.append(weakref.ref(self.model))
            super().start()

    def stop(builders, results):
        assert not any(model() for model in models)
        raise KeyboardInterrupt

    monkeypatch.setattr(segmentation, 'Segmentor', Watched)
    monkeypatch.setattr(segmentation, 'kernel_profile', lambda step, on_gpu: dict(kernel=1.0))
    monkeypatch.setattr(segmentation, 'build_beside', stop)
    group = {
        name: segmentation.contenders(KAT)[name] for name in (f'{KAT}, mmseg', f'{KAT}, kernels')
    }
    saved = []
    with pytest.raises(KeyboardInterrupt):
        segmentation.measure_group(group, 2, True, {}, saved.append)
    assert len(models) == 2 and all(one['losses'] for one in saved[-1].values())
