"""Mutated input is read for what it says, or refused in one line; what is read is compared with a plain reading of it.

`pytest tests/test_fuzz.py` tries the same few inputs every time. `python tests/test_fuzz.py --minutes 20` tries new
ones, counts them, and prints the seed of one that fails, for `--target NAME --seed SEED`.
"""

import argparse
import ast
import bz2
import codecs
import contextlib
import csv
import functools
import io
import json
import math
import os
import pickle
import random
import re
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutations import chance, encode, mutate_bytes, mutate_text, mutate_tree, write_json, write_table
from PIL import Image

import condnet  # noqa: F401  # registers the models
from condnet import CondnetError, get_space
from condnet.benchmarks.hwnas import convert_hw_nas
from condnet.benchmarks.nats import convert_nats
from condnet.benchmarks.tables import load_benchmark
from condnet.checkpoints.folder import save_model
from condnet.checkpoints.loading import load_checkpoint
from condnet.cli.flags import ModelKwargs
from condnet.cli.train import make_parser, parse_args
from condnet.data import load_images
from condnet.ranking.evaluate import Prediction
from condnet.ranking.results import Journal, read_predictions
from condnet.searching.latency import read_latency_table

SECONDS = 40  # that no input takes, on a machine that does ten other things
NB201, CONVS, MACRO = get_space('nb201'), get_space('nb201', 'only_conv'), get_space('macro')
Check = Callable[[random.Random, Path], bool]
TARGETS: dict[str, tuple[int, Check]] = {}


def target(examples: int) -> Callable[[Check], Check]:
    """Register a check: it mutates an input, reads it, compares, and says whether it was accepted."""

    def register(check: Check) -> Check:
        TARGETS[check.__name__] = examples, check
        return check

    return register


class Hang(BaseException):
    """Took too long; no `Exception`, so that no reader takes it for damage."""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    if not hasattr(signal, 'SIGALRM'):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    except Hang as error:
        raise AssertionError(f'it hangs: more than {SECONDS} s') from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


REFUSED = object()


def attempt(read: Callable[[], Any], folder: Path, output: str = '') -> Any:
    """What a reader gives, or `REFUSED`; nothing may be written, but one file if the input is accepted."""
    before = contents(folder)
    try:
        result = read()
    except CondnetError as error:
        assert str(error) and '\n' not in str(error), f'not one line: {str(error)!r}'
        result = REFUSED
    after = contents(folder)
    if result is not REFUSED and output:
        before.pop(str(folder / output), None)
        assert after.pop(str(folder / output), None), 'nothing was written'
    assert before == after, f'files differ: {before.keys() ^ after.keys() or "their content"}'
    return result


def run_check(name: str, rng: random.Random) -> bool:
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Pillow's, of large images
        os.chdir(folder)
        try:
            with time_limit():
                return TARGETS[name][1](rng, Path(folder))
        finally:
            os.chdir(here)


# Architectures

OPERATIONS = {
    'nb201': ('none', 'skip_connect', 'nor_conv_1x1', 'nor_conv_3x3', 'avg_pool_3x3'),
    'macro': ('identity', 'mbconv3x3_e3', 'mbconv5x5_e6'),
}
DECISIONS = {'nb201': 6, 'macro': 8}


@functools.cache
def official_order() -> list[int]:
    order = list(range(5**6))
    random.Random(88).shuffle(order)
    return order


def digits(number: int, space: str) -> tuple[int, ...]:
    base = len(OPERATIONS[space])
    return tuple(number // base**place % base for place in reversed(range(DECISIONS[space])))


def arch_of_index(space: str, index: int) -> tuple[int, ...]:
    return digits(official_order()[index] if space == 'nb201' else index, space)


def plain_arch(space: str, text: str) -> tuple[int, ...]:
    """The architecture that text says; any exception if it says none, or leaves a choice."""
    text = text.strip()
    assert text.isascii()
    if text.startswith('index:') or (space == 'nb201' and text.isdecimal()):
        index = text.removeprefix('index:')
        assert index == str(int(index))
        return arch_of_index(space, int(index))
    if text.startswith('('):
        arch = ast.literal_eval(text)
        assert len(arch) == DECISIONS[space] and all(type(o) is int and 0 <= o < len(OPERATIONS[space]) for o in arch)
        return arch
    if space == 'macro':
        assert len(text) == 8 and set(text) <= set('012')
        return tuple(map(int, text))
    names = re.findall(r'\w+(?=~)', text)
    assert '|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|'.format(*names) == text and len(names) == 6
    return tuple(OPERATIONS[space].index(name) for name in names)


@target(500)
def archs(rng: random.Random, folder: Path) -> bool:
    space = rng.choice((NB201, MACRO, CONVS))
    arch = space.sample(torch.Generator().manual_seed(rng.randrange(1000)))
    index = space.index(arch)
    text = rng.choice((space.format(arch), f'index:{index}', str(index), str(arch), str(arch).replace(' ', '')))
    sequence = mutate_tree(rng, list(arch))
    forms = (
        tuple(sequence or ()),
        np.array(arch),
        torch.tensor(arch),
        np.array(arch, float),
        np.int64(index),
        index + 0.0,
    )
    given = text if chance(rng, 0.2) else mutate_text(rng, text) if chance(rng, 0.6) else rng.choice((sequence, *forms))
    if isinstance(sequence, list | dict) and sequence is given and chance(rng, 0.3):
        given = rng.choice((index, -index, bool(index), str(sequence), 10**5000))
    parsed = attempt(lambda: space.parse(given), folder)
    if parsed is REFUSED:
        return False
    if isinstance(given, str):
        assert parsed == plain_arch(space.name, given)
    elif isinstance(given, int | np.integer):
        assert type(given) is not bool and parsed == arch_of_index(space.name, int(given))
    else:
        plain = given if isinstance(given, list | tuple) else given.tolist()
        assert [type(operation) for operation in plain] == [int] * len(parsed) and parsed == tuple(plain)
    assert type(parsed) is tuple and all(type(operation) is int for operation in parsed)
    assert space.parse(space.format(parsed)) == parsed == space.parse(space.index(parsed)) and parsed in space
    assert plain_arch(space.name, space.format(parsed)) == arch_of_index(space.name, space.index(parsed)) == parsed
    return True


@target(200)
def model_kwargs(rng: random.Random, folder: Path) -> bool:
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument('--model-kwargs', nargs='*', default={}, action=ModelKwargs)
    words = ['space=no_zero', 'channels=(8,8,8)', 'split=True', 'arch=012', "x={'a': [1]}", 'active_subnet=00001210']
    words = rng.sample(words, rng.randrange(1, len(words)))
    more = ('x={[]: 1}', f'x={"-" * 9999}1', f'x={"(" * 300}', f'x={"9" * 5000}', 'x=1\0', 'x={**1}', '=', 'x=1=2', 'x')
    words[0] = mutate_text(rng, words[0]) if chance(rng, 0.7) else rng.choice(more)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            given = attempt(lambda: parser.parse_args(['--model-kwargs', *words]).model_kwargs, folder)
    except argparse.ArgumentError as error:
        assert '\n' not in str(error)
        return False
    except SystemExit:  # a word that begins like a flag
        assert words[0].startswith('-')
        return False
    if given is REFUSED:
        return False
    pairs = dict(word.split('=', 1) for word in words if word)
    assert given.keys() == pairs.keys()
    for key, text in pairs.items():
        try:
            plain = text if key in ('arch', 'active_subnet') else ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            plain = {'true': True, 'false': False}.get(text.lower(), text)
        assert type(given[key]) is type(plain) and repr(given[key]) == repr(plain)
    return True


# Tables


def plain_text(data: bytes) -> str:
    for mark, encoding in (
        (codecs.BOM_UTF32_LE, 'utf-32'),
        (codecs.BOM_UTF32_BE, 'utf-32'),
        (codecs.BOM_UTF16_LE, 'utf-16'),
        (codecs.BOM_UTF16_BE, 'utf-16'),
    ):
        if data.startswith(mark):
            return data.decode(encoding)
    return data.decode('utf-8-sig')


def plain_tables(data: bytes, required: tuple[str, ...]) -> list[list[dict[str, str]]]:
    """Rows by the names in the header, in every way to read them that gives the columns, each once."""
    tables = []
    for separator in ',;\t':
        rows = list(csv.reader(io.StringIO(plain_text(data), newline=''), delimiter=separator, skipinitialspace=True))
        rows = [row for row in ([field.strip() for field in row] for row in rows) if any(row)]
        if rows and rows[0][0].startswith('sep='):
            del rows[0]
        header = [name.casefold() for name in rows[0]] if rows else []
        if all(header.count(name) == 1 for name in required):
            assert not any(any(row[len(header) :]) for row in rows), 'more fields than columns'
            tables.append([dict(zip(header, row, strict=False)) for row in rows[1:]])
    return tables


def plain_number(text: str, rows: list[dict[str, str]], suffixes: tuple[str, ...]) -> float:
    """What a number says; commas are decimal ones if only that is possible, for all numbers of the table."""
    if ',' in text:
        numbers = [value for row in rows for name, value in row.items() if name.endswith(suffixes)]
        assert not any('.' in number for number in numbers), 'points and commas'
        assert any(
            re.search(r',(\d{1,2}|\d{4,}|\d+[eE].*)(\D|$)|^[-+]?(0\d*|\d{4,}),', number) for number in numbers
        ), 'thousands?'
        text = text.replace(',', '.', 1)
    assert re.fullmatch(r'[-+.0-9eE]+', text, re.ASCII), text
    return float(text)


def plain_int(text: str) -> int:
    assert re.fullmatch('[-+.0-9]+', text, re.ASCII) and float(text) == int(text.removesuffix('.0'))
    return int(text.removesuffix('.0'))


def assert_read(data: bytes, required: tuple[str, ...], suffixes: tuple[str, ...], expected: Any, plain: Any) -> None:
    """Compare what was read with plain readings of the same: `plain(row, number)` is what a row says."""
    tables = plain_tables(data, required)
    assert tables, 'no plain reading has the columns'
    readings = [
        [plain(row, lambda text, rows=rows: plain_number(text, rows, suffixes)) for row in rows] for rows in tables
    ]
    assert expected in readings


def latency_grid() -> list[list[str]]:
    rows = [['index', 'arch_str', 'phone_latency_ms', 'edge_latency_ms', 'note']]
    for i, arch in enumerate([*CONVS, (0, 1, 2, 3, 4, 0)]):
        rows.append([str(NB201.index(arch)), NB201.format(arch), repr(1 + i / 7), f'{10 + i / 8:.3f}', 'a, b'])
    return rows


@target(120)
def latency_table(rng: random.Random, folder: Path) -> bool:
    data = write_table(rng, latency_grid())
    (folder / 't.csv').write_bytes(data)
    latencies = attempt(lambda: read_latency_table(folder / 't.csv', CONVS, 'phone'), folder)
    if latencies is REFUSED:
        return False
    assert list(latencies) == list(CONVS) and all(0 < value < math.inf for value in latencies.values())
    required = 'index', 'arch_str', 'phone_latency_ms'

    def plain(row: dict[str, str], number: Any) -> Any:
        arch = plain_arch('nb201', row['arch_str'])
        assert arch_of_index('nb201', plain_int(row['index'])) == arch
        return arch, number(row['phone_latency_ms'])

    tables = plain_tables(data, required)
    positions = [{plain_arch('nb201', row['arch_str']): i for i, row in enumerate(rows)} for rows in tables]
    rest = [arch for arch in positions[0] if arch not in latencies] if positions else []
    assert len(rest) <= 1 and tables
    readings = [[plain(row, lambda t, rows=rows: plain_number(t, rows, ('_latency_ms',))) for row in rows]
                for rows in tables]  # fmt: skip
    assert any(len(dict(r)) == len(r) and latencies.items() <= dict(r).items() for r in readings)
    return True


def plain_benchmark(table: Any, rows: list[tuple[tuple[int, ...], float]], space: Any, dataset: str) -> None:
    """Check a table against (architecture, accuracy) of every row."""
    expected = sorted((space.index(arch), accuracy) for arch, accuracy in rows)
    assert list(zip(table.indices.tolist(), table.accuracy.tolist(), strict=True)) == expected
    costs = [space.cost(index, dataset) for index in table.indices.tolist()]
    assert table.params.tolist() == [cost.params for cost in costs]
    assert table.flops.tolist() == [cost.flops for cost in costs]
    assert len(set(table.indices.tolist())) == len(table)


@target(200)
def benchmark_table(rng: random.Random, folder: Path) -> bool:
    dataset = rng.choice(('cifar10', 'glyphs'))
    names = {'cifar10': ['cifar10_test_acc', 'params_MB', 'flops_M'], 'glyphs': ['accuracy_0', 'params', 'flops']}
    grid = [['index', 'arch_str', *names[dataset], 'note']]
    for index in range(10):
        cost = NB201.cost(index, dataset)
        costs = (cost.params / 1e6, cost.flops / 1e6) if dataset == 'cifar10' else (cost.params, cost.flops)
        grid.append([str(index), NB201.format(index), repr(90 + index / 16), *map(repr, costs), ''])
    data = write_table(rng, grid)
    (folder / 't.csv').write_bytes(data)
    table = attempt(lambda: load_benchmark('nb201', folder / 't.csv', dataset), folder)
    if table is REFUSED:
        return False
    required = tuple(name.lower() for name in grid[0][:-1])
    suffixes = ('_acc', 'params_mb', 'flops_m') if dataset == 'cifar10' else ('accuracy_0',)
    for rows in plain_tables(data, required):
        with contextlib.suppress(ValueError, AssertionError):
            archs = [plain_arch('nb201', row['arch_str']) for row in rows]
            assert archs == [arch_of_index('nb201', plain_int(row['index'])) for row in rows]
            accuracies = [plain_number(row[required[2]], rows, suffixes) for row in rows]
            for row, arch in zip(rows, archs, strict=True):
                unit = 1e6 if dataset == 'cifar10' else 1
                cost = tuple(plain_number(row[name], rows, suffixes) * unit for name in required[3:])
                assert cost == pytest.approx((NB201.cost(arch, dataset).params, NB201.cost(arch, dataset).flops))
            plain_benchmark(table, list(zip(archs, accuracies, strict=True)), NB201, dataset)
            return True
    raise AssertionError('no plain reading is what was read')


@target(300)
def macro_table(rng: random.Random, folder: Path) -> bool:
    content = {}
    for arch in ('00000012', '22222222', '01201201'):
        cost = MACRO.cost(arch)
        accuracy = 90 + int(arch) % 7 / 8
        content[arch] = {'test_acc': [accuracy], 'mean_acc': accuracy, 'params': cost.params, 'flops': cost.flops}
    data = write_json(rng, content)
    (folder / 't.json').write_bytes(data)
    table = attempt(lambda: load_benchmark('macro', folder / 't.json'), folder)
    if table is REFUSED:
        return False
    rows = []
    for key, members in json.loads(plain_text(data), object_pairs_hook=lambda pairs: pairs):
        assert len(dict(members)) == len(members)
        accuracy = dict(members)['mean_acc']
        assert type(accuracy) in (int, float) or re.fullmatch(r'[-+.0-9eE]+', accuracy, re.ASCII)
        rows.append((plain_arch('macro', key), float(accuracy)))
    plain_benchmark(table, rows, MACRO, 'cifar10')
    return True


@target(300)
def predictions(rng: random.Random, folder: Path) -> bool:
    grid = [['index', 'accuracy', 'loss'], *([str(i * 7), repr(10 + i / 3), repr(2.3 - i / 9)] for i in range(9))]
    data = write_table(rng, grid)
    (folder / 't.csv').write_bytes(data)
    read = attempt(lambda: read_predictions(folder / 't.csv'), folder)
    if read is REFUSED:
        return False
    assert all(math.isfinite(row.accuracy + row.loss) for row in read)
    assert len({row.index for row in read}) == len(read)

    def plain(row: dict[str, str], number: Any) -> Prediction:
        return Prediction(plain_int(row['index']), number(row['accuracy']), number(row['loss']))

    assert_read(data, ('index', 'accuracy', 'loss'), ('accuracy', 'loss'), read, plain)
    return True


SETTINGS = {'model': 'm', 'seed': 0, 'sha256': 'ab', 'augmented': True, 'images': None, 'momentum': 0.1}


@target(300)
def journal(rng: random.Random, folder: Path) -> bool:
    header = json.dumps(mutate_tree(rng, dict(SETTINGS)) if chance(rng, 0.2) else SETTINGS, sort_keys=True)
    lines = [header, *(f'{i * 7},{10 + i / 3!r},{2.3 - i / 9!r}' for i in range(5))]
    text = '\n'.join(lines) + '\n'
    data = (mutate_text(rng, text) if chance(rng, 0.5) else text).encode()
    data = mutate_bytes(rng, data) if chance(rng, 0.5) else data
    (folder / 'j').write_bytes(data)
    opened = attempt(lambda: Journal(folder / 'j', SETTINGS), folder, output='j')
    if opened is REFUSED:
        return False
    after = (folder / 'j').read_bytes()
    opened.remove()
    complete = data[: data.rfind(b'\n') + 1]
    if not complete:
        assert json.loads(after) == SETTINGS and not opened.predictions
        return True
    assert after == complete
    header, *rows = complete.decode().splitlines()
    recorded = json.loads(header)
    assert all(recorded.get(key) == SETTINGS.get(key) for key in SETTINGS | recorded)  # None is as good as missing
    fields = [row.split(',') for row in rows]
    plain = [Prediction(plain_int(i), *(plain_number(text, [], ()) for text in numbers)) for i, *numbers in fields]
    assert opened.predictions == plain
    return True


# Benchmarks of others


def hw_nas() -> dict[str, Any]:
    names = [NB201.format(arch) for arch in list(CONVS)[:12]]
    configs = [{'arch_str': name, 'num_classes': 10} if i % 2 else name for i, name in enumerate(names)]
    latency, energy = [1 + i / 7 for i in range(12)], [2 + i for i in range(12)]
    return {'nasbench201': {'cifar10': {'raspi4_latency': latency, 'edgegpu_energy': energy, 'config': configs}}}


class PlainUnpickler(pickle._Unpickler):  # the one in Python
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError('nothing to import')


@target(400)
def hw_nas_file(rng: random.Random, folder: Path) -> bool:
    content = hw_nas()
    if is_pickle := chance(rng, 0.5):
        content = mutate_tree(rng, content) if chance(rng, 0.5) else content
        data = pickle.dumps(content, rng.randrange(2, 6))
        data = mutate_bytes(rng, data) if chance(rng, 0.6) else data
    else:
        data = write_json(rng, content)
    (folder / 'hw').write_bytes(data)
    if attempt(lambda: convert_hw_nas(folder / 'hw', folder / 'hw.csv'), folder, output='hw.csv') is REFUSED:
        return False
    content = PlainUnpickler(io.BytesIO(data)).load() if is_pickle and data[:1] == b'\x80' else None
    measures = (json.loads(plain_text(data)) if content is None else content)['nasbench201']['cifar10']
    archs = [plain_arch('nb201', c if isinstance(c, str) else c['arch_str']) for c in measures['config']]
    with (folder / 'hw.csv').open(newline='') as file:
        rows = {arch_of_index('nb201', int(row['index'])): row for row in csv.DictReader(file)}
    assert len(rows) == len(archs)
    for name, values in measures.items():
        if name != 'config' and isinstance(values, list):
            column = name + {'_latency': '_ms', '_energy': '_mJ'}.get(name[name.rfind('_') :], '')
            assert [float(rows[arch][column]) for arch in archs] == [float(value) for value in values]
            assert all(type(value) is not bool and value > 0 for value in values)
    assert all(plain_arch('nb201', row['arch_str']) == arch for arch, row in rows.items())
    return True


def nats_record(index: int) -> dict[str, Any]:
    cost, runs = NB201.cost(index), {}
    evaluations = {
        'cifar10-valid': {'x-valid@2': 80.0, 'ori-test@2': 1.0},
        'cifar10': {'ori-test@2': 90.5, 'ori-test@0': 5.0},
        'cifar100': {'x-valid@2': 60.0, 'x-test@2': 61.0},
        'ImageNet16-120': {'x-valid@2': 30.0, 'x-test@2': 31.0},
    }
    for name, values in evaluations.items():
        for seed in (777, 888):
            accuracies = {key: value + seed / 1000 for key, value in values.items()}
            runs[name, seed] = {'eval_acc1es': accuracies, 'epochs': 3, 'params': cost.params / 1e6,
                                'flop': cost.flops / 1e6}  # fmt: skip
    return {'200': {'arch_index': index, 'arch_str': NB201.format(index), 'all_results': runs}}


@target(150)
def nats_records(rng: random.Random, folder: Path) -> bool:
    (folder / 'records').mkdir()
    index, expected = rng.randrange(15625), {}
    for number in (index, (index + 1) % 15625):
        content = mutate_tree(rng, nats_record(number)) if chance(rng, 0.3) else nats_record(number)
        data = pickle.dumps(content, rng.randrange(2, 6))
        packed = bz2.compress(data)  # it has a checksum, so no flipped bit gets through
        packed = mutate_bytes(rng, packed) if chance(rng, 0.2) else packed
        (folder / 'records' / f'{number:06}.pickle.pbz2').write_bytes(packed)
        expected[number] = packed
    csv_file = folder / 't.csv'
    if attempt(lambda: convert_nats(folder / 'records', csv_file), folder, output='t.csv') is REFUSED:
        return False
    with csv_file.open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert sorted(expected) == sorted(int(row['index']) for row in rows)
    for row in rows:
        assert plain_arch('nb201', row['arch_str']) == arch_of_index('nb201', int(row['index']))
        record = PlainUnpickler(io.BytesIO(bz2.decompress(expected[int(row['index'])]))).load()['200']
        for column, name, key in (
            ('cifar10_test_acc', 'cifar10', 'ori-test'),
            ('cifar10_valid_acc', 'cifar10-valid', 'x-valid'),
            ('cifar100_test_acc', 'cifar100', 'x-test'),
        ):
            runs = [run for (data, _), run in record['all_results'].items() if data == name]
            values = [run['eval_acc1es'][f'{key}@{run["epochs"] - 1}'] for run in runs]
            assert all(type(value) in (int, float) for value in values)
            assert float(row[column]) == pytest.approx(sum(values) / len(values), abs=1e-6)
            assert 0 <= float(row[column]) <= 100
    return True


# Recipes

RECIPE = """# A recipe.
model: nb201_cond_supernet
model_kwargs: {space: no_zero, cells_per_stage: 1, channels: [8, 8, 8]}
epochs: 12
split_epoch: 4
lr: 0.05
weight_decay: 0.0005
keep_epochs: [4, 12]
operation_weights: [1, 2.5, 1, 1, 1]
share_momentum: true
sampling: fair
seed: 7
output: out
"""
YAML_VALUES = ('010', '0x1F', '0b11', '1_0', '12:30', '1e-3', '1e3', '.5', '5.', '+5', '-0', 'yes', 'on', 'No', 'TRUE',
               '~', '', 'null', '2024-01-01', '.nan', '.inf', "'5'", '"5"', '!!int "5"', '!!float 5', '!!str 5', '*a',
               '&a 5', '!!python/object:os.system x', '!!binary aGk=', '[5]', '[[5]]', '{a: 5}', '|\n  5', '5 # five',
               '١', '5,0', '1.0', '9' * 40, 'fair', 'cosine', '<<', '!!set {a}')  # fmt: skip


def mutate_recipe(rng: random.Random) -> str:
    lines = RECIPE.splitlines()
    for _ in range(rng.choice((0, 1, 1, 2))):
        line, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        kind = rng.randrange(7)
        if kind == 0:
            lines.insert(other, lines[line])
        elif kind == 1:
            lines.pop(line)
        elif kind == 2:
            lines[line] = rng.choice((' ', '\t', '- ', '#', '? ', '--- ', '"')) + lines[line]
        elif kind == 3:
            lines[line] = lines[line].replace(': ', rng.choice((':', ' : ', ':\t', '=', ': : ')), 1)
        else:
            lines[line] = f'{lines[line].partition(":")[0]}: {rng.choice(YAML_VALUES)}'
    return '\n'.join(lines) + '\n'


def setting(action: argparse.Action, node: yaml.Node) -> Any:
    """What a setting is: what the flag makes of the same text."""
    if isinstance(action, ModelKwargs):
        assert isinstance(node, yaml.MappingNode)
        pairs = [(key.value, plain_yaml(value, key.value)) for key, value in node.value]
        assert len(dict(pairs)) == len(pairs), 'an argument is repeated'
        return dict(pairs)
    if isinstance(node, yaml.SequenceNode):
        assert action.nargs not in (None, 0), 'a list for a flag of one value'
        return [setting(argparse.Action([], '', type=action.type), inner) for inner in node.value]
    assert isinstance(node, yaml.ScalarNode)
    text = node.value
    if action.nargs == 0:
        return {'true': True, 'yes': True, 'on': True, 'false': False, 'no': False, 'off': False}[text.lower()]
    return action.type(text) if callable(action.type) else text


def plain_yaml(node: yaml.Node, key: str = '') -> Any:
    """An argument of a model, as `--model-kwargs key=value` would give it."""
    if isinstance(node, yaml.SequenceNode):
        return [plain_yaml(inner) for inner in node.value]
    assert isinstance(node, yaml.ScalarNode)
    if node.tag == 'tag:yaml.org,2002:null':
        return None
    if node.style in ('"', "'"):
        return node.value
    try:
        return node.value if key in ('arch', 'active_subnet') else ast.literal_eval(node.value)
    except (ValueError, SyntaxError):
        return {'true': True, 'false': False}.get(node.value.lower(), node.value)


@target(150)
def recipe(rng: random.Random, folder: Path) -> bool:
    data = encode(rng, mutate_recipe(rng)) if chance(rng, 0.5) else mutate_recipe(rng).encode()
    (folder / 'r.yaml').write_bytes(data)
    args = attempt(lambda: parse_args(['-c', str(folder / 'r.yaml')]), folder)
    if args is REFUSED:
        return False
    parser = make_parser()
    actions = {action.dest: action for action in parser._actions}
    members = yaml.compose(plain_text(data), yaml.SafeLoader).value
    names = [key.value for key, _ in members]
    assert len(set(names)) == len(names), 'a setting is repeated'
    members = [(key, value) for key, value in members if value.tag != 'tag:yaml.org,2002:null']
    expected = {key.value: setting(actions[key.value], value) for key, value in members}
    for key, value in vars(args).items():
        plain = str(folder / 'r.yaml') if key == 'recipe' else expected.get(key, parser.get_default(key))
        plain = tuple(plain) if isinstance(plain, list) else plain
        assert repr(value) == repr(plain) or value == plain, (key, value, plain)
    return True


# Model folders and checkpoints

NET = {'arch': 6111, 'cells_per_stage': 1, 'channels': (4, 4, 4)}


@functools.cache
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model('nb201_net', **NET).eval()


@functools.cache
def model_folder() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        save_model(network(), folder, {'seed': 7, 'epochs': 3}, half=False)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def assert_same_weights(model: torch.nn.Module) -> None:
    state, expected = model.state_dict(), network().state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], value) and state[key].dtype == value.dtype for key, value in expected.items())


@target(80)
def config_json(rng: random.Random, folder: Path) -> bool:
    files = model_folder()
    (folder / 'model.safetensors').write_bytes(files['model.safetensors'])
    data = write_json(rng, json.loads(files['config.json']))
    (folder / 'config.json').write_bytes(data)
    loaded = attempt(lambda: load_checkpoint(folder), folder)
    if loaded is REFUSED:
        return False
    config, model = json.loads(data), loaded.model
    assert config['architecture'] == 'nb201_net' == model.pretrained_cfg['architecture']
    assert loaded.training == config.get('training', {}) and isinstance(loaded.training, dict)
    arguments = config.get('model_args', {})
    arch = arguments.get('arch', (3, 3, 3, 3, 3, 3))
    given = arch_of_index('nb201', arch) if isinstance(arch, int) else arch
    assert model.arch == (plain_arch('nb201', given) if isinstance(given, str) else tuple(given))
    cfg = config['pretrained_cfg']
    assert model.num_classes == cfg['num_classes'] == arguments.get('num_classes', model.num_classes)
    for key in ('mean', 'std', 'input_size'):
        if key in cfg:
            assert list(model.pretrained_cfg[key]) == list(cfg[key])
    assert_same_weights(model)
    return True


@target(120)
def safetensors(rng: random.Random, folder: Path) -> bool:
    files = model_folder()
    data = files['model.safetensors']
    length = int.from_bytes(data[:8], 'little')
    if chance(rng, 0.7):
        header = mutate_tree(rng, json.loads(data[8 : 8 + length])) if chance(rng, 0.7) else None
        text = json.dumps(header).encode() if header else mutate_bytes(rng, data[8 : 8 + length])
        size = len(text) if chance(rng, 0.8) else rng.choice((0, length, len(text) + 1, 2**40, 2**63))
        data = size.to_bytes(8, 'little') + text + data[8 + length :]
    else:
        data = mutate_bytes(rng, data)
    config = json.loads(files['config.json'])
    if is_recorded := chance(rng, 0.5):  # in older folders it is not
        (folder / 'config.json').write_bytes(files['config.json'])
    else:
        del config['weights_sha256']
        (folder / 'config.json').write_text(json.dumps(config))
    (folder / 'model.safetensors').write_bytes(data)
    loaded = attempt(lambda: load_checkpoint(folder), folder)
    if loaded is REFUSED:
        return False
    if is_recorded:
        assert_same_weights(loaded.model)
        assert loaded.training == {'seed': 7, 'epochs': 3}
    else:  # they are what the file says, of names and shapes that are the model's
        length = int.from_bytes(data[:8], 'little')
        header = json.loads(data[8 : 8 + length])
        kinds = {'F32': np.float32, 'I64': np.int64, 'F16': np.float16}
        state = loaded.model.state_dict()
        assert header.keys() - {'__metadata__'} == state.keys()
        for key, value in state.items():
            start, end = header[key]['data_offsets']
            numbers = np.frombuffer(data[8 + length + start : 8 + length + end], kinds[header[key]['dtype']])
            assert list(value.shape) == header[key]['shape']
            assert np.array_equal(value.flatten().numpy(), numbers.astype(value.numpy().dtype), equal_nan=True)
    return True


def training_state() -> dict[str, Any]:
    args = {
        **{'model': 'nb201_net', 'model_kwargs': dict(NET), 'num_classes': 10, 'input_size': [3, 32, 32], 'epochs': 3},
        **{'data_name': 'cifar10', 'data_sha256': None, 'seed': 7, 'batch_size': 8, 'opt': 'momentum', 'lr': 0.1},
        **{'min_lr': 0.0, 'sched': 'cosine', 'momentum': 0.9, 'weight_decay': 0.0, 'split_epoch': 0},
    }
    return {'epoch': 1, 'args': args, 'state_dict': dict(network().state_dict()), 'optimizer': {},
            'task_state': {'step': 9, 'split': False}, 'state_dict_ema': None}  # fmt: skip


@target(25)
def training_checkpoint(rng: random.Random, folder: Path) -> bool:
    is_edited = chance(rng, 0.5)
    content = training_state()
    if is_edited:
        part = rng.choice(('args', 'args', 'task_state', 'state_dict', None))
        if part is None:
            content = mutate_tree(rng, content)
        else:
            content[part] = mutate_tree(rng, content[part])
    if isinstance(content, dict) and isinstance(content.get('args'), dict):
        content['args'] = argparse.Namespace(**{str(key): value for key, value in content['args'].items()})
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    if not is_edited:
        data = mutate_zip(rng, data) if chance(rng, 0.5) else mutate_bytes(rng, data)
    (folder / 'last.pth.tar').write_bytes(data)
    loaded = attempt(lambda: load_checkpoint(folder / 'last.pth.tar'), folder)
    if loaded is REFUSED:
        return False
    args = vars(content['args'])
    assert loaded.training['seed'] == args['seed'] or math.isnan(args['seed'])
    assert loaded.training['trained_epochs'] == content['epoch'] + 1
    assert loaded.training['trained_steps'] == content['task_state']['step'] or content['task_state']['step'] != 9
    assert loaded.model.num_classes == args['num_classes']
    assert list(loaded.model.pretrained_cfg['input_size']) == list(args['input_size'])
    arch = args['model_kwargs'].get('arch', (3,) * 6)
    given = arch_of_index('nb201', arch) if isinstance(arch, int) else arch
    assert loaded.model.arch == (plain_arch('nb201', given) if isinstance(given, str) else tuple(given))
    state = loaded.model.state_dict()
    assert state.keys() == content['state_dict'].keys()
    assert all(torch.equal(state[key], value) for key, value in content['state_dict'].items())
    return True


def mutate_zip(rng: random.Random, data: bytes) -> bytes:
    """Change one file in an archive, with the right checksum: most often the pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, 'w') as new:
        names = [name for name in old.namelist() if '/data/' not in name]
        changed = rng.choice(names)
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content[:-1] if name == changed and chance(rng, 0.5) else content)
            if name == changed and chance(rng, 0.1):
                new.writestr(f'{name}x', content)
    return buffer.getvalue()


# Images


@functools.cache
def image_files() -> dict[str, bytes]:
    generator, files = np.random.default_rng(0), {}
    for label, name in enumerate(('ant', 'bee', 'cat')):
        for i in range(3):
            pixels, buffer = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8), io.BytesIO()
            image = Image.fromarray(pixels) if i else Image.fromarray(pixels[..., 0])
            kind = ('PNG', 'JPEG', 'PNG')[(label + i) % 3]
            image.save(buffer, kind)
            files[f'{name}/{9 + i}.{kind.lower()}'] = buffer.getvalue()
    return files


def plain_images(files: dict[str, bytes], get: Any = None) -> dict[tuple[str, int], np.ndarray]:
    """Pixels by class and position, of files named by their paths, as far as the reader's documentation says."""
    paths = [tuple(part for part in name.split('/') if part not in ('', '.')) for name in files]
    chosen = {}
    for path, data in zip(paths, files.values(), strict=True):
        if any(part.startswith('.') for part in path) or not path:
            continue
        assert '..' not in path
        if path[-1].lower().endswith(('.png', '.jpeg', '.jpg', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')):
            chosen[path] = data
    assert len({len(path) for path in chosen}) == 1
    (level,) = [i for i, parts in enumerate(list(zip(*chosen, strict=True))[:-1]) if len(set(parts)) > 1]
    classes: dict[str, list[tuple[Any, bytes]]] = {}
    for path, data in chosen.items():
        name = '/'.join(path[level + 1 :])
        key = [(int(part), '') if part.isdecimal() else (-1, part) for part in re.split(r'(\d+)', name.lower())]
        classes.setdefault(path[level], []).append(((key, name), data))
    return {
        (name, position): plain_pixels(data)
        for name, members in classes.items()
        for position, (_, data) in enumerate(sorted(members, key=lambda member: member[0]))
    }


def plain_pixels(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    if image.mode.startswith('I'):
        return np.asarray(image)[..., None].repeat(3, 2) // 256
    return np.asarray(image.convert('RGB'))


def assert_same_images(images: Any, files: dict[str, bytes]) -> None:
    expected, got, seen = plain_images(files), {}, Counter()
    for image, label in zip(images.images, images.targets.tolist(), strict=True):
        name = images.classes[label]
        got[name, seen[name]] = image.permute(1, 2, 0).numpy()
        seen[name] += 1
    assert got.keys() == expected.keys()
    assert all(np.array_equal(got[key], pixels) for key, pixels in expected.items())


@target(80)
def folder_of_images(rng: random.Random, folder: Path) -> bool:
    files = dict(image_files())
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(files))
        kind = rng.randrange(5)
        if kind == 0:
            files[
                f'{rng.choice(("ant", "ant", "dog", ".git", "²", "cat/more"))}/{rng.choice(("9", "10", "x"))}.png'
            ] = files[name]
        elif kind == 1 and len(files) > 3:
            del files[name]
        elif kind == 2:
            files[name.replace('/', '/images/') if chance(rng, 0.5) else f'{name}.txt'] = files.pop(name)
        else:
            files[name] = mutate_png(rng, files[name]) if chance(rng, 0.5) else mutate_bytes(rng, files[name])
    for name, data in files.items():
        (folder / 'train' / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / 'train' / name).write_bytes(data)
    images = attempt(lambda: load_images(folder), folder)
    if images is REFUSED:
        return False
    assert_same_images(images, files)
    return True


def mutate_png(rng: random.Random, data: bytes) -> bytes:
    """Change a byte of the header of a PNG file, with the right checksum."""
    if data[:4] != b'\x89PNG' or len(data) < 40:
        return mutate_bytes(rng, data[:64]) + data[64:]
    import zlib

    header = bytearray(data[12:29])
    header[rng.randrange(4, 17)] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    return data[:12] + bytes(header) + zlib.crc32(header).to_bytes(4, 'big') + data[33:]


@target(120)
def tar_file(rng: random.Random, folder: Path) -> bool:
    buffer = io.BytesIO()
    order = list(image_files())
    rng.shuffle(order)
    with tarfile.open(fileobj=buffer, mode='w', format=rng.choice((tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT))) as tar:
        for name in order:
            data = image_files()[name]
            info = tarfile.TarInfo(rng.choice(('', '', './', 'train/')) + name if chance(rng, 0.03) else name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    data = bytearray(buffer.getvalue())
    headers = [i for i in range(0, len(data) - 512, 512) if data[i + 257 : i + 262] == b'ustar']
    for _ in range(rng.choice((0, 1, 1, 2))):
        at = rng.choice(headers)
        if chance(rng, 0.75):  # name, size, kind, link, magic, prefix
            start, end = rng.choice(((0, 10), (0, 100), (124, 136), (156, 157), (157, 180), (257, 265), (345, 360)))
            position = at + rng.randrange(start, end)
            data[position] = rng.choice((0, 32, 47, 46, 48, 49, 50, 53, 55, 76, 120, 103, 128, 255, data[position] ^ 1))
            if chance(rng, 0.8):
                header = bytearray(data[at : at + 512])
                header[148:156] = b' ' * 8
                data[at + 148 : at + 156] = b'%06o\0 ' % sum(header)
        else:
            data = bytearray(mutate_bytes(rng, bytes(data)))
            headers = [i for i in headers if i + 512 <= len(data)] or [0]
            data += bytes(max(0, 512 - len(data)))
    (folder / 'train.tar').write_bytes(data)
    images = attempt(lambda: load_images(folder), folder)
    if images is REFUSED:
        return False
    files: dict[str, bytes] = {}
    end = 0
    with tarfile.open(folder / 'train.tar') as tar:
        for member in tar.getmembers():
            end = member.offset_data + (member.size + 511) // 512 * 512 * (not member.islnk() and not member.issym())
            name = '/'.join(part for part in member.name.split('/') if part not in ('', '.'))
            if not member.isdir():
                files.pop(name, None)
                files[name] = tar.extractfile(member).read()
    assert not bytes(data[end:]).strip(b'\0'), 'something follows'
    assert_same_images(images, files)
    return True


@pytest.mark.parametrize('name', TARGETS)
def test_mutated_input_is_read_as_it_says_or_refused(name: str) -> None:
    counts: Counter[bool] = Counter()

    @settings(
        max_examples=TARGETS[name][0],
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # there is nothing to shrink in a seed
        report_multiple_bugs=False,  # every hang takes its time
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**48 - 1))
    def check(seed: int) -> None:  # as of --target and --seed
        counts[run_check(name, random.Random(seed))] += 1

    check()
    assert counts[True] and counts[False], f'one-sided: {dict(counts)}'


def main() -> int:
    """Try new inputs for some minutes; returns the number of failures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--minutes', type=float, default=20)
    parser.add_argument('--target', choices=TARGETS, nargs='+', default=list(TARGETS))
    parser.add_argument('--seed', type=int, help='of the one input to try')
    args = parser.parse_args()
    if args.seed is not None:
        print(run_check(args.target[0], random.Random(args.seed)))
        return 0
    stop, counts, failures = time.monotonic() + 60 * args.minutes, Counter(), Counter()
    while time.monotonic() < stop:
        for name in args.target:
            round_end = time.monotonic() + 1  # each target gets as long
            while time.monotonic() < round_end:
                seed = random.SystemRandom().getrandbits(48)
                try:
                    counts[name, run_check(name, random.Random(seed))] += 1
                except Exception as error:
                    failures[name] += 1
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    line = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
                    print(f'--target {name} --seed {seed}: {line} ({where.filename}:{where.lineno})', flush=True)
    for name in args.target:
        accepted, refused = counts[name, True], counts[name, False]
        print(f'{name}: {accepted + refused + failures[name]} inputs, {accepted} accepted, {refused} refused, '
              f'{failures[name]} failed')  # fmt: skip
    total = sum(counts.values()) + sum(failures.values())
    print(f'in all: {total} inputs, {sum(failures.values())} failed')
    return sum(failures.values())


if __name__ == '__main__':
    torch.set_num_threads(1)
    sys.exit(min(main(), 1))
