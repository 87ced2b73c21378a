"""``kat_mm TOOL ...`` is ``python tools/TOOL.py ...`` where there is no clone."""

import runpy
import sys

from kat_mm.engine.configs import config_root


def main() -> None:
    root = config_root()
    if root is None:
        sys.exit('there are no tools beside the package: install kat_mm with pip')
    tools = {path.stem: path for path in (root / 'tools').glob('*.py')}
    name = sys.argv[1] if len(sys.argv) > 1 else None
    if name not in tools:
        wrong = f'there is no tool {name}\n' if name not in (None, '-h', '--help') else ''
        print(f'{wrong}usage: kat_mm TOOL ... with a TOOL of: {", ".join(sorted(tools))}')
        print('kat_mm TOOL --help tells its options')
        sys.exit(2 if wrong else 0)
    sys.argv[:2] = [str(tools[name])]
    runpy.run_path(sys.argv[0], run_name='__main__')


if __name__ == '__main__':
    main()
