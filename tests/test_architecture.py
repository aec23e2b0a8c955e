"""The house: which module may use which, what is private stays private, and modules and functions fit their limits.

Imports are read from the sources, also those within functions; what only type checkers see is left out.
"""

import ast
import functools
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
PACKAGE = REPO / 'condnet'
MOST_LINES, MOST_FUNCTION_LINES = 350, 40

# From the ground up: a part may use those on floors below its own, and itself. Modules beside folders count as parts.
FLOORS = (
    ('errors', 'version'),
    ('utils', 'plugins'),
    ('spaces',),
    ('choice',),
    ('models',),
    ('reports',),
    ('data',),
    ('checkpoints',),
    ('benchmarks',),
    ('ranking',),
    ('recipes',),
    ('training',),
    ('searching', 'hub', 'studies'),
    ('cli',),
)
FLOOR = {part: number for number, parts in enumerate(FLOORS) for part in parts}


def name_of(file: Path) -> str:
    """Name of the module in a file of the package."""
    return '.'.join(file.relative_to(REPO).with_suffix('').parts).removesuffix('.__init__')


FILES = {name_of(file): file for file in sorted(PACKAGE.rglob('*.py'))}


@functools.cache
def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def visible(node: ast.AST):
    """All nodes but those that only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and 'TYPE_CHECKING' in ast.unparse(child.test):
            continue
        yield child
        yield from visible(child)


def imports(file: Path) -> set[str]:
    """Names that a file imports from the package, in full: modules, and what they define."""
    return {name for name in all_imports(file) if f'{name}.'.startswith('condnet.')}


def all_imports(file: Path) -> set[str]:
    """Names that a file imports, in full."""
    names = set()
    for node in visible(parse(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{file} has a relative import'
            names |= {f'{node.module}.{alias.name}' for alias in node.names}
    return names


def module_of(name: str) -> str:
    """The module that an imported name is, or is defined in."""
    return name if name in FILES else name.rpartition('.')[0]


MODULES = {module: {module_of(name) for name in imports(file)} for module, file in FILES.items()}


def part(module: str) -> str:
    """The folder of a module, or itself beside the folders."""
    return (module.split('.') + [''])[1]


def test_every_part_has_a_floor():
    assert {part(module) for module in FILES} - {''} == set(FLOOR)


def test_no_floor_reaches_up():
    found = {
        (module, other)
        for module, others in MODULES.items()
        for other in others
        if part(module) and part(module) != part(other) and FLOOR[part(module)] <= FLOOR.get(part(other), 99)
    }
    assert found == set()


def test_there_is_no_cycle():
    """Also none that waits for a call: imports within functions count."""
    try:
        TopologicalSorter(MODULES).prepare()
    except CycleError as error:
        pytest.fail(f'modules import one another: {" -> ".join(error.args[1])}')


def private_uses(file: Path) -> set[str]:
    """Private names of the package that a file takes from another module: by import, by attribute, or in a patch."""
    found = {name for name in imports(file) if is_private(name)}
    known = {}  # names in the file that are modules of the package
    for node in visible(parse(file)):
        if isinstance(node, ast.ImportFrom):
            known |= {a.asname or a.name: f'{node.module}.{a.name}' for a in node.names}
        elif isinstance(node, ast.Import):
            known |= {a.asname or a.name: a.name for a in node.names}
    for node in visible(parse(file)):
        if isinstance(node, ast.Attribute):
            base = ast.unparse(node.value)
            if known.get(base, base) in FILES and is_private(f'condnet.{node.attr}'):
                found.add(f'{known.get(base, base)}.{node.attr}')
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith('condnet.'):
            if all(word.isidentifier() for word in node.value.split('.')) and is_private(node.value):
                found.add(node.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith('.setattr') and len(node.args) > 1:
            base, name = ast.unparse(node.args[0]), getattr(node.args[1], 'value', '')
            if known.get(base, base) in FILES and is_private(f'condnet.{name}'):
                found.add(f'{known.get(base, base)}.{name}')
    return found


def is_private(name: str) -> bool:
    return any(word.startswith('_') and not word.startswith('__') for word in name.split('.'))


def test_what_is_private_stays_private():
    files = [file for folder in ('condnet', 'tests', 'tools', 'examples') for file in (REPO / folder).rglob('*.py')]
    found = {(str(f.relative_to(REPO)), name) for f in files if f != Path(__file__) for name in private_uses(f)}
    assert found == set()


def test_modules_fit_an_hour_of_reading():
    lines = {module: len(file.read_text().splitlines()) for module, file in FILES.items()}
    assert {module: number for module, number in lines.items() if number > MOST_LINES} == {}


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines without the docstring, which may be as long as it is useful."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    docstring = function.body[0]
    return lines - ((docstring.end_lineno or 0) - docstring.lineno + 1)


def test_functions_fit_a_screen():
    found = {
        f'{module}.{node.name}': lines_of_code(node)
        for module, file in FILES.items()
        for node in ast.walk(parse(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in found.items() if lines > MOST_FUNCTION_LINES} == {}


def texts(node: ast.AST):
    """Pieces of text below a node, without docstrings and the help texts of settings."""
    for child in ast.iter_child_nodes(node):
        is_docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        if is_docstring or (isinstance(child, ast.Call) and ast.unparse(child.func) == 'setting'):
            continue
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value
        yield from texts(child)


def test_messages_name_settings_and_not_flags():
    """Commands make flags of them. An argument of a command that is run is a flag and nothing else."""
    to_type = {' --data-dir DATA', ' --split-epoch 0'}  # what `condnet.models.pretrained` says to run
    found = [(module, text) for module, file in FILES.items() if part(module) != 'cli' for text in texts(parse(file))
             if re.search('--[a-z]', text) and not re.fullmatch('--[a-z-]+', text) and text not in to_type]  # fmt: skip
    assert found == []


def test_nothing_is_of_unix_alone():
    of_unix = {'fcntl', 'resource', 'pwd', 'grp', 'termios'}
    found = {module: {name.partition('.')[0] for name in all_imports(file)} & of_unix for module, file in FILES.items()}
    assert {module: names for module, names in found.items() if names} == {}
