"""What an architecture is, checked against the published tables."""

import csv
import json

import numpy as np
import pytest
import torch

from condnet import CondnetError, get_space

BEST = '|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|'


@pytest.mark.parametrize(
    ('name', 'subset', 'size'),
    [('nb201', 'full', 15625), ('nb201', 'no_zero', 4096), ('nb201', 'only_conv', 64), ('macro', 'full', 6561)],
)
def test_iteration_gives_every_architecture_once(name, subset, size):
    space = get_space(name, subset)
    archs = list(space)
    assert len(space) == len(archs) == len(set(archs)) == size
    assert all(space.parse(arch) == arch for arch in archs[:: max(1, size // 50)])


@pytest.mark.parametrize(('name', 'subset'), [('nb201', 'full'), ('nb201', 'only_conv'), ('macro', 'full')])
def test_tuple_string_and_index_name_the_same_architecture(name, subset):
    space = get_space(name, subset)
    indices = set()
    for arch in space:
        index = space.index(arch)
        indices.add(index)
        assert space.parse(index) == space.parse(space.format(arch)) == space.parse(list(arch)) == arch
        assert space.parse(f'index:{index}') == space.parse(str(arch)) == arch
    assert len(indices) == len(space)


A_TUPLE = (1, 2, 1, 0, 1, 2, 0, 1)
READ = {  # what is given, and what it is
    'nb201': [
        ('0', (4, 2, 1, 2, 1, 1)),
        (' 6111\n', (3, 3, 3, 1, 3, 2)),
        ('index:6111', (3, 3, 3, 1, 3, 2)),
        ('(3,1, 0, 4,2,3)', (3, 1, 0, 4, 2, 3)),
        (np.int16(6111), (3, 3, 3, 1, 3, 2)),
        (np.array(6111), (3, 3, 3, 1, 3, 2)),
        (torch.tensor(6111), (3, 3, 3, 1, 3, 2)),
        (np.array([3, 1, 0, 4, 2, 3], dtype=np.uint8), (3, 1, 0, 4, 2, 3)),
        ([torch.tensor(3), np.int8(1), 0, 4, 2, 3], (3, 1, 0, 4, 2, 3)),
    ],
    'macro': [
        ('12101201', A_TUPLE),
        ('00001210', (0, 0, 0, 0, 1, 2, 1, 0)),
        ('index:1210', (0, 1, 1, 2, 2, 2, 1, 1)),
        ('index:0', (0,) * 8),
        (1210, (0, 1, 1, 2, 2, 2, 1, 1)),
        ('(1, 2, 1, 0, 1, 2, 0, 1)', A_TUPLE),
        (torch.tensor(A_TUPLE), A_TUPLE),
        (np.array(A_TUPLE), A_TUPLE),
    ],
}


@pytest.mark.parametrize('name, given, arch', [(name, *case) for name, cases in READ.items() for case in cases])
def test_every_notation_is_read_right(name, given, arch):
    space = get_space(name)
    assert space.parse(given) == arch and all(type(operation) is int for operation in space.parse(given))
    assert space.index(given) == space.index(arch) and space.cost(given) == space.cost(arch) and given in space


NUMBERS = ('²', '٦١١١', '6٦١١', '1e3', '0x10', '+5', '-0', '-1', '1_000', '06111', '6111.0', '1 2', '', '9' * 5000)
NO_SEQUENCES = [
    np.array([6111]),
    torch.tensor([6111]),
    np.array([[3, 3, 3, 3, 3, 3]]),
    np.full(6, 3.0),
    torch.full((6,), 3.0),
    np.full(6, True),
    torch.full((6,), True),
    (True,) * 6,
    np.True_,
    torch.tensor(True),
    np.array(3.0),
    torch.tensor(3.0),
    range(6),
    {0, 1, 2, 3, 4, 5},
    b'6111',
    None,
    [[3]] * 6,
    10**5000,
    (10**5000,) * 8,
    np.zeros(100_000, int),
]


@pytest.mark.parametrize('name', ['nb201', 'macro'])
@pytest.mark.parametrize(
    'given',
    [*NUMBERS, *(f'index:{number}' for number in NUMBERS), '(٣,3,3,3,3,3)', '(03,3,3,3,3,3)', '²' * 8, *NO_SEQUENCES],
    ids=lambda given: repr(given)[:20] if isinstance(given, str) else type(given).__name__,
)
def test_what_only_looks_like_an_architecture_is_refused_in_one_line(name, given):
    with pytest.raises(CondnetError) as info:
        get_space(name).parse(given)
    assert '\n' not in str(info.value) and len(str(info.value)) < 400


@pytest.mark.parametrize('text', ['1210', '0', '6560', '100000000'])
def test_digits_of_macro_are_no_index_unless_they_say_so(text):
    with pytest.raises(CondnetError, match=f'eight digits.*index:{text}$'):
        get_space('macro').parse(text)


def test_subsets_keep_the_official_index():
    arch = (3, 3, 2, 3, 2, 3)
    assert get_space('nb201', 'only_conv').index(arch) == get_space('nb201').index(arch)


def test_all_nb201_architectures_have_the_tables_index_and_cost(data_dir):
    space = get_space('nb201')
    with (data_dir / 'benchmarks' / 'nas-bench-201.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15625
    for row in rows:
        cost = space.cost(row['arch_str'])
        assert space.index(row['arch_str']) == int(row['index'])
        assert cost.params == round(float(row['params_MB']) * 1e6)
        assert cost.flops == round(float(row['flops_M']) * 1e6)


def test_all_macro_architectures_have_the_tables_cost(data_dir):
    space = get_space('macro')
    rows = json.loads((data_dir / 'benchmarks' / 'nas-bench-macro_cifar10.json').read_text())
    assert len(rows) == 6561
    for code, row in rows.items():
        assert (space.cost(code).params, space.cost(code).flops) == (row['params'], row['flops'])


def test_contexts_are_numbered_without_gaps():
    for name, subset in (('nb201', 'full'), ('nb201', 'no_zero'), ('nb201', 'only_conv'), ('macro', 'full')):
        space = get_space(name, subset)
        archs = list(space)
        for decision, predecessors in enumerate(space.predecessors):
            contexts = {space.context(arch, decision): tuple(arch[p] for p in predecessors) for arch in archs}
            assert sorted(contexts) == list(range(space.num_contexts(decision)))
            assert len(set(contexts.values())) == len(contexts)


def test_num_contexts_of_the_paper():
    assert [get_space('nb201').num_contexts(d) for d in range(6)] == [1, 1, 5, 1, 5, 25]
    assert [get_space('macro').num_contexts(d) for d in range(8)] == [1, 3, 3, 3, 3, 3, 3, 3]


def test_sampling_is_uniform_and_repeatable():
    space = get_space('nb201')
    draws = [space.sample(torch.Generator().manual_seed(seed)) for seed in range(2000)]
    assert draws[:20] == [space.sample(torch.Generator().manual_seed(seed)) for seed in range(20)]
    for decision in range(6):
        counts = [sum(arch[decision] == operation for arch in draws) for operation in range(5)]
        assert min(counts) > 320 and max(counts) < 480  # 400 expected, standard deviation 18


def test_sample_distinct():
    space = get_space('nb201', 'only_conv')
    assert len(set(space.sample_distinct(64))) == 64
    drawn = get_space('macro').sample_distinct(100, seed=1)
    indices = [get_space('macro').index(arch) for arch in drawn]
    assert indices == sorted(indices) and len(set(indices)) == 100
    assert drawn != get_space('macro').sample_distinct(100, seed=2)
    with pytest.raises(ValueError, match='holds 64 architectures'):
        space.sample_distinct(65)


@pytest.mark.parametrize(
    ('name', 'subset', 'arch', 'message'),
    [
        ('nb201', 'full', BEST.replace('nor_conv_3x3~2', 'nor_conv_5x5~2'), 'unknown operation'),
        ('nb201', 'full', BEST[:-1], 'not an architecture string'),
        ('nb201', 'full', '02012100', 'not an architecture string'),
        ('nb201', 'only_conv', BEST, 'not in the subset'),
        ('nb201', 'no_zero', (0, 1, 2, 3, 4, 1), 'not in the subset'),
        ('nb201', 'full', (1, 2, 3), '6 decisions'),
        ('nb201', 'full', (1, 2, 3, 4, 5, 0), 'operation 5'),
        ('nb201', 'full', 15625, '0..15624'),
        ('nb201', 'full', -1, '0..15624'),
        ('nb201', 'full', 1.5, 'not an architecture'),
        ('macro', 'full', '0201210', 'eight digits'),
        ('macro', 'full', '02012103', 'eight digits'),
        ('macro', 'full', 6561, '0..6560'),
        ('macro', 'full', True, 'not an architecture'),
        ('macro', 'full', '2222222', 'eight digits'),
        ('macro', 'full', '(1, 2)', '8 decisions'),
        ('nb201', 'full', '15625', '0..15624'),
    ],
)
def test_what_is_no_architecture_is_refused(name, subset, arch, message):
    space = get_space(name, subset)
    assert arch not in space
    for read in (space.parse, space.format, space.index):
        with pytest.raises(ValueError, match=message):
            read(arch)


def test_unknown_space_is_refused():
    with pytest.raises(ValueError, match='nb201/only_conv'):
        get_space('nb201', 'no_conv')
