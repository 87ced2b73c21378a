"""benchmarks/contenders.py: memory of models alone, and turns of those that share it.

The memory is a fake of PyTorch's allocator: segments, kept while anything lies in them.
"""

import weakref
from functools import partial

import pytest
import torch
from torch import nn

from kat_mm.dense import graph_parts


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

    start = train


@pytest.mark.parametrize('fitting', [0, 4])
def test_what_does_not_fit_is_left_out_and_freed(run_benchmark, monkeypatch, capsys, fitting):
    import contenders

    of_large, held = [], []
    # Where the cache is emptied nothing may hold what the failed step allocated, nor the model.
    monkeypatch.setattr(contenders, 'free', lambda: held.append([ref() for ref in of_large]))
    models = dict(small=Model([], 99), large=Model(of_large, fitting), other=Model([], 99))
    results = {name: {} for name in models}
    times = contenders.fitting_step_times(models, results, 'train', rounds=2, steps=2)
    assert times.keys() == models.keys() == {'small', 'other'}
    assert all(one['median'] > 0 for one in times.values())
    reason = 'out of memory beside the others'
    assert results == dict(small={}, large=dict(left_out=reason), other={})
    assert f'large: left out, {reason}' in capsys.readouterr().out
    assert held == [[None] * (fitting + 2)]


class Tensor:
    """Bytes in a segment."""


class Card:
    """An allocator whose segments are as large as what they were made for; nothing moves."""

    def __init__(self):
        self.segments = []  # of [bytes, the sizes of what lies in it by id]
        self.peak, self.workspaces = 0, {}

    def allocate(self, size):
        for capacity, lying in self.segments:
            if capacity - sum(lying.values()) >= size:
                break
        else:
            lying = {}
            self.segments.append([size, lying])
            self.peak = max(self.peak, self.reserved())
        tensor = Tensor()
        lying[id(tensor)] = size
        weakref.finalize(tensor, lying.pop, id(tensor))
        return tensor

    def reserved(self):
        return sum(capacity for capacity, _ in self.segments)

    def allocated(self):
        return sum(sum(lying.values()) for _, lying in self.segments)

    def empty_cache(self):
        self.segments = [segment for segment in self.segments if segment[1]]

    def reset_peak(self):
        self.peak = self.reserved()

    def multiply(self, stream):
        """As cuBLAS does, which keeps a workspace of each stream."""
        if stream not in self.workspaces:
            self.workspaces[stream] = self.allocate(30)


@pytest.fixture
def card(monkeypatch):
    card = Card()
    for name, function in dict(
        is_available=lambda: True,
        synchronize=lambda: None,
        empty_cache=card.empty_cache,
        memory_reserved=card.reserved,
        memory_allocated=card.allocated,
        max_memory_reserved=lambda: card.peak,
        reset_peak_memory_stats=card.reset_peak,
    ).items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(
        torch._C, '_cuda_clearCublasWorkspaces', card.workspaces.clear, raising=False
    )
    return card


class Trained:
    """Weights, activations that go, and in their place the optimizer's state, which stays."""

    def __init__(self, card, weights, activations):
        self.card, self.activations = card, activations
        self.before = torch.cuda.memory_allocated()
        self.weights = card.allocate(weights)
        self.state = None
        self.itself = self  # as models have cycles, only the garbage collection finds it

    def start(self):
        self.train()
        self.state = self.card.allocate(10)
        self.train()

    def train(self):
        self.card.multiply('the stream')
        activations = self.card.allocate(self.activations)
        del activations


SIZES = dict(large=(100, 1000), small=(50, 400), smallest=(20, 200))


@pytest.mark.parametrize('names', [list(SIZES), list(SIZES)[::-1]])
def test_memory_is_that_of_a_contender_alone_whatever_was_before_it(run_benchmark, card, names):
    import contenders

    builders = {name: partial(Trained, card, *SIZES[name]) for name in names}
    # Weights, a workspace, activations, and the segment of the first ones that the state lies in.
    alone = {name: weights + 30 + 2 * step for name, (weights, step) in SIZES.items()}

    # What each adds to what others hold, as it was measured once: it fills the large one's gap.
    beside, held = {}, []
    for name, build in builders.items():
        contenders.free()
        before = card.reserved()
        held.append(build())
        held[-1].start()
        contenders.free()
        card.reset_peak()
        held[-1].train()
        beside[name] = card.peak - before
    assert beside != alone
    if names[0] == 'large':
        assert beside == dict(large=alone['large'], small=0, smallest=0)

    del held[:]

    def measure(contender):
        return dict(mb=contenders.reserved_peak(contender.train, contender.before))

    saved = []
    results = contenders.measure_alone(builders, measure, lambda found: saved.append(len(found)))
    assert {name: one['mb'] for name, one in results.items()} == alone
    assert list(results) == names and saved == [1, 2, 3]
    assert card.reserved() == 0  # all are let go of
    # And what something else holds does not make the figures smaller.
    other = card.allocate(2000)
    small = card.allocate(1)
    del other
    results = contenders.measure_alone(builders, measure)
    assert all(one['mb'] >= alone[name] for name, one in results.items())
    del small


def test_a_contender_that_cannot_run_alone_is_not_built_again(run_benchmark, capsys):
    import contenders

    of_large = []
    builders = dict(large=partial(Model, of_large, 0), small=partial(Model, [], 99))
    results = contenders.measure_alone(builders, lambda model: dict(measured=True))
    assert results == dict(large=dict(left_out='out of memory'), small=dict(measured=True))
    assert contenders.build_beside(builders, results).keys() == {'small'}
    assert len(of_large) == 2 and [ref() for ref in of_large] == [None, None]
    assert 'large: left out, out of memory\n' in capsys.readouterr().out


class Graphed:
    """A model whose parts are to run as graphs, and its steps."""

    def __init__(self):
        self.model = nn.ModuleDict({name: nn.Linear(2, 2) for name in ('backbone', 'neck')})
        graph_parts(self.model)
        import contenders

        self.graphed = contenders.graphed_forwards(self.model)
        self.require = contenders.require_graphs

    def train(self):
        self.step(training=True)

    @torch.no_grad()
    def validate(self):
        self.step(training=False)

    def step(self, training):
        x = self.model.train(training)['backbone'](torch.ones(1, 2))
        x = self.model['neck'](x)
        if training:
            x.sum().backward()
        self.require(self.graphed, training)

    start = train


def test_a_model_in_graphs_is_measured(run_benchmark, fake_graphs):
    import contenders

    results = contenders.measure_alone(dict(graphs=Graphed), lambda model: {})
    models = contenders.build_beside(dict(graphs=Graphed), results)
    for step in ('train', 'validate'):
        assert contenders.fitting_step_times(models, results, step, 1, 1).keys() == {'graphs'}
    assert results == dict(graphs={})
    assert len(models['graphs'].graphed) == 2


def test_a_model_without_its_graphs_is_not_timed_under_their_name(run_benchmark, fake_graphs):
    import contenders

    reason = 'no CUDA graph of neck'
    fake_graphs(('neck', True))
    results = contenders.measure_alone(dict(graphs=Graphed), lambda model: dict(measured=True))
    assert results == dict(graphs=dict(left_out=reason))
    # Alone there was enough memory, beside the others there is not.
    results = dict(graphs=dict(measured=True))
    assert not contenders.build_beside(dict(graphs=Graphed), results)
    assert results == dict(graphs=dict(measured=True, left_out=f'{reason} beside the others'))
    # In evaluation, which is recorded at the second call.
    fake_graphs(('neck', False))
    results = dict(graphs={})
    models = contenders.build_beside(dict(graphs=Graphed), results)
    assert contenders.fitting_step_times(models, results, 'train', 1, 1).keys() == {'graphs'}
    assert not contenders.fitting_step_times(models, results, 'validate', 1, 1)
    assert not models and results == dict(graphs=dict(left_out=f'{reason} beside the others'))
