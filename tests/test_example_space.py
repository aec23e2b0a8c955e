"""A search space outside of the package: the tutorial is the example, and does what it says, by `--import` and by entry
point; unequal choices, huge spaces, and spaces of which no costs are known."""

import importlib
import math
import os
import re
import sys
import warnings
from pathlib import Path

import pytest
import timm
import torch
from conftest import in_child, make_training, train_step
from optuna.storages import InMemoryStorage

import condnet
import condnet.ranking.results
from condnet import BenchmarkRow, CondnetError, Cost, SearchSpace
from condnet.benchmarks import registry as benchmark_registry
from condnet.benchmarks.tables import load_benchmark
from condnet.checkpoints.folder import save_model
from condnet.checkpoints.loading import load_model
from condnet.choice import split_supernet
from condnet.cli import convert, hub, train, validate
from condnet.cli.search import main as search_main
from condnet.models.counts import counts_table, describe_untrained
from condnet.plugins import import_modules
from condnet.ranking.config import RankConfig
from condnet.ranking.costs import NetworkCosts, measure_cost
from condnet.ranking.evaluate import EvaluationData, evaluate_subnet
from condnet.ranking.results import read_predictions
from condnet.ranking.run import draw_archs
from condnet.ranking.tree import predict
from condnet.searching.export import calibrated_subnet, export_network
from condnet.searching.problem import Problem
from condnet.searching.storage import open_storage
from condnet.searching.study import evaluated_candidates, open_study, run_study
from condnet.spaces import base
from condnet.training.task import SupernetTask, archs_of_step

REPO = Path(__file__).parents[1]
EXAMPLE, TUTORIAL = REPO / 'examples' / 'my_space', REPO / 'docs' / 'your_own_space.md'
BLOCK = re.compile(r'(?:^`(?P<file>[\w./]+)`\n\n)?^```(?P<kind>\w+)\n(?P<code>.*?)^```$', re.MULTILINE | re.DOTALL)
BLOCKS = [match.groupdict() for match in BLOCK.finditer(TUTORIAL.read_text())]
COMMANDS = [line.split() for block in BLOCKS if block['kind'] == 'bash' for line in block['code'].splitlines()]


@pytest.fixture(scope='module')
def my_space():
    """The example, imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        import_modules(['my_space'])
        yield condnet.get_space('my_space')


def run_commands(folder, commands, *paths):
    """Run commands in a folder, in a fork of this process; exit status, standard output and error.

    The fork has imported what a new interpreter would, but not the example; and it looks for entry points again.
    """
    assert 'my_space' not in sys.modules  # else it would not be looked for
    stdout, stderr = folder / 'stdout', folder / 'stderr'

    def run():
        os.chdir(folder)
        sys.path[:0] = map(str, paths)
        with warnings.catch_warnings(record=True) as warned:
            importlib.reload(condnet)
        print(*(warning.message for warning in warned), sep='\n', file=sys.stderr)
        for name, *arguments in commands:
            if status := importlib.import_module(name.replace('condnet-', 'condnet.cli.')).main(arguments):
                return status
        return 0

    return in_child(run, stdout, stderr), stdout.read_text(), stderr.read_text()


def test_the_tutorial_is_the_example():
    files = {block['file']: block['code'] for block in BLOCKS if block['file']}
    assert {name: (EXAMPLE / name).read_text() for name in files} == files
    assert set(files) == {str(f.relative_to(EXAMPLE)) for f in EXAMPLE.rglob('*') if f.suffix in ('.py', '.toml')}


@pytest.mark.slow
def test_a_new_user_follows_the_tutorial(tmp_path):
    for block in BLOCKS:
        if block['file']:
            file = tmp_path / block['file']
            file.parent.mkdir(exist_ok=True)
            file.write_text(block['code'])
    with_import = [command for command in COMMANDS if '--import' in command]
    status, stdout, stderr = run_commands(tmp_path, with_import)
    assert status == 0, stderr
    assert len(read_predictions(tmp_path / 'output/my_space/ranking.csv')) == 72
    assert 'predicted: accuracy' in stdout and ' FLOPs' in stdout
    rows = (tmp_path / 'output/my_space/counts.csv').read_text().splitlines()
    assert len(rows) == 1 + 2 + 3 * 2 + 3 * 3 + 4 * 3
    assert 'import' not in (tmp_path / 'output/my_space/args.yaml').read_text()
    # What pip would write.
    info = tmp_path / 'site' / 'my_space-0.1.0.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: my-space\nVersion: 0.1.0\n')
    (info / 'entry_points.txt').write_text('[condnet.spaces]\nmy_space = my_space\nbroken = no_such_module\n')
    (last,) = [command for command in COMMANDS if '--import' not in command and command[0] != 'pip']
    status, _, stderr = run_commands(tmp_path, [last], info.parent, tmp_path)
    assert status == 0, stderr
    assert len(read_predictions(tmp_path / 'output/my_space/ten.csv')) == 10
    assert 'broken = no_such_module of condnet.spaces cannot be loaded: ModuleNotFoundError' in stderr


@pytest.mark.filterwarnings('ignore:the BatchNorm statistics')
def test_from_python(my_space, tmp_path):
    task, optimizer = make_training('my_space_supernet', num_classes=26, in_chans=1, ema=True)
    generator = torch.Generator().manual_seed(0)
    images, targets = torch.randn(32, 1, 16, 16, generator=generator), torch.arange(32) % 26
    train_step(task, optimizer, images, targets)
    model = task.model.eval()
    before = {arch: logits(model, arch, images) for arch in my_space}
    task.split(optimizer)
    assert model.num_weight_sets == 2 * 1 + 2 * 2 + 3 * 3 + 3 * 3
    assert all(torch.equal(logits(model, arch, images), before[arch]) for arch in my_space)
    for _ in range(5):
        train_step(task, optimizer, images, targets)
    with pytest.raises(CondnetError, match='is split already'):
        split_supernet(model, optimizer)
    data = EvaluationData(images, images, targets)
    predictions = {prediction.index: prediction for prediction in predict(model, my_space, data)}
    assert sorted(predictions) == list(range(72))
    # The last layer may be skipped: where two part, one may need no calibration any more, and the other does.
    assert predictions == {index: evaluate_subnet(model, index, data) for index in range(72)}
    problem = Problem(my_space)
    study = open_study(problem, open_storage(str(tmp_path / 'journal')))
    run_study(study, problem, lambda archs: predict(model, archs, data), 10)
    found = evaluated_candidates(study, problem)
    assert len(found) == 10 and all(c.prediction == predictions[my_space.index(c.arch)] for c in found)
    network = export_network(calibrated_subnet(model, found[0].arch, data), tmp_path / 'net', {}, data)
    assert network['accuracy'] == found[0].prediction.accuracy and network['params'] > 0
    assert timm.create_model(f'local-dir:{tmp_path / "net"}', pretrained=True).arch == found[0].arch
    save_model(model, tmp_path / 'supernet')
    loaded = load_model(tmp_path / 'supernet')
    assert loaded.is_split and type(loaded) is type(model)


def logits(model, arch, images):
    model.set_active_subnet(arch)
    with torch.no_grad():
        return model.eval()(images)


def test_unequal_choices(my_space):
    archs = list(my_space)
    assert my_space.size == len(my_space) == len(set(archs)) == 72
    assert [my_space.index(arch) for arch in archs] == list(range(72))
    for arch in archs:
        assert my_space.parse(my_space.format(arch)) == my_space.parse(f'index:{my_space.index(arch)}') == arch
    assert sorted(my_space.shuffled(3)) == archs
    for decision, predecessors in enumerate(my_space.predecessors):
        contexts = {my_space.context(arch, decision): tuple(arch[p] for p in predecessors) for arch in archs}
        assert contexts == dict(enumerate(my_space.contexts(decision)))
        assert len(contexts) == my_space.num_contexts(decision)
    assert len(counts_table(my_space, {}, {})) == 2 + 3 * 2 + 3 * 3 + 4 * 3
    draws = [archs_of_step(my_space, 0, step)[0] for step in range(1440)]
    counts = [draws.count(arch) for arch in archs]
    assert min(counts) > 4 and max(counts) < 40  # 20 expected
    weighted = [archs_of_step(my_space, 0, step, 'uniform', (3, 1, 2, 1))[0] for step in range(1000)]
    assert 550 < sum(arch[1] == 0 for arch in weighted) < 650 and 600 < sum(arch[0] == 2 for arch in weighted) < 730
    with pytest.raises(CondnetError, match='decision 0 of my_space/full; expected one of conv3, conv5'):
        my_space.parse('skip-skip-conv3-skip')
    for arch in ('conv3-skip', 'conv3-skip-conv7-skip', 72, (1, 0, 1), (4, 0, 1, 0)):
        assert arch not in my_space
    with pytest.raises(CondnetError, match='fair sampling needs .* have 2 or 3 or 4; use uniform'):
        SupernetTask(timm.create_model('my_space_supernet'), sampling='fair')


def test_a_table_without_costs(my_space, tmp_path):
    import_modules(['my_space.benchmark'])
    table = tmp_path / 'my_space_glyphs.csv'
    table.write_text('arch,accuracy\nconv3-skip-conv3-skip,50\nconv5-conv3-conv3-skip,60.5\n')
    loaded = load_benchmark('my_space', tmp_path, 'glyphs')
    assert loaded.accuracy.tolist() == [50, 60.5] and loaded.params is None and loaded.select([0]).flops is None
    summary = condnet.ranking.results.summarize_predictions(
        [condnet.ranking.Prediction(int(index), 1.0 * i, 2.0 - i) for i, index in enumerate(loaded.indices)], loaded
    )
    assert summary['accuracy']['kendall_tau'] == 1 and 'flops' not in summary and 'params' not in summary
    for text, message in (('1,2\n3,4', 'not a table of my_space'), ('arch,accuracy\nx,1', 'not an architecture string'),
                          ('arch,accuracy\nconv3-skip-conv3-skip,500', 'expected a percentage')):  # fmt: skip
        table.write_text(text)
        with pytest.raises(CondnetError, match=message):
            load_benchmark('my_space', table, 'glyphs')
    with pytest.raises(CondnetError, match="no my_space table of the data set 'cifar10'; expected glyphs"):
        load_benchmark('my_space', table)


def test_costs_are_asked_for_only_where_they_are_needed(my_space):
    assert Problem(my_space).costs((1, 0, 1, 0)) == {} and len(Problem(my_space).feasible()) == 72
    for kwargs, asked in (({'limits': {'flops': 1e6}}, '`max_flops`'), ({'objectives': ('loss', 'params')}, 'params')):
        with pytest.raises(CondnetError, match=f'{asked} needs the costs of architectures of my_space'):
            Problem(my_space, **kwargs)
    costs = NetworkCosts.of(timm.create_model('my_space_supernet', num_classes=26, in_chans=1), (1, 16, 16))
    for arch in my_space:  # no table is needed
        net = timm.create_model('my_space_net', arch=arch, num_classes=26, in_chans=1)
        assert costs(arch) == measure_cost(net, torch.zeros(1, 1, 16, 16))
    assert costs.is_sum and Problem(my_space, limits={'flops': 2e5}, network_cost=costs).feasible()
    (code,) = [block['code'] for block in BLOCKS if 'def cost_table' in block['code']]
    names = {}
    exec(code, names)
    fields = {name: getattr(my_space, name) for name in ('name', 'operations', 'choices', 'predecessors', 'weighted')}
    costed = names['CostedSpace'](subset='full', **fields)
    assert costed.cost('conv3-skip-conv3-skip') == Cost(700, 32800)
    assert {my_space.index(arch) for arch in costed if costed.cost(arch).params <= 800} == {0, 1, 4, 12, 36}


HUGE = SearchSpace('huge', 'full', ('a', 'b', 'c'), (0, 1, 2), ((), *((i,) for i in range(40))), (0, 1, 2))


def test_huge_spaces_are_never_walked_through():
    assert HUGE.size == 3**41 and not HUGE.is_enumerable and bool(HUGE)
    with pytest.raises(OverflowError):
        len(HUGE)
    last = (2,) * 41
    assert HUGE.index(last) == 3**41 - 1 and HUGE.parse(f'index:{3**41 - 1}') == HUGE.parse('-'.join('c' * 41)) == last
    assert last in HUGE and 3**41 not in HUGE and next(iter(HUGE)) == (0,) * 41
    drawn = HUGE.sample_distinct(50, seed=1)
    assert len(set(drawn)) == 50 and drawn == sorted(drawn) == HUGE.sample_distinct(50, seed=1)
    assert next(HUGE.shuffled(0)) != next(HUGE.shuffled(1))
    problem = Problem(HUGE)
    assert problem.feasible() is None and math.prod(len(d.choices) for d in problem.distributions().values()) == 3**41
    assert problem.arch(problem.params(drawn[0])) == drawn[0]
    assert 'first b at decision 1 in context 2' in describe_untrained(HUGE, None, [(1, 1, 2)])
    with pytest.raises(CondnetError, match='too many to rank all; give a number with `num_archs`'):
        draw_archs(HUGE, None, RankConfig(num_archs='all'))
    num, archs = draw_archs(HUGE, None, RankConfig())
    assert len(archs) == 200 and num == '200'


def test_a_huge_space_is_searched(tmp_path):
    problem = Problem(HUGE)
    study = open_study(problem, InMemoryStorage())

    def evaluate(archs):
        return [condnet.ranking.evaluate.Prediction(HUGE.index(arch), float(sum(arch)), 1.0) for arch in archs]

    run_study(study, problem, evaluate, 51)
    assert len(evaluated_candidates(study, problem)) == 51
    with pytest.raises(CondnetError, match='sampler grid .* not known'):
        run_study(study, problem, evaluate, 60, 'grid')
    predictions = evaluate(HUGE.sample_distinct(3))
    condnet.ranking.results.write_predictions(tmp_path / 'p.csv', predictions)
    assert read_predictions(tmp_path / 'p.csv') == predictions


@pytest.fixture
def registry():
    """What a test registers is forgotten after it."""
    tables = (base.SPACES, benchmark_registry.BENCHMARKS)
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


SMALL = {'operations': ('a', 'b'), 'choices': (0, 1), 'predecessors': ((), (0,)), 'weighted': (0,)}


def test_registering(registry):
    whole = SearchSpace('small', 'full', **{**SMALL, 'choices': [[0, 1], [1]]})

    @condnet.register_space
    def make():
        return whole, SearchSpace('small', 'part', **{**SMALL, 'choices': ((1,), (1,))})

    part = condnet.get_space('small', 'part')
    assert condnet.get_space('small') is whole and len(make()) == 2
    assert part.index((1, 1)) == whole.index((1, 1)) == 1 and part.size == 1 and 0 not in part
    assert condnet.register_space(whole) is whole  # again
    with pytest.warns(UserWarning, match='small/part is replaced'):
        condnet.register_space(SearchSpace('small', 'part', **{**SMALL, 'choices': ((0,), (1,))}))
    with pytest.raises(CondnetError, match='small/other is not a part of small/full'):
        condnet.register_space(SearchSpace('small', 'other', **SMALL))
    with pytest.raises(CondnetError, match='macro/full is one of condnet'):
        condnet.register_space(SearchSpace('macro', 'full', **SMALL))
    for wrong in (7, lambda: 7, lambda: [7]):
        with pytest.raises(CondnetError, match='cannot register 7: expected a SearchSpace'):
            condnet.register_space(wrong)
    assert not any(subset == 'other' for _, subset in base.SPACES)
    with pytest.raises(CondnetError, match='benchmark of macro on cifar10 is one of condnet'):
        condnet.register_benchmark('macro', 'cifar10', lambda *_: [BenchmarkRow(0, 1.0)])
    with pytest.raises(CondnetError, match='needs a sha256'):
        condnet.register_benchmark('small', 'cifar10', lambda *_: [], 'x.csv', url='https://example.org/x.csv')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'operations': ('a', 'b-c')}, 'not a name of letters'),
        ({'operations': ('a', 'a')}, 'a name of its own'),
        ({'choices': (0, 2)}, 'expected different numbers of operations, 0..1'),
        ({'choices': ((0, 1), ())}, 'decision 1 has the choices'),
        ({'choices': ((0, 1),)}, 'choices of 1 decisions'),
        ({'choices': (0, (1,))}, 'or a tuple of them for each decision'),
        ({'choices': ()}, 'has the choices'),
        ({'predecessors': ((), (1,))}, 'different decisions before it'),
        ({'predecessors': ()}, 'at least one decision'),
        ({'weighted': (2,)}, 'expected numbers of operations'),
    ],
)
def test_what_is_no_space_is_refused_in_one_line(change, message):
    with pytest.raises(CondnetError, match=message) as info:
        SearchSpace('small', 'full', **{**SMALL, **change})
    assert '\n' not in str(info.value)


def test_import_of_no_module_is_refused():
    for name in ('my-space', 'my_space.py/', '', 'a..b'):
        with pytest.raises(CondnetError, match='expected a module'):
            import_modules([name])
    with pytest.raises(CondnetError, match='there is no module json.no_such_part'):
        import_modules(['json.no_such_part'])


@pytest.mark.parametrize('main, more', [
    (train.main, []), (validate.main, ['--checkpoint', 'x']), (search_main, ['x']), (convert.main, ['x', 'y']),
    (hub.main, ['prepare', 'x', 'y', '--results', 'z']), (hub.main, ['publish', 'x', 'y']),
])  # fmt: skip
def test_every_command_imports_first(main, more, capsys):
    assert main([*more, '--import', 'my_spaec']) == 2
    error = '--import my_spaec: there is no module my_spaec, neither installed nor in the working directory\n'
    assert capsys.readouterr().err.endswith(f': error: {error}')


def test_a_recipe_imports_as_well(tmp_path, monkeypatch):
    (tmp_path / 'brought_along.py').write_text('IS_IMPORTED = True\n')
    (tmp_path / 'mine.yaml').write_text('import: brought_along\nepochs: 3\n')
    monkeypatch.syspath_prepend(tmp_path)
    args = train.parse_args(['-c', str(tmp_path / 'mine.yaml')])
    assert 'brought_along' in sys.modules and args.epochs == 3 and not hasattr(args, 'import')
