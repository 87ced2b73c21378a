"""What works together: versions of Python and torch, and both families of OpenMMLab's packages.

    python benchmarks/compatibility.py               # all combinations, each in a new environment
    python benchmarks/compatibility.py torch2.8      # those whose name holds a word
    python benchmarks/compatibility.py --table       # the table alone, from the results

Makes each environment with uv in a temporary folder, runs a part of the tests in it, and writes
benchmarks/results/compatibility/results.json, to which combinations that ran before belong too, and
docs/compatibility.md. What was not run is a row as well, with the reason.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / 'results/compatibility/results.json'
PAGE = ROOT / 'docs/compatibility.md'
TESTS = {
    'operators, layers': 'tests/ops/test_linear.py tests/layers/test_rational.py'
    ' tests/layers/test_feed_forward.py tests/backbones/test_block.py',
    'classification': 'tests/test_every_config.py -k kat_t_in1k',
    'segmentation': 'tests/test_every_config.py -k kat_t_upernet',
    'detection': 'tests/test_every_config.py -k kat_t_mask_rcnn',
}
LIMIT = 600  # seconds, for a part of the tests
NO_OPERATORS = "needs mmcv's compiled operators"


class Combination(NamedTuple):
    """Versions to install; constraints are a file of requirements/."""

    python: str
    torch: str
    family: str = 'onedl'
    constraints: str | None = None

    @property
    def name(self) -> str:
        return f'python{self.python}-torch{self.torch}-{self.family}'


COMBINATIONS = [
    # The floor that requirements/runtime.txt states, the lock, and the newest.
    *(Combination(python, '2.8.0') for python in ('3.10', '3.12')),
    *(Combination(python, '2.11.0', 'onedl', 'pins') for python in ('3.10', '3.11', '3.12')),
    Combination('3.13', '2.11.0'),
    *(Combination(python, '2.14.1') for python in ('3.11', '3.12', '3.13')),
    Combination('3.11', '2.11.0', 'openmmlab'),
]


def run(command: list, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*map(str, command)], text=True, capture_output=True, **options)


def install(combination: Combination, folder: Path, interpreter: str) -> str | None:
    """Make the environment; what went wrong, or None."""
    uv = [sys.executable, '-m', 'uv']
    made = run([*uv, 'venv', '--python', interpreter, folder])
    if made.returncode:
        return made.stderr.strip().splitlines()[-1]
    files = ['runtime', 'onedl']
    if combination.family == 'openmmlab':
        files = ['runtime', 'openmmlab']
    command = [*uv, 'pip', 'install', '--python', folder / 'bin/python', 'pytest', 'pytest-timeout']
    command += [f'torch=={combination.torch}', 'setuptools<82', 'timm']
    command = [
        word for word in command if combination.family == 'onedl' or 'onedl' not in str(word)
    ]
    for file in files:
        command += ['--requirements', ROOT / f'requirements/{file}.txt']
    if combination.constraints:
        command += ['--constraints', ROOT / f'requirements/{combination.constraints}.txt']
    installed = run(command)
    return ' '.join(installed.stderr.split())[-400:] if installed.returncode else None


def versions(python: Path) -> dict[str, str]:
    names = ('torch', 'torchvision', 'triton', 'numpy', 'mmengine', 'mmcv', 'mmseg', 'mmpretrain')
    code = (
        'import json, sys\n'
        'from importlib.metadata import version, packages_distributions\n'
        'owners = packages_distributions()\n'
        f'found = {{n: version(owners[n][0]) for n in {names!r} if n in owners}}\n'
        'print(json.dumps({"python": sys.version.split()[0], **found}))'
    )
    return json.loads(run([python, '-c', code]).stdout)


def has_operators(python: Path) -> bool:
    return not run([python, '-c', 'import mmcv.ops']).returncode


def test(python: Path, tests: str) -> str:
    command = [python, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-m', 'not slow']
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    try:
        result = run([*command, *tests.split()], cwd=ROOT, env=environment, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f'not finished in {LIMIT} s'
    lines = result.stdout.strip().splitlines() or result.stderr.strip().splitlines()
    counts = re.findall(r'\d+ (?:passed|failed|error|errors|skipped)\b', lines[-1] if lines else '')
    return ', '.join(counts) or f'does not start: {lines[-1] if lines else "no output"}'


def measure(combination: Combination, interpreter: str, parts: list[str]) -> dict:
    print(combination.name, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / 'env/bin/python'
        problem = install(combination, Path(folder) / 'env', interpreter)
        if problem:
            return dict(problem=problem.replace(folder, ''))
        result = dict(date=str(date.today()), versions=versions(python), tests={})
        operators = has_operators(python)
        for part in parts:
            if part == 'detection' and not operators:
                result['tests'][part] = f'not run: {NO_OPERATORS}'
            elif combination.family == 'openmmlab' and not operators:
                result['tests'][part] = f'not run: {NO_OPERATORS}'
            else:
                result['tests'][part] = test(python, TESTS[part])
            print(f'  {part}: {result["tests"][part]}', flush=True)
        return result


def write_page(results: dict[str, dict]) -> None:
    rows = []
    for combination in COMBINATIONS:
        result = results.get(combination.name, dict(problem='not run'))
        found = result.get('versions', {})
        cells = [found.get('python', combination.python), found.get('torch', combination.torch)]
        cells += [found.get('triton', ''), combination.family]
        if 'problem' in result:
            cells += [result['problem'].replace('|', '/')] + [''] * (len(TESTS) - 1)
        else:
            cells += [result['tests'].get(part, 'not run') for part in TESTS]
        rows.append('| ' + ' | '.join(cells) + ' |')
    head = ['Python', 'torch', 'Triton', 'packages', *TESTS]
    PAGE.write_text(
        '# What works together\n\n'
        'Written by `python benchmarks/compatibility.py` from\n'
        '[its results](../benchmarks/results/compatibility/results.json), which hold all versions.'
        ' Each row is a new\nenvironment on a CPU, where Triton kernels run in their interpreter;'
        ' the numbers count tests of:\n\n'
        + '\n'.join(f'- {part}: `{tests}`' for part, tests in TESTS.items())
        + '\n\n`onedl` are the maintained packages, `openmmlab` the last original ones. '
        '`requirements/locked.txt` is the\nrow of torch 2.11.0 in which `make test` runs all tests,'
        ' those of detection too.\n\n'
        + '\n'.join(['| ' + ' | '.join(head) + ' |', '| ' + ' | '.join(['---'] * len(head)) + ' |'])
        + '\n'
        + '\n'.join(rows)
        + '\n'
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('words', nargs='*', help='run combinations whose name holds one of these')
    parser.add_argument('--table', action='store_true', help='write docs/compatibility.md alone')
    parser.add_argument('--parts', nargs='*', choices=list(TESTS), default=list(TESTS))
    parser.add_argument(
        '--pythons',
        default='python{}',
        help='interpreter for {}, such as 3.12; default: %(default)s',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for combination in COMBINATIONS:
        chosen = not args.words or any(word in combination.name for word in args.words)
        if chosen and not args.table:
            interpreter = args.pythons.format(combination.python)
            results[combination.name] = measure(combination, interpreter, args.parts)
            RESULTS.parent.mkdir(parents=True, exist_ok=True)
            RESULTS.write_text(json.dumps(results, indent=1) + '\n')
    write_page(results)


if __name__ == '__main__':
    main()
