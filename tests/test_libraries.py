"""The tasks do not need each other's libraries, and a library that fails says what to do."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def python(code, *folders, cwd):
    """Run code in a process of its own, with folders before the installed packages."""
    path = os.pathsep.join(map(str, [*folders, ROOT]))
    return subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)],
        env=dict(os.environ, PYTHONPATH=path, CUDA_VISIBLE_DEVICES=''),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    'scope, blocked',
    [('mmseg', ('mmpretrain', 'torchvision')), ('mmdet', ('mmpretrain', 'torchvision'))],
)
def test_other_tasks_work_without_mmpretrain(scope, blocked, tmp_path):
    code = f"""
        import sys

        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.partition('.')[0] in {blocked!r}:
                    raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

        sys.meta_path.insert(0, Blocked())
        from mmengine.config import Config
        import kat_mm.engine.launch
        from kat_mm import checks

        checks.check_config(Config(dict(default_scope={scope!r})), ())
        model = dict(type='KAT', arch='tiny', img_size=32, out_indices=0)
        checks.build_model(Config(dict(model=model)))
        print('built')
        checks.check_config(Config(dict(default_scope='mmpretrain')), ())
        """
    process = python(code, cwd=tmp_path)
    assert process.stdout.endswith('built\n'), process.stderr
    last = process.stderr.strip().splitlines()[-1]
    assert 'the config needs mmpretrain, which is not installed; pip install' in last


def fake_transformers(folder, version):
    """A transformers that fails where version 5 does: mmpretrain uses what is no longer there."""
    (folder / 'transformers').mkdir()
    (folder / 'transformers' / '__init__.py').write_text(f'__version__ = {version!r}\n')
    (folder / f'transformers-{version}.dist-info').mkdir()
    (folder / f'transformers-{version}.dist-info' / 'METADATA').write_text(
        f'Metadata-Version: 2.1\nName: transformers\nVersion: {version}\n'
    )


def test_transformers_5_gets_a_message_before_a_stack_trace(tmp_path):
    fake_transformers(tmp_path, '5.1.0')
    arguments = [str(ROOT / 'configs' / 'kat_t_in1k_sample.py')]
    code = f"""
        import runpy, sys
        sys.argv = ['train.py', *{arguments!r}]
        runpy.run_path({str(ROOT / 'tools' / 'train.py')!r}, run_name='__main__')
        """
    process = python(code, tmp_path, cwd=tmp_path)
    assert process.returncode == 1
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith(
        'error: the config needs mmpretrain, which does not import with transformers 5.1.0; '
        'pip install "transformers<5"'
    )
    assert 'Traceback' not in process.stderr
