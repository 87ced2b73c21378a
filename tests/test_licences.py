"""The page of licences names every dependency, and what each says of itself."""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs/licences.md'
# What a licence says of itself, in the words of SPDX, of trove classifiers, or in its own.
SIGNS = {
    'Apache-2.0': r'Apache(-| License[,\s]+(Version )?)2\.0|Apache Software License',
    'BSD-2-Clause': r'BSD-2-Clause',
    'BSD-3-Clause': r'BSD[- ]3[- ]Clause|Neither the name',
    'ISC': r'\bISC\b',
    'MIT': r'\bMIT\b',
    'PSF': r'Python Software Foundation',
}


def dependencies() -> set[str]:
    lines = set()
    for path in (ROOT / 'requirements').glob('*.txt'):
        if path.stem not in ('locked', 'pins'):  # those bring in what others name
            lines |= {
                line for line in path.read_text().splitlines() if line and line[0] not in '#-'
            }
    return {Requirement(line).name for line in lines}


def listed() -> dict[str, str]:
    section = PAGE.read_text().partition('## What it runs on')[2].partition('\n## ')[0]
    rows = re.findall(r'^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$', section, re.M)[1:]
    return {name: licence for names, licence in rows for name in names.split(', ')}


def said_by(name: str) -> str:
    """All that the installed package says of its licence: metadata and files."""
    dist = distribution(name)
    fields = [dist.metadata.get(field) or '' for field in ('License-Expression', 'License')]
    fields += [line for line in dist.metadata.get_all('Classifier', []) if 'License' in line]
    files = [path for path in dist.files or () if re.match('LICEN[CS]E', path.name.upper())]
    return '\n'.join(fields + [path.read_text() for path in files])


def test_the_page_names_what_the_package_depends_on_and_nothing_else():
    assert set(listed()) - {'---'} == dependencies()


@pytest.mark.parametrize('name', sorted(dependencies()))
def test_the_licence_is_what_the_package_says(name):
    licences = [licence for licence in SIGNS if licence in listed()[name]]
    assert licences
    try:
        said = said_by(name)
    except PackageNotFoundError:
        pytest.skip(f'{name} is not installed')
    for licence in licences:
        assert re.search(SIGNS[licence], said), f'{name} does not say {licence}: {said[:300]}'
