"""What stands beside an exported file: how to call it, and what was measured of it."""

import dataclasses
import hashlib
import json
from pathlib import Path

from kat_mm.errors import UserError


@dataclasses.dataclass
class Description:
    """An exported file, as the JSON file beside it tells.

    ``size`` is (H, W) in pixels, or None where any multiple of ``multiple`` is taken; ``batch`` is
    None where any number is. ``mean`` and ``std`` are of the channels in ``channel_order``, of
    pixels from 0 to 255; with ``preprocessing`` the file takes RGB pixels as they are, uint8.
    ``resize`` tells how an image comes to the size, ``postprocessing`` what becomes of the outputs,
    ``differences`` how far the file is from PyTorch.
    """

    file: str
    format: str
    task: str
    inputs: list[str]
    outputs: list[str]
    batch: int | None
    size: list[int] | None
    multiple: int
    mean: list[float]
    std: list[float]
    channel_order: str
    preprocessing: bool
    half: bool
    resize: dict
    postprocessing: dict = dataclasses.field(default_factory=dict)
    classes: list[str] | None = None
    palette: list | None = None
    model: str = ''
    versions: dict = dataclasses.field(default_factory=dict)
    differences: list = dataclasses.field(default_factory=list)
    tolerance: float | None = None
    sha256: str = ''

    def write(self, path: Path) -> None:
        """Write the JSON file beside the exported file ``path``."""
        self.sha256 = _digest(path)
        described(path).write_text(json.dumps(dataclasses.asdict(self), indent=1) + '\n')

    @classmethod
    def read(cls, path: Path) -> 'Description':
        """Read what describes the exported file ``path``.

        Raises:
            UserError: One of the two files is missing or damaged, or they do not belong together.
        """
        if not path.is_file():
            raise UserError(f'{path} does not exist')
        beside = described(path)
        if not beside.is_file():
            raise UserError(f'{path} has no {beside.name} beside it: tools/export.py writes both')
        try:
            self = cls(**json.loads(beside.read_text()))
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f'{beside} does not describe an exported model: {error}') from error
        self._check(beside)
        if self.sha256 != _digest(path):
            raise UserError(f'{beside} describes another file than {path}: its SHA-256 differs')
        return self

    def _check(self, beside: Path) -> None:
        """Refuse values that a model cannot be called with."""
        for name, (is_right, right) in _FIELDS.items():
            value = getattr(self, name)
            if not is_right(value):
                raise UserError(
                    f'{beside} does not describe an exported model: {name} is {value!r}, and must '
                    f'be {right}'
                )
        if self.resize['mode'] == 'crop' and not (
            _is_size(self.size)
            and _is_whole(self.resize.get('short_side'))
            and self.resize.get('interpolation') in _INTERPOLATIONS
        ):
            raise UserError(
                f'{beside} does not describe an exported model: resize is {self.resize!r}, and '
                f'needs short_side (at most {_LARGEST}), interpolation '
                f'({", ".join(_INTERPOLATIONS)}), and a size'
            )


# The longest side in pixels, and the most images at once, that tools/export.py takes too.
_LARGEST, _MOST_IMAGES = 8192, 4096


def _is_whole(value, most: int = _LARGEST) -> bool:
    return type(value) is int and 1 <= value <= most


def _is_size(value) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_whole, value))


def _are_names(value) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def _are_channels(value) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(type(one) in (int, float) and abs(one) < 1e9 for one in value)
    )


_TASKS = ('features', 'classification', 'segmentation', 'detection', 'instance', 'panoptic')
_MODES = ('crop', 'stretch', 'fit', 'as_is')
_INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic')
_FLAG = lambda value: isinstance(value, bool), 'true or false'
_FIELDS = {
    'file': (lambda value: isinstance(value, str), "the file's name"),
    'task': (lambda value: value in _TASKS, f'one of {", ".join(_TASKS)}'),
    'inputs': (lambda value: _are_names(value) and len(value) in (1, 2), 'one or two names'),
    'outputs': (lambda value: _are_names(value) and len(value) > 0, 'names'),
    'batch': (
        lambda value: value is None or _is_whole(value, _MOST_IMAGES),
        f'null or a whole number from 1 to {_MOST_IMAGES}',
    ),
    'size': (
        lambda value: value is None or _is_size(value),
        f'null or [height, width], up to {_LARGEST} pixels each',
    ),
    'multiple': (_is_whole, f'a whole number from 1 to {_LARGEST}'),
    'mean': (_are_channels, 'three numbers'),
    'std': (lambda value: _are_channels(value) and min(value) > 0, 'three numbers above 0'),
    'channel_order': (lambda value: value in ('rgb', 'bgr'), 'rgb or bgr'),
    'preprocessing': _FLAG,
    'half': _FLAG,
    'resize': (
        lambda value: isinstance(value, dict) and value.get('mode') in _MODES,
        f'an object whose mode is one of {", ".join(_MODES)}',
    ),
    'postprocessing': (lambda value: isinstance(value, dict), 'an object'),
    'classes': (lambda value: value is None or _are_names(value), 'null or names'),
}


def described(path: Path) -> Path:
    """The JSON file beside an exported file."""
    return path.with_suffix(path.suffix + '.json')


def parts_of(path: Path) -> list[Path]:
    """An exported file, and where it is apart the file of its weights."""
    weights = path.with_suffix('.bin') if path.suffix == '.xml' else Path(f'{path}.data')
    return [path] + [weights] * weights.is_file()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for part in parts_of(path):
        digest.update(part.read_bytes())
    return digest.hexdigest()
