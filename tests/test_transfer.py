import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

from kat_mm.transfer import Receive, pinned, send, send_joined


def batch():
    boxes = HorizontalBoxes(torch.tensor([[1.0, 2.0, 5.0, 7.0]]))
    sample = DetDataSample(gt_instances=InstanceData(bboxes=boxes, labels=torch.tensor([3])))
    sample.set_metainfo(dict(img_shape=(8, 9)))
    return dict(inputs=[torch.ones(3, 8, 9)], data_samples=[sample], other=('a', 3))


def test_what_is_pinned_keeps_its_structure(monkeypatch):
    monkeypatch.setattr(torch.Tensor, 'is_pinned', lambda self: False)
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda self: self + 1)
    data = batch()
    moved = pinned(data)
    assert torch.equal(moved['inputs'][0], data['inputs'][0] + 1)
    assert moved['other'] == ('a', 3)
    (before,), (after,) = data['data_samples'], moved['data_samples']
    assert after.metainfo == before.metainfo
    assert torch.equal(after.gt_instances.labels, torch.tensor([4]))
    assert isinstance(after.gt_instances.bboxes, HorizontalBoxes)
    assert torch.equal(after.gt_instances.bboxes.tensor, before.gt_instances.bboxes.tensor + 1)


def test_expanded_tensors_are_pinned(monkeypatch):
    def pin(tensor):
        assert tensor.is_contiguous()  # memory that is written to twice cannot be
        return tensor

    monkeypatch.setattr(torch.Tensor, 'is_pinned', lambda self: False)
    monkeypatch.setattr(torch.Tensor, 'pin_memory', pin)
    expanded = torch.arange(3).expand(2, 3)
    assert torch.equal(pinned(dict(inputs=[expanded]))['inputs'][0], expanded)


def test_joined_tensors_lie_one_behind_the_other():
    tensors = [torch.randn(n, 2, 3) for n in (2, 0, 3)]
    assert torch.equal(send_joined(tensors, torch.device('cpu')), torch.cat(tensors))
    assert send_joined(tensors[1:2], torch.device('cpu')).shape == (0, 2, 3)


@pytest.mark.gpu
def test_nothing_waits_on_a_gpu():
    device = torch.device('cuda')
    torch.cuda.set_sync_debug_mode('error')
    try:
        sent = send([1, 2], torch.long, device)
        joined = send_joined([torch.ones(2, 3), torch.zeros(1, 3)], device)
        received = Receive(sent + joined[:2].sum().long())
        boxes = pinned(batch()['data_samples'][0]).to(device, non_blocking=True)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert received.list() == [7, 8]
    assert boxes.gt_instances.labels.tolist() == [3]
