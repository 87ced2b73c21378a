import pickle

import torch
from mmpretrain.structures import DataSample
from torch.utils.data import DataLoader

from kat_mm.datasets import compact_collate


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
