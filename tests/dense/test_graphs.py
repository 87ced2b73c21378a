import copy
import logging
from unittest import mock

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from small_configs import CONFIGS, SIZE, load, shrink
from torch import nn
from torch.utils._pytree import tree_flatten

from kat_mm.backbones import KAT
from kat_mm.dense import graphs, use_segmentation_kernels
from kat_mm.dense.detection import use_fast_heads
from kat_mm.dense.graphs import GraphedForward, Recording, graph_parts
from kat_mm.engine.float32_boxes import keep_boxes_in_float32
from kat_mm.heads.eomt import WholeModel


class Rerun(Recording):
    """Stands for a recording: what was recorded is computed again, in the same memory."""

    count = 0

    def _warm_up(self):
        for _ in range(3):
            outputs = self._forward()
            if self.trains:
                self._backward(outputs, [torch.zeros_like(o) for o in outputs])

    def _capture(self):
        Rerun.count += 1
        self.live = self._forward()
        self.differentiable = [output.requires_grad for output in self.live]
        self.outputs = [output.detach().clone() for output in self.live]
        self.output_gradients = [torch.zeros_like(o) for o in self.live if o.requires_grad]
        self.gradients = []
        if self.trains:
            self.gradients = self._backward(self.live, self.output_gradients)

    def replay_forward(self):
        # What is computed on the way lies where the gradients of the last backward pass do.
        for recording in self.owner.recordings.values():
            for gradient in recording.gradients:
                if gradient is not None:
                    gradient.fill_(torch.nan)
        with torch.set_grad_enabled(self.trains):
            self.live = self._forward()
        for kept, new in zip(self.outputs, self.live, strict=True):
            kept.copy_(new.detach())

    def replay_backward(self):
        with torch.enable_grad():
            gradients = self._backward(self.live, self.output_gradients)
        for kept, new in zip(self.gradients, gradients, strict=True):
            if kept is not None:
                kept.copy_(new)


@pytest.fixture(autouse=True)
def recordings(monkeypatch, request):
    if request.node.get_closest_marker('gpu'):
        return
    monkeypatch.setattr(graphs, 'Recording', Rerun)
    monkeypatch.setattr(graphs, '_on_gpu', lambda x: True)
    monkeypatch.setattr(graphs, '_is_capturing', lambda: False)
    monkeypatch.setattr(graphs, '_new_pool', object)
    Rerun.count = 0


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.unused = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        x = self.norm(self.conv(x)).tanh()
        return x, x[..., ::2, ::2].square()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = Pyramid()
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return sum(self.head(y).square().mean() for y in self.backbone(x))


@pytest.fixture
def pair():
    plain, graphed = Model(), Model()
    graph_parts(graphed)
    return plain, graphed


def images(seed, size=8):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def train(model, optimizer, batches):
    losses = []
    for group in batches:
        for x in group:
            loss = model(x)
            loss.backward()
            losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses


@pytest.mark.parametrize('accumulate', (1, 3))
def test_training_has_the_same_losses_and_weights_as_without(pair, accumulate):
    batches = [[images(3 * i + j) for j in range(accumulate)] for i in range(4)]
    losses = [train(m, torch.optim.SGD(m.parameters(), 0.1, 0.9), batches) for m in pair]
    assert losses[0] == losses[1]
    for name, want in pair[0].state_dict().items():
        assert torch.equal(want, pair[1].state_dict()[name]), name
    assert Rerun.count == 1


def test_names_in_checkpoints_are_those_of_the_plain_model(pair):
    plain, graphed = pair
    graphed(images(0))
    assert list(plain.state_dict()) == list(graphed.state_dict())
    assert [n for n, _ in plain.named_modules()] == [n for n, _ in graphed.named_modules()]


def test_gradients_are_not_in_memory_that_the_next_step_writes_to(pair):
    plain, graphed = pair
    for model in pair:
        for seed in range(2):  # no zero_grad
            model(images(seed)).backward()
    for want, got in zip(plain.parameters(), graphed.parameters(), strict=True):
        if want.grad is None:
            assert got.grad is None
        else:
            torch.testing.assert_close(got.grad, want.grad, rtol=0, atol=0)


def test_evaluation_between_accumulated_steps_leaves_the_gradients_right(pair):
    plain, graphed = pair
    for model in pair:
        model.eval()
        with torch.no_grad():
            for seed in range(2):  # recorded before training
                model(images(seed))
        model.train()
        model(images(2)).backward()
        model.eval()
        with torch.no_grad():
            model(images(3))
        model.train()
        model(images(4)).backward()
    assert Rerun.count == 2
    for want, got in zip(plain.parameters(), graphed.parameters(), strict=True):
        if want.grad is not None:
            torch.testing.assert_close(got.grad, want.grad, rtol=0, atol=0)


def test_gradients_of_an_input_are_its_own():
    class Scale(nn.Module):
        def forward(self, x, scale):
            return x * scale

    model = nn.Module()
    model.backbone = Scale()
    graph_parts(model, ['backbone'])
    scale = torch.ones(1, requires_grad=True)
    for number in (2.0, 5.0, 11.0):
        model.backbone(torch.full((1,), number), scale).sum().backward()
    assert scale.grad.item() == 18


def test_another_shape_is_computed_without_and_told_once(pair, caplog):
    plain, graphed = pair
    with caplog.at_level(logging.WARNING, logger='kat_mm'):
        for size in (8, 6, 8, 10, 6):
            assert graphed(images(1, size)).item() == plain(images(1, size)).item()
    assert Rerun.count == 1
    (message,) = (record.getMessage() for record in caplog.records)
    assert '(2, 3, 6, 6)' in message and '(2, 3, 8, 8)' in message


def test_evaluation_is_recorded_at_its_second_call_with_a_shape(pair):
    plain, graphed = (model.eval() for model in pair)
    with torch.no_grad():
        for seed, size, recorded in (
            *((0, 6, 0), (1, 8, 0), (2, 8, 1), (3, 6, 1), (4, 8, 1)),
            *((5, 6, 1), (6, 6, 2), (7, 8, 2), (8, 6, 2)),
        ):
            want, got = plain(images(seed, size)), graphed(images(seed, size))
            assert got.item() == want.item()
            assert Rerun.count == recorded


def test_evaluation_records_no_more_than_four_shapes(pair, caplog):
    plain, graphed = (model.eval() for model in pair)
    with torch.no_grad(), caplog.at_level(logging.WARNING, logger='kat_mm'):
        for size in (4, 6, 8, 10, 12, 12, 4):
            for seed in range(2):
                assert graphed(images(seed, size)).item() == plain(images(seed, size)).item()
    assert Rerun.count == 4
    (message,) = (record.getMessage() for record in caplog.records)
    assert '(2, 3, 12, 12)' in message


def test_evaluation_between_forward_and_backward_leaves_the_gradients_right(pair):
    plain, graphed = pair
    for model in pair:
        for _ in range(2):
            loss = model(images(0))
            model.eval()
            with torch.no_grad():
                model(images(1))
                model(images(1))
            model.train()
            loss.backward()
    assert torch.equal(plain.backbone.conv.weight.grad, graphed.backbone.conv.weight.grad)


def test_two_forward_passes_before_the_backward_pass(pair):
    plain, graphed = pair
    for model in pair:
        (model(images(0)) + model(images(1))).backward()
        model(images(2))  # nobody asks for its gradients
        model(images(3)).backward()
    assert torch.equal(plain.backbone.conv.weight.grad, graphed.backbone.conv.weight.grad)


def test_a_hook_inside_is_called(pair):
    _, graphed = pair
    graphed(images(0)).backward()
    seen = []
    handle = graphed.backbone.norm.register_forward_hook(lambda *args: seen.append(args))
    graphed(images(0))
    assert len(seen) == 1
    handle.remove()
    graphed(images(0)).backward()
    assert len(seen) == 1


def test_a_parameter_that_moved_is_recorded_anew(pair):
    plain, graphed = pair
    graphed(images(0)).backward()
    plain(images(0))
    for model in pair:
        model.backbone.conv.weight.data = model.backbone.conv.weight.data * 2
    assert graphed(images(1)).item() == plain(images(1)).item()
    assert Rerun.count == 2


def test_a_module_that_was_replaced_is_recorded_anew(pair):
    plain, graphed = pair
    graphed(images(0)).backward()
    plain(images(0))
    for model in pair:
        model.backbone.norm = nn.Identity()
    for seed in range(2):
        assert graphed(images(seed)).item() == plain(images(seed)).item()


def test_freezing_a_parameter_later_is_seen(pair):
    _, graphed = pair
    graphed(images(0)).backward()
    graphed.zero_grad()
    graphed.backbone.conv.weight.requires_grad_(False)
    graphed(images(0)).backward()
    assert graphed.backbone.conv.weight.grad is None
    assert graphed.backbone.conv.bias.grad is not None


def test_a_copy_of_the_model_computes_with_its_own_parameters(pair):
    plain, graphed = pair
    graphed(images(0)).backward()
    plain(images(0))
    averaged = copy.deepcopy(graphed)
    with torch.no_grad():
        averaged.backbone.conv.weight.zero_()
    assert averaged(images(1)).item() != graphed(images(1)).item()
    assert not isinstance(averaged.backbone.forward, GraphedForward)


def test_a_part_that_cannot_be_recorded_is_computed_without(pair, monkeypatch, caplog):
    plain, graphed = pair

    def fail(self):
        raise torch.OutOfMemoryError('out of memory')

    monkeypatch.setattr(Rerun, '_capture', fail)
    with caplog.at_level(logging.WARNING, logger='kat_mm'):
        for seed in range(2):
            assert graphed(images(seed)).item() == plain(images(seed)).item()
    (message,) = (record.getMessage() for record in caplog.records)
    assert 'backbone runs without' in message and 'out of memory' in message


def test_heads_of_a_list_are_recorded_one_by_one():
    model = nn.Module()
    model.auxiliary_head = nn.ModuleList([Pyramid(), Pyramid()])
    graph_parts(model)
    wanted = [Pyramid.forward(head, images(0)) for head in model.auxiliary_head]
    found = [head(images(0)) for head in model.auxiliary_head]
    assert Rerun.count == 2
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize('count', (1, 2))
def test_synchronised_norms_are_recorded_where_there_is_nobody_to_talk_to(
    monkeypatch, count, caplog
):
    model = Model()
    model.backbone.norm = nn.SyncBatchNorm(4)
    monkeypatch.setattr(graphs, 'processes', lambda: count)
    with caplog.at_level(logging.WARNING, logger='kat_mm'):
        graph_parts(model)
    assert isinstance(model.backbone.forward, GraphedForward) == (count == 1)
    assert ('SyncBatchNorm' in caplog.text) == (count == 2)


def test_a_head_that_takes_more_than_tensors_is_computed_without(caplog):
    class Head(nn.Module):
        def forward(self, x, samples):
            return x * len(samples)

    model = nn.Module()
    model.decode_head = Head()
    graph_parts(model)
    with caplog.at_level(logging.WARNING, logger='kat_mm'):
        assert model.decode_head(torch.ones(1), ['a', 'b']).item() == 2
    assert 'decode_head runs without' in caplog.text and 'tensors' in caplog.text


def test_hooks_of_parameters_and_their_nodes_are_left_alone(pair):
    """DDP waits for both; its nodes are of the stream that it was made in."""
    plain, graphed = pair
    counts = []
    for model in pair:
        weight = model.backbone.conv.weight
        node = weight.expand_as(weight).grad_fn.next_functions[0][0]
        calls = []
        node.register_hook(lambda *grads, calls=calls: calls.append(len(calls)))
        weight.register_post_accumulate_grad_hook(lambda p, calls=calls: calls.append(-1))
        for seed in range(3):
            model(images(seed)).backward()
        counts.append(calls)
    assert counts[0] == counts[1] and len(counts[0]) == 6


def test_random_numbers_of_the_host_are_not_frozen(monkeypatch, caplog):
    class Random(Pyramid):
        def forward(self, x):
            return super().forward(x * torch.rand(()).item())

    model = Model()
    model.backbone = Random()
    graph_parts(model)
    with caplog.at_level(logging.WARNING, logger='kat_mm'):
        assert model(images(0)).item() != model(images(0)).item()
    assert 'random numbers on the host' in caplog.text


def test_an_output_changed_in_place_and_a_second_backward_pass_are_refused(pair):
    _, graphed = pair
    x, y = graphed.backbone(images(0))
    x.add_(1)
    with pytest.raises(RuntimeError, match='changed in place'):
        (x.sum() + y.sum()).backward()
    x, y = graphed.backbone(images(0))
    loss = x.sum() + y.sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match='cuda_graphs=False'):
        loss.backward()


def test_an_output_that_is_not_used_has_a_gradient_of_zero(pair):
    grads = []
    for model in pair:
        for _ in range(2):
            model.zero_grad()
            x, y = model.backbone(images(0))
            y.sum().backward()
        grads.append(model.backbone.conv.weight.grad)
    assert torch.equal(*grads)


def test_structures_of_inputs_and_outputs_are_kept():
    class Head(nn.Module):
        def forward(self, maps):
            return [maps[0] * 2, maps[1] * 3], {'sum': maps[0].sum()}

    model = nn.Module()
    model.rpn_head = Head()
    graph_parts(model)
    maps = (torch.ones(2, requires_grad=True), torch.ones(3))
    for _ in range(2):
        lists, named = model.rpn_head(maps)
        assert [x.tolist() for x in lists] == [[2, 2], [3, 3, 3]] and named['sum'].item() == 2
        assert not lists[1].requires_grad
    (lists[0].sum() + named['sum']).backward()
    assert maps[0].grad.tolist() == [3, 3]
    assert len(tree_flatten(model.rpn_head(maps))[0]) == 3


def build_eomt(name):
    torch.manual_seed(0)
    cfg = load(CONFIGS[0].with_name(f'{name}.py'))
    shrink(cfg)
    model = MODELS.build(cfg.model).train()
    keep_boxes_in_float32(model)
    return model, model.decode_head if 'ade20k' in name else model.panoptic_head


@pytest.mark.parametrize('name', ['kat_s_eomt_panoptic_coco', 'kat_s_eomt_ade20k'])
def test_eomt_is_recorded_from_images_to_logits_and_anew_where_masks_end(name, monkeypatch, caplog):
    # Which queries are masked is drawn on the GPU there.
    monkeypatch.setattr(graphs, '_host_generators', lambda: ())
    (plain, head), (graphed, graphed_head) = build_eomt(name), build_eomt(name)
    with caplog.at_level(logging.WARNING, logger='kat_mm'):
        graph_parts(graphed, ['backbone'])
    assert 'recorded as a whole; backbone is not called by itself' in caplog.text
    assert not isinstance(graphed.backbone.forward, GraphedForward)
    recorded = graphed.segment
    graph_parts(graphed)
    assert graphed.segment is recorded
    pools = []
    x = images(0, SIZE)
    for count, rates in enumerate(([1.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0] * 3, [1.0] * 3), 1):
        for one in (head, graphed_head):
            one.set_mask_rates(rates)
        for _ in range(2):
            for model in (plain, graphed):
                model.zero_grad()
                classes, masks = model.segment(x)
                (sum(map(torch.sum, classes)) + sum(m.square().mean() for m in masks)).backward()
            for (key, want), got in zip(
                plain.named_parameters(), graphed.parameters(), strict=True
            ):
                assert (want.grad is None) == (got.grad is None), key
                if want.grad is not None:
                    torch.testing.assert_close(got.grad, want.grad, rtol=0, atol=0, msg=key)
        assert Rerun.count == count
        assert len(graphed.segment.recordings) == 1
        # Gradients may still lie in that of before.
        assert graphed.segment._pool not in pools
        pools.append(graphed.segment._pool)


def batch_of(name):
    if 'ade20k' not in name:
        data = demo_mm_inputs(2, [[3, SIZE, SIZE]] * 2, num_classes=80, with_mask=True)
        for index, sample in enumerate(data['data_samples']):
            sample.gt_sem_seg = PixelData(sem_seg=torch.full((1, SIZE, SIZE), 90 + index))
        return data
    labels = torch.arange(4).repeat_interleave(SIZE // 4).repeat(1, SIZE, 1)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=labels)) for _ in range(2)]
    return dict(inputs=list(images(1, SIZE)), data_samples=samples)


@pytest.mark.parametrize('name', ['kat_s_eomt_panoptic_coco', 'kat_s_eomt_ade20k'])
def test_losses_of_eomt_are_those_without_a_graph(name, one_thread):
    found = []
    for graphed in (False, True):
        model, head = build_eomt(name)
        use_segmentation_kernels(model)
        if graphed:
            graph_parts(model)
        loss = type(head).loss
        with mock.patch.object(type(head), 'loss', autospec=True, side_effect=loss) as own:
            for _ in range(2):
                data = model.data_preprocessor(batch_of(name), True)
                torch.manual_seed(0)  # points are drawn, and without masks nothing else
                losses = model(**data, mode='loss')
        assert own.call_count == 2  # a head of one's own may have another
        found.append(losses)
    assert len(model.segment.recordings) == 1
    torch.testing.assert_close(*found, rtol=0, atol=0)
    prefix = 'decode.' if 'ade20k' in name else ''
    assert {f'{prefix}loss_cls', f'{prefix}d0.loss_dice'} <= losses.keys()
    # As the loss of a head of one's own may call it.
    x = images(1, SIZE)
    torch.testing.assert_close(head(WholeModel(model.segment, x)), model.segment(x))


@pytest.mark.gpu
@pytest.mark.parametrize('name', ['kat_s_eomt_instance_coco', 'kat_s_eomt_ade20k'])
def test_eomt_trains_by_a_graph_on_a_gpu(name):
    gradients = {}
    for graphed in (False, True):
        model, head = build_eomt(name)
        with torch.no_grad():  # so that masks matter
            head.query_feat.weight.normal_()
        model.cuda()
        use_fast_heads(model)
        use_segmentation_kernels(model)
        if graphed:
            graph_parts(model)
        for rate in (1.0, 0.0):
            head.set_mask_rates([rate] * 3)
            for _ in range(2):  # gradients of the first lie where it was recorded
                data = model.data_preprocessor(batch_of(name), True)
                torch.manual_seed(0)
                with torch.autocast('cuda', torch.bfloat16):
                    loss, _ = model.parse_losses(model(**data, mode='loss'))
                loss.backward()
            found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
            gradients[graphed, rate] = torch.cat(found)
    assert model.segment.recordings
    masked, both = gradients[False, 1.0], gradients[False, 0.0]
    what_masks_do = (masked - (both - masked)).norm()
    assert (gradients[True, 1.0] - masked).norm() < 0.25 * what_masks_do
    assert (gradients[True, 0.0] - both).norm() < 0.25 * what_masks_do


def steps_of_a_kat(state=None, first=0, last=6, graphed=True):
    """Losses, and the state behind the third step, of a KAT that trains with drop path."""
    torch.manual_seed(0)
    arch = dict(embed_dims=32, num_layers=3, num_heads=2, feedforward_channels=64)
    kat = KAT(arch, 64, out_type='featmap', with_cls_token=False, drop_path_rate=0.5)
    model = nn.ModuleDict(dict(backbone=kat)).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    if state is not None:
        model.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
    if graphed:
        graph_parts(model)
    losses, kept = [], None
    for step in range(first, last):
        torch.manual_seed(step)
        images = torch.randn(4, 3, 64, 64, device='cuda')
        with torch.autocast('cuda', torch.bfloat16):
            loss = model['backbone'](images)[0].float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step == 2:
            kept = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    assert bool(graphed) == (graphed and bool(model['backbone'].forward.recordings))
    return losses, kept


class Waits(nn.Module):
    """Cannot be recorded: the host waits for the GPU, but not where nothing is recorded."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        if torch.cuda.is_current_stream_capturing():
            x.sum().item()
        return torch.nn.functional.dropout(x * self.scale, 0.5)


@pytest.mark.gpu
def test_a_recording_that_fails_on_a_gpu_leaves_random_numbers_and_other_graphs_right(caplog):
    def run(graphed):
        torch.manual_seed(0)
        model = nn.Module()
        model.backbone, model.neck = nn.Dropout(0.5), Waits()
        model.cuda()
        if graphed:
            graph_parts(model)
        x = torch.ones(64, device='cuda')
        outputs = []
        for step in range(3):
            torch.manual_seed(step)
            outputs += [model.neck(model.backbone(x)), torch.rand(4, device='cuda')]
        return outputs

    wanted = run(False)
    with caplog.at_level(logging.WARNING, logger='kat_mm'):
        found = run(True)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert 'neck runs without' in caplog.text


@pytest.mark.gpu
def test_a_graph_in_a_model_that_is_distributed_trains_as_without():
    distributed = torch.distributed
    store = distributed.HashStore()
    distributed.init_process_group('nccl', store=store, rank=0, world_size=1)
    try:
        found = []
        for graphed in (False, True):
            torch.manual_seed(0)
            model = Model().cuda()
            wrapped = nn.parallel.DistributedDataParallel(
                model, device_ids=[0], find_unused_parameters=True
            )
            if graphed:
                graph_parts(model)
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            for seed in range(4):
                wrapped(images(seed).cuda()).backward()
                optimizer.step()
                optimizer.zero_grad()
            if graphed:
                assert model.backbone.forward.recordings
            found.append(model.state_dict())
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
    finally:
        distributed.destroy_process_group()


@pytest.mark.gpu
def test_a_graph_on_a_gpu_trains_as_without_and_resumes_with_the_same_bits():
    losses, state = steps_of_a_kat()
    plain, _ = steps_of_a_kat(graphed=False)
    assert losses == pytest.approx(plain, rel=1e-2)
    assert steps_of_a_kat(state, first=3)[0] == losses[3:]
