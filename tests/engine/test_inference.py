"""Where images come from, and what is written of predictions."""

import cv2
import numpy as np
import pytest

from kat_mm.engine.inference import find_images
from kat_mm.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ('b.png', 'a.jpg', 'deep/a.jpg'):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 12, 3), 90, np.uint8))
    (tmp_path / 'notes.txt').write_text('no image')
    return tmp_path


def test_files_folders_and_patterns_are_found_and_equal_names_are_told_apart(folder):
    found = list(find_images([str(folder), str(folder / 'a.jpg'), str(folder / '*.png')]))
    assert [x.name for x in found] == ['a.jpg', 'b.png', 'deep/a.jpg', 'a-1.jpg', 'b-1.png']
    assert all(x.pixels.shape == (8, 12, 3) for x in found)


def test_a_damaged_file_is_named_and_the_rest_is_read(folder):
    (folder / 'c.jpg').write_bytes(b'')
    (folder / 'd.jpg').write_bytes(b'broken')
    found = list(find_images([str(folder)]))
    problems = [x.problem for x in found if x.pixels is None]
    assert problems == [f'{folder / "c.jpg"} is no image', f'{folder / "d.jpg"} is no image']
    assert len(found) == 5


def test_frames_of_a_video(tmp_path):
    path = str(tmp_path / 'film.avi')
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*'MJPG'), 5, (32, 24))
    for grey in (0, 120, 240):
        writer.write(np.full((24, 32, 3), grey, np.uint8))
    writer.release()
    found = list(find_images([path]))
    assert [x.name for x in found] == [f'film_{i:06d}.jpg' for i in range(3)]
    np.testing.assert_allclose([x.pixels.mean() for x in found], [0, 120, 240], atol=4)


@pytest.mark.parametrize('name', ['nothing.jpg', 'nothing/*.jpg'])
def test_what_is_not_there_is_named(tmp_path, name):
    with pytest.raises(UserError, match='is no file, folder, pattern'):
        list(find_images([str(tmp_path / name)]))


def test_a_folder_without_images_and_a_broken_video_are_refused(tmp_path):
    with pytest.raises(UserError, match='holds no images'):
        list(find_images([str(tmp_path)]))
    (tmp_path / 'film.mp4').write_bytes(b'broken')
    with pytest.raises(UserError, match='cannot be opened as a video'):
        list(find_images([str(tmp_path / 'film.mp4')]))
