"""What mkdocs does not do: files beside docs/ in the site, and pages that nobody put in a menu.

Where a package is documented, its public names come one by one, by the modules that define them: a
function that is called as its module is hidden by it.
"""

import ast
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / 'docs'
# Of the project's own, outside docs/, that a menu names.
PAGES = ('CHANGELOG.md', 'CONTRIBUTING.md')
LINK = re.compile(r'(?<=\]\()([^)#\s]+)')


def outside(page: str, link: str) -> str | None:
    """The path from the project's root of what lies outside docs/, else None."""
    if '://' in link or link.startswith('mailto:'):
        return None
    folder = '.' if page in PAGES else posixpath.dirname(posixpath.join('docs', page))
    target = posixpath.normpath(posixpath.join(folder, link))
    return None if target.startswith('docs/') and page not in PAGES else target


def on_config(config: MkDocsConfig) -> None:
    """Add pages of docs/ that the menu does not name to "How to"."""
    named = set(re.findall(r"'([^']+\.(?:md|ipynb))'", str(config.nav)))
    found = {str(path.relative_to(DOCS)) for path in DOCS.rglob('*.md')}
    (how_to,) = (section['How to'] for section in config.nav if 'How to' in section)
    how_to.extend(sorted(found - named))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to beside docs/: results, pictures, the licence."""
    targets = set(PAGES)
    for page in [*DOCS.rglob('*.md'), *(ROOT / name for name in PAGES)]:
        name = page.name if page.name in PAGES else str(page.relative_to(DOCS))
        for link in LINK.findall(page.read_text()):
            target = outside(name, link)
            if target and not target.startswith('docs/') and (ROOT / target).is_file():
                targets.add(target)
    for target in sorted(targets - {'README.md'}):
        files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def public_names(match: re.Match) -> str:
    """``::: PACKAGE`` as a line for each name that it exports, at the place of its definition."""
    init = ROOT / match[1].replace('.', '/') / '__init__.py'
    if not init.is_file():
        return match[0]
    modules = {
        alias.name: node.module
        for node in ast.parse(init.read_text()).body
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
        for alias in node.names
    }
    (public,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(init.read_text()).body
        if isinstance(node, ast.Assign) and node.targets[0].id == '__all__'
    )
    names = [name for name in modules if name in public]
    return '\n\n'.join(f'::: {match[1]}.{modules[name]}.{name}' for name in names)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are in the clone become links in the site, where docs/ is the root."""
    name = page.file.src_uri

    def in_site(match: re.Match) -> str:
        target = outside(name, match[1])
        if target is None:
            return match[1]
        target = 'index.md' if target == 'README.md' else target.removeprefix('docs/')
        return posixpath.relpath(target, posixpath.dirname(name) or '.')

    return re.sub(r'^::: (\S+)$', public_names, LINK.sub(in_site, markdown), flags=re.M)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Roles of Sphinx in docstrings, which nothing reads here."""
    return re.sub(r':(class|func|meth|mod|data):(?=<code>)', '', html)
