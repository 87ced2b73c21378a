"""benchmarks/run.py detection, as a user runs it, at a small size."""

import json
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
    """A detector with little memory: a variant's step fails where ``FULL`` says so."""

    FULL = {
        (): None,
        ('rival',): ('train', 5),
        ('heads',): ('train', 1),
        ('graphs',): ('predict', 1),
    }

    def __init__(self, cfg, parts, batch, proposals):
        self.full, self.calls = self.FULL[parts], Counter()

    def set_mode(self, training):
        pass

    def step(self, kind):
        self.calls[kind] += 1
        if self.full == (kind, self.calls[kind]):
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
    variants = [detection_step.RIVAL, 'mmdet', 'graphs', 'fast heads']
    detection_step.run(tmp_path, [1], variants, quick=True, profiles=False)
    results = json.loads((tmp_path / 'results.json').read_text())['images']['1']
    assert list(results) == variants
    measured = {name: set(one) for name, one in results.items()}
    assert measured == {
        detection_step.RIVAL: {'train_reserved_mb', 'left_out'},
        'mmdet': {'train_reserved_mb', 'train', 'predict'},
        'graphs': {'train_reserved_mb', 'train', 'left_out'},
        'fast heads': {'left_out'},
    }
    printed = capsys.readouterr().out
    for name in (detection_step.RIVAL, 'graphs', 'fast heads'):
        assert f'{name}: left out, out of memory beside the others' in printed
    assert (tmp_path / 'steps.png').exists()
