"""Compute the figures of stored rankings anew, which are a function of predictions and truth: nothing is evaluated.

    python -m tools.summarize results/*.json --benchmark "$CONDNET_DATA/benchmarks" --rank-by loss+flops

It rewrites the summaries (JSON), and the cards in `checkpoints/` of the super-networks that they are of, so that
results of earlier versions have the figures of this one: rank means, intervals, the ceiling.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from condnet.benchmarks.tables import load_benchmark
from condnet.cli.common import run, say_written
from condnet.hub.card import RANKED_BY_HEADING, card_results, ranking_table
from condnet.models.pretrained import CARD_NAME
from condnet.ranking.metrics import ranked_by
from condnet.ranking.ranking import Ranking
from condnet.ranking.results import read_predictions, read_summary
from condnet.spaces.registry import get_space
from condnet.utils.files import write_file

_FIGURES = ('num_archs', 'truth_mean', 'truth_max', 'intervals', 'ceiling')


def stored_ranking(path: Path, benchmark: Path | None, rank_by: tuple[str, ...] = ()) -> Ranking:
    """The ranking of a summary (JSON), its predictions being beside it.

    Args:
        path: The summary.
        benchmark: Table of the benchmark, or the directory that it is in; None for a packaged one.
        rank_by: Rank means that it has, beside those that it had.
    """
    summary, predictions = read_summary(path), read_predictions(path.with_suffix('.csv'))
    predictions.sort(key=lambda prediction: prediction.index)
    of = ranked_by(summary)
    space = get_space(*summary['space'].split('/'))
    where = benchmark if summary['dataset'] == 'cifar10' else None  # the table of the letters is packaged
    table = load_benchmark(space.name, where, summary['dataset']).select([p.index for p in predictions])
    known = {'flops': table.flops, 'params': table.params}
    columns = {name: values.tolist() for name, values in known.items() if values is not None}
    means = dict.fromkeys([*(by for by in of if '+' in by or '-' in by), *rank_by])
    settings = {name: value for name, value in summary.items() if name not in (*of, *_FIGURES)}
    return Ranking(predictions, space, table, settings, {}, tuple(means), columns)


def update_card(path: Path, summary: dict[str, Any]) -> None:
    """Put the figures of a ranking into the card of its super-network."""
    card = ModelCard.load(path)
    card.data.eval_results = [card.data.eval_results[0], *card_results(summary, summary['dataset'])]
    start = card.text.index(RANKED_BY_HEADING)
    end = card.text.index('\n\n', start)
    text = card.text[:start] + ranking_table(summary) + card.text[end:]
    write_file(path, str(ModelCard(f'---\n{card.data.to_yaml()}\n---\n{text}')).encode())


def main(argv: list[str] | None = None) -> int:
    """Rewrite summaries and cards; returns the exit status."""
    parser = argparse.ArgumentParser('summarize', description=__doc__.partition('\n')[0])
    parser.add_argument('summaries', nargs='+', type=Path, help='summaries (JSON), predictions (CSV) beside them')
    parser.add_argument('--benchmark', type=Path, help='tables of the benchmarks, or the directory that they are in')
    parser.add_argument('--rank-by', default='', help='rank means to add: loss+flops; several with commas')
    parser.add_argument('--checkpoints', type=Path, default=Path('checkpoints'), help='folders whose cards to rewrite')
    args = parser.parse_args(argv)

    def command() -> None:
        written = []
        for path in args.summaries:
            ranking = stored_ranking(path, args.benchmark, tuple(filter(None, args.rank_by.split(','))))
            write_file(path, (json.dumps(ranking.summary, indent=2) + '\n').encode())
            written.append(path)
            card = args.checkpoints / ranking.settings['checkpoint'] / CARD_NAME
            if card.is_file():
                update_card(card, ranking.summary)
                written.append(card)
        say_written(written)

    return run('summarize', command)


if __name__ == '__main__':
    sys.exit(main())
