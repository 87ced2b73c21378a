"""What docs/recipes.md says of the configs is what they have."""

import ast
import itertools
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
from mmengine.config import Config

from kat_mm.datasets.wrappers import inner_datasets

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(path.name for path in (ROOT / 'configs').glob('*.py'))
CODE = re.compile('`([^`]+)`')


def spread(pattern):
    """The patterns that one with alternatives in braces stands for."""
    parts = re.split(r'\{([^}]*)\}', pattern)
    choices = [part.split(',') if index % 2 else [part] for index, part in enumerate(parts)]
    return [''.join(chosen) for chosen in itertools.product(*choices)]


def matching(cell, names=NAMES):
    """The configs that the patterns in a cell name; all of ``names`` where it has none."""
    patterns = [code for code in CODE.findall(cell) if code.endswith('.py')]
    found = []
    for pattern in itertools.chain.from_iterable(map(spread, patterns)):
        some = [name for name in names if fnmatch(name, pattern)]
        assert some or names is not NAMES, f'{pattern} is no config'
        found += some
    return found if patterns else names


def tables():
    """The rows of each table of the page, as lists of cells."""
    table = []
    for line in [*(ROOT / 'docs/recipes.md').read_text().splitlines(), '']:
        if line.startswith('|'):
            table.append([cell.strip() for cell in line.strip('|').split(' | ')])
        elif table:
            yield table[0], table[2:]
            table = []


def statements():
    """(key, value, config) of each row of the tables of keys."""
    for head, rows in tables():
        if [cell.strip('| ') for cell in head[1:]] == ['key', 'value']:
            names = matching(head[0])
            for first, key, value in rows:
                chosen = matching(first, names)
                assert chosen, f'no config of {head[0]} is {first}'
                for name in chosen:
                    yield CODE.fullmatch(key)[1], CODE.fullmatch(value)[1], name


def value_at(cfg, key):
    """What stands at a key, where a name in a list is a type; None where nothing does."""
    found = cfg
    for part in key.split('.'):
        if isinstance(found, list):
            found = next((item for item in found if item['type'] == part), None)
        else:
            found = found.get(part)
        if found is None:
            return None
    return found


STATEMENTS = list(statements())


@pytest.mark.parametrize('name', sorted({name for *_, name in STATEMENTS}))
def test_the_page_says_what_the_config_has(name):
    cfg = Config.fromfile(ROOT / 'configs' / name)
    for split in ('train', 'test'):  # what the page calls a pipeline is that of the data
        for dataset in inner_datasets(cfg[f'{split}_dataloader'].dataset):
            assert dataset.pipeline == cfg[f'{split}_pipeline']
    for key, value, stated in STATEMENTS:
        if stated == name:
            expected, found = ast.literal_eval(value), value_at(cfg, key)
            if isinstance(expected, float):
                expected = pytest.approx(expected, rel=1e-6)
            assert found == expected, f'{key}: {found} and not {value}'


def test_every_config_has_a_source():
    head, rows = next(tables())
    assert head == ['configs', 'source']
    assert set(NAMES) == {name for first, _ in rows for name in matching(first)}


def test_what_the_page_says_is_found():
    assert len(STATEMENTS) > 1000
    assert ('optim_wrapper.optimizer.lr', '1e-4', 'kat_s_upernet_ade20k.py') in STATEMENTS
    cfg = Config(dict(a=[dict(type='X', b=1)], c=dict(d=2)))
    assert [value_at(cfg, key) for key in ('a.X.b', 'c.d', 'a.Y.b', 'c.e.f')] == [1, 2, None, None]
    assert spread('{a,b}_{c,d}.py') == ['a_c.py', 'a_d.py', 'b_c.py', 'b_d.py']
