"""Checks one part of the environment that runs this; exits with 1 where it needs work.

check_env.py packages     versions as in requirements/locked.txt, and every file whole. Prints
                          the metadata folders of damaged packages, since what has none is
                          installed anew, and to stderr the names of all that is wrong
check_env.py version NAME prints the version of a package, empty where it is not whole
check_env.py mmcv WHEEL   installed from WHEEL, and its operators import
check_env.py project      kat_mm is installed editable, from this folder
"""

import csv
import importlib
import json
import os
import re
import sys
import sysconfig
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# opencv-python and opencv-python-headless write the same files. Headless, which needs no libGL,
# has to have the last word, so only its files are checked.
OVERWRITTEN = 'opencv-python'

# Networks with a certificate authority of their own add it to this file, here or, through hard
# links, in the cache that every environment is installed from.
EDITED = 'certifi/cacert.pem'


def is_whole(dist: Distribution) -> bool:
    """Whether every file is there in the size that its wheel gave it.

    Not by `dist.files`, which leaves out missing files from Python 3.12 on.
    """
    record = dist.read_text('RECORD')
    if record is None:
        return False
    base = str(dist.locate_file(''))
    try:
        return all(
            os.stat(os.path.join(base, path)).st_size == int(size)
            for path, _, size in csv.reader(record.splitlines())
            if size and path != EDITED and not path.endswith('.pyc')
        )
    except FileNotFoundError:
        return False


def check_packages() -> bool:
    lines = (ROOT / 'requirements/locked.txt').read_text().splitlines()
    wanted = {tuple(line.split('==')) for line in lines if not line.startswith('#')}
    found, damaged = set(), []
    for folder in Path(sysconfig.get_path('purelib')).glob('*.dist-info'):
        dist = Distribution.at(folder)
        name = re.sub(r'[-_.]+', '-', dist.metadata['Name'] or '').lower()
        if name == OVERWRITTEN or is_whole(dist):
            found.add((name, dist.version))
        else:
            damaged.append(folder)
    print(*damaged, sep='\n')
    wrong = sorted(name for name, _ in wanted - found)
    if wrong:
        print('missing, damaged or of another version:', *wrong, file=sys.stderr)
    return not wrong and not damaged


def print_version(name: str) -> bool:
    try:
        dist = distribution(name)
    except PackageNotFoundError:
        return False
    print(dist.version if is_whole(dist) else '')
    return is_whole(dist)


def installed_from(name: str) -> dict:
    """Where the package came from, as pip wrote it down."""
    try:
        return json.loads(distribution(name).read_text('direct_url.json') or '{}')
    except PackageNotFoundError:
        return {}


def check_mmcv(wheel: str) -> bool:
    # The last two parts tell what it was built for; the cache before them may be elsewhere.
    if not installed_from('onedl-mmcv').get('url', '').endswith('/'.join(wheel.split('/')[-2:])):
        return False
    try:
        importlib.import_module('mmcv.ops')
    except ImportError as error:
        print(error)
        return False
    return True


def check_project() -> bool:
    origin = installed_from('kat_mm')
    return origin.get('url') == ROOT.as_uri() and origin['dir_info'].get('editable', False)


if __name__ == '__main__':
    part, *arguments = sys.argv[1:]
    check = {
        'packages': check_packages,
        'version': print_version,
        'mmcv': check_mmcv,
        'project': check_project,
    }[part]
    sys.exit(not check(*arguments))
