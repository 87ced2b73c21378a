from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import LoggerHook
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper

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


class Loader:
    def __len__(self):
        return 1000


def make_runner(request, interval=10, iterations=100):
    hub = MessageHub.get_instance(request.node.name)
    return SimpleNamespace(
        iter=0,
        max_iters=iterations,
        message_hub=hub,
        train_dataloader=Loader(),
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


@pytest.mark.parametrize('kind', ['norm', 'value'])
def test_the_norm_of_clipped_gradients_comes_with_the_losses(events, request, kind):
    parameter = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    limit = dict(max_norm=1.0) if kind == 'norm' else dict(clip_value=1.0)
    wrapper = OptimWrapper(torch.optim.SGD([parameter], lr=1.0), clip_grad=dict(type=kind, **limit))
    hook, runner = LateRuntimeInfoHook(), make_runner(request)
    runner.optim_wrapper, runner.epoch, runner.max_epochs = wrapper, 0, 1
    runner.train_dataloader.dataset = None
    wrapper.message_hub = runner.message_hub
    hook.before_train(runner)
    for iteration in range(2):
        wrapper.update_params((parameter**2).sum() / 2)
        hook.after_train_iter(runner, iteration, outputs=dict(loss=torch.tensor(1.0)))
    start = torch.tensor([3.0, 4.0])
    first = start / 5 if kind == 'norm' else torch.ones(2)
    second = start - first - (first if kind == 'norm' else 1.0)
    torch.testing.assert_close(parameter.data, second)
    assert 'train/grad_norm' not in runner.message_hub.log_scalars
    for event in events:
        event.happened = True
    train(hook, runner, 1)
    if kind == 'norm':
        norms = runner.message_hub.log_scalars['train/grad_norm'].data[0]
        assert list(norms) == pytest.approx([5.0, 4.0])
    else:
        assert 'train/grad_norm' not in runner.message_hub.log_scalars
