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
        except (ValueError, TypeError) as error:
            raise UserError(f'{beside} does not describe an exported model: {error}') from error
        if self.sha256 != _digest(path):
            raise UserError(f'{beside} describes another file than {path}: its SHA-256 differs')
        return self


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
