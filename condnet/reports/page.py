"""One page of HTML for a ranking or a search: it holds everything it shows, and works without a network."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from condnet.errors import CondnetError
from condnet.reports.drawing import draw
from condnet.spaces import Arch, SearchSpace
from condnet.utils.files import write_file
from condnet.utils.plots import visible_range

_NUM_BEST = 10  # architectures that are drawn
_UNITS = {'flops': 'FLOPs', 'params': 'parameters', 'latency': 'latency (ms)'}
_NAMES = {'accuracy': 'super-network, accuracy', 'loss': 'super-network, loss', 'flops': 'FLOPs alone',
          'params': 'parameters alone'}  # fmt: skip
_MEASURES = (('kendall_tau', 'Kendall tau', 3), ('spearman', 'Spearman', 3), ('top1', 'top 1', 2), ('top5', 'top 5', 2),
             ('top10', 'top 10', 2), ('best_rank10', 'best rank of 10', 0))  # fmt: skip


@dataclass(frozen=True)
class Row:
    """An architecture on a page.

    Args:
        arch: The architecture.
        accuracy: Predicted, in percent.
        loss: Predicted.
        truth: True accuracy in percent, if it is known.
        costs: What is known of `flops`, `params` and `latency`.
    """

    arch: Arch
    accuracy: float
    loss: float
    truth: float | None = None
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """What a page shows.

    Args:
        title: Its heading.
        space: Of the architectures.
        rows: The architectures, the best first.
        measures: `ranking_metrics` by what was ranked by, each perhaps with `intervals`; empty without ground truth.
        ceiling: The highest Kendall tau that can be asked for, see `condnet.ranking.noise.seed_ceiling`.
        settings: Calibration, validation, training, versions: shown as they are.
        notes: Sentences under the heading.
    """

    title: str
    space: SearchSpace
    rows: Sequence[Row]
    measures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ceiling: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


def check_report_package() -> None:
    """Check that a page can be made, before the work that it shows is done.

    Raises:
        CondnetError: If the package that draws its plots is missing.
    """
    try:
        import plotly  # noqa: F401
    except ImportError as error:
        raise CondnetError("`report` needs the package plotly: pip install 'condnet[report]'") from error


def write_page(path: str | Path, page: Page) -> None:
    """Write a page.

    Raises:
        CondnetError: If the package that draws its plots is missing.
        OSError: If the file cannot be written.
    """
    check_report_package()
    write_file(Path(path), make_page(page).encode())


def make_page(page: Page) -> str:
    """The HTML of a page."""
    plots = [plot for plot in (_plot_truth(page), _plot_cost(page)) if plot]
    parts = [f'<h1>{html.escape(page.title)}</h1>', *(f'<p>{html.escape(note)}</p>' for note in page.notes)]
    for number, plot in enumerate(plots):
        parts.append(_figure(plot, first=number == 0))
    parts += [_measures(page), _best(page), _settings(page.settings)]
    return _FRAME.format(title=html.escape(page.title), body='\n'.join(part for part in parts if part))


def _figure(figure: Any, first: bool) -> str:
    """A plot; the first one brings the library."""
    config = {'displaylogo': False, 'responsive': True}
    made = figure.to_html(full_html=False, include_plotlyjs=first, config=config, default_height='480px')
    note = figure.layout.meta
    return f'<div class="plot">{made}</div>' + (f'<p>{note}</p>' if note else '')


def _hover(page: Page) -> list[str]:
    texts = []
    for row in page.rows:
        lines = [page.space.format(row.arch), f'index {page.space.index(row.arch)}',
                 f'predicted {row.accuracy:.2f}%, loss {row.loss:.4f}']  # fmt: skip
        lines += [f'true {row.truth:.2f}%'] if row.truth is not None else []
        lines += [f'{_UNITS[name]} {_number(value)}' for name, value in row.costs.items()]
        texts.append('<br>'.join(html.escape(line) for line in lines))
    return texts


def _number(value: float) -> str:
    return f'{value:,.0f}' if float(value).is_integer() else f'{value:.4g}'


def _scatter(page: Page, x: list[float], y: list[float], x_title: str, y_title: str) -> Any:
    from plotly import graph_objects

    figure = graph_objects.Figure(layout=dict(
        template='plotly_white', margin=dict(l=60, r=20, t=20, b=55), hovermode='closest', showlegend=False,
        xaxis=dict(title=x_title), yaxis=dict(title=y_title)))  # fmt: skip
    marker = dict(size=6, opacity=0.7, color='#0072b2')
    figure.add_scatter(x=x, y=y, mode='markers', marker=marker, text=_hover(page), hoverinfo='text')
    ends = [visible_range(np.array(values)) for values in (x, y)]
    outside = sum(not all(low <= value <= high for value, (low, high) in zip(point, ends, strict=True))
                  for point in zip(x, y, strict=True))  # fmt: skip
    if outside:
        figure.update_xaxes(range=ends[0]).update_yaxes(range=ends[1])
        figure.update_layout(meta=f'{outside} far off not shown; a double click on the plot shows all.')
    return figure


def _plot_truth(page: Page) -> Any:
    """Prediction against truth."""
    if not page.rows or any(row.truth is None for row in page.rows):
        return None
    return _scatter(page, [row.truth or 0 for row in page.rows], [row.accuracy for row in page.rows],
                    'true accuracy (%)', 'predicted accuracy (%)')  # fmt: skip


def _plot_cost(page: Page) -> Any:
    """Prediction against cost, with the Pareto front."""
    name = next((name for name in ('latency', 'flops', 'params') if all(name in row.costs for row in page.rows)), None)
    if name is None or not page.rows:
        return None
    costs = [row.costs[name] for row in page.rows]
    figure = _scatter(page, costs, [row.accuracy for row in page.rows], _UNITS[name], 'predicted accuracy (%)')
    front = pareto_front(costs, [row.accuracy for row in page.rows])
    x, y = [costs[i] for i in front], [page.rows[i].accuracy for i in front]
    figure.add_scatter(x=x, y=y, mode='lines', line=dict(color='#d55e00', shape='hv'), hoverinfo='skip')
    return figure


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Rows that no other one beats by a lower cost and a higher value, in order of their cost."""
    front: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -values[i])):
        if not front or values[i] > values[front[-1]]:
            front.append(i)
    return front


def _measures(page: Page) -> str:
    """How well it ranks, beside what needs no super-network, and what could at best be reached."""
    if not page.measures:
        return ''
    rows = []
    for name, measures in page.measures.items():
        intervals = measures.get('intervals', {})
        cells = [_NAMES.get(name, name)]
        for key, _, digits in _MEASURES:
            value = measures.get(key)
            low, high = intervals.get(key, (None, None))
            text = '-' if value is None else f'{value:.{digits}f}'
            cells.append(text if low is None else f'{text} [{low:.{digits}f},\xa0{high:.{digits}f}]')  # one line
        rows.append(cells)
    heads = ['ranked by', *(title for _, title, _ in _MEASURES)]
    notes = 'Top N: mean true accuracy of the N first.'
    if any(measures.get('intervals') for measures in page.measures.values()):
        notes += ' Brackets: 95% bootstrap intervals over the architectures.'
    if page.ceiling is not None:
        notes += f' One training of each architecture ranks their mean with Kendall tau {page.ceiling:.3f}: more than '
        notes += 'that cannot be asked for.'
    return f'<h2>How well it ranks</h2>{_table(heads, rows)}<p>{notes}</p>'


def _best(page: Page) -> str:
    """The best architectures, drawn."""
    best = page.rows[:_NUM_BEST]
    heads = ['', 'architecture', 'predicted (%)', 'loss']
    has_truth = all(row.truth is not None for row in best)
    costs = [name for name in _UNITS if best and all(name in row.costs for row in best)]
    heads += (['true (%)'] if has_truth else []) + [_UNITS[name] for name in costs]
    lines = []
    for number, row in enumerate(best, 1):
        text = f'{draw(row.arch, page.space)}<code>{html.escape(page.space.format(row.arch))}</code>'
        cells = [str(number), text, f'{row.accuracy:.2f}', f'{row.loss:.4f}']
        cells += [f'{row.truth:.2f}'] if has_truth else []
        lines.append(cells + [_number(row.costs[name]) for name in costs])
    return f'<h2>The best</h2>{_table(heads, lines, is_html=True)}'


def _settings(settings: Mapping[str, Any]) -> str:
    rows = [[name, value] for name, value in _flat(settings)]
    return f'<h2>Settings</h2>{_table(["setting", "value"], rows)}' if rows else ''


def _flat(settings: Mapping[str, Any], before: str = '') -> list[tuple[str, str]]:
    rows = []
    for key, value in settings.items():
        name = f'{before}{key}'
        rows += _flat(value, f'{name}.') if isinstance(value, Mapping) else [(name, str(value))]
    return rows


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], is_html: bool = False) -> str:
    head = ''.join(f'<th>{html.escape(text)}</th>' for text in heads)
    lines = [''.join(f'<td>{text if is_html else html.escape(text)}</td>' for text in row) for row in rows]
    body = ''.join(f'<tr>{line}</tr>' for line in lines)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


_FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2em auto; padding: 0 1em; }}
h1 {{ font-size: 1.5em; }} h2 {{ font-size: 1.15em; margin-top: 2em; }}
p {{ overflow-wrap: anywhere; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .3em .8em; text-align: left; border-bottom: 1px solid #ddd; vertical-align: middle; }}
td svg {{ display: block; max-width: 520px; height: auto; }}
code {{ font-size: .8em; overflow-wrap: anywhere; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
