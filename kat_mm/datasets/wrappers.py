"""How configs of data sets are read: the one walk through wrappers, and names of types."""

from collections.abc import Iterator


def inner_datasets(dataset: dict) -> Iterator[dict]:
    """The data sets inside of wrappers, in their order; a data set without a wrapper is itself.

    Wrappers hold one data set (RepeatDataset, ClassBalancedDataset, MultiImageMixDataset,
    KFoldDataset) or several (ConcatDataset), which may be wrapped too.
    """
    inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
    if inner is None:
        yield dataset
    for part in inner or ():
        yield from inner_datasets(part)


def type_name(config: dict) -> str:
    """The name of a config's type, which may have a scope before it, or be the class itself."""
    given = config['type']
    return given.rpartition('.')[2] if isinstance(given, str) else given.__name__
