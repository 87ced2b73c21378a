"""Sample data sets, written whole or not at all."""

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from .layouts import FOLDERS, WRITERS, SampleSettings, imagenet_subjects, write_json

# Raise it whenever the files change, so that sample data of an older version is recognised.
DRAWING_VERSION = 2
# Kept in each data set: who made it, and how. What lacks it is never overwritten.
SETTINGS_FILE = 'sample_data.json'
MADE_BY = 'tools/make_sample_data.py'


def make_sample_data(
    names: Iterable[str], out: str | Path, settings: SampleSettings, overwrite: bool = False
) -> list[tuple[Path, bool]]:
    """Write sample data sets; what the same settings made before is left as it is.

    A data set is written aside and moved into place when it is complete. Everything is checked
    before anything is written.

    Args:
        names: Keys of ``WRITERS``.
        out: Folder that gets a folder for each data set: ade, coco, imagenet.
        settings: Number and size of the images, seed.
        overwrite: Whether to replace sample data, whatever settings made them. Other data
            are never replaced.

    Returns:
        list[tuple[Path, bool]]: Folder of each data set, and whether it was written.

    Raises:
        ValueError: A setting is out of range.
        FileExistsError: A folder has other content.
        OSError: A folder cannot be written.
    """
    settings.check()
    num_classes = len(imagenet_subjects())
    if 'imagenet' in names and min(settings.num_train, settings.num_val) < num_classes:
        raise ValueError(
            f'imagenet needs num_train and num_val of at least {num_classes}, an image of each '
            f'class, but they are {settings.num_train} and {settings.num_val}'
        )
    folders = []
    for name in names:
        folder = Path(out) / FOLDERS[name]
        content = {'made_by': MADE_BY, 'dataset': name, 'version': DRAWING_VERSION}
        content.update(settings._asdict())
        folders.append((name, folder, content, _must_write(folder, content, overwrite)))
    for name, folder, content, must_write in folders:
        if must_write:
            _write_dataset(WRITERS[name], folder, settings, content)
    return [(folder, must_write) for _, folder, _, must_write in folders]


def _must_write(folder: Path, content: dict, overwrite: bool) -> bool:
    """Return False where the content is there already; raise FileExistsError where other is."""
    if not folder.exists() or not any(folder.iterdir()):
        return True
    try:
        found = json.loads((folder / SETTINGS_FILE).read_text())
        recognised = found['made_by'] == MADE_BY
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        recognised = False
    if not recognised:
        raise FileExistsError(
            f'{folder} holds data that are no sample data, and is left alone: '
            'choose another folder (--out)'
        )
    if overwrite:
        return True
    changed = [
        f'{k} {found.get(k)} instead of {v}' for k, v in content.items() if found.get(k) != v
    ]
    if changed:
        raise FileExistsError(
            f'{folder} holds sample data made with {", ".join(changed)}: '
            'overwrite them (--overwrite) or choose another folder (--out)'
        )
    return False


def _write_dataset(write: Callable, folder: Path, settings: SampleSettings, content: dict) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{folder.name}-', dir=folder.parent) as temporary:
        new, old = Path(temporary) / 'new', Path(temporary) / 'old'
        new.mkdir()
        write(new, settings)
        write_json(new / SETTINGS_FILE, content)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
