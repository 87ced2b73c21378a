"""benchmarks/run.py detection, as a user runs it, at a small size."""

import json
import weakref
from collections import Counter

import pytest
import torch


@pytest.mark.slow
def test_variants_take_turns_and_the_profile_tells_who_waits(run_benchmark, tmp_path):
    variants = ['--variants', 'mmdet', 'fast heads']
    options = ['detection', '--quick', '--profile', '--images', '1', *variants]
    assert run_benchmark('run.py', *options, '--out-dir', 'o') == 0
    results = json.loads((tmp_path / 'o' / 'results.json').read_text())
    for one in results['images']['1'].values():
        for kind in ('train', 'predict'):
            assert one[kind]['ms']['median'] > 0 and one[kind]['gpu_ms'] > 0
    waits = {
        name: sum(
            count
            for part, row in table.items()
            if part.startswith(('RPN', 'RoI'))
            for count in row['waits'].values()
        )
        for name, table in results['profile'].items()
    }
    assert waits['mmdet'] > 50 and waits['fast heads'] == 0


class Stub:
    """A detector with little memory: a variant's step fails where ``FULL`` says so.

    A detector is built twice: alone it has its memory, and its first steps; beside the others these
    are steps 1 and 2 of training, and 3 to 5 are the turns.
    """

    FULL = {
        (): None,
        ('rival',): ('train', 4, 1),
        ('heads',): ('train', 1, 0),
        ('graphs',): ('predict', 1, 1),
        ('heads', 'graphs'): ('train', 2, 1),
    }

    def __init__(self, cfg, parts, batch, proposals):
        self.full, self.calls = self.FULL[parts], Counter()
        self.build = self.built[parts]
        self.built[parts] += 1

    def start(self):
        self.train()
        self.train()

    def set_mode(self, training):
        pass

    def measure_memory(self):
        self.train()
        return dict(train_reserved_mb=1.0)

    def step(self, kind):
        self.calls[kind] += 1
        if self.full == (kind, self.calls[kind], self.build):
            raise torch.OutOfMemoryError('full')

    def train(self):
        self.step('train')

    def predict(self):
        self.step('predict')


def test_variants_that_do_not_fit_are_left_out_with_a_word(
    run_benchmark, monkeypatch, tmp_path, capsys
):
    import detection_step

    monkeypatch.setattr(detection_step, 'Detector', Stub)
    monkeypatch.setattr(Stub, 'built', Counter(), raising=False)
    variants = [detection_step.RIVAL, 'mmdet', 'graphs', 'fast heads', 'fast heads, graphs']
    detection_step.run(tmp_path, [1], variants, quick=True, profiles=False)
    results = json.loads((tmp_path / 'results.json').read_text())['images']['1']
    assert list(results) == variants
    measured = {name: set(one) for name, one in results.items()}
    assert measured == {
        detection_step.RIVAL: {'train_reserved_mb', 'left_out'},
        'mmdet': {'train_reserved_mb', 'train', 'predict'},
        'graphs': {'train_reserved_mb', 'train', 'left_out'},
        'fast heads': {'left_out'},
        'fast heads, graphs': {'train_reserved_mb', 'left_out'},
    }
    printed = capsys.readouterr().out
    for name in (detection_step.RIVAL, 'graphs', 'fast heads, graphs'):
        assert f'{name}: left out, out of memory beside the others\n' in printed
    assert 'fast heads: left out, out of memory\n' in printed
    assert Stub.built['heads',] == 1
    assert (tmp_path / 'steps.png').exists()


def test_a_detector_without_its_graphs_takes_no_step(run_benchmark, fake_graphs):
    import detection_step
    from contenders import NotRecorded

    cfg = detection_step.load_config(detection_step.QUICK_CONFIG, 64)
    cfg.merge_from_dict(detection_step.QUICK)
    variants = ['graphs', 'fast heads, graphs']
    for build in detection_step.detectors_of(cfg, 64, 1, variants).values():
        detector = build()
        detector.device = 'cuda'  # the model stays where it is
        detector.set_mode(training=True)
        assert [forward.name for forward in detector.graphed] == ['backbone', 'neck', 'rpn_head']
        detector.start()
        detector.set_mode(training=False)
        detector.device = 'cpu'
        for _ in range(2):
            detector.predict()
    fake_graphs(('neck', True), ('rpn_head', False))
    detector = build()
    detector.device = 'cuda'
    detector.set_mode(training=True)
    detector.device = 'cpu'
    with pytest.raises(NotRecorded, match='no CUDA graph of neck$'):
        detector.train()
    detector.set_mode(training=False)
    detector.predict()  # a part is recorded when an input of its shape comes again
    with pytest.raises(NotRecorded, match='no CUDA graph of rpn_head$'):
        detector.predict()


def test_a_detector_is_let_go_of_behind_what_is_measured_alone(run_benchmark):
    import contenders
    import detection_step

    cfg = detection_step.load_config(detection_step.QUICK_CONFIG, 64)
    cfg.merge_from_dict(detection_step.QUICK)
    builders = detection_step.detectors_of(cfg, 64, 1, [detection_step.RIVAL, 'fast heads'])
    models = []

    def measure(detector):
        models.append(weakref.ref(detector.model))
        return detector.measure_memory()

    results = contenders.measure_alone(builders, measure)
    assert list(results.values()) == [dict(train_reserved_mb=0.0)] * 2  # of a CPU
    assert [model() for model in models] == [None, None]
