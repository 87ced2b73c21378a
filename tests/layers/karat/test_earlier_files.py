"""Files of earlier definitions: what they computed, or a word why not."""

import pytest
import torch
from karat_operators import GRID, HEADS, RANK, SHANNON, make, tokens
from safetensors.torch import load, save
from torch import nn

from kat_mm.errors import UserError


def earlier(operator, kind, **others):
    """The state dict that an operator of these parameters had before its layers were numbered."""
    functions = 1 if kind == 'w1_phi2' else 0
    names = {f'layers.{functions}.': 'phi.', f'layers.{1 - functions}.': ''}
    state = {}
    for key, value in operator.state_dict().items():
        for new, old in names.items():
            if key.startswith(new):
                state[key.replace(new, old, 1)] = value
    return {**state, **others}


@pytest.mark.parametrize('basis', ['fourier', 'bspline', dict(type='wavelet', wavelet='morlet')])
@pytest.mark.parametrize('kind', ['phi1_w2', 'w1_phi2', 'full'])
def test_earlier_files_that_compute_the_same_today_load_through_safetensors_too(kind, basis):
    source, target = make(kind, basis=basis), make(kind, basis=basis)
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    state = {key: value.contiguous() for key, value in earlier(source, kind).items()}
    target.load_state_dict(load(save(state)))
    torch.testing.assert_close(target(*tokens(7), GRID), source(*tokens(7), GRID))


def test_the_mexican_hat_of_earlier_files_keeps_its_sign():
    source, target = make('phi1_w2', basis='wavelet'), make('phi1_w2', basis='wavelet')
    target.load_state_dict(earlier(source, 'phi1_w2'))
    q, k, v = tokens(7)
    torch.testing.assert_close(target(q, k, v, GRID), -source(q, k, v, GRID))
    assert torch.equal(target.layers[1].weight, source.layers[1].weight)


def test_learned_weights_of_an_earlier_base_function_become_scales():
    source = make('phi1_w2')
    base = torch.randn(HEADS, RANK, 7).double()
    target = make('phi1_w2', base='silu', scales=True)
    target.load_state_dict(earlier(source, 'phi1_w2', **{'phi.base_weight': base}))
    q, k, v = tokens(7)
    scores = q @ k.mT / 2
    hidden = source.layers[0](scores) + nn.functional.silu(scores) @ base.mT
    want = hidden @ source.layers[1].weight.mT @ v
    torch.testing.assert_close(target(q, k, v, GRID), want)


BASE = {'phi.base_weight': torch.zeros(HEADS, RANK, 7)}


@pytest.mark.parametrize(
    'kind, others, options, words',
    [
        ('phi1_w2', {}, dict(basis='rational'), ['denominator', 'train again']),
        ('phi1_w2', {}, dict(basis=dict(type='wavelet', wavelet='meyer')), ['wavelet meyer']),
        ('phi1_w2', {}, SHANNON, ['wavelet shannon']),
        ('phi1_w2', {}, dict(project_l1=True), ['l1 ball', 'simplex']),
        ('phi1_w2', {}, dict(project_l1='hidden'), ['l1 ball', 'simplex']),
        ('phi1_w2', BASE, dict(base='silu'), ['base function', 'scales=True']),
        ('phi1_w2', {}, dict(base='silu'), ['no base function', "base='zero'"]),
        ('full', {}, dict(kind='phi1_w2'), ['number of layers', 'depth=1', 'modular=False']),
        ('phi1_w2', {}, dict(kind='w3_phi2_phi1'), ['number of layers', 'depth=2']),
        ('phi1_w2', {}, dict(kind='phi2_phi1'), ['number of layers', "modular='phi1_w2'"]),
    ],
)
def test_earlier_files_that_would_compute_something_else_are_refused(kind, others, options, words):
    options = dict(options)
    target_kind, project = options.pop('kind', kind), options.pop('project_l1', False)
    state = earlier(make(kind, **{k: v for k, v in options.items() if k != 'base'}), kind, **others)
    with pytest.raises(UserError) as raised:
        make(target_kind, project_l1=project, **options).load_state_dict(state)
    for word in ('earlier version', *words):
        assert word in str(raised.value)


def test_an_order_other_than_that_of_an_earlier_file_is_refused_for_its_shape():
    with pytest.raises(RuntimeError, match='size mismatch'):
        make('w1_phi2').load_state_dict(earlier(make('phi1_w2'), 'phi1_w2'))
