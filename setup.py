import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
TASKS = ('classification', 'detection', 'segmentation')
EXTRAS = (*TASKS, 'onedl', 'openmmlab', 'export', 'docs', 'dev')


def read_version() -> str:
    # Read, not imported: importing kat_mm needs torch.
    text = (ROOT / 'kat_mm/version.py').read_text()
    return re.search(r"__version__ = '(.+)'", text).group(1)


def read_requirements(name: str) -> list[str]:
    """The lines of requirements/NAME.txt, and those of the files that it names with -r."""
    requirements = []
    for line in (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines():
        if line.startswith('-r '):
            requirements += read_requirements(line[3:].removesuffix('.txt'))
        elif line and not line.startswith('#'):
            requirements.append(line)
    return list(dict.fromkeys(requirements))


class BuildPyWithMim(build_py):
    """Puts into kat_mm/.mim what `mim` looks for there.

    Links in the source tree for an editable installation, copies in a wheel.
    """

    contents = ('configs', 'tools', 'model-index.yml')

    def run(self):
        super().run()
        if self.editable_mode:
            self.link_contents(ROOT / 'kat_mm/.mim')
        else:
            self.copy_contents(Path(self.build_lib) / 'kat_mm/.mim')

    def link_contents(self, target: Path):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for name in self.contents:
            (target / name).symlink_to(Path('../..', name))

    def copy_contents(self, target: Path):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in self.contents:
            source = ROOT / name
            if source.is_dir():
                ignore = shutil.ignore_patterns('__pycache__', '*.pyc')
                shutil.copytree(source, target / name, ignore=ignore)
            else:
                shutil.copy2(source, target / name)


setup(
    name='kat_mm',
    version=read_version(),
    description='The Kolmogorov-Arnold Transformer as a backbone of OpenMMLab',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    author='The kat_mm authors',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords='computer vision, Kolmogorov-Arnold network, transformer, OpenMMLab',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['kat_mm', 'kat_mm.*']),
    package_data={'kat_mm': ['py.typed'], 'kat_mm.fits': ['coefficients.json']},
    entry_points={'console_scripts': ['kat_mm = kat_mm.__main__:main']},
    cmdclass={'build_py': BuildPyWithMim},
    python_requires='>=3.10,<3.14',
    install_requires=read_requirements('runtime'),
    # OpenMMLab's packages exist under two families of names; the user takes one. The extras of
    # the tasks are of OneDL's, the maintained ones.
    extras_require={name: read_requirements(name) for name in EXTRAS},
)
