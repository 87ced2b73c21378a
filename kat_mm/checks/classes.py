"""One count of classes: data, heads and whatever else numbers them must agree."""

from collections.abc import Iterator, Sequence

from kat_mm.checks.names import some
from kat_mm.datasets.wrappers import inner_datasets
from kat_mm.errors import UserError


def class_names(dataset: dict, cls: type, split: str) -> Sequence[str] | None:
    """Names of a data set's classes, in the order of the labels, where it names them.

    Args:
        dataset: Config of the data set.
        cls: Its class.
        split: Name of its split, for messages.

    Raises:
        UserError: They are no sequence of different names.
    """
    if not hasattr(cls, '_load_metainfo'):
        return None
    classes = dataset.get('classes') or cls._load_metainfo(dataset.get('metainfo')).get('classes')
    if classes is None:
        return None
    if isinstance(classes, str) or not classes or not all(isinstance(n, str) for n in classes):
        raise UserError(
            f'metainfo.classes of the {split} data set is {classes!r}; it must be a tuple of '
            "names, for example ('cell',) with its comma"
        )
    twice = sorted({name for name in classes if list(classes).count(name) > 1})
    if twice:
        raise UserError(f'metainfo.classes of the {split} data set has {some(twice)} twice')
    return classes


def check_numbers_of_classes(
    cfg: dict, classes: dict[str, Sequence[str]], folders: Sequence[tuple[str, int]] = ()
) -> None:
    """Refuse numbers of classes that differ.

    Args:
        cfg: The config.
        classes: Names of the classes of each split's data.
        folders: Where classes are folders, what they are and how many.

    Raises:
        UserError: Two splits have other classes, or a head or a check of labels another number.
    """
    numbers = [*folders, *_numbers_of_classes(cfg.get('model') or {}, 'model')]
    for split in classes:
        for dataset in inner_datasets(cfg[f'{split}_dataloader']['dataset']):
            pipeline = dataset.get('pipeline') or []
            numbers += _numbers_of_classes(pipeline, f'{split}_dataloader.dataset.pipeline')
    first = next(iter(classes), None)
    for split, names in classes.items():
        if list(names) != list(classes[first]):
            raise UserError(
                f'the data sets of {first} and {split} have other classes, so that their labels '
                f'would not agree: {some(classes[first])}; {some(names)}'
            )
    if first is not None:
        number = len(classes[first])
        source = f'the {first} data set has {number} classes: {some(classes[first])}'
    elif numbers:
        (where, number), *numbers = numbers
        source = f'{where} is {number}'
    for where, other in numbers:
        if other != number:
            raise UserError(
                f'{where}={other!r}, but {source}; set it to {number}, or mend the data'
            )


def _numbers_of_classes(cfg, where: str) -> Iterator[tuple[str, int]]:
    """Every ``num_classes`` of a config but the RPN's, which is 1, and a backbone's own."""
    is_list = isinstance(cfg, list | tuple)
    items = cfg.items() if isinstance(cfg, dict) else enumerate(cfg) if is_list else ()
    for key, value in items:
        if key == 'num_classes':
            yield f'{where}.{key}', value
        elif key not in ('rpn_head', 'backbone'):
            yield from _numbers_of_classes(value, f'{where}.{key}')
