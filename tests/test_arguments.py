"""Every argument of the backbone, its parts and the neck, of a wrong type or out of range."""

import math

import pytest

from kat_mm.backbones import KAT
from kat_mm.engine import FiniteLossHook, PlotRationalsHook, PreemptionHook
from kat_mm.layers import (
    GRKAN,
    MLP,
    DropPath,
    GatedGRKAN,
    GroupRational,
    KArAt,
    LayerNorm2d,
    PatchEmbed,
    SoftmaxAttention,
)
from kat_mm.necks import SimpleFeaturePyramid

NAN = float('nan')
NO_BOOLS = ('yes', None, 2)
NO_RATES = (-0.1, 1.5, NAN, '0.1', None, True)
NO_SIZES = (0, -1, 2.5, '8', None, True)
NO_NUMBERS = (NAN, math.inf, '1', b'1', [], None, True)
NO_INTERVALS = ((3, -3), (1,), (0, NAN), (0, math.inf), 'ab', 5)
NO_ORDERS = ((5,), 5, (5, -1), (5.0, 4), ('5', 4), (True, 4), None, (5, 4, 3))
SMALL = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64)
MAPS = dict(with_cls_token=False, out_type='featmap')


def kat(**kwargs):
    return KAT(**{'arch': SMALL, 'img_size': 64, **kwargs})


def with_ffn(**kwargs):
    return kat(ffn_cfg=dict(type='GRKAN', **kwargs))


def with_attention(**kwargs):
    return kat(attn_cfg=dict(type='SoftmaxAttention', **kwargs))


def with_karat(**kwargs):
    return kat(attn_cfg=dict(type='KArAt', **kwargs))


# What is built, its other arguments, and wrong values of each argument.
WRONG = [
    (
        kat,
        {},
        dict(
            img_size=(64.0, 0, -1, (64,), '64', None, True, (64, 64, 64), (64, 64.0), NAN),
            patch_size=(*NO_SIZES, (16, 16)),
            in_channels=NO_SIZES,
            arch=(7, None, 'tinny', [], SMALL | dict(extra=1), SMALL | dict(num_layers='4')),
            out_indices=(4, -5, 1.0, (0, 0), (3, 1), (0, 1.5), (), 'all', None, (0, '1'), [[0]]),
            out_type=('raw', None, 3),
            final_norm=NO_BOOLS,
            with_cp=NO_BOOLS,
            norm_eps=(*NO_NUMBERS, 0, -1e-6),
            layer_scale=(NAN, math.inf, '1', b'1', [], True),
            drop_rate=NO_RATES,
            drop_path_rate=(*NO_RATES, 1.0, math.inf),
            frozen_stages=(99, -2, 1.0, '1', None, True),
            ffn_cfg=(dict(num_groups=8), 'GRKAN', [], dict(type='GRKAM'), dict(type=None), 7),
            attn_cfg=(dict(rank=3), 'KArAt', {}, dict(type='Karat'), 7),
            init_cfg=('Pretrained', 7, dict(checkpoint='x'), dict(type='Pretrained')),
        ),
    ),
    (kat, dict(out_type='featmap'), dict(with_cls_token=NO_BOOLS)),
    (kat, MAPS, dict(window_size=(2.5, -1, '2', None, True, 224), use_rel_pos=NO_BOOLS)),
    (
        kat,
        MAPS | dict(window_size=2),
        dict(global_attn_indices=((4,), (-1,), (0.0,), (0, 0), 1, '0', None, ('0',), (True,))),
    ),
    *((kat, {}, {'arch': (SMALL | {key: value},)}) for key in SMALL for value in NO_SIZES),
    (
        with_ffn,
        {},
        dict(
            num_groups=(*NO_SIZES, 7),
            num_numerator_groups=(*NO_SIZES, 7),
            order=NO_ORDERS,
            act_init=('swish', ('swich', 'gelu'), ('swish',), (1, 2), None, 3, ('relu',) * 3),
            act_interval=NO_INTERVALS,
            bias=NO_BOOLS,
            drop_rate=NO_RATES,
            init=('xavier', None),
        ),
    ),
    (
        with_attention,
        {},
        dict(
            qkv_bias=NO_BOOLS,
            norm_eps=(*NO_NUMBERS, 0, -1e-6),
            attn_drop_rate=NO_RATES,
            proj_drop_rate=NO_RATES,
            init=('xavier', None),
        ),
    ),
    (
        with_karat,
        {},
        dict(
            rank=(*NO_SIZES, 1000),
            basis=('furier', 7, None, [], dict(grid=3), dict(type=[])),
            mode=('shared', None),
            base=('tan', None, [], {}),
            freeze_basis=NO_BOOLS,
            freeze_base=NO_BOOLS,
            fused=NO_BOOLS,
            scales=NO_BOOLS,
            depth=NO_SIZES,
            modular=('phi2', 3),
            num_karat_heads=(0, 3, -1, 1.5, '1', True, 'half'),
            project_l1=('yes', 2, None),
            function_init=('unit', None),
        ),
    ),
    (
        KArAt,
        dict(embed_dims=32, num_heads=2),
        dict(grid_size=(3, (3,), (0, 3), (2.5, 3))),
    ),
    (
        KArAt,
        dict(embed_dims=32, num_heads=2, grid_size=(4, 4)),
        dict(num_extra_tokens=(-1, 1.5, 'a', None), num_heads=(*NO_SIZES, 3)),
    ),
    (
        SoftmaxAttention,
        dict(embed_dims=32, num_heads=2),
        dict(
            embed_dims=NO_SIZES,
            num_heads=(*NO_SIZES, 3),
            rel_pos_size=(3, (3,), (0, 3), (2.5, 3), 'ab'),
        ),
    ),
    (
        GRKAN,
        dict(embed_dims=32, feedforward_channels=64),
        dict(embed_dims=NO_SIZES, feedforward_channels=NO_SIZES),
    ),
    (GatedGRKAN, dict(embed_dims=32, feedforward_channels=64), dict(norm_eps=(*NO_NUMBERS, 0))),
    (
        MLP,
        dict(embed_dims=32, feedforward_channels=64),
        dict(
            embed_dims=NO_SIZES,
            feedforward_channels=NO_SIZES,
            norm_eps=(*NO_NUMBERS, 0),
            bias=NO_BOOLS,
            drop_rate=NO_RATES,
        ),
    ),
    (
        GroupRational,
        dict(num_channels=32),
        dict(
            num_channels=NO_SIZES,
            num_groups=(*NO_SIZES, 7),
            order=NO_ORDERS,
            act_init=('swich', None, 3),
            act_interval=NO_INTERVALS,
            channels_first=NO_BOOLS,
        ),
    ),
    (FiniteLossHook, {}, dict(patience=NO_SIZES, stop=NO_BOOLS)),
    (PreemptionHook, {}, dict(interval=NO_SIZES)),
    (PlotRationalsHook, {}, dict(interval=NO_SIZES)),
    (DropPath, {}, dict(rate=(*NO_RATES, 1.0))),
    (LayerNorm2d, {}, dict(num_channels=NO_SIZES)),
    (
        PatchEmbed,
        dict(in_channels=3, embed_dims=32, patch_size=16),
        dict(in_channels=NO_SIZES, embed_dims=NO_SIZES, patch_size=NO_SIZES),
    ),
    (
        SimpleFeaturePyramid,
        dict(in_channels=32),
        dict(
            in_channels=(*NO_SIZES, 7),
            out_channels=NO_SIZES,
            num_outs=(*NO_SIZES, 3),
            scales=((3,), 4, '4', (), (4, '2'), (NAN,), None),
        ),
    ),
]
CASES = [
    pytest.param(build, others, name, value, id=f'{build.__name__}-{name}-{value!r}')
    for build, others, arguments in WRONG
    for name, values in arguments.items()
    for value in values
]


@pytest.mark.parametrize('build, others, name, value', CASES)
def test_a_wrong_value_is_named(build, others, name, value, quick_build):
    with pytest.raises(ValueError) as raised:
        build(**{**others, name: value})
    assert name in str(raised.value)
    if not isinstance(value, dict | tuple):
        assert repr(value) in str(raised.value)


@pytest.mark.parametrize(
    'build, arguments',
    [
        (kat, dict(img_size=(64, 96), patch_size=8, out_indices=[0, -1], drop_path_rate=0)),
        (kat, MAPS | dict(window_size=14)),
        (kat, MAPS | dict(window_size=4, global_attn_indices=[1, 3], use_rel_pos=True)),
        (with_ffn, dict(num_groups=32, order=[5, 4], act_init=['gelu', 'relu'])),
        (with_karat, dict(rank=17, basis=dict(type='bspline', range=[-3, 3]))),
        (SimpleFeaturePyramid, dict(in_channels=32, scales=[4, 2, 1.0, 0.5])),
    ],
)
def test_right_values_are_taken_as_configs_give_them(build, arguments, quick_build):
    build(**arguments)


HUGE = 10**9
ARCH = dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=16)


def small_kat(arch=(), **options):
    return KAT(**dict(dict(img_size=32), arch={**ARCH, **dict(arch)}, **options))


def small_karat(**options):
    return small_kat(attn_cfg=dict(dict(rank=2), type='KArAt', **options))


@pytest.mark.parametrize(
    'build, name',
    [
        *((lambda key=key: small_kat({key: HUGE}), rf'arch\[{key!r}\]') for key in ARCH),
        (lambda: small_kat(img_size=16 * 2**11), 'img_size'),
        (lambda: small_kat(patch_size=HUGE), 'patch_size'),
        (lambda: small_kat(in_channels=HUGE), 'in_channels'),
        (lambda: small_kat(num_registers=HUGE), 'num_registers'),
        (lambda: small_kat(out_indices=range(HUGE)), 'out_indices'),
        (lambda: small_kat(ffn_cfg=dict(type='GRKAN', order=(HUGE, 4))), 'order'),
        (lambda: small_kat(ffn_cfg=dict(type='GRKAN', order=(5, 17))), 'order'),
        (lambda: small_kat(ffn_cfg=dict(type='GRKAN', num_groups=HUGE)), 'num_groups'),
        (lambda: small_karat(basis=dict(type='fourier', grid=HUGE)), 'grid'),
        (lambda: small_karat(basis=dict(type='bspline', grid=HUGE)), 'grid'),
        (lambda: small_karat(basis=dict(type='bspline', grid=256, order=256)), 'order'),
        (lambda: small_karat(basis=dict(type='rational', order=(4, HUGE))), 'order'),
        (lambda: small_karat(depth=HUGE), 'depth'),
        (lambda: small_karat(rank=HUGE), 'rank'),
    ],
)
def test_sizes_that_would_take_all_memory_or_not_end_are_named(build, name):
    with pytest.raises(ValueError, match=f'{name}=.* '):
        build()
