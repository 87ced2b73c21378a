import contextlib
import copy

import eomt_reference as reference
import pytest
import torch
from eomt_reference import TRAIN_CFG, head_cfg
from mask2former import mask2former_cfg, rand_by_place
from mmdet.models.task_modules import AssignResult
from mmdet.testing import demo_mm_inputs
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import nn

from kat_mm.dense import compile_parts
from kat_mm.heads.eomt import encode_partly
from kat_mm.losses.mask2former import why_not_at_once

ARCH = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def config(backbone=None, head=None, **kwargs):
    return ConfigDict(
        type='kat_mm.EoMT',
        backbone={'type': 'KAT', 'arch': ARCH, 'img_size': 64, **(backbone or {})},
        panoptic_head=head_cfg(
            5,
            type='kat_mm.EoMTHead',
            in_channels=16,
            num_things_classes=3,
            num_stuff_classes=2,
            **{'num_queries': 7, 'num_blocks': 2, **(head or {})},
        ),
        panoptic_fusion_head=dict(
            type='MaskFormerFusionHead', num_things_classes=3, num_stuff_classes=2
        ),
        train_cfg=TRAIN_CFG,
        test_cfg=dict(panoptic_on=True, instance_on=True, max_per_image=10),
        data_preprocessor=dict(
            type='DetDataPreprocessor', pad_mask=True, pad_seg=True, seg_pad_value=255
        ),
        **kwargs,
    )


def build(**kwargs):
    torch.manual_seed(0)
    model = MODELS.build(config(**kwargs))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.train()


def run(model, images):
    head = model.panoptic_head
    return head(encode_partly(model.backbone, images, head.num_blocks))


def batch(num_items=(2, 3), size=64):
    return demo_mm_inputs(
        len(num_items),
        [[3, size, size]] * len(num_items),
        num_items=list(num_items),
        num_classes=3,
        with_mask=True,
        with_semantic=False,
    )


def losses(model, data=None):
    data = model.data_preprocessor(data or batch(), True)
    return model(**data, mode='loss')


@contextlib.contextmanager
def block_masks(backbone):
    """The masks with which blocks are called."""
    masks, plain = [], backbone.run_blocks

    def run_blocks(x, grid, start=0, stop=None, attn_mask=None):
        masks.append(attn_mask)
        return plain(x, grid, start, stop, attn_mask)

    backbone.run_blocks = run_blocks
    yield masks
    del backbone.run_blocks


@pytest.mark.parametrize('with_cls_token', [True, False])
@pytest.mark.parametrize('rates', [(1.0, 1.0), (0.5, 0.5), (0.0, 1.0), (0.0, 0.0)])
def test_training_equals_the_plain_implementation(with_cls_token, rates):
    options = dict(with_cls_token=with_cls_token, out_type='featmap')
    model = build(backbone=options).double()
    head = model.panoptic_head
    head.set_mask_rates(rates)
    images = torch.randn(2, 3, 48, 64, dtype=torch.float64)
    torch.manual_seed(3)
    with block_masks(model.backbone) as masks:
        classes, predicted = run(model, images)
    torch.manual_seed(3)
    masked = torch.stack(
        [torch.rand(2, 7, 1)[..., 0] < rate if rate else torch.zeros(2, 7) for rate in rates]
    )
    if rates == (0.5, 0.5):
        assert 0 < masked.float().mean() < 1 and not torch.equal(masked[0], masked[1])
    want, pairs = reference.forward(model.backbone, head, images, masked)
    assert len(classes) == len(predicted) == 3
    for image in range(2):
        for index in range(3):
            torch.testing.assert_close(
                classes[index][image].double(), want[image][index][0], rtol=1e-4, atol=1e-5
            )
            torch.testing.assert_close(
                predicted[index][image].double(), want[image][index][1], rtol=1e-4, atol=1e-5
            )
        for mask, rate, allowed in zip(masks[-2:], rates, pairs[image], strict=True):
            if not rate:
                assert mask is None
                continue
            assert mask.shape[1:] == (1, 7, len(allowed))
            assert torch.equal(mask[image, 0], allowed[:7])
            assert not allowed[:7].all() and allowed[7:].all()


def test_adapters_may_be_wrapped_around_the_backbone():
    lora = dict(type='mmpretrain.LoRAModel', rank=2, alpha=2, targets=[dict(type='attn.qkv')])
    cfg = config()
    cfg.backbone = dict(lora, module=cfg.backbone)
    torch.manual_seed(0)
    model = MODELS.build(cfg).train()
    loss = sum(value.sum() for key, value in losses(model).items() if 'loss' in key)
    loss.backward()
    learn = {
        name for name, parameter in model.backbone.named_parameters() if parameter.grad is not None
    }
    assert len(learn) == 2 * 4 and all('.attn.qkv.lora_' in name for name in learn)


def test_inference_is_plain_attention_and_one_prediction():
    model = build().double().eval()
    model.panoptic_head.set_mask_rates((1.0, 1.0))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with block_masks(model.backbone) as masks:
        classes, predicted = run(model, images)
    want, _ = reference.forward(model.backbone, model.panoptic_head, images, torch.zeros(2, 2, 7))
    assert len(classes) == len(predicted) == 1 and set(masks) == {None}
    assert predicted[0].shape == (2, 7, 16, 16)
    for image in range(2):
        torch.testing.assert_close(
            predicted[0][image].double(), want[image][-1][1], rtol=1e-4, atol=1e-5
        )


def test_gradients_equal_those_of_the_plain_implementation():
    model = build().double()
    model.panoptic_head.set_mask_rates((1.0, 1.0))
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    classes, masks = run(model, images)
    total = sum(y.double().sin().sum() for y in (*classes, *masks))
    want = reference.forward(model.backbone, model.panoptic_head, images, torch.ones(2, 1, 7))[0][0]
    plain = sum(y.sin().sum() for pair in want for y in pair)
    parameters = dict(model.named_parameters())
    got = torch.autograd.grad(total, list(parameters.values()))
    for (name, _), a, b in zip(
        parameters.items(), got, torch.autograd.grad(plain, list(parameters.values())), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize('counts', [(3, 1), (0, 4), (0, 0)])
@pytest.mark.parametrize('weights', [(2.0, 5.0, 5.0), (1.0, 0.0, 3.0)])
def test_losses_are_those_of_mask2former_on_the_same_predictions(counts, weights, monkeypatch):
    model = build()
    head = model.panoptic_head
    monkeypatch.setattr(torch, 'rand', rand_by_place)
    theirs = MODELS.build(mask2former_cfg(3, 2))
    for cost, weight in zip(theirs.assigner.match_costs, weights, strict=True):
        cost.weight = weight
    head.assigner = theirs.assigner
    torch.manual_seed(1)
    classes = [torch.randn(2, 7, 6, requires_grad=True) for _ in range(3)]
    masks = [torch.randn(2, 7, 16, 16, requires_grad=True) for _ in range(3)]
    instances = [
        InstanceData(labels=torch.randint(0, 5, (n,)), masks=torch.randn(n, 64, 64).gt(0.5).long())
        for n in counts
    ]
    results, gradients = [], []
    for one in (head, theirs):
        results.append(one.loss_by_feat(classes, masks, instances, [{}, {}]))
        gradients.append(torch.autograd.grad(sum(results[-1].values()), [*classes, *masks]))
    assert results[0].keys() == results[1].keys() and len(results[0]) == 9
    for key, value in results[0].items():
        torch.testing.assert_close(value, results[1][key].squeeze(), msg=key)
        assert value > 0 or not any(counts)
    for ours, want in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, want)


def test_an_assigner_of_ones_own_is_asked():
    class Last:
        """Matches the last queries."""

        def assign(self, pred_instances, gt_instances, img_meta):
            found = torch.zeros(len(pred_instances.scores), dtype=torch.long)
            count = len(gt_instances.labels)
            found[-count:] = torch.arange(1, count + 1)
            return AssignResult(count, found, None, found)

    model = build()
    head = model.panoptic_head
    assert not any(why_not_at_once(head))
    head.assigner = Last()
    assert list(why_not_at_once(head)) == ['assigner']
    classes, masks = [torch.zeros(1, 7, 6)], [torch.zeros(1, 7, 16, 16, requires_grad=True)]
    instances = [InstanceData(labels=torch.tensor([1]), masks=torch.ones(1, 64, 64).long())]
    loss = head.loss_by_feat(classes, masks, instances, [{}])['loss_mask']
    (gradient,) = torch.autograd.grad(loss, masks)
    assert gradient[0, 6].any() and not gradient[0, :6].any()


def test_a_query_whose_mask_is_nowhere_positive_looks_at_what_is_no_patch():
    model = build()
    head = model.panoptic_head
    head.set_mask_rates((1.0, 1.0))
    nn.init.zeros_(head.mask_embed[-1].weight)
    nn.init.zeros_(head.mask_embed[-1].bias)
    with block_masks(model.backbone) as masks:
        classes, _ = run(model, torch.randn(1, 3, 64, 64))
    assert masks[-1][..., :8].all() and not masks[-1][..., 8:].any()
    assert all(y.isfinite().all() for y in classes)


def test_a_step_reaches_every_weight_also_with_recomputed_blocks():
    gradients = []
    for with_cp in (False, True):
        model = build(backbone=dict(with_cp=with_cp))
        model.panoptic_head.set_mask_rates((1.0, 0.5))
        torch.manual_seed(1)
        loss = sum(losses(model).values())
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for (name, _), a, b in zip(model.named_parameters(), *gradients, strict=True):
        assert a.any(), name
        torch.testing.assert_close(a, b, msg=name)


def test_images_of_which_one_or_all_have_no_object():
    for items in ((2, 0), (0, 0)):
        model = build()
        model.panoptic_head.set_mask_rates((1.0, 1.0))
        result = losses(model, batch(items))
        loss = sum(result.values())
        assert loss.isfinite()
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        assert all(one is not None and one.isfinite().all() for one in gradients)


def test_more_objects_than_queries_are_refused():
    model = build(head=dict(num_queries=2))
    with pytest.raises(ValueError, match=r'has 3 segments, more than num_queries=2'):
        losses(model, batch((1, 3)))


@pytest.mark.parametrize(
    ('head', 'message'),
    [
        (dict(num_blocks=5), r'num_blocks=5 of the head, but backbone KAT has 4 blocks; .*1 to 4'),
        (dict(num_blocks=0), r'num_blocks=0 must be a whole number'),
        (dict(num_queries=1), r'num_queries=1 must be a whole number'),
        (dict(patch_size=8), r'patch_size=8 of the head must be 16'),
        (dict(in_channels=32), r'in_channels=32 of the head must be 16'),
        (dict(num_stuff_classes=4), r'class_weight has 6 numbers; it must have 8'),
    ],
)
def test_a_head_that_does_not_fit_is_refused(head, message):
    cfg = config()
    cfg.panoptic_head.update(head)
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg)


def test_a_backbone_without_run_blocks_is_refused():
    cfg = config()
    cfg.backbone = dict(type='ResNet', depth=18)
    with pytest.raises(ValueError, match='ResNet has no run_blocks'):
        MODELS.build(cfg)


@pytest.mark.parametrize(
    'options', [dict(window_size=2), dict(window_size=2, global_attn_indices=(3,))]
)
def test_windows_in_the_blocks_of_the_queries_are_refused(options):
    with pytest.raises(ValueError, match=r'block 2 of backbone KAT has window_size=2; the last 2'):
        build(backbone=dict(with_cls_token=False, out_type='featmap', **options))


def test_relative_positions_in_the_blocks_of_the_queries_are_refused():
    with pytest.raises(ValueError, match=r'block 2 of backbone KAT has use_rel_pos=True'):
        build(backbone=dict(with_cls_token=False, out_type='featmap', use_rel_pos=True))


def test_windows_in_the_blocks_before_are_no_matter():
    options = dict(window_size=2, with_cls_token=False, out_type='featmap')
    model = build(backbone=dict(options, global_attn_indices=(2, 3)))
    model.panoptic_head.set_mask_rates((1.0, 1.0))
    classes, _ = run(model, torch.randn(1, 3, 64, 64))
    assert len(classes) == 3


def test_rates_of_another_number_of_blocks_are_refused():
    with pytest.raises(ValueError, match=r'3 rates of masking for num_blocks=2'):
        build().panoptic_head.set_mask_rates((1.0, 1.0, 1.0))


@pytest.mark.parametrize('rate', [-0.1, 1.5, float('nan')])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(ValueError, match=r'rate of masking of block 1=.* must lie in \[0, 1\]'):
        build().panoptic_head.set_mask_rates((1.0, rate))


@pytest.mark.parametrize(
    ('part', 'options', 'message'),
    [
        ('train_cfg', dict(num_points=0), 'num_points=0 must be a whole number from 1 up'),
        ('train_cfg', dict(oversample_ratio=0.5), 'oversample_ratio=0.5 must be 1 or more'),
        ('train_cfg', dict(importance_sample_ratio=2), 'importance_sample_ratio=2 must lie in'),
        ('panoptic_head', dict(loss_dice=None), 'loss_dice=None must be the config of a loss'),
        ('panoptic_head', dict(num_stuff_classes=-1), 'num_stuff_classes=-1 must be'),
        ('panoptic_fusion_head', dict(num_things_classes=1), 'num_things_classes=1 must be 3'),
        ('panoptic_fusion_head', dict(num_stuff_classes=5), 'num_stuff_classes=5 must be 2'),
        ('test_cfg', dict(max_per_image=100), 'max_per_image=100 must be at most 35'),
    ],
)
def test_what_would_fail_later_is_refused_at_once(part, options, message):
    cfg = copy.deepcopy(config())
    cfg[part].update(options)
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg)


def test_losses_without_train_cfg_are_refused():
    cfg = config()
    cfg.train_cfg = None
    model = MODELS.build(cfg).train()
    with pytest.raises(ValueError, match='without train_cfg it can predict alone'):
        losses(model)


def test_the_head_in_another_detector_is_refused():
    cfg = config()
    cfg.type = 'MaskFormer'
    with pytest.raises(ValueError, match='the model must be of type kat_mm.EoMT'):
        losses(MODELS.build(cfg))


def test_checkpoints_keep_the_names_of_the_backbone():
    keys = build().state_dict().keys()
    alone = MODELS.build(config().backbone).state_dict().keys()
    assert {key.removeprefix('backbone.') for key in keys if 'backbone.' in key} == set(alone)
    assert 'panoptic_head.mask_rates' not in keys


@pytest.mark.parametrize('size', [(64, 64), (52, 64), (50, 61)])
def test_masks_cover_the_image_where_its_size_is_no_multiple_of_the_patch(size):
    """A patch's mask lies over its pixels: what is padded to whole patches is cut off."""
    model = build().eval()
    with torch.no_grad():
        classes, masks = run(model, torch.randn(1, 3, *size))
    assert masks[0].shape[2:] == tuple(-(-side // 4) for side in size)


def test_upscaling_follows_the_patch():
    for patch, stride in ((8, 4), (16, 4), (14, 3.5), (4, 4)):
        options = dict(patch_size=patch, img_size=4 * patch)
        model = build(backbone=options, head=dict(patch_size=patch)).eval()
        side = 4 * patch
        with torch.no_grad():
            assert run(model, torch.randn(1, 3, side, side))[1][0].shape[-1] == side / stride


def test_predictions_are_those_of_mmdets_fusion_head():
    model = build().eval()
    with torch.no_grad():
        sample = model.test_step(batch((2,)))[0]
    assert sample.pred_instances.masks.shape[1:] == (64, 64)
    assert isinstance(sample.pred_panoptic_seg, PixelData)


def test_mixed_precision_gives_float32_predictions():
    model = build()
    model.panoptic_head.set_mask_rates((1.0, 1.0))
    with torch.autocast('cpu', torch.bfloat16):
        result = losses(model)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in result.values())
    sum(result.values()).backward()


def test_it_compiles_as_one_graph():
    model = build(backbone=dict(patch_size=16)).eval()
    images = torch.randn(2, 3, 64, 64)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images))
    model.train().panoptic_head.set_mask_rates((1.0, 0.5))
    classes, masks = torch.compile(model, backend='aot_eager', fullgraph=True)(images)
    assert len(classes) == len(masks) == 3


def test_compiled_parts_give_the_same_losses_while_masks_go():
    programs = []

    def backend(graph, inputs):
        programs.append(graph)
        return graph.forward

    plain, compiled = build(), build()
    torch._dynamo.reset()
    compile_parts(compiled, training=True, backend=backend)
    data = batch()
    for rates in ((1.0, 1.0), (0.5, 1.0), (0.0, 0.0)):
        results = []
        for model in (plain, compiled):
            model.panoptic_head.set_mask_rates(rates)
            torch.manual_seed(1)
            results.append(losses(model, copy.deepcopy(data)))
        assert results[0].keys() == results[1].keys()
        for key, value in results[0].items():
            torch.testing.assert_close(results[1][key], value, msg=key)
    # The blocks before the head, and the head with masks and without.
    assert len(programs) == 3
    torch._dynamo.reset()
