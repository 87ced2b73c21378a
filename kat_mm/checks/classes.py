"""One count of classes: data, heads and whatever else numbers them must agree."""

from collections import Counter
from collections.abc import Iterator, Sequence

from kat_mm.datasets.wrappers import inner_datasets, type_name
from kat_mm.errors import UserError, some


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
    given = dataset.get('classes') or (dataset.get('metainfo') or {}).get('classes')
    classes = cls._load_metainfo(dict(classes=given) if given is not None else None).get('classes')
    if classes is None:
        return None
    if isinstance(classes, str) or not classes or not all(isinstance(n, str) for n in classes):
        raise UserError(
            f'metainfo.classes of the {split} data set is {classes!r}; it must be a tuple of '
            "names, for example ('cell',) with its comma"
        )
    # Of a library's own names some may be the same: ImageNet has two cranes.
    twice = [name for name, number in Counter(classes).items() if number > 1]
    if given is not None and twice:
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
    elif numbers and cfg.get('default_scope') != 'mmdet':  # trackers have a head for each purpose
        (where, number), *numbers = numbers
        source = f'{where} is {number}'
    else:
        return
    for where, other in numbers:
        if other != number:
            raise UserError(
                f'{where}={other!r}, but {source}; set it to {number}, or mend the data'
            )


# Parts and heads that number something else: objects, stuff, edges, words.
_OTHER_PARTS = ('rpn_head', 'backbone', 'semantic_head')
_OTHER_HEADS = ('STDCHead', 'GroundingDINOHead')


def _numbers_of_classes(cfg, where: str) -> Iterator[tuple[str, int]]:
    """Every ``num_classes`` of a config that counts the classes of the data."""
    if isinstance(cfg, dict) and 'type' in cfg and type_name(cfg) in _OTHER_HEADS:
        return
    is_list = isinstance(cfg, list | tuple)
    items = cfg.items() if isinstance(cfg, dict) else enumerate(cfg) if is_list else ()
    for key, value in items:
        if key == 'num_classes':
            yield f'{where}.{key}', value
        elif key not in _OTHER_PARTS:
            yield from _numbers_of_classes(value, f'{where}.{key}')
