"""What the pages say is so, and the script that checks it finds what is not."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def check_docs():
    path = ROOT / '.dev_scripts/check_docs.py'
    spec = importlib.util.spec_from_file_location('check_docs', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_and_commands_of_all_pages_are_right(check_docs):
    problems = [
        f'{page}: {problem}' for page in check_docs.pages() for problem in check_docs.check(page)
    ]
    assert not problems


@pytest.mark.parametrize(
    'text, problem',
    [
        ('[a](nowhere.md)', 'nowhere.md: no such file'),
        ('[a](other.md#none)', 'other.md#none: no such heading'),
        ('    make tset\n', 'no target tset'),
        ('    python tools/trian.py configs/kat_t_in1k.py\n', 'no script tools/trian.py'),
        ('    python tools/train.py configs/kat_t_in1k.py --rezume\n', 'no option --rezume'),
        ('    bash tools/dist_train.sh configs/kat_t_in1k.py 8 --ampp\n', 'no option --ampp'),
        ('    python tools/train.py \\\n        configs/kat_x.py\n', 'no config configs/kat_x.py'),
        ('    kat_mm train kat_x\n', 'no config kat_x'),
        ("    pip install '.[detecion]'\n", 'no extra detecion'),
        ('```python\nfrom kat_mm.ops import grouped\n```', 'import grouped: not there'),
        ('run `python tools/trian.py`', 'no script tools/trian.py'),
        ('made by `benchmarks/nothing.py`', 'no file benchmarks/nothing.py'),
    ],
)
def test_what_is_wrong_is_found(check_docs, tmp_path, text, problem):
    (tmp_path / 'other.md').write_text('# Some heading\n')
    page = tmp_path / 'page.md'
    page.write_text(
        f'# Page\n\n[a](other.md#some-heading) `python tools/train.py CONFIG`\n\n{text}\n'
    )
    found = list(check_docs.check(page))
    assert found and any(problem in line for line in found), found
