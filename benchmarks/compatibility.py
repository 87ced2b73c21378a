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
import shlex
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import NamedTuple

from packaging.version import Version

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
LIMIT = 900  # seconds, for a part of the tests
# What mmcv is compiled from, and with which setuptools: docs/install.md says so too.
MMCV = dict(
    onedl=('onedl-mmcv==2.3.6', 'setuptools>=80,<82'), openmmlab=('mmcv==2.1.0', 'setuptools<70')
)
# Without operators; onedl-mmcv is one package for both.
LITE = dict(openmmlab=['mmcv-lite==2.1.0'])
# What cannot be imported without them: the last original mmseg imports them all.
NEED_OPERATORS = dict(onedl=('detection',), openmmlab=('segmentation', 'detection'))
NO_OPERATORS = "not run: needs mmcv's compiled operators"
# numpy 2.4 refuses int() of an array of one number, as Triton's interpreter asked until 3.6.
OLD_INTERPRETER = 'numpy<2.4'


class Combination(NamedTuple):
    """Versions to install; constraints are a file of requirements/."""

    python: str
    torch: str
    family: str = 'onedl'
    constraints: str | None = None
    operators: bool = False  # compile mmcv's, in minutes

    @property
    def name(self) -> str:
        return f'python{self.python}-torch{self.torch}-{self.family}'


COMBINATIONS = [
    # The floor that requirements/runtime.txt states, the lock, and the newest.
    Combination('3.10', '2.8.0'),
    Combination('3.12', '2.8.0'),
    Combination('3.10', '2.11.0', 'onedl', 'pins'),
    Combination('3.11', '2.11.0', 'onedl', 'pins', operators=True),
    Combination('3.12', '2.11.0', 'onedl', 'pins'),
    Combination('3.13', '2.11.0'),
    Combination('3.11', '2.14.1'),
    Combination('3.12', '2.14.1'),
    Combination('3.13', '2.14.1'),
    Combination('3.11', '2.11.0', 'openmmlab'),
]


def run(command: list, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*map(str, command)], text=True, capture_output=True, **options)


def compiled_before(combination: Combination) -> Path | None:
    """The wheel that `make operators` keeps for these versions."""
    cache = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')) / 'kat_mm'
    mmcv = MMCV[combination.family][0].replace('==', '')
    tag = 'cp' + combination.python.replace('.', '')
    return next(cache.glob(f'{mmcv}-torch{combination.torch}-{tag}-cpu/*.whl'), None)


def install(combination: Combination, folder: Path, interpreter: str) -> str | None:
    """Make the environment; what went wrong, or None."""
    uv = [sys.executable, '-m', 'uv']
    add = [*uv, 'pip', 'install', '--python', folder / 'bin/python']
    mmcv, setuptools = MMCV[combination.family]
    torch = [f'torch=={combination.torch}', 'torchvision']
    files = ['--requirements', ROOT / 'requirements/runtime.txt']
    files += ['--requirements', ROOT / f'requirements/{combination.family}.txt']
    if Version(combination.torch) < Version('2.14'):
        files += [OLD_INTERPRETER]
    if combination.constraints:
        files += ['--constraints', ROOT / f'requirements/{combination.constraints}.txt']
    steps = [
        [*uv, 'venv', '--python', interpreter, folder],
        [*add, *torch, setuptools, 'wheel', 'ninja', 'psutil', 'pytest', 'pytest-timeout', 'timm'],
        [*add, *torch, setuptools, *files],
    ]
    if combination.operators:
        wheel = compiled_before(combination)
        # Without isolation, as mmcv compiles against the torch that is there; without the cache,
        # which would hand the wheel to another torch.
        steps.insert(2, [*add, '--no-deps', '--no-build-isolation', '--no-cache', wheel or mmcv])
    else:
        steps[-1] += LITE.get(combination.family, [])
    environment = {
        **os.environ,
        'PATH': f'{folder}/bin:{os.environ["PATH"]}',
        'FORCE_CUDA': '0',
        'CUDA_VISIBLE_DEVICES': '',
    }
    for step in steps:
        done = run(step, env=environment)
        if done.returncode:
            return ' '.join(done.stderr.split())[-400:]
    return None


def versions(python: Path) -> dict[str, str]:
    code = (
        'import json, sys\n'
        'from importlib.metadata import distributions\n'
        'found = {d.metadata["Name"].lower(): d.version for d in distributions()}\n'
        'print(json.dumps(dict(found, python=sys.version.split()[0])))'
    )
    found = json.loads(run([python, '-c', code]).stdout)
    wanted = re.compile(r'python|torch|torchvision|triton|numpy|(onedl-)?mm\w+')
    return {name: found[name] for name in sorted(found) if wanted.fullmatch(name)}


def has_operators(python: Path) -> bool:
    code = "import importlib.util as util, sys; sys.exit(not util.find_spec('mmcv._ext'))"
    return not run([python, '-c', code]).returncode


def test(python: Path, tests: str) -> tuple[str, list[str]]:
    """How many tests did what, and the names of those that failed."""
    command = [python, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-m', 'not slow']
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    try:
        result = run([*command, *shlex.split(tests)], cwd=ROOT, env=environment, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f'not finished in {LIMIT} s', []
    lines = result.stdout.strip().splitlines() or result.stderr.strip().splitlines()
    failures = [line for line in lines if line.startswith(('FAILED', 'ERROR'))]
    counts = re.findall(r'\d+ (?:passed|failed|errors?|skipped)\b', lines[-1] if lines else '')
    return ', '.join(counts) or f'does not start: {lines[-1] if lines else "no output"}', failures


def measure(combination: Combination, interpreter: str, parts: list[str]) -> dict:
    print(combination.name, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / 'env/bin/python'
        problem = install(combination, Path(folder) / 'env', interpreter)
        if problem:
            return dict(problem=problem.replace(folder, ''))
        result = dict(date=str(date.today()), versions=versions(python), tests={}, failures={})
        operators = has_operators(python)
        for part in parts:
            if part in NEED_OPERATORS[combination.family] and not operators:
                result['tests'][part] = NO_OPERATORS
            else:
                result['tests'][part], failures = test(python, TESTS[part])
                if failures:
                    result['failures'][part] = failures
            print(f'  {part}: {result["tests"][part]}', flush=True)
        return result


def merge(before: dict, measured: dict) -> dict:
    """What was measured, with the parts that were run before with the same versions."""
    if 'problem' in measured or measured['versions'] != before.get('versions'):
        return measured
    kept = {part: text for part, text in before['tests'].items() if part in TESTS}
    failures = {part: f for part, f in before['failures'].items() if part not in measured['tests']}
    return dict(
        measured,
        tests={**kept, **measured['tests']},
        failures={**failures, **measured['failures']},
    )


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
        ' those of detection too. Triton up to 3.6 interprets kernels with numpy below 2.4 alone,'
        '\nso these rows have one. mmcv was compiled for detection'
        ' where a row counts its tests; `openmmlab` has mmcv-lite,\nwith which the original mmseg'
        ' and mmdet cannot be imported: theirs is mmcv 2.1.0, compiled.\n\n'
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
    return parser.parse_intermixed_args()


def main() -> None:
    args = parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for combination in COMBINATIONS:
        chosen = not args.words or any(word in combination.name for word in args.words)
        if chosen and not args.table:
            interpreter = args.pythons.format(combination.python)
            measured = measure(combination, interpreter, args.parts)
            results[combination.name] = merge(results.get(combination.name, {}), measured)
            RESULTS.parent.mkdir(parents=True, exist_ok=True)
            RESULTS.write_text(json.dumps(results, indent=1) + '\n')
    write_page(results)


if __name__ == '__main__':
    main()
