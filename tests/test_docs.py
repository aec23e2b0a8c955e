"""README.md and docs/: links lead somewhere, and what the pages tell to type works.

A ```bash or ```python block is run as it stands, those of a page in order and in one folder, its Python in one
namespace, unless an HTML comment before it says why not: `<!-- not run: needs CIFAR-10, 2 hours -->`.
`python tests/test_docs.py PAGE` runs a page in the folder it is called in, with the commands that are installed; so CI
does with README.md.
"""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from conftest import in_child
from markdown_it import MarkdownIt
from markdown_it.token import Token

from condnet.data.glyphs import render_glyphs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
RUN_ELSEWHERE = {'README.md', 'your_own_space.md'}  # by CI, and by test_example_space.py
TRAINING = 'condnet-train -c nb201_glyphs --epochs 2 --split-epoch 1 --output output/letters --resume output/letters\n'
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


def run_bash(code: str) -> int:
    """Run commands as a user does; returns the exit status."""
    return subprocess.run(['bash', '-euo', 'pipefail', '-c', code]).returncode


def run_forked(code: str) -> int:
    """Run commands in forks of this process, if they are but those of condnet, and without what only a shell knows."""
    lines = [shlex.split(line, comments=True) for line in code.replace('\\\n', ' ').splitlines()]
    lines = [line for line in lines if line]
    if not all(line[0].startswith('condnet-') and not set(' '.join(line)) & set('|<>&;$`*') for line in lines):
        return run_bash(code)
    for command, *arguments in lines:
        module = importlib.import_module(command.replace('condnet-', 'condnet.cli.'))
        if status := in_child(lambda main=module.main, arguments=arguments: main(arguments)):
            return status
    return 0


def run_page(page: Path, run_commands: Callable[[str], int] = run_bash) -> int:
    """Run the blocks of a page in this process and folder; returns the exit status."""
    namespace: dict[str, object] = {'__name__': '__main__'}
    for block in blocks_of(page):
        where = f'{page.name}:{block.line}'
        if not block.is_run:
            continue
        print(f'== {where}', flush=True)
        if block.kind == 'python':
            exec(compile('\n' * block.line + block.code, page.name, 'exec'), namespace)
        elif run_commands(block.code):
            print(f'{where} failed')
            return 1
    return 0


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
    from tools.draw_split import draw  # not there where only the package is installed

    assert (ROOT / 'docs' / 'split.svg').read_text() == draw()


@pytest.fixture(scope='module')
def in_forks():
    """What commands import is imported here, and the letters are drawn, and in no fork again."""
    for name in ('condnet.cli.search', 'condnet.searching.run', 'matplotlib.pyplot', 'optuna'):
        importlib.import_module(name)
    render_glyphs()


@pytest.fixture(scope='module')
def letters(in_forks, tmp_path_factory):
    """The folder of the training that several pages begin with. Where it is done, the command ends at once."""
    folder = tmp_path_factory.mktemp('letters')
    log = folder / 'log'
    assert in_child(lambda: os.chdir(folder) or run_forked(TRAINING), log, log) == 0, log.read_text()
    return folder / 'output'


@pytest.mark.slow
@pytest.mark.parametrize('page', [
    page for page in PAGES if page.name not in RUN_ELSEWHERE and any(block.is_run for block in blocks_of(page))
], ids=lambda page: page.name)  # fmt: skip
def test_what_a_page_tells_to_type_works(page, in_forks, request, tmp_path, monkeypatch):
    folder, log = tmp_path / 'empty', tmp_path / 'log'
    folder.mkdir()
    if any(block.is_run and block.code.startswith(TRAINING) for block in blocks_of(page)):
        shutil.copytree(request.getfixturevalue('letters'), folder / 'output')
    monkeypatch.chdir(folder)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    assert in_child(lambda: run_page(page, run_forked), log, log) == 0, log.read_text()


if __name__ == '__main__':
    sys.exit(run_page(Path(sys.argv[1]).resolve()))
