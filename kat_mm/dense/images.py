"""Images of a batch on their way to the device, with channels in the order that a model wants.

OpenMMLab's preprocessors turn channels by a list of indices, which is copied to the GPU for each
image: there the host waits for all the work of the step before. A flip gives the same numbers, and
waits for nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from kat_mm.transfer import pinned


@contextmanager
def sent(preprocessor: nn.Module, data: dict) -> Iterator[dict]:
    """A batch on the device of a preprocessor, which finds channels turned within the context.

    Args:
        preprocessor: mmdet's ``DetDataPreprocessor`` or mmseg's ``SegDataPreProcessor``.
        data: ``inputs``, images (3, H, W) or a batch of them, and what belongs to them.
    """
    if preprocessor.device.type == 'cuda':
        preprocessor._non_blocking = True
        data = pinned(data)
    data = preprocessor.cast_data(data)
    images, turns = data['inputs'], preprocessor._channel_conversion
    if turns and all(image.shape[-3] == 3 for image in images):
        flipped = images.flip(-3) if isinstance(images, Tensor) else [x.flip(-3) for x in images]
        data = {**data, 'inputs': flipped}
        preprocessor._channel_conversion = False
    try:
        yield data
    finally:
        preprocessor._channel_conversion = turns
