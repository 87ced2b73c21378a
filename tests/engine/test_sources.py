"""Where images come from."""

import contextlib
import functools
import http.server
import threading
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from kat_mm.engine.sources import find_images
from kat_mm.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ('b.png', 'a.jpg', 'deep/a.jpg'):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 12, 3), 90, np.uint8))
    (tmp_path / 'notes.txt').write_text('no image')
    return tmp_path


def write_video(path, greys=(0, 120, 240)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 5, (32, 24))
    for grey in greys:
        writer.write(np.full((24, 32, 3), grey, np.uint8))
    writer.release()


@contextlib.contextmanager
def serving(folder):
    """A server of a folder's files on this machine: its address."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def test_files_folders_and_patterns_are_found_and_equal_names_are_told_apart(folder):
    found = list(find_images([str(folder), str(folder / 'a.jpg'), str(folder / '*.png')]))
    assert [x.name for x in found] == ['a.jpg', 'b.png', 'deep/a.jpg', 'a-1.jpg', 'b-1.png']
    assert all(x.pixels.shape == (8, 12, 3) for x in found)


def test_images_that_differ_in_their_ending_alone_do_not_overwrite_each_others_labels(folder):
    cv2.imwrite(str(folder / 'a.png'), np.zeros((8, 12, 3), np.uint8))
    found = [x.name for x in find_images([str(folder / 'a.*')])]
    assert found == ['a.jpg', 'a-1.png']


def test_a_damaged_file_is_named_and_the_rest_is_read(folder):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = {ending: cv2.imencode(ending, noise)[1].tobytes() for ending in ('.jpg', '.png')}
    for name, content in {
        'c.jpg': b'',
        'd.jpg': b'broken',
        'e.jpg': whole['.jpg'][:4000],
        'f.png': whole['.png'][:4000],
        # Decoded all the same, with pixels made up.
        'g.jpg': whole['.jpg'][:2000] + b'\xff\x00' * 100 + whole['.jpg'][2200:],
    }.items():
        (folder / name).write_bytes(content)
    found = list(find_images([str(folder)]))
    problems = [x.problem for x in found if x.pixels is None]
    assert problems[0] == f'{folder}/c.jpg is empty'
    assert problems[1:4] == [
        f'{folder}/{name} does not decode as an image' for name in ('d.jpg', 'e.jpg', 'f.png')
    ]
    assert problems[4].startswith(f'{folder}/g.jpg is damaged: Corrupt JPEG data')
    assert len(found) == 8


def test_frames_of_a_video(tmp_path):
    write_video(tmp_path / 'film.avi')
    found = list(find_images([str(tmp_path)]))
    assert [x.name for x in found] == [f'film_{i:06d}.jpg' for i in range(3)]
    assert {x.video for x in found} == {('film', 5.0)}
    np.testing.assert_allclose([x.pixels.mean() for x in found], [0, 120, 240], atol=4)


def test_videos_and_images_of_one_name_are_kept_apart(tmp_path):
    for name in ('film.avi', 'deep/film.avi', 'film-1.avi'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_video(tmp_path / name, greys=(0, 9))
    found = list(find_images([str(tmp_path / name) for name in ('film.avi', 'deep', 'film-1.avi')]))
    assert [x.video[0] for x in found[::2]] == ['film', 'film-1', 'film-1-1']
    assert len({x.name for x in found}) == 6


@pytest.mark.parametrize(('told', 'taken'), [(0.0, 25.0), (90000.0, 25.0), (29.97, 29.97)])
def test_a_stream_without_a_rate_of_frames_gets_one(tmp_path, monkeypatch, told, taken):
    write_video(tmp_path / 'film.avi')

    capture = cv2.VideoCapture(str(tmp_path / 'film.avi'))
    stream = SimpleNamespace(
        get=lambda key: told if key == cv2.CAP_PROP_FPS else capture.get(key),
        read=capture.read,
        release=capture.release,
    )
    monkeypatch.setattr(cv2, 'VideoCapture', lambda source: stream)
    assert {x.video for x in find_images([str(tmp_path)])} == {('film', taken)}


def test_a_video_that_ends_early_says_after_which_frame(tmp_path):
    whole = tmp_path / 'whole.avi'
    noise = np.random.default_rng(0).integers(0, 256, (40, 96, 128, 3), np.uint8)
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter_fourcc(*'MJPG'), 5, (128, 96))
    for frame in noise:
        writer.write(frame)
    writer.release()
    cut = tmp_path / 'cut.avi'
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    *frames, last = find_images([str(cut)])
    assert 0 < len(frames) < 40 and all(x.pixels is not None for x in frames)
    assert last.pixels is None
    assert last.problem == f'video {cut} ends early, after {len(frames)} of 40 frames'


def test_an_address_is_fetched_and_what_it_has_not_is_named(folder):
    write_video(folder / 'film.avi')
    with serving(folder) as address:
        found = list(
            find_images(
                [f'{address}/b.png?size=1', f'{address}/nothing.jpg', f'{address}/notes.txt']
            )
        )
    assert found[0].name == 'b.png' and found[0].pixels.shape == (8, 12, 3)
    assert found[1].problem == (
        f'{address}/nothing.jpg cannot be read: HTTP Error 404: File not found'
    )
    assert found[2].problem == f'{address}/notes.txt does not decode as an image'


@pytest.mark.parametrize('name', ['nothing.jpg', 'nothing/*.jpg'])
def test_what_is_not_there_is_named_before_anything_is_read(folder, name):
    with pytest.raises(UserError, match='is no file, folder, pattern'):
        next(find_images([str(folder / 'a.jpg'), str(folder / name)]))


def test_a_folder_without_images_is_refused_and_a_broken_video_or_camera_named(tmp_path, capfd):
    with pytest.raises(UserError, match='holds no images'):
        list(find_images([str(tmp_path)]))
    (tmp_path / 'film.mp4').write_bytes(b'broken')
    found = list(find_images([str(tmp_path / 'film.mp4'), '57']))
    assert [x.problem for x in found] == [
        f'video {tmp_path}/film.mp4 cannot be opened',
        'camera 57 cannot be opened',
    ]
    assert capfd.readouterr() == ('', '')  # of OpenCV


@pytest.mark.parametrize(
    'text', ['#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n', 'ffconcat version 1.0\nfile {}']
)
def test_a_list_of_videos_that_lie_elsewhere_is_not_followed(text, tmp_path):
    folder, secret = tmp_path / 'videos', tmp_path / 'secret.avi'
    folder.mkdir()
    write_video(secret)
    (folder / 'film.mp4').write_text(text.format(secret))
    (found,) = find_images([str(folder)])
    assert found.problem == f'{folder}/film.mp4 is a list of videos, and no video'


def test_an_image_of_too_many_pixels_is_named_and_the_rest_is_read(folder):
    size = (40_000).to_bytes(4, 'big') * 2
    content = bytearray((folder / 'b.png').read_bytes())
    content[16:24] = size
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, 'big')
    (folder / 'b.png').write_bytes(content)
    found = list(find_images([str(folder)]))
    assert [x.name for x in found if x.pixels is not None] == ['a.jpg', 'deep/a.jpg']
    assert 'b.png does not decode as an image: ' in found[1].problem
