import pytest
from torch import nn
from torch.nn.utils import parametrize, prune

from kat_mm.layers.untouched import is_untouched


class Wide(nn.Linear):
    pass


def wrap_forward(module):
    module.forward = module.forward


TOUCHED = {
    'forward pre-hook': lambda m: m.register_forward_pre_hook(lambda *_: None),
    'forward hook': lambda m: m.register_forward_hook(lambda *_: None),
    'forward hook with keywords': lambda m: m.register_forward_hook(
        lambda *_: None, with_kwargs=True, always_call=True
    ),
    'backward pre-hook': lambda m: m.register_full_backward_pre_hook(lambda *_: None),
    'backward hook': lambda m: m.register_full_backward_hook(lambda *_: None),
    'wrapped forward': wrap_forward,
    'parametrised': lambda m: parametrize.register_parametrization(m, 'weight', nn.Identity()),
    'pruned': lambda m: prune.random_unstructured(m, 'weight', amount=0.5),
    'spectral norm': nn.utils.spectral_norm,
    'compiled': lambda m: m.compile(backend='eager'),
    'another class': lambda m: setattr(m, '__class__', Wide),
}


@pytest.mark.parametrize('touch', TOUCHED.values(), ids=TOUCHED)
def test_a_module_that_somebody_touched_is_to_be_called(touch):
    module = nn.Linear(4, 4)
    assert is_untouched(module, nn.Identity, nn.Linear)
    touch(module)
    assert not is_untouched(module, nn.Identity, nn.Linear)


def test_a_hook_that_is_removed_leaves_nothing():
    module = nn.Linear(4, 4)
    module.register_forward_hook(lambda *_: None).remove()
    assert is_untouched(module, nn.Linear)
    assert not is_untouched(module, nn.Identity)
