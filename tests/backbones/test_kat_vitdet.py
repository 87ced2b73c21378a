"""KAT on large images: windows, global blocks and relative positions, as ViTDet has them."""

import logging

import pytest
import torch
import vitdet_reference
from torch import nn

from kat_mm.backbones import KAT

ARCH = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)
VITDET = dict(
    arch=ARCH,
    img_size=32,
    patch_size=8,
    window_size=3,
    global_attn_indices=(1,),
    use_rel_pos=True,
    with_cls_token=False,
    final_norm=False,
    out_type='featmap',
)


def vitdet(**kwargs) -> KAT:
    """Three blocks, the second global, with windows of 3 x 3 tokens; made for 4 x 4 tokens."""
    return KAT(**{**VITDET, **kwargs})


def randomise(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 5)
    return model


def images(height=32, width=32, batch=2):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


# The windows divide 48 x 24 alone, and 16 x 16 is smaller than one.
@pytest.mark.parametrize('size', [(32, 32), (48, 24), (40, 56), (16, 16)])
@pytest.mark.parametrize('rel_pos', [True, False])
def test_it_equals_the_plain_implementation_in_float64(size, rel_pos):
    model = randomise(vitdet(ffn_cfg=dict(type='MLP'), use_rel_pos=rel_pos)).double()
    leaves = dict(model.named_parameters())
    x = images(*size).double().requires_grad_()
    (got,) = model(x)
    want = vitdet_reference.backbone(
        x, leaves, heads=2, patch=8, grid=(4, 4), window=3, global_blocks=(1,), rel_pos=rel_pos
    )
    # Tables and embeddings are resized in float32 where the size is another.
    exact = size == (32, 32)
    tolerance = dict(rtol=1e-11, atol=1e-11) if exact else dict(rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got, want, **tolerance)
    grad = torch.randn_like(got)
    torch.testing.assert_close(
        torch.autograd.grad(got, [x, *leaves.values()], grad),
        torch.autograd.grad(want, [x, *leaves.values()], grad),
        rtol=1e-9 if exact else 1e-4,
        atol=1e-9 if exact else 1e-4,
    )


def test_tables_have_the_size_of_the_window_or_of_the_image():
    model = vitdet(img_size=(40, 64))
    shapes = [
        (tuple(block.attn.rel_pos_h.shape), tuple(block.attn.rel_pos_w.shape))
        for block in model.blocks
    ]
    assert shapes == [((5, 8), (5, 8)), ((9, 8), (15, 8)), ((5, 8), (5, 8))]
    assert not any(table.any() for name, table in model.named_parameters() if 'rel_pos' in name)


def test_recomputed_blocks_give_the_same_gradients():
    plain = randomise(vitdet(drop_path_rate=0.3))
    recomputed = vitdet(drop_path_rate=0.3, with_cp=True)
    recomputed.load_state_dict(plain.state_dict())
    for model in (plain, recomputed):
        torch.manual_seed(3)
        model(images(40, 56))[0].square().sum().backward()
    for (name, p), q in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name


@pytest.fixture
def log(caplog):
    with caplog.at_level(logging.INFO, 'kat_mm'):
        yield caplog


@pytest.mark.parametrize('strict', [True, False])
def test_a_classification_checkpoint_loads_as_it_is(log, strict):
    classifier = randomise(KAT(arch=ARCH, img_size=24, patch_size=8, final_norm=False))
    state = classifier.state_dict()
    detector = randomise(vitdet())
    assert detector.load_state_dict(state, strict=strict) == ([], [])
    assert not any(table.any() for name, table in detector.named_parameters() if 'rel_pos' in name)
    assert log.messages == [
        'The class token of the checkpoint is left out',
        'Position embedding resized from (3, 3) to (4, 4)',
        'The checkpoint has no rel_pos_h, rel_pos_w: they start at what computes nothing',
    ]
    # Without windows it is the classifier without its class token.
    classifier = KAT(
        arch=ARCH,
        img_size=32,
        patch_size=8,
        final_norm=False,
        with_cls_token=False,
        out_type='featmap',
    )
    classifier.load_state_dict(state)
    everywhere = vitdet(window_size=0)
    everywhere.load_state_dict(state)
    torch.testing.assert_close(everywhere(images()), classifier(images()))


def test_init_cfg_reads_a_classification_checkpoint(log, tmp_path):
    classifier = randomise(KAT(arch=ARCH, img_size=24, patch_size=8))
    path = str(tmp_path / 'classifier.pth')
    head = {'head.weight': torch.zeros(10, 16)}
    torch.save({'state_dict': {**classifier.state_dict(), **head}}, path)
    detector = vitdet(init_cfg=dict(type='Pretrained', checkpoint=path))
    detector.init_weights()
    assert torch.equal(detector.blocks[2].mlp.fc2.weight, classifier.blocks[2].mlp.fc2.weight)
    assert 'Left out: head.weight' in log.messages
    nobody = 'Left out, since nothing asks for what it computes: the final norm'
    assert nobody in log.messages
    assert (
        'The checkpoint has no rel_pos_h, rel_pos_w: they start at what computes nothing'
        in log.messages
    )


def test_a_detectors_own_checkpoint_keeps_its_relative_positions(log):
    state = randomise(vitdet()).state_dict()
    model = vitdet(img_size=(48, 40))
    model.load_state_dict({key: value.clone() for key, value in state.items()})
    for index in (0, 2):
        table = model.blocks[index].attn.rel_pos_h
        assert torch.equal(table, state[f'blocks.{index}.attn.rel_pos_h'])
    assert 'blocks.1.attn.rel_pos_h resized from 7 to 11 distances' in log.messages
    assert 'blocks.1.attn.rel_pos_w resized from 7 to 9 distances' in log.messages


@pytest.mark.parametrize('names', [['rel_pos_w'], ['rel_pos_h', 'rel_pos_w']])
def test_tables_that_one_block_lacks_are_missed(names):
    state = vitdet().state_dict()
    for name in names:
        del state[f'blocks.1.attn.{name}']
    with pytest.raises(RuntimeError, match='Missing key.*blocks.1.attn.rel_pos_w'):
        vitdet().load_state_dict(state)


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(window_size=-1), ['window_size=-1', 'from 0 up']),
        (dict(with_cls_token=True), ['use_rel_pos=True', 'with_cls_token=False']),
        (dict(num_registers=4), ['use_rel_pos=True', 'num_registers=0']),
        (dict(global_attn_indices=(1, 3)), ['global_attn_indices=(1, 3)', '0 to 2']),
    ],
)
def test_wrong_value_is_refused_with_its_name_and_what_would_fit(arguments, words):
    with pytest.raises(ValueError) as raised:
        vitdet(**arguments)
    for word in words:
        assert word in str(raised.value)


def test_learnable_attention_has_no_windows_beside_a_class_token():
    with pytest.raises(ValueError, match='windows of 2 tokens .* 1 tokens .*with_cls_token=False'):
        KAT(ARCH, img_size=32, patch_size=8, window_size=2, attn_cfg=dict(type='KArAt', rank=2))


def test_a_wrapped_patch_projection_loads_its_own_state():
    model = KAT(ARCH, img_size=32, patch_size=8)
    model.patch_embed.proj = torch.nn.Sequential(model.patch_embed.proj)
    model.load_state_dict(model.state_dict())


def test_a_position_embedding_alone_loads_as_it_is():
    model = randomise(KAT(ARCH, img_size=32, patch_size=8))
    other = KAT(ARCH, img_size=32, patch_size=8)
    other.load_state_dict({'pos_embed': model.pos_embed.detach()}, strict=False)
    assert torch.equal(other.pos_embed, model.pos_embed)
