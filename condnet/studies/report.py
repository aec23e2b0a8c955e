"""The report of a study: the paper's Table 5, Figures 4 to 7 and resource tables, of whatever is finished.

Everything is computed from the rankings' summaries and the trainings' `summary.csv`. What was measured in seconds and
bytes goes to the resource tables alone: the other files are the same, byte for byte, whenever and however often a
study was interrupted.
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condnet.ranking.results import read_summary
from condnet.studies.figures import Series, plot_selection, plot_validation
from condnet.studies.runner import read_rows
from condnet.utils.csvfile import write_csv
from condnet.utils.files import write_file

if TYPE_CHECKING:
    from condnet.studies.plan import Study, Variant


RANKED_BY = ('accuracy', 'loss')  # the paper's first
METRICS = ('kendall_tau', 'kendall_tau_50', 'spearman', 'top1', 'top5', 'top10', 'improvement1', 'improvement5',
           'improvement10')  # fmt: skip
_PAIRED = ('kendall_tau', 'kendall_tau_50', 'top1', 'top10')
_NAMES = {'kendall_tau': 'KT all', 'kendall_tau_50': 'KT 50', 'top1': 'top-1', 'top5': 'top-5', 'top10': 'top-10',
          'improvement1': 'improvement'}  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (of the sample) over seeds; None where there are too few."""

    n: int
    mean: float | None
    std: float | None

    def __str__(self) -> str:
        if self.mean is None:
            return '-'
        digits = 3 if abs(self.mean) < 10 else 2
        mean = round(self.mean, digits) + 0.0  # not -0.0
        return f'{mean:.{digits}f}' + (f' ± {self.std:.{digits}f}' if self.std is not None else '')


def spread(values: Iterable[float | None]) -> Spread:
    """Statistics of the values that are known."""
    known = [float(value) for value in values if value is not None]
    std = statistics.stdev(known) if len(known) > 1 else None
    return Spread(len(known), statistics.fmean(known) if known else None, std)


@dataclass(frozen=True)
class Results:
    """What is finished of one variant.

    Args:
        variant: The variant.
        rankings: Summaries by arm, then by seed.
        trainings: Rows of `summary.csv` by arm (no stopped ones), then by seed.
    """

    variant: 'Variant'
    rankings: dict[str, dict[int, dict[str, Any]]]
    trainings: dict[str, dict[int, list[dict[str, str]]]]

    def values(self, arm: str, ranked_by: str, metric: str) -> dict[int, float | None]:
        """A metric by seed. The trivial baselines, such as `flops`, are taken from the rankings of an arm."""
        return {seed: row[ranked_by][metric] for seed, row in self.rankings[arm].items() if ranked_by in row}

    def paired(self, arm: str, ranked_by: str, metric: str) -> Spread:
        """By how much a metric exceeds the baseline's of the same seed."""
        ours, baseline = self.values(arm, ranked_by, metric), self.values('baseline', ranked_by, metric)
        pairs = [(ours[seed], baseline[seed]) for seed in ours if seed in baseline]
        return spread(a - b for a, b in pairs if a is not None and b is not None)

    def used(self, arm: str, name: str) -> dict[int, float]:
        """Seconds of a whole training, the trunk's epochs included, or its peak memory, by seed."""
        combine = sum if name == 'seconds' else max
        return {
            seed: combine(float(row[f'train_{name}']) for row in rows) for seed, rows in self.trainings[arm].items()
        }


def collect(study: 'Study', output: Path) -> list[Results]:
    """Read what is finished."""
    return [_collect_variant(study, variant, output / variant.name) for variant in study.variants]


def _collect_variant(study: 'Study', variant: 'Variant', folder: Path) -> Results:
    rankings: dict[str, dict[int, dict[str, Any]]] = {arm: {} for arm in study.arms}
    trainings: dict[str, dict[int, list[dict[str, str]]]] = {
        arm: {} for arm in study.arms if not arm.startswith('stop')
    }
    for seed in study.seeds:
        at = folder / f'seed{seed}'
        for arm in study.arms:
            if (at / 'done' / f'rank-{arm}.json').exists():
                rankings[arm][seed] = read_summary(at / 'rankings' / f'{arm}.json')
        for arm in trainings:
            name = 'trunk' if arm == 'baseline' else arm
            if (at / 'done' / f'{name}.json').exists():
                trainings[arm][seed] = read_rows(at / name / 'summary.csv')
    return Results(variant, rankings, trainings)


def write_report(study: 'Study', output: Path) -> str:
    """Write tables and figures to `report/` in the folder of a study; returns its main text."""
    folder = output / 'report'
    folder.mkdir(parents=True, exist_ok=True)
    results = collect(study, output)
    figures = {name: plot for name, plot in _figures(study, results).items() if plot is not None}
    for name, plot in figures.items():
        write_file(folder / name, plot)
    tables = ('report.md', 'resources.md', 'runs.csv', 'rankings.csv', 'resources.csv')
    _write_csv(folder / 'runs.csv', _runs(study, results))
    _write_csv(folder / 'rankings.csv', _summary(study, results))
    _write_csv(folder / 'resources.csv', _resources(results))
    text = '\n\n'.join([
        f'# {study.name}',
        *_ranking_tables(study, results),
        *(f'![{_CAPTIONS[name]}]({name})\n\n{_CAPTIONS[name]}' for name in figures),
    ])  # fmt: skip
    write_file(folder / 'report.md', f'{text}\n'.encode())
    write_file(folder / 'resources.md', f'{_resource_table(study, results)}\n'.encode())
    written = ', '.join(str(folder / name) for name in (*tables, *figures))
    return f'{text.partition("![")[0].rstrip()}\n\nwrote {written}'


def _runs(study: 'Study', results: list[Results]) -> list[dict[str, Any]]:
    """A row for every ranking and way to predict."""
    return [
        {'variant': result.variant.name, 'arm': arm, 'seed': seed, 'ranked_by': by}
        | {metric: summary[by][metric] for metric in METRICS}
        for result in results
        for arm in study.arms
        for seed, summary in result.rankings[arm].items()
        for by in (*RANKED_BY, 'params', 'flops')
        if by in summary
    ]


def _summary(study: 'Study', results: list[Results]) -> list[dict[str, Any]]:
    """A row for every arm and way to predict: n, means, standard deviations, and paired differences to the baseline."""
    rows = []
    for result in results:
        for arm in study.arms:
            for by in RANKED_BY:
                row: dict[str, Any] = {'variant': result.variant.name, 'arm': arm, 'ranked_by': by}
                row['n'] = len(result.values(arm, by, 'top1'))
                for metric in METRICS:
                    found = spread(result.values(arm, by, metric).values())
                    row |= {f'{metric}_mean': found.mean, f'{metric}_std': found.std}
                for metric in _PAIRED:
                    found = result.paired(arm, by, metric)
                    row |= {f'{metric}_gain_n': found.n, f'{metric}_gain_mean': found.mean,
                            f'{metric}_gain_std': found.std}  # fmt: skip
                if row['n']:
                    rows.append(row)
    return rows


def _ranking_tables(study: 'Study', results: list[Results]) -> list[str]:
    """Table 5 and what the figures show, by accuracy and by loss, of each variant."""
    blocks = ['Mean ± standard deviation over n seeds. Gain: what it has more than the baseline of the same seed, '
              'which is neither split nor stopped.']  # fmt: skip
    shown = ('kendall_tau', 'kendall_tau_50', 'top1', 'top5', 'top10', 'improvement1')
    header = ['', 'n', *(_NAMES[name] for name in shown), 'gain KT all', 'gain top-10']
    for result in results:
        for by in RANKED_BY:
            rows = []
            for arm in study.arms:
                values = [spread(result.values(arm, by, metric).values()) for metric in shown]
                gains = (
                    ['', '']
                    if arm == 'baseline'
                    else [str(result.paired(arm, by, m)) for m in ('kendall_tau', 'top10')]
                )
                if num := len(result.values(arm, by, 'top1')):
                    rows.append([_arm_name(arm), str(num), *map(str, values), *gains])
            for trivial in ('params', 'flops'):  # the same for all seeds
                values = [spread(list(result.values('baseline', trivial, metric).values())[:1]) for metric in shown]
                if values[0].n:
                    rows.append([f'{trivial} alone', '', *map(str, values), '', ''])
            if rows:
                title = f'## Table 5: {result.variant.name} ({result.variant.space}), ranked by {by}'
                blocks.append(f'{title}\n\n{_markdown(header, rows)}')
    return blocks if len(blocks) > 1 else ['No ranking is finished yet, or there is no benchmark to compare with.']


def _arm_name(arm: str) -> str:
    return arm.replace('split', 'split at ').replace('stop', 'stopped at ')


def _resources(results: list[Results]) -> list[dict[str, Any]]:
    rows = []
    for result in results:
        for arm in result.trainings:
            row: dict[str, Any] = {'variant': result.variant.name, 'arm': arm, 'n': len(result.trainings[arm])}
            for name in ('seconds', 'peak_memory_mb'):
                used, baseline = result.used(arm, name), result.used('baseline', name)
                found = spread(used.values())
                ratio = spread(used[seed] / baseline[seed] for seed in used if seed in baseline)
                row |= {f'{name}_mean': found.mean, f'{name}_std': found.std, f'{name}_ratio_mean': ratio.mean,
                        f'{name}_ratio_std': ratio.std}  # fmt: skip
            if row['n']:
                rows.append(row)
    return rows


def _resource_table(study: 'Study', results: list[Results]) -> str:
    header = ['', '', 'n', 'seconds of training', 'over the baseline', 'peak memory (MB)', 'over the baseline']
    rows = []
    for row in _resources(results):
        cells = [str(Spread(row['n'], row[f'{name}_mean'], row[f'{name}_std']))
                 for name in ('seconds', 'seconds_ratio', 'peak_memory_mb', 'peak_memory_mb_ratio')]  # fmt: skip
        rows.append([row['variant'], _arm_name(row['arm']), str(row['n']), *cells])
    about = ('Whole trainings, the epochs before the split included; mean ± standard deviation over n seeds, ratios to '
             'the baseline of the same seed. Measured, with whatever ran beside it.')  # fmt: skip
    return f'# {study.name}: resources\n\n{about}\n\n{_markdown(header, rows)}'


_CAPTIONS = {
    'figure4.png': 'Figure 4: true accuracy of what is selected, by the epoch of the split; NAS-Bench-201.',
    'figure5.png': 'Figure 5: true accuracy of what is selected, by the epoch of the split; NAS-Bench-Macro.',
    'figure6.png': 'Figure 6: the same, for a training that is stopped early instead.',
    'figure7.png': 'Figure 7: validation while training, of the baseline (mean, standard deviation) and of split ones.',
}


def _figures(study: 'Study', results: list[Results]) -> dict[str, bytes | None]:
    cells, macro = (
        [r for r in results if r.variant.space.startswith('macro') is is_macro] for is_macro in (False, True)
    )
    splits, stops = study.split_epochs, study.stop_epochs
    return {
        'figure4.png': plot_selection(_selections(cells, 'split', splits), 'epoch of the split'),
        'figure5.png': plot_selection(_selections(macro, 'split', splits), 'epoch of the split'),
        'figure6.png': plot_selection(_selections(results, 'stop', stops), 'last epoch of the training'),
        'figure7.png': plot_validation(_validations(study, results), splits),
    }


def _selections(results: list[Results], kind: str, epochs: tuple[int, ...]) -> list[dict[str, Any]]:
    """Per variant and way to predict: the spread of top-N at each epoch and of the baseline, and the truth's scale."""
    panels = []
    for by in RANKED_BY:
        for result in results:
            summary = next((s for s in result.rankings['baseline'].values() if by in s), None)
            tops = {
                top: [(epoch, spread(result.values(f'{kind}{epoch}', by, top).values())) for epoch in epochs]
                for top in ('top1', 'top5', 'top10')
            }
            if summary is None or not any(found.n for _, found in tops['top1']):
                continue
            panels.append({
                'title': f'{result.variant.name} ({result.variant.space}), by {by}',
                'row': by,
                'tops': {_NAMES[top]: Series(points) for top, points in tops.items()},
                'baseline': {_NAMES[top]: spread(result.values('baseline', by, top).values()) for top in tops},
                'truth': (summary['truth_mean'], summary['truth_max']),
                'n': len(result.rankings['baseline']),
            })  # fmt: skip
    return panels


def _validations(study: 'Study', results: list[Results]) -> list[dict[str, Any]]:
    """Per variant and statistic: its spread by epoch, of each arm."""
    panels = []
    for name, label in (('eval_loss', 'validation loss'), ('eval_accuracy', 'validation accuracy (%)')):
        for result in results:
            arms = {}
            for arm, trainings in result.trainings.items():
                by_epoch: dict[int, list[float]] = {}
                for rows in trainings.values():
                    for row in rows:
                        if row[name]:
                            by_epoch.setdefault(int(row['epoch']) + 1, []).append(float(row[name]))
                if by_epoch:
                    arms[_arm_name(arm)] = Series([(epoch, spread(by_epoch[epoch])) for epoch in sorted(by_epoch)])
            if arms:
                panels.append({'title': f'{result.variant.name} ({result.variant.space})', 'row': name, 'label': label,
                               'arms': arms, 'n': len(result.trainings['baseline'])})  # fmt: skip
    return panels


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in lines)


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows; numbers so that reading gives the same ones back. Without rows the file is empty."""
    if rows:
        write_csv(path, rows[0], rows)
    else:
        write_file(path, b'')
