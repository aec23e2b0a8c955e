"""README.md and docs/: links lead somewhere, and what the pages tell to type works.

A ```bash or ```python block is run as it stands, those of a page in order and in one folder, its Python in one
namespace, unless an HTML comment before it says why not: `<!-- not run: needs CIFAR-10, 2 hours -->`. `<!-- slow -->`
on a line of its own in a page makes its test a slow one. `python tests/test_docs.py PAGE` runs a page in the folder it
is called in.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tools.draw_split import draw

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
RUN_ELSEWHERE = {'your_own_space.md'}  # test_example_space.py follows it
COMMANDS = [path.stem for path in (ROOT / 'condnet' / 'cli').glob('*.py') if 'def main' in path.read_text()]
MARKDOWN = MarkdownIt('commonmark').enable('table')
NOT_RUN = re.compile(r'<!-- not run: \S.*-->\s*')
A_PATH = re.compile(r'(?:\.ci|checkpoints|condnet|docs|examples|results|tests|tools)/[\w./-]*\w|\w+\.py')
A_MODULE = re.compile(r'-m ((?:condnet|tools)[\w.]*)')


@dataclass
class Block:
    """A fenced block: its kind, its code, the line of the code, and whether it is run."""

    kind: str
    code: str
    line: int
    is_run: bool


def blocks_of(page: Path) -> list[Block]:
    """All bash and Python blocks of a page."""
    tokens = MARKDOWN.parse(page.read_text())
    return [
        Block(token.info, token.content, token.map[0] + 1, not (i and NOT_RUN.fullmatch(tokens[i - 1].content)))
        for i, token in enumerate(tokens)
        if token.type == 'fence' and token.info in ('bash', 'sh', 'python')
    ]


def run_page(page: Path) -> None:
    """Run the blocks of a page in this process and folder."""
    namespace: dict[str, object] = {'__name__': '__main__'}
    for block in blocks_of(page):
        where = f'{page.name}:{block.line}'
        if not block.is_run:
            continue
        print(f'== {where}', flush=True)
        if block.kind == 'python':
            exec(compile('\n' * block.line + block.code, page.name, 'exec'), namespace)
        elif subprocess.run(['bash', '-euo', 'pipefail', '-c', block.code]).returncode:
            sys.exit(f'{where} failed')


def inlines(page: Path) -> list[Token]:
    """What a page says outside of its blocks, in pieces."""
    tokens = MARKDOWN.parse(page.read_text())
    return [child for token in tokens if token.type == 'inline' for child in token.children or ()]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    tokens = MARKDOWN.parse(page.read_text())
    titles = [following.content for token, following in zip(tokens, tokens[1:], strict=False)
              if token.type == 'heading_open']  # fmt: skip
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


def dead_links(page: Path) -> list[str]:
    """The links of a page that lead nowhere; of those to other sites only the form is looked at."""
    dead = []
    for token in inlines(page):
        target = token.attrGet({'link_open': 'href', 'image': 'src'}.get(token.type, ''))
        if target is None:
            continue
        url = urlsplit(str(target))
        if url.scheme or url.netloc:
            good = url.scheme == 'https' and '.' in url.netloc
        else:
            path = (page.parent / unquote(url.path)).resolve() if url.path else page
            good = path.exists() and path.is_relative_to(ROOT)
            good = good and (not url.fragment or (path.suffix == '.md' and url.fragment in anchors(path)))
        if not good:
            dead.append(str(target))
    return dead


def missing_files(page: Path) -> list[str]:
    """Paths and modules of the repository that a page names (`tools/speed.py`), and that are not there."""
    code = [token.content for token in inlines(page) if token.type == 'code_inline']
    code += [block.code for block in blocks_of(page)]
    paths = [word for text in code for word in text.split() if A_PATH.fullmatch(word)]
    paths += [f'{name.replace(".", "/")}.py' for text in code for name in A_MODULE.findall(text)]
    return [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page):
    assert not dead_links(page)
    assert not missing_files(page)


def test_every_page_is_reached_from_the_readme():
    reached, open_pages = set(), [ROOT / 'README.md']
    while open_pages:
        page = open_pages.pop()
        reached.add(page)
        links = [str(token.attrGet('href')).partition('#')[0] for token in inlines(page) if token.type == 'link_open']
        pages = {(page.parent / link).resolve() for link in links if link.endswith('.md') and ':' not in link}
        open_pages += pages - reached
    assert reached >= set(PAGES)


def test_the_readme_is_short():
    assert (ROOT / 'README.md').stat().st_size < 8192


def test_the_picture_is_what_its_script_draws():
    assert (ROOT / 'docs' / 'split.svg').read_text() == draw()


@pytest.fixture
def commands(tmp_path):
    """A folder with the commands of this source tree, as an installation would make them."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name in COMMANDS:
        script = folder / f'condnet-{name}'
        script.write_text(f'#!{sys.executable}\nimport sys\nfrom condnet.cli.{name} import main\nsys.exit(main())\n')
        script.chmod(0o755)
    return folder


def pages_to_run():
    for page in PAGES:
        if page.name not in RUN_ELSEWHERE and any(block.is_run for block in blocks_of(page)):
            slow = '<!-- slow -->' in page.read_text().splitlines()
            yield pytest.param(page, id=page.name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize('page', list(pages_to_run()))
def test_what_a_page_tells_to_type_works(page, commands, tmp_path):
    folder = tmp_path / 'empty'
    folder.mkdir()
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ['PATH']])
    python_path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    env = {**os.environ, 'PATH': path, 'PYTHONPATH': python_path, 'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1'}
    done = subprocess.run([sys.executable, __file__, page], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == '__main__':
    run_page(Path(sys.argv[1]).resolve())
