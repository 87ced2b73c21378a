import os

import numpy as np
from mmengine import dist
from mmengine.dataset import BaseDataset

CLASSES = {
    'SVHN': tuple('0123456789'),
    'STL10': (
        'airplane',
        'bird',
        'car',
        'cat',
        'deer',
        'dog',
        'horse',
        'monkey',
        'ship',
        'truck',
    ),
}


class TorchvisionArrays(BaseDataset):
    """A classification set of torchvision that mmpretrain lacks: SVHN or STL10, with its download.

    Samples have ``img``, (H, W, 3) uint8 in BGR as loaded files have, and ``gt_label``.

    Args:
        name: 'SVHN' (32x32) or 'STL10' (96x96, its labelled images).
        data_root: Folder of the data set.
        split: 'train' or 'test'.
        download: Whether to download what is missing. Default: True.
        kwargs: For mmengine's ``BaseDataset``: ``pipeline``, ``indices`` and others.

    Raises:
        ValueError: ``name`` or ``split`` is unknown.
    """

    def __init__(self, name: str, data_root: str, split: str, download: bool = True, **kwargs):
        if name not in CLASSES:
            raise ValueError(
                f'TorchvisionArrays: name={name!r} is unknown; choose one of {", ".join(CLASSES)}'
            )
        if split not in ('train', 'test'):
            raise ValueError(
                f"TorchvisionArrays: split={split!r} is unknown; choose 'train' or 'test'"
            )
        self.name = name
        self.split = split
        self.download = download
        super().__init__(
            data_root=data_root,
            metainfo=dict(classes=CLASSES[name]),
            test_mode=split == 'test',
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """Read, and on the main process download, the arrays of the split."""
        from torchvision import datasets

        def read(download):
            return getattr(datasets, self.name)(self.data_root, self.split, download=download)

        if self.download and dist.is_main_process():
            os.makedirs(self.data_root, exist_ok=True)
            read(download=True)
        dist.barrier()
        data = read(download=False)
        images = data.data[:, ::-1].transpose(0, 2, 3, 1)  # (N, RGB, H, W) to (N, H, W, BGR)
        return [
            dict(img=np.ascontiguousarray(image), gt_label=int(label))
            for image, label in zip(images, data.labels, strict=True)
        ]
