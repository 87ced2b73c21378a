"""Where images come from: files, folders, patterns, videos, cameras and addresses."""

import glob
import http.client
import os
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from kat_mm.checks.files import IMAGE_SUFFIXES, list_files
from kat_mm.datasets.image_files import decoding_problem
from kat_mm.engine.names import Names
from kat_mm.errors import UserError

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')
# What FFmpeg says of a damaged video is said by us; read when OpenCV first opens one.
os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
_PLAYLIST = re.compile(rb'\s*(#EXT|ffconcat|<|v=0)')
# Seconds that a server may take to answer.
TIMEOUT = 30


class Image(NamedTuple):
    """An image to predict for.

    Attributes:
        name: For what is written of it; it may have folders before it.
        pixels: (H, W, 3), BGR, uint8; None where it cannot be read.
        problem: Why it cannot.
        video: Of a frame, the video's name and frames per second.
    """

    name: str
    pixels: np.ndarray | None
    problem: str = ''
    video: tuple[str, float] | None = None


def find_images(inputs: list[str]) -> Iterator[Image]:
    """Images of files, folders, patterns, videos, camera numbers and addresses, one by one.

    Of the same name in several places, the later ones get a number. An image that is damaged, an
    address that does not answer and a video that ends early come as images without pixels.

    Raises:
        UserError: There is nothing of a name, or a folder, pattern or video holds no images.
    """
    # Before the first prediction: none is lost for an input that is misspelt.
    for name in inputs:
        _check(name)
    names, videos = Names(), Names()
    for image in _find(inputs, videos):
        stem, suffix = os.path.splitext(image.name)
        # What is written of them has other endings.
        yield image._replace(name=names.unique(stem) + suffix)


def _is_camera(name: str) -> bool:
    return name.isdecimal() and not os.path.exists(name)


def _check(name: str) -> None:
    if _is_camera(name) or '://' in name or os.path.isfile(name):
        return
    if os.path.isdir(name):
        if not _files_of(name):
            raise UserError(
                f'the folder {name} holds no images or videos '
                f'({", ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)})'
            )
    elif not any(os.path.isfile(file) for file in glob.iglob(name, recursive=True)):
        raise UserError(f'{name} is no file, folder, pattern, camera number or address')


def _files_of(folder: str) -> list[str]:
    known = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    return [file for file in sorted(list_files(folder)[0]) if _suffix(file) in known]


def _find(inputs: list[str], videos: Names) -> Iterator[Image]:
    for name in inputs:
        if _is_camera(name):
            yield from _frames(int(name), f'camera{name}', videos)
        elif '://' in name:
            file = os.path.basename(name.partition('?')[0])
            is_image = name.startswith('http') and _suffix(file) not in VIDEO_SUFFIXES
            if is_image:
                yield _download(name, file or 'image.jpg')
            else:
                yield from _frames(name, Path(file).stem or 'video', videos)
        elif os.path.isdir(name):
            for file in _files_of(name):
                yield from _read(os.path.join(name, file), file, videos)
        else:
            files = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
            for file in files:
                if os.path.isfile(file):
                    yield from _read(file, os.path.basename(file), videos)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _read(path: str, name: str, videos: Names) -> Iterator[Image]:
    if _suffix(path) in VIDEO_SUFFIXES:
        # FFmpeg goes by the content, and opens what a playlist names, wherever it is.
        if _is_playlist(path):
            yield Image(name, None, f'{path} is a list of videos, and no video')
            return
        yield from _frames(path, os.path.splitext(name)[0], videos)
        return
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        yield Image(name, None, f'{path} cannot be read: {error.strerror}')
        return
    yield _decode(content, name, path)


def _is_playlist(path: str) -> bool:
    try:
        with open(path, 'rb') as file:
            return _PLAYLIST.match(file.read(64)) is not None
    except OSError:
        return False


def _decode(content: bytes, name: str, source: str) -> Image:
    if not content:
        return Image(name, None, f'{source} is empty')
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:  # of more pixels than it takes
        return Image(name, None, f'{source} does not decode as an image: {error.err}')
    if pixels is None:
        return Image(name, None, f'{source} does not decode as an image')
    problem = decoding_problem(content)
    return Image(name, None, f'{source} is damaged: {problem}') if problem else Image(name, pixels)


def _download(address: str, name: str) -> Image:
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as response:
            return _decode(response.read(), name, address)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Image(name, None, f'{address} cannot be read: {error}')


def _frames(source: str | int, stem: str, videos: Names) -> Iterator[Image]:
    """Frames of a video or camera; what cannot be opened or ends early is a damaged image."""
    # What OpenCV says of a camera that is not there is said by us.
    level = cv2.setLogLevel(0)
    capture = cv2.VideoCapture(source)
    cv2.setLogLevel(level)
    number, expected = 0, int(max(capture.get(cv2.CAP_PROP_FRAME_COUNT), 0))
    rate = capture.get(cv2.CAP_PROP_FPS)
    # Streams may tell the ticks of their clock, or nothing.
    stem = videos.unique(stem)
    video = stem, rate if 0 < rate <= 1000 else 25.0
    kind = 'camera' if isinstance(source, int) else 'video'
    try:
        while True:
            read, pixels = capture.read()
            if not read:
                break
            yield Image(f'{stem}_{number:06d}.jpg', pixels, video=video)
            number += 1
    finally:
        capture.release()
    if not number:
        yield Image(stem, None, f'{kind} {source} cannot be opened')
    elif number < expected:
        yield Image(stem, None, f'{kind} {source} ends early, after {number} of {expected} frames')
