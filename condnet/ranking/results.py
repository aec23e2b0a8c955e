"""Results files: predictions as CSV, a summary as JSON, a scatter plot, and the table in the README.

A CSV holds index and prediction only. The truth is joined when it is read.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from condnet.benchmarks.tables import BenchmarkTable
from condnet.checkpoints.training import USUAL
from condnet.errors import CondnetError, show
from condnet.ranking.evaluate import Prediction
from condnet.ranking.metrics import summarize
from condnet.utils.csvfile import read_csv, read_text, to_float, to_int, write_csv
from condnet.utils.locks import lock_open_file
from condnet.utils.plots import new_figure, visible_range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FIELDS = ('index', 'accuracy', 'loss')


def write_predictions(path: Path, predictions: list[Prediction]) -> None:
    """Write predictions as CSV, in order of the official index. Reading gives the same numbers back."""
    rows = sorted(map(dataclasses.asdict, predictions), key=lambda row: row['index'])
    write_csv(path, _FIELDS, rows)  # which writes numbers as `repr` does


def read_predictions(path: str | Path) -> list[Prediction]:
    """Read what `write_predictions` wrote, also after a spreadsheet saved it.

    Raises:
        CondnetError: If it is something else, or an architecture stands there twice.
    """
    source = Path(path)
    text, _ = read_text(source, 'predictions (CSV)')
    try:
        table = read_csv(text, _FIELDS, source, is_number=lambda name: name != 'index')
    except CondnetError as error:
        raise CondnetError(f'{path} holds no predictions, or is damaged: {error}') from error
    rows = []
    for row, where in table:
        try:
            prediction = Prediction(to_int(row['index']), to_float(row['accuracy']), to_float(row['loss']))
            if not math.isfinite(prediction.accuracy + prediction.loss):
                raise CondnetError(f'accuracy {row["accuracy"]}, loss {row["loss"]}; expected finite numbers')
            rows.append(prediction)
        except ValueError as error:
            raise CondnetError(f'{path} is damaged: {where}: {error}') from error
    if len({row.index for row in rows}) != len(rows):
        raise CondnetError(f'{path} is damaged: it predicts an architecture twice')
    return rows


def read_summary(path: Path) -> dict[str, Any]:
    """Read the summary (JSON) of a ranking.

    Raises:
        CondnetError: If it is something else.
    """
    try:
        return dict(json.loads(path.read_bytes()))  # of bytes it finds the encoding
    except (TypeError, ValueError, RecursionError) as error:
        raise CondnetError(f'{path} is not a summary of a ranking, or damaged: {error}') from error


_SAME = (
    'model',
    'space',
    'checkpoint_sha256',
    'ema',
    'calibration',
    'amp_dtype',
    'dataset',
    'eval_images',
    'images_sha256',
)


def check_finished(path: Path, settings: dict[str, Any], indices: Iterable[int]) -> None:
    """Refuse to replace a finished ranking by another one; the same may be made again.

    Args:
        path: The file of the predictions.
        settings: What the new ranking depends on.
        indices: Its architectures.

    Raises:
        CondnetError: If another one, or something else, is there.
    """
    if not path.exists() or path.with_suffix('.partial').exists():  # which goes on, or is refused for itself
        return
    hint = 'delete it, or choose another `results_file`'
    if not path.with_suffix('.json').exists():
        raise CondnetError(f'{path} already exists, without the summary of a ranking beside it; {hint}')
    there, settings = read_summary(path.with_suffix('.json')), json.loads(json.dumps(settings))
    what = f'{path} holds a finished ranking of {there.get("num_archs")} architectures by {there.get("model")}'
    for key in _SAME:
        if there.get(key) != settings.get(key):
            raise CondnetError(
                f'{what} with {_show(key)} {show(there.get(key))}, not {show(settings.get(key))}; {hint}'
            )
    if {prediction.index for prediction in read_predictions(path)} != set(indices):
        raise CondnetError(f'{what}, but of other architectures; {hint}')


class Journal:
    """Predictions of a ranking that is not finished, on disk as they come.

    The first line says what they are of, so that nothing else is continued with them. A line that an interruption cut
    off is dropped. Reading gives the same numbers back. What was appended survives the end of the process, however
    that comes, but not of the machine. One process at a time has the file open.

    Args:
        path: File; an existing one is continued.
        settings: What the predictions depend on.

    Raises:
        CondnetError: If the file is of other settings, damaged, no journal, or in use by another process.
        OSError: If it cannot be written.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.predictions: list[Prediction] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open('a+b', buffering=0)  # a buffer would be written again, after an error, at exit
        lock_open_file(self._file, f'{path} is in use by another process')
        self._read(json.dumps(settings, sort_keys=True) + '\n')

    def _read(self, header: str) -> None:
        """Read the file, cut off what is not complete, and begin it with the header (one line) if nothing is."""
        self._file.seek(0)
        content = self._file.read()
        complete = content[: content.rfind(b'\n') + 1]
        if complete:
            self._parse(complete, json.loads(header))
        elif not header.encode().startswith(content):
            raise CondnetError(f'{self.path} is not an unfinished ranking; delete it, or choose another `results_file`')
        self._file.truncate(len(complete))
        if not complete:
            self._write(header)

    def _parse(self, lines: bytes, settings: dict[str, Any]) -> None:
        try:
            header, *rows = lines.decode().splitlines()
            before = json.loads(header)
            if not isinstance(before, dict):
                raise CondnetError(f'its first line is {header!r}, expected settings')
            values = [row.split(',') for row in rows]
            self.predictions = [Prediction(to_int(i), to_float(acc), to_float(loss)) for i, acc, loss in values]
            if not all(math.isfinite(prediction.accuracy + prediction.loss) for prediction in self.predictions):
                raise CondnetError('a number is not finite')
            if len({prediction.index for prediction in self.predictions}) != len(rows):
                raise CondnetError('it predicts an architecture twice')
        except ValueError as error:
            raise CondnetError(f'{self.path} is not an unfinished ranking, or damaged: {error}') from error
        for key in settings | before:
            if before.get(key) != settings.get(key):
                raise CondnetError(
                    f'{self.path} holds an unfinished ranking with {_show(key)} {before.get(key)!r}, not '
                    f'{settings.get(key)!r}; delete it, or choose another `results_file`'
                )

    def append(self, prediction: Prediction) -> None:
        """Add a prediction; the system has it when this returns.

        Raises:
            OSError: If it cannot be written. What was there is kept.
        """
        self._write(f'{prediction.index},{prediction.accuracy!r},{prediction.loss!r}\n')
        self.predictions.append(prediction)

    def _write(self, line: str) -> None:
        content = line.encode()
        try:
            while content:  # a disk that fills up takes a part first
                content = content[self._file.write(content) :]
        except OSError as error:
            raise OSError(f'cannot write {self.path}: {error.strerror}; what was computed is kept') from error

    def remove(self) -> None:
        """Delete the file, once the results are written."""
        if os.name != 'posix':  # Windows deletes no open file
            self._file.close()
        self.path.unlink(missing_ok=True)
        self._file.close()


def _show(key: str) -> str:
    return key if key.isidentifier() else repr(key)


def summarize_predictions(predictions: list[Prediction], table: BenchmarkTable | None) -> dict[str, Any]:
    """Every metric of predictions by accuracy, by negative loss, and of the trivial baselines.

    Without a table, only how many there are.
    """
    if table is None:
        return {'num_archs': len(predictions)}
    predictions = sorted(predictions, key=lambda prediction: prediction.index)
    truth = table.select([prediction.index for prediction in predictions])
    return summarize(
        np.array([prediction.accuracy for prediction in predictions]),
        np.array([prediction.loss for prediction in predictions]),
        truth.accuracy,
        truth.params,
        truth.flops,
    )


def draw_predictions(predictions: list[Prediction], table: BenchmarkTable, summary: dict[str, Any]) -> 'Figure':
    """Scatter plot of prediction against truth, by accuracy and by loss."""
    truth = table.select([prediction.index for prediction in predictions])
    figure = new_figure(9, 4.2)
    axes = figure.subplots(1, 2, sharey=True)
    series = {
        'accuracy': ('predicted accuracy (%)', np.array([prediction.accuracy for prediction in predictions])),
        'loss': ('predicted loss', np.array([prediction.loss for prediction in predictions])),
    }
    colours = {} if truth.flops is None else {'c': truth.flops / 1e6, 'cmap': 'viridis'}
    bottom, top = visible_range(truth.accuracy)
    for ax, (name, (label, values)) in zip(axes, series.items(), strict=True):
        points = ax.scatter(values, truth.accuracy, s=14, linewidths=0, **colours)
        left, right = visible_range(values)
        num_outside = np.sum((truth.accuracy < bottom) | (truth.accuracy > top) | (values < left) | (values > right))
        outside = f', {num_outside} far off not shown' if num_outside else ''
        tau = summary[name]['kendall_tau']
        title = (f'Kendall tau {tau:.2f}' if tau is not None else 'no Kendall tau') + outside
        ax.set(xlabel=label, title=title, xlim=(left, right), ylim=(bottom, top))
        ax.grid(alpha=0.3)
    axes[0].set_ylabel('true accuracy (%)')
    axes[1].invert_xaxis()  # better to the right, as on the left
    if colours:
        figure.colorbar(points, ax=axes, label='FLOPs (M)')
    names = [str(summary[name]) for name in ('model', 'space') if name in summary]
    kind = ['split' if summary['split'] else 'unsplit'] if 'split' in summary else []
    parts = [*([' '.join(names)] if names else []), *kind, f'{len(predictions)} architectures']
    figure.suptitle(', '.join(parts))
    return figure


def describe_training(training: dict[str, Any]) -> str:
    """How a super-network was trained, in a few words."""
    if not training:
        return 'unknown'
    split, trained = training['split_epoch'], training['trained_epochs']
    stopped = f'stopped at {trained}, ' if trained < training['epochs'] else ''  # a cool-down comes after `epochs`
    how = f'split at {split}' if split else 'unsplit'
    precision = f', {training.get("amp_dtype", USUAL["amp_dtype"])}' if training.get('amp') else ''
    others = (name for name in USUAL if name in training and not name.startswith('amp'))
    unusual = precision + ''.join(f', {name} {training[name]}' for name in others)
    return f'{training["epochs"]} epochs, {stopped}{how}, seed {training["seed"]}{unusual}'
