"""The search against made-up and real truths, its storage, and the command from a super-network to a network."""

import csv
import errno
import itertools
import json
import logging
import os
import resource
import shutil
import signal
import threading
import time
from pathlib import Path

import optuna
import pytest
import timm
import torch
from conftest import FORK, hold_lock, killed_at_the_end
from test_validate import write_table

from condnet import get_space
from condnet.benchmarks.tables import load_benchmark
from condnet.checkpoints.folder import save_model
from condnet.cli.search import main
from condnet.ranking.evaluate import EvaluationData, Prediction
from condnet.searching.config import SearchConfig
from condnet.searching.export import export_onnx
from condnet.searching.latency import MeasuredLatency, read_latency_table
from condnet.searching.problem import Candidate, Problem
from condnet.searching.report import expected_best, true_result
from condnet.searching.result import SearchResult, alone_in
from condnet.searching.storage import open_storage
from condnet.searching.study import evaluated_candidates, open_study, pareto_front, recorded_candidates, run_study
from condnet.utils.locks import lock_file
from tools.compare_search import search_table

MACRO = get_space('macro')


class Judge:
    """Predicts more of the costly operations as better, and remembers what it was asked."""

    def __init__(self, space=MACRO, stop_after=None):
        self.space, self.stop_after, self.calls = space, stop_after, []

    def __call__(self, archs):
        self.calls.append(list(archs))
        for arch in reversed(archs):  # in any order
            if self.stop_after == 0:
                raise KeyboardInterrupt
            self.stop_after = self.stop_after and self.stop_after - 1
            yield Prediction(self.space.index(arch), float(sum(arch)), 20.0 - sum(arch))

    @property
    def archs(self):
        return list(itertools.chain.from_iterable(self.calls))


def new_study(problem):
    return open_study(problem, optuna.storages.InMemoryStorage())


@pytest.fixture(autouse=True)
def no_table_at_hand(monkeypatch):
    """A table is what a test names; reading that of nb201 takes longer than the small searches here."""
    monkeypatch.delenv('CONDNET_DATA', raising=False)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Draws nothing, see test_api.py, and builds few networks to see whether costs add up, see test_costs.py."""
    monkeypatch.setattr('condnet.searching.result.SearchResult.plot', lambda result: None)
    monkeypatch.setattr('condnet.searching.result.to_png', lambda figure: b'plot')
    monkeypatch.setattr('condnet.ranking.costs.NUM_CHECKED', 2)


# The search itself


@pytest.mark.parametrize('space', ['nb201', 'macro'])
@pytest.mark.slow
def test_evolution_beats_random_search_on_the_true_table(space, data_dir):
    table = load_benchmark(space, str(data_dir))
    found = [search_table(table, 'nsga2', 300, seed) for seed in range(3)]  # with 200, one run in twelve is unlucky
    assert min(found) > expected_best(table.accuracy, 300)


@pytest.mark.parametrize('sampler', ['nsga2', 'tpe', 'random'])
def test_evaluates_only_what_is_new_and_within_the_limits(sampler):
    problem, judge = Problem(MACRO, limits={'flops': 40e6}, network_cost=MACRO.cost), Judge()
    study = new_study(problem)
    run_study(study, problem, judge, 120, sampler)
    assert len(judge.archs) == len(set(judge.archs)) == 120
    assert all(MACRO.cost(arch).flops <= 40e6 for arch in judge.archs)
    assert max(map(len, judge.calls)) > 10  # populations, not one at a time
    assert any(candidate.prediction is None for candidate in recorded_candidates(study, problem).values())
    best = evaluated_candidates(study, problem)[0]
    assert best.prediction.accuracy == max(map(sum, judge.archs)) == study.best_value


@pytest.mark.parametrize('sampler', ['nsga2', 'tpe'])
def test_begins_with_many_flops(sampler):
    problem, judge = Problem(MACRO, limits={'flops': 60e6}, network_cost=MACRO.cost), Judge()
    run_study(new_study(problem), problem, judge, 20, sampler, seed=3)
    (first,) = judge.calls
    within = sorted((MACRO.cost(arch).flops for arch in problem.feasible()), reverse=True)
    assert len(set(first)) == 20
    assert all(within[len(within) // 6] < MACRO.cost(arch).flops <= 60e6 for arch in first)
    again, other = Judge(), Judge()
    run_study(new_study(problem), problem, again, 20, sampler, seed=3)
    run_study(new_study(problem), problem, other, 20, sampler, seed=4)
    assert judge.archs == again.archs != other.archs


def test_begins_with_many_flops_where_it_was_interrupted():
    problem = Problem(MACRO, limits={'flops': 60e6}, network_cost=MACRO.cost)
    study = new_study(problem)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, problem, Judge(stop_after=5), 20)
    rest = Judge()
    run_study(study, problem, rest, 20)
    assert len(rest.archs) == 15 and min(MACRO.cost(arch).flops for arch in rest.archs) > 50e6
    more = Judge()
    run_study(study, problem, more, 100)  # of the first 50, 30 are left
    assert min(MACRO.cost(arch).flops for arch in more.calls[0][:30]) > 50e6
    assert min(MACRO.cost(arch).flops for arch in more.calls[0][30:]) < 50e6


@pytest.mark.parametrize(
    ('sampler', 'objectives', 'known'),
    [('random', 'accuracy', True), ('nsga2', 'accuracy flops', True), ('nsga2', 'accuracy', False)],
    ids=['random', 'flops are an objective', 'flops unknown'],
)
def test_begins_with_random_ones(sampler, objectives, known):
    problem = Problem(MACRO, tuple(objectives.split()), network_cost=MACRO.cost if known else None)
    judge = Judge()
    run_study(new_study(problem), problem, judge, 20, sampler)
    flops = [MACRO.cost(arch).flops for arch in judge.archs]
    assert min(flops) < sum(MACRO.cost(arch).flops for arch in MACRO) / len(MACRO)


def test_limits_guide_the_search():
    """Less than one proposal in a hundred is within this limit; evolution learns from how far the others are off."""
    problem = Problem(MACRO, limits={'flops': 22e6}, network_cost=MACRO.cost)
    assert len(problem.feasible()) == 49
    study = new_study(problem)
    run_study(study, problem, Judge(), 20)
    assert len(study.trials) < 450  # 339; 763 where it only learns that they are bad, 2,423 at random
    for trial in study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
        assert (trial.constraints['flops'] <= 0) == (MACRO.cost(problem.arch(trial.params)).flops <= 22e6)


def test_evolution_does_not_propose_mostly_copies():
    problem, study = Problem(MACRO), new_study(Problem(MACRO))
    run_study(study, problem, Judge(), 300)
    assert len(study.trials) < 450  # 342; 528 with Optuna's default mutation


def test_small_sets_are_evaluated_whole():
    problem, judge = Problem(get_space('nb201', 'only_conv')), Judge(get_space('nb201'))
    run_study(new_study(problem), problem, judge, 500)
    assert len(judge.calls) == 1 and sorted(judge.archs) == sorted(problem.space)


def test_search_ends_when_nothing_new_is_proposed(monkeypatch):
    monkeypatch.setattr('condnet.searching.study.PATIENCE', 2)
    monkeypatch.setattr(MeasuredLatency, '__call__', lambda self, arch: 1.0 + (sum(arch) > 1))
    latency = MeasuredLatency(timm.create_model('macro_cond_supernet'), (3, 32, 32), torch.device('cpu'))
    problem, judge = Problem(MACRO, limits={'latency': 1.5}, latency=latency), Judge()
    assert problem.feasible() is None
    run_study(new_study(problem), problem, judge, 100)  # nine are within the limit
    assert len(judge.archs) <= 9


def test_measured_limit_that_nothing_respects(monkeypatch):
    monkeypatch.setattr(MeasuredLatency, '__call__', lambda self, arch: 1.0 + (sum(arch) > 1))
    latency = MeasuredLatency(timm.create_model('macro_cond_supernet'), (3, 32, 32), torch.device('cpu'))
    with pytest.raises(ValueError, match='respects `max_latency` 0.5; that of the fewest FLOPs takes 1 ms here'):
        run_study(None, Problem(MACRO, limits={'latency': 0.5}, latency=latency, network_cost=MACRO.cost), Judge(), 100)


def test_grid_is_one_batch_and_its_front_is_exact():
    problem, judge = Problem(MACRO, ('accuracy', 'flops'), {'flops': 21e6}, network_cost=MACRO.cost), Judge()
    study = new_study(problem)
    run_study(study, problem, judge, 1, 'grid')
    assert len(judge.calls) == 1 and set(judge.archs) == set(problem.feasible())
    points = {arch: (sum(arch), -MACRO.cost(arch).flops) for arch in judge.archs}
    front = {
        arch
        for arch, (a, f) in points.items()
        if not any(b >= a and g >= f and (b, g) != (a, f) for b, g in points.values())
    }
    assert pareto_front(study, problem) == front and len(front) > 3


def test_equal_accuracies_are_told_apart_by_loss():
    problem, study = Problem(MACRO), new_study(Problem(MACRO))
    run_study(study, problem, lambda archs: [Prediction(MACRO.index(a), 50.0, 9.0 - a[0]) for a in archs], 30)
    assert evaluated_candidates(study, problem)[0].arch[0] == 2


def test_a_winner_by_cost_makes_no_sense():
    assert Problem(MACRO, ('flops', 'loss', 'accuracy'), network_cost=MACRO.cost).decides == 'loss'
    for objectives, message in ((('flops',), 'accuracy or loss'), (('loss', 'speed'), "unknown objective 'speed'")):
        with pytest.raises(ValueError, match=message):
            Problem(MACRO, objectives)


# The storage


def test_interrupted_search_keeps_what_it_computed_and_goes_on(tmp_path):
    problem, path = Problem(MACRO), str(tmp_path / 'a' / 'study.journal')
    first, second = Judge(stop_after=7), Judge()
    with pytest.raises(KeyboardInterrupt):
        run_study(open_study(problem, open_storage(path)), problem, first, 60)
    study = open_study(problem, open_storage(path))
    kept = [candidate.arch for candidate in evaluated_candidates(study, problem)]
    assert len(kept) == 7 and not study.get_trials(states=[optuna.trial.TrialState.RUNNING])
    run_study(study, problem, second, 60)
    assert len(second.archs) == 53 and not set(second.archs) & set(kept)


def test_resumed_search_does_not_propose_the_same_again():
    problem = Problem(MACRO)
    study = new_study(problem)
    run_study(study, problem, Judge(), 50, 'random')
    run_study(study, problem, Judge(), 100, 'random')
    assert len(study.trials) < 120


@pytest.mark.parametrize('budget, evaluated_first', [(150, 50), (100, 1)])
def test_searches_share_a_storage_and_its_budget(tmp_path, budget, evaluated_first):
    """A second process evaluates a hundred while the first one is at its first population."""
    problem, path, first, second = Problem(MACRO), str(tmp_path / 'study.journal'), Judge(), Judge()

    def evaluate(archs):
        if not second.calls:
            run_study(open_study(problem, open_storage(path)), problem, second, 100, seed=1)
        for prediction in first(archs):
            told.append(prediction)
            yield prediction

    told: list[Prediction] = []
    study = open_study(problem, open_storage(path))
    run_study(study, problem, evaluate, budget)
    assert len(second.archs) == 100 and len(told) >= evaluated_first
    assert len(evaluated_candidates(study, problem)) == budget  # the one that was under way does not count
    assert not study.get_trials(states=[optuna.trial.TrialState.RUNNING])


@pytest.mark.parametrize('storage', ['study.journal', 'sqlite:///study.db'])
def test_the_last_evaluation_counts_once(tmp_path, monkeypatch, storage):
    """Both have asked for what is left when the other one is done with it."""
    monkeypatch.chdir(tmp_path)
    problem, second = Problem(MACRO), Judge()
    study = open_study(problem, open_storage(storage))

    def evaluate(archs):
        for number, arch in enumerate(archs):
            if number == 3:
                run_study(open_study(problem, open_storage(storage)), problem, second, 8, 'random', seed=1)
            yield Prediction(MACRO.index(arch), 50.0, 1.0)

    run_study(study, problem, evaluate, 8, 'random')
    assert len(second.archs) == 5 and len(evaluated_candidates(study, problem)) == 8
    assert not study.get_trials(states=[optuna.trial.TrialState.RUNNING])


def search_slowly(storage, num_evals, seed, dies_after):
    """What one of several processes does."""
    problem = Problem(MACRO)

    def evaluate(archs):
        for number, arch in enumerate(archs):
            if number == dies_after:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.005)
            yield Prediction(MACRO.index(arch), float(sum(arch)), 1.0)

    run_study(open_study(problem, open_storage(storage)), problem, evaluate, num_evals, 'random', seed)


def test_processes_evaluate_exactly_as_many_as_asked_for(tmp_path, monkeypatch):
    """Three at once, of which one is killed, on a relative path; and more later."""
    monkeypatch.chdir(tmp_path)
    for num_evals, deaths in ((9, (-1, -1, 2)), (12, (-1, -1, -1))):
        calls = [('study.journal', num_evals, seed, death) for seed, death in enumerate(deaths)]
        processes = [FORK.Process(target=search_slowly, args=call) for call in calls]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes][:2] == [0, 0]
        problem = Problem(MACRO)
        assert len(evaluated_candidates(open_study(problem, open_storage('study.journal')), problem)) == num_evals


def test_locks_that_a_killed_search_left_do_not_block(tmp_path, monkeypatch):
    """Optuna's own is a link to the journal; under a relative path it leads nowhere, and Optuna waits for ever."""
    monkeypatch.chdir(tmp_path)
    Path('output').mkdir()
    os.symlink('output/study.journal', 'output/study.journal.lock')
    with killed_at_the_end(hold_lock, lock_file(Path('output/study.journal'))):
        pass
    problem, judge = Problem(MACRO), Judge()
    run_study(open_study(problem, open_storage('output/study.journal')), problem, judge, 3)
    assert len(judge.archs) == 3


def test_full_disk_keeps_what_was_computed(tmp_path, monkeypatch):
    """Half a line is written, as a full disk does it; the next search drops it."""
    problem, path, writes = Problem(MACRO), tmp_path / 'study.journal', itertools.count()
    append = optuna.storages.journal.JournalFileBackend.append_logs

    def fill_up(self, logs):
        if next(writes) > 900:
            with path.open('ab') as file:
                file.write(b'{"op_code":8,"wor')
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, logs)

    study = open_study(problem, open_storage(str(path)))
    with monkeypatch.context() as patch:
        patch.setattr(optuna.storages.journal.JournalFileBackend, 'append_logs', fill_up)
        with pytest.raises(OSError, match='No space left'):
            run_study(study, problem, Judge(), 100)
    study = open_study(problem, open_storage(str(path)))
    kept = len(evaluated_candidates(study, problem))
    second = Judge()
    run_study(study, problem, second, 100)
    assert kept > 20 and len(second.archs) == 100 - kept
    assert len(evaluated_candidates(open_study(problem, open_storage(str(path))), problem)) == 100


def test_storage_that_is_none(tmp_path):
    for content in (b'hello', b'hello\nworld\n', b'SQLite format 3\0\xff\n'):
        (tmp_path / 'file').write_bytes(content)
        with pytest.raises(ValueError, match='no journal of Optuna'):
            open_storage(str(tmp_path / 'file'))
        assert (tmp_path / 'file').read_bytes() == content
    with pytest.raises(ValueError, match='cannot open the database'):
        open_storage('nosuchdatabase://host/name')
    with pytest.raises(ValueError, match='cannot open the database'):
        open_storage(f'sqlite:///{tmp_path}/missing/study.db')


def test_database_as_storage(tmp_path):
    problem, url, second = (
        Problem(MACRO, ('loss', 'flops'), {'flops': 60e6}, network_cost=MACRO.cost),
        f'sqlite:///{tmp_path}/study.db',
        Judge(),
    )
    run_study(open_study(problem, open_storage(url)), problem, Judge(), 5)  # infeasible ones have infinite values
    run_study(open_study(problem, open_storage(url)), problem, second, 8)
    assert len(second.archs) == 3


# Ground truth and latency


def test_expected_best_is_exact():
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0]
    for num in range(1, 7):
        draws = list(itertools.combinations(values, num))
        assert expected_best(values, num) == pytest.approx(sum(map(max, draws)) / len(draws))
    assert expected_best(values, 100) == 9


def test_true_result_counts_within_the_limits(data_dir):
    table, problem = (
        load_benchmark('macro', str(data_dir)),
        Problem(MACRO, limits={'flops': 60e6}, network_cost=MACRO.cost),
    )
    study = new_study(problem)
    run_study(study, problem, Judge(), 20)
    winner, feasible = evaluated_candidates(study, problem)[0], problem.feasible()
    result = true_result(table, problem, winner, feasible, 20)
    truth = dict(zip(table.indices.tolist(), table.accuracy.tolist(), strict=True))
    within = [truth[MACRO.index(arch)] for arch in feasible]
    assert result['accuracy'] == truth[MACRO.index(winner.arch)] and result['num_archs'] == len(within)
    assert result['rank'] == sorted(within, reverse=True).index(result['accuracy']) + 1
    assert result['random'] < result['random_search'] < result['best'] == max(within)


def write_latencies(path: Path, space, archs, **changes) -> Path:
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, ['index', 'arch_str', 'phone_latency_ms', 'phone_energy_mJ'])
        writer.writeheader()
        for arch in archs:
            row = {'index': space.index(arch), 'arch_str': space.format(arch), 'phone_latency_ms': 1 + sum(arch)}
            writer.writerow(row | changes)
    return path


def test_latency_table(tmp_path):
    full, space = get_space('nb201'), get_space('nb201', 'only_conv')
    latencies = read_latency_table(write_latencies(tmp_path / 't.csv', full, full), space, 'phone')
    assert len(latencies) == 64 and latencies[3, 3, 3, 3, 3, 3] == 19
    for message, archs, changes in (
        ('lacks 63 of the 64', [(2,) * 6], {}),
        ("latency 'nan'", space, {'phone_latency_ms': 'nan'}),
        ('its index in nb201 is', space, {'index': 0}),
        ('not an architecture string', space, {'arch_str': '01201201'}),
        ('twice', [*space, (2,) * 6], {}),
    ):
        with pytest.raises(ValueError, match=message):
            read_latency_table(write_latencies(tmp_path / 't.csv', full, archs, **changes), space, 'phone')
    with pytest.raises(ValueError, match="'watch', expected one of 'phone'"):
        read_latency_table(tmp_path / 't.csv', space, 'watch')
    with pytest.raises(ValueError, match='no latency table of macro'):
        read_latency_table(tmp_path / 't.csv', MACRO, 'phone')
    (tmp_path / 't.csv').write_text('a,b\n')
    with pytest.raises(ValueError, match='expected columns'):
        read_latency_table(tmp_path / 't.csv', space, 'phone')


def test_hw_nas_bench_is_read(data_dir):
    path = data_dir / 'benchmarks' / 'hw-nas-bench-201_cifar10.csv'
    latencies = read_latency_table(path, get_space('nb201'), 'raspi4')
    assert len(latencies) == 15625 and latencies[get_space('nb201').parse(0)] == 10.482


def test_measured_latency_grows_with_the_network():
    latency = MeasuredLatency(timm.create_model('macro_cond_supernet'), (3, 32, 32), torch.device('cpu'))
    assert 0 < 2 * latency((0,) * 8) < latency((2,) * 8)


# The command


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> Path:
    """A small split super-network with weights that half precision cannot hold."""
    torch.manual_seed(0)
    small = {'space': 'only_conv', 'cells_per_stage': 1, 'channels': (8, 8, 8)}
    model = timm.create_model('nb201_cond_supernet', split=True, **small)
    folder = tmp_path_factory.mktemp('supernet')
    save_model(model, folder, {'data_name': 'cifar10'}, half=False)
    return folder


def arguments(checkpoint, tiny_data, output, *more) -> list[str]:
    return [
        str(checkpoint), '--data-dir', str(tiny_data), '--output', str(output), '--calib-batches', '1',
        '--num-evals', '6', *more,
    ]  # fmt: skip


def test_winner_respects_the_limit_and_scores_elsewhere_what_was_predicted(
    checkpoint, tiny_data, tmp_path, monkeypatch, capsys
):
    data = []
    monkeypatch.setattr('condnet.searching.run.predict', spy_on_data(data))
    space, full = get_space('nb201', 'only_conv'), get_space('nb201')
    table = write_table(tmp_path / 'nas-bench-201.csv', sorted(map(full.index, space)))
    more = ('--benchmark', str(table), '--max-flops', '2.6e6', '--calib-batches', '3')  # two of 3x3 at most
    assert main(arguments(checkpoint, tiny_data, tmp_path, *more)) == 0
    output = capsys.readouterr().out
    summary = json.loads((tmp_path / 'search.json').read_text())
    assert summary['calibration']['batches'] == 1  # there are no more images
    winner, network = summary['winner'], summary['network']
    assert f'winner: {winner["arch"]}' in output and f'rank {summary["truth"]["rank"]} of' in output
    assert summary['truth']['accuracy'] == 50 + winner['index'] % 40
    assert (network['accuracy'], network['loss']) == (winner['accuracy'], winner['loss'])
    assert (network['params'], network['flops']) == (winner['params'], winner['flops'])
    assert network['flops'] < full.cost(winner['arch']).flops == summary['truth']['flops']  # of 15 cells
    assert network['flops'] <= 2.6e6 and summary['num_feasible'] == 22
    with (tmp_path / 'architectures.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == summary['num_evals'] == 6 and int(rows[0]['index']) == winner['index']
    accuracies = [float(row['accuracy']) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True) and rows[0]['front'] == '1'
    assert (tmp_path / 'front.png').read_bytes() == b'plot'

    net = timm.create_model(f'local-dir:{tmp_path / "network"}', pretrained=True).eval()
    with torch.no_grad():
        found = net(data[0].images).argmax(1) == data[0].targets
    assert 100 * found.double().mean().item() == pytest.approx(winner['accuracy'], abs=1e-9)
    assert full.format(net.arch) == winner['arch']


def spy_on_data(seen):
    from condnet.ranking.tree import predict

    def spy(model, archs, data):
        seen.append(data)
        return predict(model, archs, data)

    return spy


@pytest.mark.slow
def test_same_command_again_evaluates_nothing_and_more_goes_on(checkpoint, tiny_data, tmp_path, monkeypatch):
    assert main(arguments(checkpoint, tiny_data, tmp_path, '--num-evals', '2')) == 0
    before, calls = (tmp_path / 'architectures.csv').read_bytes(), []
    monkeypatch.setattr('condnet.searching.run.predict', spy_on_data(calls))
    assert main(arguments(checkpoint, tiny_data, tmp_path, '--num-evals', '2')) == 0
    assert not calls and (tmp_path / 'architectures.csv').read_bytes() == before
    assert main(arguments(checkpoint, tiny_data, tmp_path, '--num-evals', '3', '--sampler', 'random')) == 0
    assert json.loads((tmp_path / 'search.json').read_text())['num_evals'] == 3


@pytest.mark.slow
def test_full_disk_while_results_are_written(checkpoint, tiny_data, tmp_path, monkeypatch, capsys):
    def no_space(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr('condnet.searching.result.write_file', no_space)
        assert main(arguments(checkpoint, tiny_data, tmp_path, '--num-evals', '2')) == 2
    assert 'No space left' in capsys.readouterr().err
    monkeypatch.setattr('condnet.searching.run.predict', None)  # nothing is left to evaluate
    assert main(arguments(checkpoint, tiny_data, tmp_path, '--num-evals', '2')) == 0


def test_full_disk_while_the_winner_is_written(tmp_path):
    """The library that writes weights has an error of its own for it."""
    model, limits = timm.create_model('nb201_net', cells_per_stage=1), resource.getrlimit(resource.RLIMIT_FSIZE)
    save_model(model, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match='cannot write the weights'):
            save_model(model, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_searches_write_their_results_one_after_the_other(tmp_path):
    """Two processes of the same search have the same output."""
    order = []

    def write_second():
        with alone_in(tmp_path):
            order.append('second')

    with alone_in(tmp_path):
        thread = threading.Thread(target=write_second)
        thread.start()
        thread.join(0.3)
        order.append('first')
    thread.join()
    assert order == ['first', 'second']


@pytest.mark.slow
def test_latency_is_measured_and_kept(checkpoint, tiny_data, tmp_path):
    more = ('--objectives', 'loss,latency', '--num-evals', '2')
    assert main(arguments(checkpoint, tiny_data, tmp_path, *more)) == 0
    first = json.loads((tmp_path / 'search.json').read_text())
    assert main(arguments(checkpoint, tiny_data, tmp_path, *more)) == 0
    assert json.loads((tmp_path / 'search.json').read_text())['front'] == first['front']
    assert all(candidate['latency'] > 0 for candidate in first['front'])


@pytest.fixture
def refuse(checkpoint, tiny_data, tmp_path, capsys):
    """Run with something changed and expect one line."""

    def run(*more, checkpoint=checkpoint, tiny_data=tiny_data):
        assert main(arguments(checkpoint, tiny_data, tmp_path / 'out', *more)) == 2
        captured = capsys.readouterr()
        error = captured.err.strip().splitlines()[-1]
        assert error.startswith('condnet-search: error: ') and 'Traceback' not in captured.err
        return error

    return run


def test_bad_flags(refuse, tmp_path):
    assert 'the least is' in refuse('--max-flops', '1e3')
    assert '--max-flops 8e+07 and --max-params 1;' in refuse('--max-flops', '80e6', '--max-params', '1')
    assert "unknown objective 'speed'" in refuse('--objectives', 'accuracy,speed')
    assert 'accuracy or loss' in refuse('--objectives', 'flops')
    assert '--num-evals is 0' in refuse('--num-evals', '0')
    assert '--max-flops is -1.0' in refuse('--max-flops', '-1')
    assert 'of no use' in refuse('--latency-table', 'x.csv')
    assert 'expected a --latency-table' in refuse('--latency-device', 'phone', '--max-latency', '3')
    assert 'No such file' in refuse('--latency-table', 'x.csv', '--max-latency', '3')
    assert 'needs --latency-table' in refuse('--max-latency', '3', '--sampler', 'grid')
    assert 'no such benchmark table' in refuse('--benchmark', str(tmp_path / 'missing'))
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_study_of_another_search_is_refused(refuse, checkpoint, tiny_data, tmp_path):
    assert main(arguments(checkpoint, tiny_data, tmp_path / 'out', '--num-evals', '2')) == 0
    study = optuna.load_study(study_name='search', storage=open_storage(str(tmp_path / 'out' / 'study.journal')))
    trials = study.get_trials()
    assert 'its objectives is' in refuse('--objectives', 'loss,latency')  # not: its latency
    assert "its limits is {}, not {'flops': 90000000.0}" in refuse('--max-flops', '90e6')
    assert 'its calib_momentum is None, not 0.1' in refuse('--calib-momentum', '0.1')
    assert 'its eval_images is' in refuse('--eval-images', '10')
    changed = shutil.copytree(tiny_data, tmp_path / 'changed')
    for file in (changed / 'train' / 'frog').iterdir():
        shutil.copy(tiny_data / 'train' / 'cat' / file.name, file)
    assert 'its images_sha256 is' in refuse(tiny_data=changed)
    other = timm.create_model('nb201_cond_supernet', space='only_conv', cells_per_stage=1, channels=(8, 8, 8))
    save_model(other, tmp_path / 'other', {'data_name': 'cifar10'})
    assert 'its checkpoint_sha256 is' in refuse(checkpoint=tmp_path / 'other')
    assert study.get_trials() == trials and study.user_attrs['identity']['limits'] == {}
    optuna.create_study(storage=open_storage(str(tmp_path / 'foreign')), study_name='search').enqueue_trial({'x': 1})
    assert 'of another search' in refuse('--storage', str(tmp_path / 'foreign'))
    more = ('--study-name', 'mine', '--storage', str(tmp_path / 'foreign'), '--num-evals', '2')
    assert main(arguments(checkpoint, tiny_data, tmp_path / 'mine', *more)) == 0


def test_winner_as_onnx(checkpoint, tiny_data, tmp_path, monkeypatch, caplog, capfd):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    with caplog.at_level('INFO'):
        assert main(arguments(checkpoint, tiny_data, tmp_path, '--onnx')) == 0
    assert {record.name.partition('.')[0] for record in caplog.records} <= {'condnet', 'timm'}  # not the optimiser's
    assert 'nodes' not in ''.join(capfd.readouterr())
    assert logging.getLogger('onnxscript').level == logging.NOTSET
    net = timm.create_model(f'local-dir:{tmp_path / "network"}', pretrained=True).eval()
    session = onnxruntime.InferenceSession(tmp_path / 'network.onnx')
    for size in (1, 5):  # any batch size
        images = torch.randn(size, 3, 32, 32)
        (logits,) = session.run(None, {'images': images.numpy()})
        assert torch.allclose(torch.from_numpy(logits), net(images), atol=1e-4)
    monkeypatch.setattr('condnet.searching.export.ONNX_TOLERANCE', -1)
    with pytest.raises(ValueError, match='differs from the original'):
        export_onnx(net, tmp_path / 'wrong.onnx', torch.randn(2, 3, 32, 32))
    assert not (tmp_path / 'wrong.onnx').exists()


def test_objectives_may_have_spaces_between_them():
    for objectives in ('accuracy, flops', ('accuracy', 'flops'), ['accuracy ', ' flops']):
        assert SearchConfig(objectives=objectives).objective_names == ('accuracy', 'flops')


def test_onnx_is_made_with_two_images_where_batches_are_of_one(monkeypatch, tmp_path):
    for name in ('check_onnx_packages', 'calibrated_subnet', 'export_network'):
        monkeypatch.setattr(f'condnet.searching.result.{name}', lambda *_: {})
    monkeypatch.setattr('condnet.searching.result.export_onnx', lambda net, path, images: len(images))
    data = EvaluationData(None, torch.zeros(5, 3, 8, 8), torch.zeros(5), batch_size=1)
    result = SearchResult(Problem(MACRO), [Candidate((0,) * 8, {})], set(), None, None, data, {}, {})
    assert result.export(tmp_path / 'net', onnx=True) == {'onnx_difference': 2}


def test_missing_onnx_is_said_before_the_search(refuse, tmp_path, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert "pip install 'condnet[export]'" in refuse('--onnx')
    assert not (tmp_path / 'out').exists()
