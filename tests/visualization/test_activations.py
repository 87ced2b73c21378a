import numpy as np
import pytest
import torch

from kat_mm.backbones import KAT
from kat_mm.errors import UserError
from kat_mm.visualization.activations import BINS, PreActivations
from kat_mm.visualization.rational import figure_to_image, plot_rationals

SMALL = dict(embed_dims=16, num_layers=7, num_heads=2, feedforward_channels=32)


def small(**kwargs):
    torch.manual_seed(0)
    model = KAT(SMALL, img_size=32, patch_size=8, **kwargs)
    model.init_weights()
    return model.eval()


@torch.no_grad()
def run(model, batches=1):
    with PreActivations(model) as inputs:
        for seed in range(batches):
            model(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)))
    return inputs


def test_inputs_of_each_activation_are_counted_by_group():
    model, seen = small(), {}
    block = model.blocks[3].mlp
    with torch.no_grad():
        block.act1.weight_numerator[:, 2] = 0.3  # no longer the identity
    for name in ('act1', 'act2'):
        module = getattr(block, name)
        module.register_forward_pre_hook(
            lambda _, args, name=name: seen.setdefault(name, args[0].detach())
        )
    inputs = run(model)
    assert len(inputs.counts) == 14
    for name, x in seen.items():
        counts = inputs.counts[f'blocks.3.mlp.{name}']
        assert counts.shape == (8, BINS)
        groups = x.reshape(-1, 8, x.shape[-1] // 8).numpy()
        for group in range(8):
            expected, _ = np.histogram(groups[:, group], inputs.edges)
            # On the edge of a bin rounding decides.
            assert np.abs(counts[group] - expected).sum() <= 2
        low, high = inputs.ranges[f'blocks.3.mlp.{name}']
        assert (low, high) == pytest.approx((x.min().item(), x.max().item()))
        assert inputs.quantile(f'blocks.3.mlp.{name}', 0.9) == pytest.approx(
            np.quantile(x.numpy(), 0.9), abs=0.06
        )


def test_batches_add_up_and_nothing_is_counted_afterwards():
    model = small()
    inputs = run(model, batches=3)
    before = inputs.counts['blocks.0.mlp.act1'].sum()
    assert before == 3 * 2 * 17 * 16
    model(torch.randn(2, 3, 32, 32))
    assert inputs.counts['blocks.0.mlp.act1'].sum() == before


def test_a_vit_has_one_group():
    inputs = run(small(ffn_cfg=dict(type='MLP')))
    assert inputs.counts.keys() == {f'blocks.{i}.mlp.act' for i in range(7)}
    assert inputs.counts['blocks.6.mlp.act'].shape == (1, BINS)


@pytest.mark.parametrize('counted', [False, True])
def test_every_function_is_drawn(counted):
    model = small()
    with torch.no_grad():
        model.blocks[2].mlp.act2.weight_denominator[5] += 1
    figure = plot_rationals(model.state_dict(), run(model) if counted else None)
    panels = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    assert panels.keys() == {f'block {i}, act{j}' for i in range(7) for j in (1, 2)}
    axis = panels['block 2, act2']
    assert len(axis.lines) == 8 + 1
    x = torch.from_numpy(np.asarray(axis.lines[0].get_xdata()))
    expected = model.blocks[2].mlp.act2(x[:, None].float().expand(-1, 32))
    *lines, start = axis.lines
    # As it was before it changed: swish.
    np.testing.assert_allclose(start.get_ydata(), x * x.sigmoid(), atol=1e-2)
    assert start.get_linestyle() == '--'
    assert len({tuple(line.get_color()) for line in lines}) == 8
    for group, line in enumerate(lines):
        np.testing.assert_allclose(
            line.get_ydata(), expected[:, 4 * group].detach().numpy(), rtol=1e-4, atol=1e-5
        )
    image = figure_to_image(figure)
    assert image.dtype == np.uint8 and image.shape[2] == 3 and image.std() > 0


def test_a_vit_has_nothing_to_draw():
    with pytest.raises(UserError, match='no rational functions'):
        plot_rationals(small(ffn_cfg=dict(type='MLP')).state_dict())
