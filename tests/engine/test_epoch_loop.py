import pytest
from mmengine.hooks import Hook
from one_parameter import make_runner


class SeenHook(Hook):
    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.append((batch_idx, tuple(data_batch['data_samples'])))


def seen(folder, left_after=None):
    """Numbers and samples of the batches of 3 epochs of 3."""
    hook = SeenHook()
    runner = make_runner(folder, by_epoch=True, hooks=[hook])
    if left_after is not None:
        runner.message_hub.update_info('batches_of_epoch', left_after)
    runner.train()
    return hook.seen


@pytest.mark.parametrize('done', [0, 1, 2, 3])
def test_an_epoch_goes_on_behind_the_batches_that_are_done(done, tmp_path):
    every = seen(tmp_path / 'a')
    assert len(every) == 9
    assert seen(tmp_path / 'b', [done, 3]) == every[done:]


def test_an_epoch_that_has_another_number_of_batches_now_begins_anew(tmp_path):
    assert seen(tmp_path / 'a', [2, 7]) == seen(tmp_path / 'b')
