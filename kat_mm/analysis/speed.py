"""Time and memory of a model's predictions."""

import resource
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from kat_mm.analysis.inputs import make_inputs


class Speed(NamedTuple):
    """Of a batch: median, and quartiles, in seconds, and the peak of memory in bytes.

    On a GPU the memory is what PyTorch held at most, on a CPU the resident memory of the process.
    """

    median: float
    low: float
    high: float
    memory: int


def measure(
    model: nn.Module,
    size: tuple[int, int],
    batch: int = 1,
    device: str = 'cpu',
    half: bool = False,
    seconds: float = 5.0,
) -> Speed:
    """Predict for images of noise again and again: network and postprocessing, no loading.

    Args:
        model: A classifier, detector or segmenter; it is put on the device.
        size: Height and width of the images.
        batch: Their number. Default: 1.
        device: Default: 'cpu'.
        half: Compute in bfloat16 (autocast). Default: False.
        seconds: For how long to measure at least, after a warmup. Default: 5.
    """
    # It looks for a compiler of CUDA as it is imported, and warns where there is none.
    from torch.utils.benchmark import Timer

    model = model.to(device).eval()
    images, samples = make_inputs(model, batch, size, device)

    @torch.inference_mode()
    def predict():
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
            model(images, samples, mode='predict')

    for _ in range(3):
        predict()
    on_gpu = torch.device(device).type == 'cuda'
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    # PyTorch's timer takes one thread unless it is told.
    timer = Timer('predict()', globals=dict(predict=predict), num_threads=torch.get_num_threads())
    times = timer.adaptive_autorange(max_run_time=4 * seconds, min_run_time=seconds)
    if on_gpu:
        memory = torch.cuda.max_memory_allocated(device)
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    low, median, high = np.quantile(times.times, [0.25, 0.5, 0.75]).tolist()
    return Speed(median, low, high, memory)
