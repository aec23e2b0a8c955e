"""Does a search pay? Over paired seeds, without evaluating a network (`CONDNET_DATA` holds the true tables).

    python -m tools.compare_search                                                      # does evolution beat chance?
    python -m tools.compare_search --predictions results/macro_cond_cifar10.csv        # does the super-network pay?

The first has the true table as objective, for evolution and random search alike. The second searches the stored
predictions of a super-network for architectures, and looks up what the best k that it names truly reach when they are
trained, beside the truly best of k and of N random ones within the same limit. Both print Markdown.
"""

import argparse
import bisect
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from scipy import stats

from condnet.benchmarks.tables import BenchmarkTable, load_benchmark
from condnet.ranking.evaluate import Prediction
from condnet.ranking.results import read_predictions, read_summary
from condnet.searching.problem import Candidate, Evaluate, Problem, select_by
from condnet.searching.report import expected_best
from condnet.searching.study import evaluated_candidates, open_study, run_study
from condnet.spaces.base import Arch
from condnet.spaces.costs import Cost
from condnet.spaces.registry import get_space


def run(problem: Problem, evaluate: Evaluate, sampler: str, num_evals: int, seed: int) -> list[Candidate]:
    """The candidates of a search that is kept in memory, best first."""
    study = open_study(problem, optuna.storages.InMemoryStorage())
    run_study(study, problem, evaluate, num_evals, sampler, seed)
    candidates = evaluated_candidates(study, problem)
    if len(candidates) != num_evals:
        raise ValueError(f'{sampler} evaluated {len(candidates)} architectures, expected {num_evals}')
    return candidates


def search_table(table: BenchmarkTable, sampler: str, num_evals: int, seed: int) -> float:
    """The best true accuracy among so many evaluations of the truth."""
    problem = Problem(get_space(table.space))
    truth = dict(zip(table.indices.tolist(), table.accuracy.tolist(), strict=True))

    def evaluate(archs):
        return [Prediction(index, truth[index], 0.0) for index in map(problem.space.index, archs)]

    return run(problem, evaluate, sampler, num_evals, seed)[0].value('accuracy')


def compare_samplers(sampler: str, num_evals: int, seeds: range) -> float:
    """Print how evolution and random search do on the true tables; returns the larger of the two p-values."""
    worst_p = 0.0
    for space in ('nb201', 'macro'):
        table = load_benchmark(space)
        print(f'\n| {space}, seed | {sampler} | rank | random | rank |\n|---|---|---|---|---|')
        rows = []
        for seed in seeds:
            rows.append([search_table(table, name, num_evals, seed) for name in (sampler, 'random')])
            cells = [f'{best:.3f} | {1 + (table.accuracy > best).sum()}' for best in rows[-1]]
            print(f'| {seed} | {" | ".join(cells)} |', flush=True)
        ours, theirs = np.array(rows).T
        p = stats.wilcoxon(ours, theirs, alternative='greater').pvalue
        worst_p = max(worst_p, p)
        expected = expected_best(table.accuracy, num_evals)
        print(f'| mean | {ours.mean():.3f} | | {theirs.mean():.3f} (exact expectation {expected:.3f}) | |')
        print(f'\n{space}: best of the table {table.accuracy.max():.3f}; one-sided Wilcoxon signed-rank p = {p:.2g}')
    return worst_p


@dataclass(frozen=True)
class Stored:
    """The predictions of a super-network, with the truth of the same architectures in the same order.

    Args:
        predictions: By official index.
        table: Their truth.
        max_flops: The most that an architecture may have, of the benchmark's networks.
    """

    predictions: dict[int, Prediction]
    table: BenchmarkTable
    max_flops: float = np.inf

    @classmethod
    def read(cls, path: Path, max_flops: float = np.inf) -> 'Stored':
        predictions = {prediction.index: prediction for prediction in read_predictions(path)}
        summary = read_summary(path.with_suffix('.json'))
        table = load_benchmark(summary['space'].partition('/')[0], dataset=summary['dataset'])
        return cls(predictions, table.select(sorted(predictions)), max_flops)

    @property
    def truth(self) -> dict[int, float]:
        """True accuracies within the limit, by official index."""
        rows = zip(self.table.indices.tolist(), self.table.accuracy.tolist(), self.table.flops, strict=True)
        return {index: accuracy for index, accuracy, flops in rows if flops <= self.max_flops}

    def noisy(self, eval_images: int, seed: int) -> 'Stored':
        """As if they had been made on so many images only: binomial noise upon the accuracies.

        Architectures err on the same images, so that real differences are less noisy. The loss, of which the noise is
        not known, becomes the error, and says no more than the accuracy.
        """
        rng, noisy = np.random.default_rng(seed), {}
        for index, known in self.predictions.items():
            accuracy = 100 * rng.binomial(eval_images, known.accuracy / 100) / eval_images
            noisy[index] = Prediction(index, accuracy, 100 - accuracy)
        return Stored(noisy, self.table, self.max_flops)

    def problem(self, objective: str) -> Problem:
        """What is searched for; costs and the limit are those of the benchmark's networks.

        Architectures that were not predicted count as beyond any limit.
        """
        space, flops, params = get_space(self.table.space), self.table.flops, self.table.params
        if flops is None or params is None:
            raise SystemExit(f'{self.table.path} has no costs')
        rows = zip(self.table.indices.tolist(), params.tolist(), flops.tolist(), strict=True)
        costs = {space.parse(index): Cost(*its) for index, *its in rows}
        most = min(self.max_flops, max(flops.tolist()))
        unknown = Cost(0, int(2 * most))
        return Problem(space, (objective,), {'flops': most}, network_cost=lambda arch: costs.get(arch, unknown))

    def search(self, objective: str, sampler: str, num_evals: list[int], seed: int) -> Iterator[list[Candidate]]:
        """Candidates, best first, of a search of each length; a shorter one is the beginning of a longer one."""
        problem, order = self.problem(objective), []

        def evaluate(archs: list[Arch]) -> list[Prediction]:
            order.extend(archs)
            return [self.predictions[index] for index in map(problem.space.index, archs)]

        if sampler == 'random':  # at once, of what was predicted
            picks = np.random.default_rng(seed).permutation(sorted(self.truth))[: max(num_evals)].tolist()
            predicted = evaluate([problem.space.parse(index) for index in picks])
            candidates = [Candidate(arch, problem.costs(arch), its) for arch, its in zip(order, predicted, strict=True)]
            sign = -1 if objective == 'accuracy' else 1
            candidates.sort(key=lambda candidate: (sign * candidate.value(objective), candidate.value('loss')))
        else:
            candidates = run(problem, evaluate, sampler, max(num_evals), seed)
        for num in num_evals:
            first = set(order[:num])
            yield [candidate for candidate in candidates if candidate.arch in first]


def interval(differences: np.ndarray) -> str:
    """Mean of paired differences with its 95% interval (Student's t)."""
    mean, half = differences.mean(), stats.sem(differences) * stats.t.ppf(0.975, len(differences) - 1)
    return f'{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})'


def worth(values: list[float], accuracy: float) -> str:
    """Of how many random ones the truly best is as good on average."""
    if expected_best(values, len(values)) <= accuracy:
        return 'all'
    return str(1 + bisect.bisect_left(range(1, len(values)), accuracy, key=lambda num: expected_best(values, num)))


def compare_trainings(stored: Stored, args: argparse.Namespace) -> None:
    """Print what the best of a search truly reach, beside the best of random ones, for each of its lengths."""
    values = list(stored.truth.values())
    flops = dict(zip(stored.table.indices.tolist(), stored.table.flops, strict=True))
    largest = stored.truth[max(stored.truth, key=flops.__getitem__)]
    sizes = (f'{len(values)} architectures, best {max(values):.2f}, mean {np.mean(values):.2f}, '
             f'that of most FLOPs {largest:.2f}')  # fmt: skip
    noise = f', with the simulated noise of {args.eval_images} images' if args.eval_images else ''
    print(f'\n{stored.table.space}: {sizes}; {args.sampler}, {args.seeds} seeds from {args.first_seed}{noise}\n')
    heads = ['searched by', 'selected by', 'N', 'the first', 'less the best of N random', 'is worth',
             *(f'best of the first {k} | less the best of {k} random | is worth' for k in args.train)]  # fmt: skip
    print(f'| {" | ".join(heads)} |\n|{"---|" * (6 + 3 * len(args.train))}')
    for objective in args.objectives:
        found = find_all(stored, objective, args)
        for by, (place, num) in itertools.product(args.select_by, enumerate(args.num_evals)):
            most = max(1, *args.train)
            truths = np.array([true_accuracies(stored, its[place], by, most) for its in found])  # seeds, places
            cells = [objective, by or objective, str(num)]
            for taken, random in ((1, num), *((k, k) for k in args.train)):
                reached, expected = truths[:, :taken].max(axis=1), expected_best(values, random)
                cells += [f'{reached.mean():.2f}', interval(reached - expected), worth(values, reached.mean())]
            print(f'| {" | ".join(cells)} |', flush=True)


def find_all(stored: Stored, objective: str, args: argparse.Namespace) -> list[list[list[Candidate]]]:
    """What a search with each seed has found, for each of its lengths."""
    found = []
    for seed in seeds_of(args):
        seen = stored.noisy(args.eval_images, seed) if args.eval_images else stored
        found.append(list(seen.search(objective, args.sampler, args.num_evals, seed)))
    return found


def true_accuracies(stored: Stored, candidates: list[Candidate], by: str, num: int) -> list[float]:
    """What the first few reach, in order; by default they are in that of the objective."""
    space, truth = get_space(stored.table.space), stored.truth
    ordered = select_by(candidates, by) if by else candidates
    return [truth[space.index(candidate.arch)] for candidate in ordered[:num]]


def seeds_of(args: argparse.Namespace) -> range:
    return range(args.first_seed, args.first_seed + args.seeds)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--sampler', default='nsga2')
    parser.add_argument('--num-evals', type=int, nargs='+', default=[500])
    parser.add_argument('--seeds', type=int, default=20)
    parser.add_argument(
        '--first-seed', type=int, default=100, help='the warm start was chosen after a look at seeds below 300'
    )
    stored = parser.add_argument_group('stored predictions')
    stored.add_argument('--predictions', type=Path, help='of a ranking (CSV), the summary (JSON) beside it')
    stored.add_argument('--max-flops', type=float, nargs='+', default=[np.inf], help="of the benchmark's networks")
    stored.add_argument('--objectives', nargs='+', default=['accuracy'], help='one for each search')
    stored.add_argument('--select-by', nargs='+', default=[''], metavar='RANK_MEAN',
                        help="such as accuracy+flops, to choose by ('': the objective)")  # fmt: skip
    stored.add_argument('--train', type=int, nargs='+', default=[3, 10], help='so many of the first')
    stored.add_argument('--eval-images', type=int, help='simulate the noise of so many images')
    return parser


def main() -> int:
    args = make_parser().parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if args.predictions is not None:
        for max_flops in args.max_flops:
            compare_trainings(Stored.read(args.predictions, max_flops), args)
        return 0
    (num_evals,) = args.num_evals
    return 0 if compare_samplers(args.sampler, num_evals, seeds_of(args)) < 0.01 else 1


if __name__ == '__main__':
    sys.exit(main())
