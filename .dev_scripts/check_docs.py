"""Checks what the pages say against the project; exits with 1 and a list where something is not so.

Links of a page to files of this project and to their headings; commands in code blocks: that the
script, its options, the config and the target of make exist; imports from kat_mm; names of extras;
files of this project that it names.
"""

import ast
import importlib.util
import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r'^ *```')
LINK = re.compile(r'(?<!`)\[(?:[^][]|\[[^]]*\])*\]\(([^)\s]+)\)')
# Of this project, alone in backquotes.
FILE = re.compile(r'`((?:benchmarks|docs|kat_mm|tests|tools)/[\w/.]+\.\w+)`')
# Words in capitals, and names of files that a reader would have.
PLACEHOLDER = re.compile(r'[A-Z_]{3,}|my_\w+\.py|config\.py|\.\.\.')


def pages() -> list[Path]:
    return [*sorted(ROOT.glob('docs/**/*.md')), *sorted(ROOT.glob('*.md'))]


def code_and_text(page: Path) -> tuple[str, str]:
    """A page's code blocks, by fences or four spaces, and the rest."""
    code, text, fenced, before = [], [], False, ''
    for line in page.read_text().splitlines():
        if FENCE.match(line):
            fenced = not fenced
        elif fenced or (line.startswith('    ') and (code and code[-1] == before or not before)):
            code.append(line)
        else:
            text.append(line)
        before = line
    return '\n'.join(code), '\n'.join(text)


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges and the site make them."""
    headings = re.findall(r'^#+ +(.*)$', page.read_text(), re.M)
    headings = [re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading) for heading in headings]
    return {
        re.sub(r'[^\w\- ]', '', heading).strip().lower().replace(' ', '-') for heading in headings
    }


def check_links(page: Path, text: str):
    for link in LINK.findall(text):
        if '://' in link or link.startswith('mailto:'):
            continue
        name, _, anchor = link.partition('#')
        target = (page.parent / name).resolve() if name else page
        if not target.exists():
            yield f'link to {link}: no such file'
        elif anchor and target.suffix == '.md' and anchor not in slugs(target):
            yield f'link to {link}: no such heading'


def strings(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.value for node in ast.walk(tree) if isinstance(getattr(node, 'value', 0), str)}


def options(script: Path) -> set[str]:
    """Options of a script, and of the modules of this project that it takes them from."""
    found, shared = set(), [ROOT / 'kat_mm/engine/launch.py', *ROOT.glob('benchmarks/*.py')]
    for path in [script, *(shared if script.parent.name != 'tools' else shared[:1])]:
        if path.suffix == '.py':
            found |= {text for text in strings(path) if text.startswith('-')}
    return found


def commands(code: str):
    """Command lines with their continuations, without comments."""
    lines = re.sub(r'\\\n\s*', ' ', code).splitlines()
    for line in lines:
        line = re.sub(r'(^|\s)#.*', '', line).strip().removeprefix('$ ')
        if re.match(r'([A-Z_0-9]+=\S+ )*(python|bash|make|kat_mm|pip) ', line):
            yield line


def check_command(line: str):
    try:
        words = [word for word in shlex.split(line) if not re.match(r'[A-Z_0-9]+=', word)]
    except ValueError as error:
        yield f'{line}: {error}'
        return
    program, *words = words
    if program == 'make':
        targets = re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.M)
        for word in words:
            if word not in targets and '=' not in word:
                yield f'{line}: no target {word} in Makefile'
        return
    if program == 'pip':
        extras = {path.stem for path in (ROOT / 'requirements').glob('*.txt')}
        for extra in re.findall(r'(?:\.|kat_mm)\[(\w+)\]', line):
            if extra not in extras:
                yield f'{line}: no extra {extra}'
        for file in re.findall(r'requirements/\S+', line):
            if not (ROOT / file).exists():
                yield f'{line}: no file {file}'
        return
    if program == 'kat_mm':
        words[:1] = [f'tools/{words[0]}.py']
    if not words or not words[0].endswith(('.py', '.sh')) or PLACEHOLDER.search(words[0]):
        return
    script = ROOT / words[0]
    if not script.is_file():
        yield f'{line}: no script {words[0]}'
        return
    known = options(script)
    if script.suffix == '.sh':  # hands the rest to the tool
        known = options(ROOT / f'tools/{script.stem.rpartition("_")[2]}.py')
    for word in words[1:]:
        option = word.partition('=')[0]
        if option.startswith('--') and option not in known:
            yield f'{line}: no option {option} of {words[0]}'
        is_config = word.startswith('configs/') and word.endswith('.py')
        if is_config and not re.search(r'[{*A-Z]', word) and not (ROOT / word).is_file():
            yield f'{line}: no config {word}'
    if program == 'kat_mm' and script.stem in ('train', 'test', 'infer', 'export', 'check_data'):
        name = words[1] if len(words) > 1 else 'CONFIG'
        if not PLACEHOLDER.search(name) and not (ROOT / 'configs' / f'{name}.py').is_file():
            yield f'{line}: no config {name}'


def check_imports(code: str):
    for module, names in re.findall(r'^ *from (kat_mm[\w.]*) import ([\w, ]+)', code, re.M):
        try:
            found = importlib.import_module(module)
        except ImportError as error:
            yield f'from {module}: {error}'
            continue
        for name in names.replace(' ', '').split(','):
            if not hasattr(found, name) and not importlib.util.find_spec(f'{module}.{name}'):
                yield f'from {module} import {name}: not there'


def check(page: Path):
    code, text = code_and_text(page)
    yield from check_links(page, text)
    inline = re.findall(r'`([^`\n]+)`', text)
    for line in commands('\n'.join([code, *inline])):
        yield from check_command(line)
    yield from check_imports(code)
    for config in re.findall(r'configs/[\w/]+\.py', page.read_text()):
        if not PLACEHOLDER.search(config) and not (ROOT / config).is_file():
            yield f'no config {config}'
    for file in FILE.findall(text):
        if not PLACEHOLDER.search(file) and not (ROOT / file).is_file():
            yield f'no file {file}'


if __name__ == '__main__':
    problems = [
        f'{page.relative_to(ROOT)}: {problem}' for page in pages() for problem in check(page)
    ]
    print(*problems, sep='\n')
    print(f'{len(pages())} pages, {len(problems)} problems')
    sys.exit(bool(problems))
