import hashlib

import pytest
from small_samples import SMALL

from kat_mm.sample_data import WRITERS, SampleSettings, layouts, make_sample_data
from kat_mm.sample_data.layouts import FOLDERS


def hashes(folder):
    """Return the content's hash of every file by its path in the folder."""
    files = (path for path in folder.rglob('*') if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).digest() for p in files}


def test_same_settings_give_the_same_bytes_and_another_seed_other_ones(data, tmp_path):
    make_sample_data(['ade20k'], tmp_path / 'again', SMALL)
    assert hashes(tmp_path / 'again' / 'ade') == hashes(data / 'ade')
    make_sample_data(['ade20k'], tmp_path / 'other', SMALL._replace(seed=1))
    first, other = hashes(data / 'ade'), hashes(tmp_path / 'other' / 'ade')
    assert first.keys() == other.keys()
    assert not set(first.values()) & set(other.values())


@pytest.mark.parametrize('name', WRITERS)
def test_larger_data_set_begins_with_the_images_of_the_smaller(data, tmp_path, name):
    make_sample_data([name], tmp_path, SMALL._replace(num_train=13, num_val=11))
    small, large = hashes(data / FOLDERS[name]), hashes(tmp_path / FOLDERS[name])
    images = [file for file in small if not file.endswith('.json')]
    assert len(large) == len(small) + (2 if name == 'imagenet' else 4)
    assert all(large[file] == small[file] for file in images)


def test_train_and_val_differ(data):
    found = hashes(data / 'ade')
    assert len(set(found.values())) == len(found)


def test_same_settings_write_nothing_again(data):
    before = {path: path.stat().st_mtime_ns for path in data.rglob('*')}
    results = make_sample_data(list(WRITERS), data, SMALL)
    assert results == [(data / folder, False) for folder in FOLDERS.values()]
    assert before == {path: path.stat().st_mtime_ns for path in data.rglob('*')}


def test_other_settings_are_refused_unless_overwritten(tmp_path):
    few = SampleSettings(num_train=2, num_val=1, width=40, height=32)
    make_sample_data(['ade20k'], tmp_path, few)
    before = hashes(tmp_path)
    with pytest.raises(FileExistsError, match='num_train 2 instead of 1'):
        make_sample_data(['ade20k', 'coco'], tmp_path, few._replace(num_train=1))
    assert hashes(tmp_path) == before
    make_sample_data(['ade20k'], tmp_path, few._replace(num_train=1), overwrite=True)
    assert len(list((tmp_path / 'ade').rglob('*.jpg'))) == 2


@pytest.mark.parametrize('content', [None, 'no json', '[]', '{"dataset": "real"}'])
def test_data_of_others_are_never_overwritten(tmp_path, content):
    (tmp_path / 'ade').mkdir()
    (tmp_path / 'ade' / 'precious.jpg').write_text('a real image')
    if content:
        (tmp_path / 'ade' / 'sample_data.json').write_text(content)
    before = hashes(tmp_path)
    with pytest.raises(FileExistsError, match='no sample data'):
        make_sample_data(['ade20k'], tmp_path, SMALL, overwrite=True)
    assert hashes(tmp_path) == before


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / 'ade').mkdir()
    settings = SampleSettings(num_train=1, num_val=1, width=40, height=32)
    assert make_sample_data(['ade20k'], tmp_path, settings) == [(tmp_path / 'ade', True)]


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError(28, 'No space left on device')])
def test_failed_run_leaves_what_was_there(tmp_path, monkeypatch, error):
    few = SampleSettings(num_train=2, num_val=1, width=40, height=32)
    make_sample_data(['ade20k'], tmp_path, few)
    before = hashes(tmp_path)
    write_image, written = layouts.write_image, []

    def fail_at_third(path, image):
        if len(written) == 2:
            raise error
        written.append(path)
        write_image(path, image)

    monkeypatch.setattr(layouts, 'write_image', fail_at_third)
    with pytest.raises(type(error) if isinstance(error, OSError) else error):
        make_sample_data(['ade20k'], tmp_path, few._replace(seed=1), overwrite=True)
    assert written
    assert hashes(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ['ade']


@pytest.mark.parametrize(
    'wrong', [{'num_train': 0}, {'num_val': -1}, {'width': 8}, {'height': 10**6}, {'seed': -1}]
)
def test_wrong_setting_is_named(tmp_path, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f'{name} must be from .* but it is {value}'):
        make_sample_data(['ade20k'], tmp_path, SampleSettings(**wrong))
    assert not list(tmp_path.iterdir())


def test_imagenet_needs_an_image_of_each_class(tmp_path):
    with pytest.raises(ValueError, match='at least 10'):
        make_sample_data(['ade20k', 'imagenet'], tmp_path, SMALL._replace(num_val=9))
    assert not list(tmp_path.iterdir())
