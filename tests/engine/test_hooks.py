import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine import dist

from kat_mm.engine import AverageLossHook, SeedIterationHook


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


def draw_in(iteration, seed=0):
    SeedIterationHook().before_train_iter(SimpleNamespace(seed=seed, iter=iteration), iteration)
    return draw()


def test_an_iteration_draws_the_same_numbers_whatever_was_drawn_before():
    expected = draw_in(7)
    draw()
    assert draw_in(7) == expected


def test_iterations_seeds_and_processes_draw_different_numbers(monkeypatch):
    drawn = [draw_in(7), draw_in(8), draw_in(7, seed=1)]
    monkeypatch.setattr(dist, 'get_rank', lambda: 1)
    drawn.append(draw_in(7))
    for numbers in zip(*drawn, strict=True):
        assert len(set(numbers)) == 4


def test_a_run_without_a_seed_works():
    assert draw_in(7, seed=None) == draw_in(7, seed=None)


def test_losses_are_averaged_over_processes(monkeypatch):
    # The other process has losses twice as large.
    monkeypatch.setattr(dist, 'get_world_size', lambda: 2)

    def all_reduce(values, op):
        assert op == 'mean'
        values.mul_(1.5)

    monkeypatch.setattr(dist, 'all_reduce', all_reduce)
    outputs = dict(loss=torch.tensor(2.0, requires_grad=True), acc=4.0, aux=torch.tensor([6.0])[0])
    AverageLossHook().after_train_iter(None, 0, outputs=outputs)
    assert {name: value.item() for name, value in outputs.items()} == dict(loss=3, acc=6, aux=9)
    assert not outputs['loss'].requires_grad


def test_losses_of_one_process_are_left_alone():
    loss = torch.tensor(2.0)
    outputs = dict(loss=loss)
    AverageLossHook().after_train_iter(None, 0, outputs=outputs)
    assert outputs['loss'] is loss


@pytest.mark.parametrize('outputs', [None, {}])
def test_iterations_without_losses_are_left_alone(monkeypatch, outputs):
    monkeypatch.setattr(dist, 'get_world_size', lambda: 2)
    monkeypatch.setattr(dist, 'all_reduce', lambda *_, **__: pytest.fail('nothing to reduce'))
    AverageLossHook().after_train_iter(None, 0, outputs=outputs)


def test_losses_are_averaged_before_they_are_logged():
    from mmengine.hooks import RuntimeInfoHook
    from mmengine.runner.priority import get_priority

    # Hooks of a lower number come first.
    average, log = AverageLossHook.priority, RuntimeInfoHook.priority
    assert get_priority(average) < get_priority(log)
