"""The table of docs/weights.md tells what is published, and what our own models compute."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kat_mm.backbones import KAT
from kat_mm.weights import PUBLISHED

ROOT = Path(__file__).resolve().parents[2]


def table() -> dict[str, list[str]]:
    """The rows of the table, by name."""
    rows = {}
    for line in (ROOT / 'docs' / 'weights.md').read_text().splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        name = re.fullmatch(r'\[`(\w+)`\]\((\S+)\)', cells[0])
        if line.startswith('|') and name:
            rows[name[1]] = [name[2], *cells[1:]]
    return rows


def test_the_table_has_every_name_with_its_address_accuracy_source_and_licence():
    rows = table()
    assert rows.keys() == PUBLISHED.keys()
    for name, (url, _, _, top1, source) in rows.items():
        published = PUBLISHED[name]
        assert url == published.url, name
        assert top1 == ('' if published.top1 is None else str(published.top1)), name
        assert f']({published.source}), {published.licence}' in source, name


def build(name: str) -> nn.Module:
    family, size = name.split('_')[:2]
    options = dict(arch={'t': 'tiny', 's': 'small', 'b': 'base'}[size])
    if family != 'kat':
        options.update(ffn_cfg=dict(type='MLP'))
    if family == 'dinov2':
        options.update(patch_size=14, img_size=518)
    return KAT(**options)


# One of each shape; the others have the numbers of these.
@pytest.mark.parametrize(
    'name', ['kat_t_in1k', 'kat_s_in1k', 'kat_b_in1k', 'deit_s_in1k', 'mae_b', 'dinov2_s']
)
def test_parameters_and_multiply_adds_are_those_of_our_models(name, quick_build):
    model = build(name)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if name.endswith('in1k'):
        parameters += 1000 * (model.embed_dims + 1)
    side = 518 if 'dinov2' in name else 224
    # The fused attention of a CPU is none that it knows.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, side, side))
    told = table()[name]
    assert int(told[1].replace(',', '')) == parameters
    assert float(told[2]) == round(counter.get_total_flops() / 2e9, 2)


def test_models_of_one_shape_have_the_same_numbers():
    rows = table()
    for name, (_, parameters, multiply_adds, *_) in rows.items():
        twin = {'from_vit_in1k': 'kat_{}_in1k', 'deit': 'deit_{}_in1k', 'augreg': 'deit_{}_in1k'}
        for kind, pattern in twin.items():
            if kind in name and not name.endswith('in21k'):
                expected = rows[pattern.format(name.split('_')[1])]
                assert [parameters, multiply_adds] == expected[1:3], name


def test_the_metafile_has_published_weights_and_their_accuracy_by_name():
    content = yaml.safe_load((ROOT / 'configs' / 'metafile_classification.yml').read_text())
    found = {model['Name']: model for model in content['Models'] if 'Weights' in model}
    assert set(found) == {f'kat_{size}_in1k' for size in 'tsb'}
    for name, model in found.items():
        (result,) = model['Results']
        assert model['Weights'] == PUBLISHED[name].url
        assert result['Metrics'] == {'Top 1 Accuracy': PUBLISHED[name].top1}
        assert (result['Task'], result['Dataset']) == ('Image Classification', 'ImageNet-1k')
