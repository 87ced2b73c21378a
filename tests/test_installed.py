import sys

import pytest

from kat_mm.installed import after_import


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / 'some_package').mkdir()
    (tmp_path / 'some_package' / '__init__.py').write_text('')
    (tmp_path / 'some_package' / 'part.py').write_text('value = 1')
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.startswith('some_package')]:
        del sys.modules[name]


def test_an_action_comes_behind_an_import_once_it_happens(package):
    seen, finders = [], list(sys.meta_path)
    after_import('some_package.part', lambda module: seen.append(module.value))
    import some_package

    assert not seen
    import some_package.part

    assert seen == [1] and sys.meta_path == finders
    after_import('some_package.part', lambda module: seen.append(module.value + 1))
    assert seen == [1, 2] and some_package.part.value == 1
    assert sys.meta_path == finders
