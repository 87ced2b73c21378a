"""benchmarks/timing.py: models that share a memory, which here is full when they say so."""

import weakref

import pytest
import torch


class Model:
    """Its steps allocate, and no longer fit behind the given number."""

    def __init__(self, allocations, fitting):
        self.allocations, self.fitting = allocations, fitting
        allocations.append(weakref.ref(self))

    def train(self):
        tensor = torch.zeros(3)
        self.allocations.append(weakref.ref(tensor))
        self.fitting -= 1
        if self.fitting < 0:
            raise torch.OutOfMemoryError('full')


@pytest.mark.parametrize('fitting', [0, 4])
def test_what_does_not_fit_is_left_out_and_freed(run_benchmark, monkeypatch, capsys, fitting):
    import timing

    of_large, held = [], []
    # Where the cache is emptied nothing may hold what the failed step allocated, nor the model.
    monkeypatch.setattr(timing, 'reserved', lambda: held.append([ref() for ref in of_large]))
    models = dict(small=Model([], 99), large=Model(of_large, fitting), other=Model([], 99))
    results = {name: {} for name in models}
    times = timing.fitting_step_times(models, results, 'train', rounds=2, steps=2)
    assert times.keys() == models.keys() == {'small', 'other'}
    assert all(one['median'] > 0 for one in times.values())
    reason = 'out of memory beside the others'
    assert results == dict(small={}, large=dict(left_out=reason), other={})
    assert f'large: left out, {reason}' in capsys.readouterr().out
    assert held == [[None] * (fitting + 2)]
