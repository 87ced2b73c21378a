"""The wheel and the sdist hold what users need, in an environment that holds nothing else.

No test reaches a package index: what the wheel requires is linked from the environment that runs
the tests, so what it does not require is not there.
"""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
CONTENTS = ('CHANGELOG.md', 'CITATION.cff', 'LICENSE', 'MANIFEST.in', 'README.md', 'configs')
CONTENTS += ('kat_mm', 'model-index.yml', 'pyproject.toml', 'requirements', 'setup.py', 'tools')

# Without PYTHONPATH, which would show the clone.
ENVIRONMENT = dict(PATH='/usr/bin:/bin', OMP_NUM_THREADS='1')

pytestmark = pytest.mark.slow

OPERATOR = """
import sys
import torch
import kat_mm
assert kat_mm.__file__.startswith(sys.prefix), kat_mm.__file__
from kat_mm.fits import get_fit
from kat_mm.ops import group_rational

fit = get_fit('swish')
coefficients = [torch.tensor([row]).double() for row in (fit.numerator, fit.denominator)]
x = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
y = group_rational(x, *coefficients)
assert (y - torch.nn.functional.silu(x)).abs().max() < 0.05
y.sum().backward()
assert x.grad.isfinite().all()

model = kat_mm.backbones.KAT('tiny', img_size=64, out_type='featmap', out_indices=(5, 11))
model.init_weights()
assert [tuple(y.shape) for y in model(torch.randn(1, 3, 64, 64))] == [(1, 192, 4, 4)] * 2
from importlib.util import find_spec
assert not find_spec('mmengine') and not find_spec('triton')
"""
CONFIG = """
import kat_mm.registry, torch
from kat_mm import checks
from kat_mm.engine.configs import find_config
from mmengine.config import Config

cfg = Config.fromfile(find_config({name!r}))
checks.check_config(cfg, ())
model = checks.build_model(cfg)
model.eval()
inputs = torch.zeros(1, 3, 64, 64)
assert [len(y) for y in model.extract_feat(inputs)] == [1] * len(model.extract_feat(inputs))
"""


@pytest.fixture(scope='module')
def built(tmp_path_factory) -> Path:
    """The folder with wheel and sdist, built from what git has, not in the clone."""
    source, target = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('dist')
    for name in CONTENTS:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns('__pycache__', '.mim')
            shutil.copytree(ROOT / name, source / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, source / name)
    # The wheel is built from the sdist, as an index's users get it.
    command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', target, source]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return target


def distributions(requirements, extras=(), found=None):
    """What pip would install for requirements: names in lower case."""
    found = {} if found is None else found
    for text in requirements:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker and not any(marker.evaluate(dict(extra=extra)) for extra in ('', *extras)):
            continue
        name = requirement.name.lower().replace('_', '-')
        if name not in found:
            found[name] = distribution(name)
            distributions(found[name].requires or (), requirement.extras, found)
    return found


def link(dist, target: Path, hidden=()):
    for path in {path.parts[0] for path in dist.files if '..' not in path.parts}:
        source = Path(dist.locate_file(path))
        if source.is_dir() and hidden and not path.endswith('.dist-info'):
            shutil.copytree(source, target / path, ignore=shutil.ignore_patterns(*hidden))
        elif not (target / path).exists() and path != '__pycache__':
            (target / path).symlink_to(source)


@pytest.fixture
def install(built, tmp_path):
    """An environment of the wheel, with an extra, without some packages: its Python."""

    def install(extra=None, without=()):
        environment = tmp_path / 'environment'
        venv = [sys.executable, '-m', 'venv', '--without-pip', environment]
        subprocess.run(venv, check=True)
        python = environment / 'bin/python'
        (wheel,) = built.glob('*.whl')
        pip = [sys.executable, '-m', 'pip', '--python', python, 'install', '--quiet']
        subprocess.run([*pip, '--no-deps', '--no-index', wheel], check=True, env=ENVIRONMENT)
        (folder,) = environment.glob('lib/python*/site-packages')
        (metadata,) = folder.glob('kat_mm-*.dist-info')
        requirements = metadata.joinpath('METADATA').read_text().splitlines()
        requirements = [
            line.removeprefix('Requires-Dist: ')
            for line in requirements
            if line.startswith('Requires-Dist: ')
        ]
        for name, dist in distributions(requirements, (extra,) if extra else ()).items():
            if name not in without:
                # mmcv without its operators, as pip makes it.
                link(dist, folder, ('_ext*',) if name == 'onedl-mmcv' else ())
        return python

    return install


def run(python, *args, cwd, status=0):
    """What a process printed, on stdout where it should succeed, else on stderr."""
    command = [python, *args]
    result = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stderr if status else result.stdout


def test_wheel_and_sdist_hold_the_same_files_of_the_package(built):
    (wheel,), (sdist,) = built.glob('*.whl'), built.glob('*.tar.gz')
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {name.partition('/')[2] for name in tarfile.open(sdist).getnames()}
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / 'kat_mm').rglob('*')
        if path.is_file() and path.suffix != '.pyc' and '.mim' not in path.parts
    }
    shipped = {
        str(path.relative_to(ROOT))
        for folder in ('configs', 'tools')
        for path in (ROOT / folder).rglob('*')
        if path.is_file() and path.suffix != '.pyc'
    } | {'model-index.yml'}
    assert {'kat_mm/py.typed', 'kat_mm/fits/coefficients.json'} <= package
    assert package <= names and {f'kat_mm/.mim/{name}' for name in shipped} <= names
    assert package | shipped | {'CHANGELOG.md', 'LICENSE', 'README.md'} <= sources
    assert not [name for name in names if name.startswith(('tests', 'benchmarks'))]


def test_operator_and_backbone_run_on_torch_without_triton(install, tmp_path):
    run(install(without=('triton',)), '-c', OPERATOR, cwd=tmp_path)


@pytest.mark.parametrize(
    'extra, name',
    [('classification', 'kat_t_in1k_sample'), ('segmentation', 'kat_t_upernet_sample')],
)
def test_a_config_by_name_runs_with_the_extra_of_its_task(install, tmp_path, extra, name):
    python = install(extra)
    assert 'train' in run(python, '-m', 'kat_mm', cwd=tmp_path)
    run(python, '-c', CONFIG.format(name=name), cwd=tmp_path)


def test_detection_says_how_to_get_the_operators(install, tmp_path):
    python = install('detection')
    message = run(python, '-m', 'kat_mm', 'train', 'kat_t_mask_rcnn_sample', cwd=tmp_path, status=1)
    assert 'mmcv has no compiled operators' in message.splitlines()[-1]
