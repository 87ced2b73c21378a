"""How far an exported file is from the PyTorch model that it was made from."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from kat_mm.errors import UserError

from .sessions import Session


def compare(network: nn.Module, session: Session, batches: Iterable[tuple]) -> Iterator[dict]:
    """Largest differences of a file's outputs, batch by batch.

    Args:
        network: The module that was exported.
        session: The file in its runtime.
        batches: A name and the inputs of each.

    Yields:
        For each batch ``inputs``, its name; ``shape``; and by output the largest difference of any
        number, relative to the largest number if that is above 1. Boxes are compared with those of
        the other that agree best in class and place, weighted by their score, since equal scores
        have no order.

    Raises:
        UserError: The file does not take a batch.
    """
    for name, inputs in batches:
        with torch.no_grad():
            expected = network(*inputs)
        expected = expected if isinstance(expected, tuple) else (expected,)
        expected = [output.numpy() for output in expected]
        try:
            found = session(*(value.numpy() for value in inputs))
        except Exception as error:
            shape = tuple(inputs[0].shape)
            raise UserError(
                f'the exported file takes no {name} of shape {shape}: {type(error).__name__}: '
                f'{str(error)[:300]}'
            ) from error
        if network.task == 'detection':
            differences = _compare_detections(found, expected, inputs[0])
        else:
            pairs = zip(network.outputs, found, expected, strict=True)
            differences = {key: _relative(a, b) for key, a, b in pairs}
        yield dict(inputs=name, shape=list(inputs[0].shape), differences=differences)


def worst(report: list[dict]) -> float:
    """The largest difference of a report; infinite where one is not a number."""
    values = [value for entry in report for value in entry['differences'].values()]
    return max((value if np.isfinite(value) else np.inf for value in values), default=np.inf)


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        return float('inf')
    return float(np.abs(found - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1))


def _compare_detections(found: list, expected: list, image: Tensor) -> dict[str, float]:
    """Of every detection the distance to the other's that is nearest, times its score."""
    side = max(image.shape[2:])
    result = dict(scores=_relative(found[1], expected[1]), boxes=0.0)
    if len(found) > 3:
        result['masks'] = 0.0
    for row in range(len(expected[0])):
        found_boxes, found_scores, found_labels = (output[row] for output in found[:3])
        own_boxes, own_scores, own_labels = (output[row] for output in expected[:3])
        if not own_scores.any():
            continue
        apart = np.abs(own_boxes[:, None] - found_boxes[None]).max(-1) / side
        apart += 1.0 * (own_labels[:, None] != found_labels[None])
        apart += np.abs(own_scores[:, None] - found_scores[None])
        nearest = apart.argmin(1)
        distance = apart[np.arange(len(nearest)), nearest] * own_scores
        result['boxes'] = max(result['boxes'], float(distance.max()))
        if len(found) > 3:
            masks = np.abs(found[3][row][nearest] - expected[3][row]).max((1, 2)) * own_scores
            result['masks'] = max(result['masks'], float(masks.max()))
    return result


def sample_images(number: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Images (B, 3, H, W) of smooth colours with noise, uint8, where there are no real ones."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(number, 3, 5, 7, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=size, mode='bicubic', align_corners=False)
    noise = torch.randn(number, 3, *size, generator=generator) * 0.05
    return ((smooth + noise) * 255).clamp(0, 255).to(torch.uint8).numpy()
