from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import LoggerHook
from mmengine.logging import MessageHub

from kat_mm.engine import LateRuntimeInfoHook, runtime_info


class Event:
    """Happens when it is waited for, or when it is told to."""

    def __init__(self):
        self.happened = self.waited_for = False

    def query(self):
        return self.happened

    def synchronize(self):
        self.happened = self.waited_for = True


@pytest.fixture
def events(monkeypatch):
    made = []

    def on_the_way(outputs):
        made.append(Event())
        return list(outputs), list(outputs.values()), made[-1]

    monkeypatch.setattr(runtime_info, 'on_the_way', on_the_way)
    return made


def make_runner(request, interval=10, iterations=100):
    hub = MessageHub.get_instance(request.node.name)
    return SimpleNamespace(
        iter=0,
        max_iters=iterations,
        message_hub=hub,
        train_dataloader=range(1000),
        hooks=[LoggerHook(interval=interval)],
    )


def train(hook, runner, count):
    for _ in range(count):
        outputs = dict(loss=torch.tensor(float(runner.iter)))
        hook.after_train_iter(runner, runner.iter, outputs=outputs)
        runner.iter += 1


def logged(runner):
    history = runner.message_hub.log_scalars.get('train/loss')
    return [] if history is None else list(history.data[0])


def test_losses_are_handed_on_when_they_are_there_and_in_their_order(events, request):
    hook, runner = LateRuntimeInfoHook(), make_runner(request)
    train(hook, runner, 3)
    assert logged(runner) == []
    events[1].happened = True
    train(hook, runner, 1)
    assert logged(runner) == []
    events[0].happened = True
    train(hook, runner, 1)
    assert logged(runner) == [0, 1]
    assert not any(event.waited_for for event in events)


def test_a_log_holds_all_losses_up_to_its_iteration(events, request):
    hook, runner = LateRuntimeInfoHook(), make_runner(request, interval=4)
    train(hook, runner, 4)
    assert logged(runner) == [0, 1, 2, 3]


@pytest.mark.parametrize('end', ['after_train', 'before_val'])
def test_the_end_of_training_waits_for_all_losses(events, request, end):
    hook, runner = LateRuntimeInfoHook(), make_runner(request)
    train(hook, runner, 3)
    runner.message_hub.update_info('loop_stage', 'train')
    getattr(hook, end)(runner)
    assert logged(runner) == [0, 1, 2]


def test_the_last_iteration_waits_for_all_losses(events, request):
    hook, runner = LateRuntimeInfoHook(), make_runner(request, iterations=3)
    train(hook, runner, 3)
    assert logged(runner) == [0, 1, 2]


def test_a_checkpoint_holds_all_losses_up_to_its_iteration(events, request):
    hook, runner = LateRuntimeInfoHook(), make_runner(request)
    train(hook, runner, 3)
    checkpoint = dict(message_hub=runner.message_hub.state_dict())
    hook.before_save_checkpoint(runner, checkpoint)
    assert list(checkpoint['message_hub']['log_scalars']['train/loss'].data[0]) == [0, 1, 2]


def test_without_a_gpu_losses_are_there_at_once(request):
    hook, runner = LateRuntimeInfoHook(), make_runner(request)
    train(hook, runner, 3)
    assert logged(runner) == [0, 1, 2]


@pytest.mark.gpu
def test_losses_on_a_gpu_are_not_waited_for(request):
    hook, runner = LateRuntimeInfoHook(), make_runner(request)
    loss = torch.tensor(1.5, device='cuda')
    hook.after_train_iter(runner, 0, outputs=dict(loss=loss))
    torch.cuda.set_sync_debug_mode('error')
    try:
        hook.after_train_iter(runner, 1, outputs=dict(loss=loss))
    finally:
        torch.cuda.set_sync_debug_mode('default')
    hook.before_val(runner)
    assert logged(runner) == [1.5, 1.5]
