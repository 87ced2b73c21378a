"""tools/fit_rational.py, as a user runs it."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kat_mm.fits import get_fit, table

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'fit_rational.py'


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the tool in this process (a new one spends seconds on imports): code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *args])
        code = 0
        try:
            runpy.run_path(str(TOOL), run_name='__main__')
        except SystemExit as exit:
            code = exit.code
        out, err = capsys.readouterr()
        if isinstance(code, str):  # sys.exit prints it when the interpreter ends
            code, err = 1, err + code
        return code, out, err

    return run


def subprocess_run(*args, cwd):
    return subprocess.run(
        [sys.executable, TOOL, *args],
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )


def assert_is_png(path):
    assert path.read_bytes().startswith(b'\x89PNG\r\n\x1a\n')
    assert path.stat().st_size > 10_000


def test_command_line_fits_a_name_and_refuses_a_bad_one(tmp_path):
    result = subprocess_run('gelu', '--interval', '-8', '8', '--out-dir', 'fits', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    stored = get_fit('gelu')
    fit = json.loads((tmp_path / 'fits' / 'gelu.json').read_text())
    assert fit['name'] == 'gelu'
    assert fit['order'] == [5, 4]
    assert fit['interval'] == [-8, 8]
    assert fit['max_error'] == pytest.approx(stored.max_error, rel=1e-3)
    np.testing.assert_allclose(fit['numerator'], stored.numerator, rtol=0.01)
    for coefficient in fit['numerator'] + fit['denominator']:
        assert f'= {coefficient!r}\n' in result.stdout
    assert '(-8.0, 8.0)' in result.stdout
    assert f'largest error {fit["max_error"]:.3e}' in result.stdout
    assert_is_png(tmp_path / 'fits' / 'gelu.png')
    assert sorted(os.listdir(tmp_path / 'fits')) == ['gelu.json', 'gelu.png']

    result = subprocess_run('gleu', '--out-dir', 'other', cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout == ''
    assert result.stderr.startswith('error: ')
    assert result.stderr.count('\n') == 1
    assert "did you mean 'gelu'?" in result.stderr
    assert not (tmp_path / 'other').exists()


def test_expression_gives_the_fit_of_its_function(run, tmp_path):
    code, _, err = run('x * sigmoid(x)')
    assert code == 0, err
    out_dir = tmp_path / 'work_dirs' / 'fits'
    fit = json.loads((out_dir / 'x_sigmoid_x.json').read_text())
    swish = get_fit('swish')
    assert fit['name'] == 'x * sigmoid(x)'
    assert fit['max_error'] == pytest.approx(swish.max_error, rel=1e-3)
    assert_is_png(out_dir / 'x_sigmoid_x.png')


@pytest.mark.parametrize(
    'expression', ['where(x > 0, x, 0.2 * x)', '-erf(pi * x) / e', 'relu(x) + 1', 'clip(x, -1, 1)']
)
def test_expressions_may_use_numpy_and_scipy(run, tmp_path, expression):
    code, _, err = run(expression, '--order', '3', '2', '--out-dir', str(tmp_path))
    assert code == 0, err


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['x +'], 'neither a known name nor a Python expression'),
        (['y * 2'], "'y', which is neither x"),
        (['sigmod(x)'], "did you mean 'sigmoid'?"),
        (['np.tanh(x)'], 'calls by plain name'),
        (['__import__("os").getcwd()'], 'calls by plain name'),
        (['(lambda: x)()'], 'has '),
        (['tanh(x, x, x, x)'], 'cannot be evaluated'),
        (['x / "a"'], 'cannot be evaluated'),
        (['1 / 0 * x'], 'cannot be evaluated: float division by zero'),
        (['x * 9**9**9'], 'cannot be evaluated: '),
        (['x * (-(-9))**(-(-9))**(-(-9))'], 'cannot be evaluated: '),
        (['x * "a" * 10**10'], 'cannot be evaluated: '),
        (['x + ' + '9' * 400], 'int too large to convert to float'),
        (['x' + ' + x' * 20_000], 'recursion'),
        (['(' * 3000 + 'x' + ')' * 3000], 'too many nested parentheses'),
        (['erf'], 'one real number per x'),
        (['log(x)'], 'finite in the interval: at x=-3 it is nan'),
        (['gelu', '--interval', '8', '-8'], 'lo < hi'),
        (['gelu', '--order', '-1', '4'], 'order must be'),
        (['gelu', '--out-dir', 'a_file/fits'], 'cannot write a_file'),
    ],
)
def test_bad_input_ends_with_one_line_and_no_files(run, tmp_path, args, message):
    (tmp_path / 'a_file').touch()
    code, _, err = run(*args)
    assert code == 1
    assert err.startswith('error: ')
    assert '\n' not in err
    assert message in err
    assert os.listdir(tmp_path) == ['a_file']


@pytest.mark.parametrize(
    'args', [[], ['gelu', '--all'], ['--all', '--order', '3', '2'], ['gelu', '--order', 'a', '4']]
)
def test_bad_usage_is_refused(run, tmp_path, args):
    code, _, err = run(*args)
    assert code == 2
    assert 'error: ' in err
    assert os.listdir(tmp_path) == []


def test_all_writes_the_packaged_table(run, monkeypatch, tmp_path):
    packaged = json.loads(table.TABLE_FILE.read_text())
    monkeypatch.setattr(table, 'TABLE_FILE', tmp_path / 'coefficients.json')
    code, out, err = run('--all')
    assert code == 0, err
    assert os.listdir(tmp_path) == ['coefficients.json']
    written = json.loads((tmp_path / 'coefficients.json').read_text())
    assert [fit['name'] for fit in written] == [fit['name'] for fit in packaged]
    for new, old in zip(written, packaged, strict=True):
        assert new['order'] == old['order']
        assert new['interval'] == old['interval']
        assert new['max_error'] == pytest.approx(old['max_error'], rel=1e-3, abs=1e-15)
        assert f'{new["name"]}: order' in out


def test_failed_write_leaves_the_old_file(run, monkeypatch, tmp_path):
    old = tmp_path / 'coefficients.json'
    old.write_text('old')
    monkeypatch.setattr(table, 'TABLE_FILE', old)

    def fail(self, content):
        with open(self, 'wb') as file:
            file.write(content[:10])
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', fail)
    code, _, err = run('--all')
    assert code == 1
    assert err == f'error: cannot write {old}: No space left on device'
    assert old.read_text() == 'old'
    assert os.listdir(tmp_path) == ['coefficients.json']
