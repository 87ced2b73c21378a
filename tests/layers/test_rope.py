"""Rotary positions against timm's, and against attention that knows each patch's place."""

import copy
import math

import pytest
import torch
from timm.layers import pos_embed_sincos
from torch import nn

from kat_mm.layers import RotaryEmbedding, SoftmaxAttention, window_partition

DINOV3 = dict()
EVA02 = dict(base=10000.0, coordinates='indices', reference_size=(16, 16), rotation='pairs')
KINDS = {'DINOv3': DINOV3, 'EVA-02': EVA02, 'RoPE-ViT': dict(EVA02, reference_size=None)}


def turned(settings, extra=3, grid=(5, 7), window=0, heads=8):
    rope = RotaryEmbedding(heads, **settings)
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2, 3, extra + math.prod(grid), heads, generator=generator).double()
    return q, k, *rope(q, k, grid, window)


@pytest.mark.parametrize('kind', KINDS)
def test_patches_are_turned_as_timm_does_and_other_tokens_not(kind):
    settings = KINDS[kind]
    q, k, new_q, new_k = turned(settings)
    if kind == 'DINOv3':
        theirs = pos_embed_sincos.RotaryEmbeddingDinoV3(8, feat_shape=None)
    else:
        theirs = pos_embed_sincos.RotaryEmbeddingCat(
            8,
            in_pixels=False,
            temperature=10000.0,
            feat_shape=None,
            ref_feat_shape=settings['reference_size'],
        )
    table = theirs.get_embed((5, 7)).double()
    for before, after in ((q, new_q), (k, new_k)):
        want = pos_embed_sincos.apply_rot_embed_cat(before[:, :, 3:], table, half=kind == 'DINOv3')
        torch.testing.assert_close(after[:, :, 3:], want, rtol=2e-6, atol=2e-6)
        assert torch.equal(after[:, :, :3], before[:, :, :3])


def test_dinov3_turns_by_the_formula_of_its_code():
    # One row and one column away from the corner of 4 x 2 patches.
    rope = RotaryEmbedding(8)
    q = torch.zeros(1, 1, 8, 8).double()
    q[..., :4] = 1
    new_q, _ = rope(q, q, (4, 2))
    y, x = 2 * 1.5 / 4 - 1, 2 * 1.5 / 2 - 1
    angles = [2 * math.pi * c / 100 ** (2 * i / 4) for c in (y, x) for i in (0, 1)]
    want = [*map(math.cos, angles), *map(math.sin, angles)]
    torch.testing.assert_close(new_q[0, 0, 3], torch.tensor(want).double())


@pytest.mark.parametrize('kind', KINDS)
def test_in_windows_a_patch_keeps_its_position_in_the_image(kind):
    grid, window = (4, 6), 2
    q, k, new_q, new_k = turned(KINDS[kind], extra=1, grid=grid)
    rope = RotaryEmbedding(8, **KINDS[kind])

    def cut(x):
        windows = [window_partition(head, grid, window) for head in x.unbind(1)]
        return torch.stack(windows, dim=1)

    torch.testing.assert_close(rope(cut(q), cut(k), grid, window), (cut(new_q), cut(new_k)))


def test_halves_are_turned_in_float32_and_come_back_as_they_were():
    rope = RotaryEmbedding(8)
    q = torch.randn(1, 1, 4, 8)
    half, _ = rope(q.bfloat16(), q.bfloat16(), (2, 2))
    whole, _ = rope(q.bfloat16().float(), q, (2, 2))
    assert torch.equal(half, whole.bfloat16())


def test_periods_of_a_checkpoint_are_computed_with_and_kept():
    torch.manual_seed(0)
    attn = SoftmaxAttention(16, 2, rope=dict())
    plain, periods = copy.deepcopy(attn), torch.tensor([1.0, 11.0]).bfloat16()
    state = {**attn.state_dict(), 'rope.periods': periods}
    assert 'rope.periods' not in attn.state_dict()
    attn.load_state_dict(state)
    x = torch.randn(2, 4, 16)
    assert not torch.allclose(attn(x, (2, 2)), plain(x, (2, 2)))
    plain.load_state_dict(attn.state_dict())
    assert torch.equal(attn(x, (2, 2)), plain(x, (2, 2)))
    with pytest.raises(RuntimeError, match='Unexpected.*rope.periods'):
        SoftmaxAttention(16, 2).load_state_dict(state)


def test_tables_made_without_gradients_serve_training_later():
    rope = RotaryEmbedding(8)
    with torch.inference_mode():
        rope(torch.randn(1, 1, 6, 8), torch.randn(1, 1, 6, 8), (3, 2))
    q = torch.randn(1, 1, 6, 8, requires_grad=True)
    rope(q, q, (3, 2))[0].sum().backward()
    assert q.grad is not None


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(head_dims=6), ['6 channels', 'multiple of 4']),
        (dict(coordinates='pixels'), ["coordinates='pixels'", 'centers', 'indices']),
        (dict(rotation='thirds'), ["rotation='thirds'", 'halves', 'pairs']),
        (dict(reference_size=(16, 16)), ['reference_size=(16, 16)', "coordinates='indices'"]),
        (dict(base=1.0), ['base=1.0', 'greater than 1']),
    ],
)
def test_wrong_value_is_refused_with_its_name_and_what_would_fit(arguments, words):
    with pytest.raises(ValueError) as raised:
        RotaryEmbedding(**{'head_dims': 8, **arguments})
    for word in words:
        assert word in str(raised.value)


def test_modules_hold_no_tables():
    assert not list(nn.ModuleList([RotaryEmbedding(8)]).buffers())
