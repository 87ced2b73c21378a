import pytest
import torch
from one_parameter import make_runner
from torch import nn

from kat_mm.engine.finite import FiniteLossHook, non_finite_parameters
from kat_mm.errors import UserError


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_parameters_that_are_not_finite_are_named(value):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert non_finite_parameters(model) == []
    model[1].bias.data[1] = value
    assert non_finite_parameters(model) == ['1.bias']


def test_buffers_may_be_infinite_as_masks_are():
    model = nn.Linear(2, 2)
    model.register_buffer('mask', torch.tensor([-float('inf')]))
    assert non_finite_parameters(model) == []


class Losses:
    """A training whose losses are given."""

    def __init__(self, hook, losses):
        self.iter, self.max_iters = 0, len(losses)
        self.warnings, self.logger = [], self
        self.optim_wrapper = self
        for loss in losses:
            hook.after_train_iter(self, self.iter, outputs=dict(loss=torch.tensor(loss)))
            self.iter += 1

    def warning(self, message):
        self.warnings.append(message)

    def get_lr(self):
        return dict(lr=[0.25 if self.iter == 2 else 0.0, 0.0])


NAN = float('nan')


def test_a_run_ends_when_the_loss_was_not_finite_for_some_iterations():
    message = 'not finite since iteration 3, for 4 iterations; the learning rate was 0.25'
    with pytest.raises(UserError, match=message):
        Losses(FiniteLossHook(patience=3), [1.0, 1.0, NAN, float('inf'), NAN, NAN, 1.0])


def test_a_run_ends_when_its_last_loss_is_not_finite():
    with pytest.raises(UserError, match='not finite since iteration 2, for 1 iterations'):
        Losses(FiniteLossHook(patience=3), [1.0, NAN])


@pytest.mark.parametrize('losses', [[1.0] * 9, [NAN, NAN, 1.0, NAN, 1.0, 1.0]])
def test_a_few_that_pass_are_no_matter(losses):
    assert Losses(FiniteLossHook(patience=3), losses).warnings == []


def test_a_run_goes_on_with_a_warning_if_the_user_says_so():
    (first, second) = Losses(FiniteLossHook(patience=3, stop=False), [NAN] * 6).warnings
    assert 'iteration 1, for 3 iterations' in first and 'for 6 iterations' in second


@pytest.mark.parametrize('patience', [0, 2.5])
def test_patience_is_a_number_of_iterations(patience):
    with pytest.raises(ValueError, match=f'patience={patience}'):
        FiniteLossHook(patience)


def test_a_run_that_breaks_down_leaves_no_checkpoint_of_it(tmp_path):
    hook = dict(type='FiniteLossHook', patience=2)
    with pytest.raises(UserError, match='the loss is not finite since iteration'):
        make_runner(tmp_path, hooks=[hook], lr=1e30).train()
    assert not list(tmp_path.glob('*.pth'))
