"""Write the tables of docs/results.md: what was tried to make the super-network of nb201 rank better.

Every figure follows from results/ and the benchmark's table: `python -m tools.ablations --benchmark DIR`.
"""

import argparse
import csv
import json
import math
import sys
from pathlib import Path

import numpy as np
from scipy import stats

from condnet.benchmarks.tables import BenchmarkTable, load_benchmark
from condnet.cli.common import run
from condnet.errors import CondnetError
from condnet.ranking.metrics import ranking_metrics
from condnet.ranking.results import read_predictions
from condnet.spaces.registry import get_space
from condnet.utils.files import write_file

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / 'results'
SPACE = get_space('nb201')
SEEDS = (0, 1, 2)
OPERATION_WEIGHTS = (0.5, 1, 1.5, 2.5, 0.5)  # in the order of the space's operations
VARIANTS = {
    'one_cell': '1 cell a stage, linear skips',
    'plain_skips': '1 cell a stage, plain skips (what follows is this, changed)',
    'lr_by_size': 'learning rate by size',
    'distinct_cells': 'uniform over distinct connected cells',
    'wide': 'channels doubled',
    'operation_weights': 'operations in proportions 0.5 : 1 : 1.5 : 2.5 : 0.5',
    'two_cells_normalised': '2 cells a stage, a BatchNorm without weights after each',
}
LONG = {'wide_100_epochs': 'channels doubled, 100 epochs', 'lr_by_size_100_epochs': 'learning rate by size, 100 epochs'}

Scores = dict[str, np.ndarray]  # how architectures are ranked: a score each, higher is better


def result_path(name: str, seed: int) -> Path:
    """The predictions of a training (CSV). Seed 0 of the long pair belongs to published super-networks."""
    if seed == 0 and name in ('cond1', 'spos1'):
        return RESULTS / f'nb201_{name}_cifar10.csv'
    return RESULTS / 'ablations' / f'nb201_{name}_seed{seed}.csv'


def training_losses() -> dict[str, list[float]]:
    """Training loss after every epoch, by the name of the results."""
    with (RESULTS / 'ablations' / 'trainings.csv').open(newline='') as file:
        return {row['results']: [float(loss) for loss in row['train_losses'].split()] for row in csv.DictReader(file)}


def read_scores(path: Path, table: BenchmarkTable) -> tuple[Scores, np.ndarray]:
    """Scores by a super-network, by FLOPs, and by rank means of these; and the true accuracies."""
    predictions = read_predictions(path)
    truth = table.select([prediction.index for prediction in predictions])
    scores = {
        'accuracy': np.array([prediction.accuracy for prediction in predictions]),
        'loss': -np.array([prediction.loss for prediction in predictions]),
        'FLOPs': truth.flops.astype(float),
    }
    for pair in (('accuracy', 'FLOPs'), ('loss', 'FLOPs'), ('accuracy', 'loss')):
        scores[' and '.join(pair)] = sum((stats.rankdata(scores[name]) for name in pair), start=np.zeros(len(truth)))
    return scores, truth.accuracy


def baselines(path: Path, table: BenchmarkTable) -> tuple[Scores, np.ndarray]:
    """Scores that need no super-network for the architectures of a results file; and the true accuracies."""
    indices = [prediction.index for prediction in read_predictions(path)]
    truth = table.select(indices)
    log_weights = np.log(OPERATION_WEIGHTS)
    prior = np.array([sum(log_weights[list(SPACE.parse(index))]) for index in indices])
    one_hot = np.array([np.eye(5)[list(SPACE.parse(index))].ravel() for index in table.indices.tolist()])
    fit = one_hot @ np.linalg.lstsq(one_hot, stats.rankdata(table.accuracy), rcond=None)[0]
    fitted = dict(zip(table.indices.tolist(), fit.round(6), strict=True))  # equal cells may differ by rounding
    scores = {
        'FLOPs': truth.flops.astype(float),
        'parameters': truth.params.astype(float),
        'the proportions themselves: log-probability of being drawn': prior.round(9),
        'linear fit to the true ranks of all 15,625': np.array([fitted[index] for index in indices]),
    }
    return scores, truth.accuracy


def measure(score: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Kendall's tau over all and over the better half by truth, and the mean truth of the ten best by score."""
    metrics, better = ranking_metrics(score, truth), truth > np.median(truth)
    half = ranking_metrics(score[better], truth[better])['kendall_tau']
    figures = {'KT': metrics['kendall_tau'], 'half': half, 'top10': metrics['top10']}
    figures['KT50'] = metrics['kendall_tau_50']
    return {name: math.nan if value is None else value for name, value in figures.items()}


def spread(values: list[float], digits: int) -> str:
    """Mean and standard deviation of a sample."""
    return f'{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}'


def ablation_table(table: BenchmarkTable) -> str:
    """All short trainings, a variant a row, and what needs no super-network."""
    head = ('variant', 'n', 'epochs', 'loss after 20', 'loss at the end', 'KT accuracy', 'KT loss',
            'KT accuracy and FLOPs', 'half, accuracy', 'half, loss', 'top-10 accuracy', 'top-10 loss',
            'gain in KT accuracy')  # fmt: skip
    rows, losses, reference = [head], training_losses(), _kt_by_accuracy('plain_skips', table)
    for name, description in VARIANTS.items():
        paths = [result_path(name, seed) for seed in SEEDS]
        curves = [losses[path.stem] for path in paths]
        measured = []
        for path in paths:
            scores, truth = read_scores(path, table)
            measured.append({by: measure(score, truth) for by, score in scores.items()})
        columns = [('accuracy', 'KT', 3), ('loss', 'KT', 3), ('accuracy and FLOPs', 'KT', 3), ('accuracy', 'half', 3),
                   ('loss', 'half', 3), ('accuracy', 'top10', 2), ('loss', 'top10', 2)]  # fmt: skip
        figures = [spread([figure[by][what] for figure in measured], digits) for by, what, digits in columns]
        epochs = sorted({len(curve) for curve in curves})
        after_20, at_end = (spread([curve[epoch] for curve in curves], 2) for epoch in (19, -1))
        gains = np.subtract([figure['accuracy']['KT'] for figure in measured], reference)
        gain = '' if name == 'plain_skips' else spread(list(gains), 3)
        rows.append((description, str(len(paths)), ' to '.join(map(str, epochs)), after_20, at_end, *figures, gain))
    scores, truth = baselines(result_path('one_cell', 0), table)
    for name, score in scores.items():
        figure = measure(score, truth)
        kt, half, top = f'{figure["KT"]:.3f}', f'{figure["half"]:.3f}', f'{figure["top10"]:.2f}'
        rows.append((name, '', '', '', '', kt, '', '', half, '', top, '', ''))
    return markdown(rows)


def _kt_by_accuracy(name: str, table: BenchmarkTable) -> list[float]:
    read = [read_scores(result_path(name, seed), table) for seed in SEEDS]
    return [measure(scores['accuracy'], truth)['KT'] for scores, truth in read]


def split_table(table: BenchmarkTable) -> str:
    """Split against unsplit, paired by seed."""
    rows: list[tuple[str, ...]] = [('figure', 'split', 'unsplit', 'differences', 'mean ± sd', '95% interval')]
    measured: dict[str, list[dict[str, dict[str, float]]]] = {'cond1': [], 'spos1': []}
    for name, figures in measured.items():
        for seed in SEEDS:
            scores, truth = read_scores(result_path(name, seed), table)
            figures.append({by: measure(score, truth) for by, score in scores.items()})
    labels = {'KT': 'KT', 'half': 'KT in the better half', 'KT50': 'KT 50', 'top10': 'top-10'}
    for what, label in labels.items():
        for by in ('accuracy', 'loss'):
            digits = 2 if what == 'top10' else 3
            values = {name: [figure[by][what] for figure in figures] for name, figures in measured.items()}
            differences = np.subtract(values['cond1'], values['spos1'])
            # Student's t, as there are only so many pairs
            reach = stats.t.ppf(0.975, len(SEEDS) - 1) * differences.std(ddof=1) / math.sqrt(len(SEEDS))
            low, high = differences.mean() - reach, differences.mean() + reach
            rows.append((
                f'{label}, {by}', spread(values['cond1'], digits), spread(values['spos1'], digits),
                ', '.join(f'{difference:+.{digits}f}' for difference in differences),
                spread(list(differences), digits), f'{low:+.{digits}f} to {high:+.{digits}f}',
            ))  # fmt: skip
    return markdown(rows)


def rank_mean_table(table: BenchmarkTable) -> str:
    """What rank means are worth with the long trainings, and what needs no super-network."""
    rows: list[tuple[str, ...]] = [('ranked by', 'split: KT', 'half', 'top-10', 'unsplit: KT', 'half', 'top-10')]
    read = {(name, s): read_scores(result_path(name, s), table) for name in ('cond1', 'spos1') for s in SEEDS}
    for by in next(iter(read.values()))[0]:
        if by != 'FLOPs':
            row = [by]
            for name in ('cond1', 'spos1'):
                figures = [measure(read[name, seed][0][by], read[name, seed][1]) for seed in SEEDS]
                for what, digits in (('KT', 3), ('half', 3), ('top10', 2)):
                    row.append(spread([figure[what] for figure in figures], digits))
            rows.append(tuple(row))
    scores, truth = baselines(result_path('cond1', 0), table)
    for by, score in scores.items():
        figure = measure(score, truth)
        rows.append((by, f'{figure["KT"]:.3f}', f'{figure["half"]:.3f}', f'{figure["top10"]:.2f}', '', '', ''))
    return markdown(rows)


def long_table(table: BenchmarkTable) -> str:
    """Longer trainings of one seed, on the 300 architectures that all of them ranked."""
    rows: list[tuple[str, ...]] = [('variant', 'epochs', 'loss at the end', 'KT accuracy', 'KT loss', 'half, accuracy',
                                    'half, loss', 'top-10 accuracy', 'top-10 loss')]  # fmt: skip
    common = {prediction.index for prediction in read_predictions(result_path('wide_100_epochs', 0))}
    for name, description in {'spos1': 'as it is, 140 epochs'}.items() | LONG.items():
        path = result_path(name, 0)
        predictions = [prediction for prediction in read_predictions(path) if prediction.index in common]
        truth = table.select([prediction.index for prediction in predictions]).accuracy
        by_accuracy = measure(np.array([prediction.accuracy for prediction in predictions]), truth)
        by_loss = measure(-np.array([prediction.loss for prediction in predictions]), truth)
        figures = [f'{by[what]:.3f}' for what in ('KT', 'half') for by in (by_accuracy, by_loss)]
        tops = [f'{by["top10"]:.2f}' for by in (by_accuracy, by_loss)]
        trained = json.loads(path.with_suffix('.json').read_text())['training']['trained_epochs']
        loss = training_losses()[path.stem][-1]
        rows.append((description, str(trained), f'{loss:.2f}', *figures, *tops))
    return markdown([rows[0], *sorted(rows[1:])])


def markdown(rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown; the first row is its head."""
    lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
    return '\n'.join([lines[0], '|' + '---|' * len(rows[0]), *lines[1:]])


TABLES = {'ablations': ablation_table, 'split': split_table, 'rank-means': rank_mean_table, 'long': long_table}


def fill(text: str, table: BenchmarkTable) -> str:
    """A page with every table put between its marks.

    Raises:
        CondnetError: If marks are missing.
    """
    for name, make in TABLES.items():
        before, start, rest = text.partition(f'<!-- {name}: start -->\n')
        _, end, after = rest.partition(f'<!-- {name}: end -->')
        if not start or not end:
            raise CondnetError(f'the page lacks the marks of the table {name!r}')
        text = f'{before}{start}{make(table)}\n{end}{after}'
    return text


def main(argv: list[str] | None = None) -> int:
    """Write the tables of docs/results.md."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('--benchmark', type=Path, help='table of nb201, or its directory')
    args = parser.parse_args(argv)

    def command() -> None:
        page = ROOT / 'docs' / 'results.md'
        before = page.read_text()
        after = fill(before, load_benchmark('nb201', args.benchmark))
        if after != before:
            write_file(page, after.encode())
        print(f'{page.relative_to(ROOT)}: {"up to date" if after == before else "updated"}')

    return run('ablations', command)


if __name__ == '__main__':
    sys.exit(main())
