"""Images of a batch on their way to the device, with channels in the order that a model wants.

OpenMMLab's preprocessors turn channels by a list of indices, which is copied to the GPU for each
image: there the host waits for all the work of the step before. A flip gives the same numbers, and
waits for nothing.
"""

import copy

from torch import Tensor, nn

from kat_mm.transfer import pinned


def sent(preprocessor: nn.Module, data: dict) -> tuple[nn.Module, dict]:
    """A batch on the device of a preprocessor, its channels turned, and what does the rest.

    Args:
        preprocessor: mmdet's ``DetDataPreprocessor`` or mmseg's ``SegDataPreProcessor``.
        data: ``inputs``, images (3, H, W) or a batch of them, and what belongs to them.

    Returns:
        A copy of the preprocessor, with its buffers, that leaves channels as they are; and the
        batch. Other threads may be using the preprocessor itself.
    """
    rest = copy.copy(preprocessor)
    if preprocessor.device.type == 'cuda':
        rest._non_blocking = True
        data = pinned(data)
    data = rest.cast_data(data)
    images = data['inputs']
    several = [images] if isinstance(images, Tensor) else images
    if rest._channel_conversion and all(x.dim() > 2 and x.shape[-3] == 3 for x in several):
        flipped = [x.flip(-3) for x in several]
        data = {**data, 'inputs': flipped[0] if isinstance(images, Tensor) else flipped}
        rest._channel_conversion = False
    return rest, data
