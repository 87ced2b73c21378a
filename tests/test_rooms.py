"""The folders of kat_mm import each other in one direction, which CONTRIBUTING.md gives."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / 'kat_mm'
# Each imports from floors below its own alone.
FLOORS = (
    {'engine', 'export', 'analysis'},
    {'checks', 'visualization'},
    {'dense', 'heads', 'evaluation', 'sample_data'},
    {'datasets', 'losses'},
    {'backbones', 'necks'},
    {'weights'},
    {'layers', 'checkpoints'},
    {'ops', 'fits'},
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Looked up late, for scripts of others.
HANDED_ON = {('checkpoints', 'backbones')}


def imported(node, package):
    """Full names of modules and of what is taken from them."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    parents = package[: len(package) - node.level + 1] if node.level else ()
    module = '.'.join([*parents, *([node.module] if node.module else [])])
    return [f'{module}.{alias.name}' for alias in node.names]


def imports_between_rooms():
    for file in sorted(PACKAGE.glob('*/**/*.py')):
        package = file.relative_to(PACKAGE.parent).parent.parts
        for node in ast.walk(ast.parse(file.read_text())):
            for name in imported(node, package):
                top, _, rest = name.partition('.')
                target = rest.partition('.')[0]
                if top == 'kat_mm' and target in FLOOR_OF and target != package[1]:
                    yield package[1], target, f'{file.name}:{node.lineno}'


def test_every_folder_has_its_floor():
    folders = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
    assert folders == FLOOR_OF.keys()


def test_no_folder_imports_from_one_above_or_beside_it():
    found = list(imports_between_rooms())
    assert ('engine', 'checks') in {pair[:2] for pair in found}  # both ways to write it are seen
    assert ('checks', 'backbones') in {pair[:2] for pair in found}
    wrong = [
        f'{place}: {room} imports {target}'
        for room, target, place in found
        if FLOOR_OF[target] <= FLOOR_OF[room] and (room, target) not in HANDED_ON
    ]
    assert not wrong, wrong
