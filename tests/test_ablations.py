"""The ablations of nb201: the committed results, and the tables that docs/results.md makes of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from condnet import get_space
from condnet.benchmarks.tables import BenchmarkTable, load_benchmark
from condnet.ranking.results import read_predictions, summarize_predictions
from tools.ablations import RESULTS, SEEDS, TABLES, VARIANTS, baselines, fill, measure, result_path, training_losses

PAGE = Path(__file__).parent.parent / 'docs' / 'results.md'
ABLATIONS = sorted((RESULTS / 'ablations').glob('*_seed[0-9].json'))


def test_tables_in_the_text_follow_from_the_results(data_dir):
    text = PAGE.read_text()
    assert fill(text, load_benchmark('nb201', data_dir / 'benchmarks')) == text


@pytest.mark.parametrize('name', TABLES)
def test_every_table_has_its_place_in_the_text(name):
    start, end = PAGE.read_text().find(f'<!-- {name}: start -->'), PAGE.read_text().find(f'<!-- {name}: end -->')
    assert 0 <= start < end


def test_metrics_of_the_ablations_follow_from_predictions_and_truth(data_dir):
    table = load_benchmark('nb201', data_dir / 'benchmarks')
    for path in ABLATIONS:
        summary = json.loads(path.read_text())
        for key, value in summarize_predictions(read_predictions(path.with_suffix('.csv')), table).items():
            assert summary[key] == pytest.approx(value, rel=1e-9), path.name


def test_every_result_says_how_its_training_went():
    losses = training_losses()
    assert len(ABLATIONS) == len(VARIANTS) * len(SEEDS) + 6
    for path in ABLATIONS:
        training = json.loads(path.read_text())['training']
        assert len(losses[path.stem]) == training['trained_epochs']
        seed = path.stem.rpartition('seed')[2]
        assert training['seed'] == int(seed)


def test_variants_are_compared_over_the_same_architectures():
    expected = get_space('nb201').sample_distinct(300, seed=0)
    indices = {get_space('nb201').index(arch) for arch in expected}
    for name in VARIANTS:
        for seed in SEEDS:
            assert {prediction.index for prediction in read_predictions(result_path(name, seed))} == indices


def test_split_and_unsplit_have_one_trunk():
    """They are paired: up to the split, the training losses of a seed are the same."""
    losses = training_losses()
    for seed in SEEDS:
        split, unsplit = (losses[result_path(name, seed).stem] for name in ('cond1', 'spos1'))
        assert split[:84] == unsplit[:84] and split[84:100] != unsplit[84:100]


def test_baselines_score_by_what_they_say():
    """A table whose truth is additive is fitted exactly; what is drawn more often has the higher prior."""
    space = get_space('nb201')
    path = result_path('one_cell', 0)
    archs = list(space)
    worth = np.random.default_rng(0).normal(size=(6, 5))
    truth = np.array([sum(worth[range(6), list(arch)]) for arch in archs])
    costs = [space.cost(arch) for arch in archs]
    params, flops = np.array([cost.params for cost in costs]), np.array([cost.flops for cost in costs])
    indices = np.array([space.index(arch) for arch in archs])
    table = BenchmarkTable('nb201', 'cifar10', indices, truth, params, flops, 'made up', '')
    scores, true = baselines(path, table)
    fitted = scores['linear fit to the true ranks of all 15,625']
    assert measure(fitted, true)['KT'] > 0.95  # ranks are nearly linear in it
    prior = scores['the proportions themselves: log-probability of being drawn']
    first = [space.parse(prediction.index) for prediction in read_predictions(path)]
    best, worst = first[int(prior.argmax())], first[int(prior.argmin())]
    assert best.count(3) > worst.count(3) and worst.count(0) + worst.count(4) > best.count(0) + best.count(4)


def test_figures_of_a_score():
    truth = np.arange(20.0)
    score = np.concatenate([truth[:10], truth[:9:-1]])  # right in the worse half, the wrong way round in the better
    figures = measure(score, truth)
    assert figures['half'] == pytest.approx(-1)
    assert figures['top10'] == pytest.approx(truth[10:].mean())
    assert figures['KT'] == pytest.approx((190 - 2 * 45) / 190)
