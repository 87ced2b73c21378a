import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from mmpretrain.structures import DataSample
from torch.utils.data import DataLoader

from kat_mm.datasets import compact_collate, packed_collate
from kat_mm.datasets.collate import PackedBatch

CONFIGS = Path(__file__).parents[2] / 'configs'


def sample(index):
    data_sample = DataSample(metainfo=dict(img_path=f'{index}.jpg')).set_gt_label(index % 3)
    return dict(inputs=torch.full((3, 4, 4), index, dtype=torch.uint8), data_samples=data_sample)


def check(batch, indices):
    assert batch['inputs'][:, 0, 0, 0].tolist() == indices
    samples = batch['data_samples']
    assert [type(sample) for sample in samples] == [DataSample] * len(indices)
    assert [sample.img_path for sample in samples] == [f'{index}.jpg' for index in indices]
    for data_sample, index in zip(samples, indices, strict=True):
        assert torch.equal(data_sample.gt_label, torch.tensor([index % 3]))


def test_a_batch_is_the_samples():
    check(compact_collate([sample(i) for i in range(5)]), [0, 1, 2, 3, 4])


def test_a_batch_comes_from_a_worker_as_it_was():
    loader = DataLoader(
        [sample(i) for i in range(6)], batch_size=3, num_workers=1, collate_fn=compact_collate
    )
    first, second = loader
    check(first, [0, 1, 2])
    check(second, [3, 4, 5])


def test_labels_travel_as_one_tensor():
    samples = compact_collate([sample(i) for i in range(100)])['data_samples']
    apart = sum(len(pickle.dumps(data_sample)) for data_sample in samples)
    assert len(pickle.dumps(samples)) < apart / 10


def detection_sample(index):
    objects = InstanceData(
        bboxes=HorizontalBoxes(torch.full((index, 4), index + 0.5)),
        labels=torch.arange(index),
        masks=BitmapMasks(np.full((index, 40, 50), index % 2, np.uint8), 40, 50),
    )
    data_sample = DetDataSample(gt_instances=objects, metainfo=dict(img_id=index, ori_shape=(4, 5)))
    return dict(inputs=torch.full((3, 40, 50), index, dtype=torch.uint8), data_samples=data_sample)


@pytest.mark.parametrize('workers', [0, 1])
def test_a_batch_of_objects_comes_as_it_was(workers):
    samples = [detection_sample(index) for index in range(4)]
    loader = DataLoader(samples, batch_size=4, num_workers=workers, collate_fn=packed_collate)
    (batch,) = loader
    assert type(batch) is dict and list(batch) == ['inputs', 'data_samples']
    for index, (image, found) in enumerate(zip(*batch.values(), strict=True)):
        assert torch.equal(image, samples[index]['inputs'])
        assert type(found) is DetDataSample and found.metainfo == dict(
            img_id=index, ori_shape=(4, 5)
        )
        objects, own = found.gt_instances, samples[index]['data_samples'].gt_instances
        assert torch.equal(objects.bboxes.tensor, own.bboxes.tensor)
        assert torch.equal(objects.labels, own.labels)
        np.testing.assert_array_equal(objects.masks.masks, own.masks.masks)
        image += 1  # memory of one's own, as that of any batch
        objects.masks.masks[:] = 7
    if workers:
        assert samples[1]['inputs'].eq(1).all()


def test_images_and_masks_of_a_batch_travel_in_one_memory():
    batch = [detection_sample(index) for index in range(3, 9)]
    stream, memory, sizes = PackedBatch(pseudo_collate(batch)).parts
    most = sum(
        item['inputs'].nbytes + item['data_samples'].gt_instances.masks.masks.nbytes
        for item in batch
    )
    assert len(stream) < 6000 and memory.is_shared()
    assert sum(sizes) >= most
    assert len(memory) <= sum(sizes) + 64 * len(sizes)


def test_tensors_and_arrays_of_all_kinds_travel():
    tensors = [
        torch.tensor(3.5),
        torch.zeros(0, 4),
        torch.randn(3, 4).t(),
        torch.randn(1, 5).expand(2, 5),
        torch.arange(6)[2].expand(1, 1),  # whose stride is 0
        torch.randn(3).bfloat16(),
        torch.randn(2, 2).to(torch.float8_e4m3fn),
        torch.tensor([True, False]),
        torch.randn(2, dtype=torch.complex64).conj(),
        torch.eye(2).to_sparse(),
        torch.ones(2, requires_grad=True),
    ]
    arrays = [np.zeros((0, 3)), np.arange(6).reshape(2, 3).T, np.arange(10)[::2], np.float32(3)]
    words = np.array(['a', None], object)
    want = pseudo_collate([dict(tensors=tensors, arrays=arrays, words=words, name='a')])
    found = pickle.loads(pickle.dumps(PackedBatch(want)))
    assert found['name'] == want['name'] and found['words'][0].tolist() == ['a', None]
    for own, other in zip(found['tensors'], want['tensors'], strict=True):
        for one, expected in zip(own, other, strict=True):
            assert one.requires_grad == expected.requires_grad and one.layout == expected.layout
            assert one.dtype == expected.dtype and one.shape == expected.shape
            torch.testing.assert_close(one.to_dense().cfloat(), expected.to_dense().cfloat())
    for own, other in zip(found['arrays'], want['arrays'], strict=True):
        for one, expected in zip(own, other, strict=True):
            np.testing.assert_array_equal(one, expected, strict=True)


class Unfit:
    def __reduce__(self):
        raise ValueError('cannot be sent')


def test_what_cannot_be_sent_is_told_and_not_waited_for():
    loader = DataLoader(
        [dict(inputs=Unfit())], num_workers=1, collate_fn=packed_collate, timeout=60
    )
    with pytest.raises(ValueError, match='cannot be sent'):
        next(iter(loader))


def test_samples_that_are_no_dicts_are_collated():
    loader = DataLoader([(1, torch.ones(2))], num_workers=1, collate_fn=packed_collate)
    (batch,) = loader
    assert list(batch[0]) == [1] and torch.equal(batch[1][0], torch.ones(2))


def test_arrays_that_cannot_be_written_to_come_as_one_s_own():
    array = np.frombuffer(bytes(8), np.uint8)
    found = pickle.loads(pickle.dumps(PackedBatch(dict(array=array))))['array']
    found += 1
    assert found.tolist() == [1] * 8


@pytest.mark.parametrize('name', [path.stem for path in sorted(CONFIGS.glob('*.py'))])
def test_configs_load_batches_in_few_pieces(name):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    if cfg.default_scope == 'mmpretrain':
        for split in ('train', 'val', 'test'):
            assert cfg[f'{split}_dataloader'].collate_fn == dict(type='compact_collate')
    else:
        assert cfg.train_dataloader.collate_fn == dict(type='packed_collate')
        # mmengine's inferencers look for a name there.
        assert 'collate_fn' not in cfg.test_dataloader
