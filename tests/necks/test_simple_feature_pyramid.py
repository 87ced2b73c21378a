import pytest
import torch
import vitdet_reference
from mmengine.registry import MODELS

from kat_mm.necks import SimpleFeaturePyramid


@pytest.mark.parametrize('size', [(4, 6), (5, 3)])
def test_levels_and_gradients_equal_the_plain_implementation_in_float64(size):
    torch.manual_seed(0)
    neck = SimpleFeaturePyramid(16, 8).double()
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 16, *size, dtype=torch.float64, requires_grad=True)
    got = neck([x])
    want = vitdet_reference.pyramid(x, dict(neck.named_parameters()))
    height, width = size
    shapes = [(4 * height, 4 * width), (2 * height, 2 * width), size, (height // 2, width // 2)]
    assert [tuple(level.shape[2:]) for level in got[:4]] == shapes
    torch.testing.assert_close(list(got), want, rtol=1e-10, atol=1e-10)
    grads = [torch.randn_like(level) for level in got]
    leaves = [x, *neck.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(got, leaves, grads),
        torch.autograd.grad(want, leaves, grads),
        rtol=1e-9,
        atol=1e-9,
    )


def test_maps_are_contiguous_as_mmcvs_roi_align_needs_them():
    neck = SimpleFeaturePyramid(16, 8)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        levels = neck([torch.randn(2, 16, 4, 6).to(memory_format=memory_format)])
        assert all(level.is_contiguous() for level in levels)


def test_it_takes_the_last_of_several_maps():
    neck, maps = SimpleFeaturePyramid(16, 8), [torch.randn(1, 16, 4, 4) for _ in range(3)]
    torch.testing.assert_close(neck(maps), neck(maps[-1:]))


def test_scales_and_levels_can_be_chosen():
    outputs = SimpleFeaturePyramid(16, 8, scales=(2, 1), num_outs=4)([torch.randn(1, 16, 6, 8)])
    assert [tuple(output.shape) for output in outputs] == [
        (1, 8, 12, 16), (1, 8, 6, 8), (1, 8, 3, 4), (1, 8, 2, 2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(num_outs=3), 'num_outs=3 .* number of scales, 4'),
        (dict(scales=(8,)), r'scales=\(8,\)'),
        (dict(num_outs=5.0), 'num_outs=5.0 must be a whole number from 1'),
        (dict(out_channels=0), 'out_channels=0 must be a whole number from 1'),
        (dict(in_channels='16'), "in_channels='16' must be a whole number from 1"),
        (dict(in_channels=True), 'in_channels=True must be a whole number from 1'),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SimpleFeaturePyramid(**dict(dict(in_channels=16), **arguments))


@pytest.mark.parametrize('library', ['mmseg', 'mmdet'])
def test_downstream_registry_finds_the_neck(library):
    models = pytest.importorskip(f'{library}.registry').MODELS
    assert type(models.build(dict(type='SimpleFeaturePyramid', in_channels=16))) is (
        SimpleFeaturePyramid
    )
    assert MODELS.get('SimpleFeaturePyramid') is SimpleFeaturePyramid


def test_vectors_are_refused_with_the_argument_that_makes_maps():
    with pytest.raises(ValueError, match=r"must be a map .*\(2, 8\).*out_type='featmap'"):
        SimpleFeaturePyramid(8, 8)((torch.zeros(2, 8),))
