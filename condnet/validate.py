"""Rank architectures with a trained super-network: the `condnet-validate` command, also reached as `validate.py`."""

import argparse
import itertools
import json
import logging
import re
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from tqdm import tqdm

import condnet
from condnet.benchmarks import BenchmarkTable, find_benchmark, holds_table, load_benchmark
from condnet.checkpoint import load_checkpoint, write_file
from condnet.commands import (
    DATASET_HELP,
    check_folder_to_write,
    check_forward,
    check_numbers,
    find_device,
    hardware_name,
    open_images,
    run,
)
from condnet.counts import describe_untrained
from condnet.data import Images, check_size, choose_timm_images, dataset_name, holds_names, match_images
from condnet.errors import CondnetError
from condnet.metrics import RANKED_BY
from condnet.models import Supernet
from condnet.plugins import add_import_flag, import_plugins
from condnet.ranking import (
    CALIBRATION_BATCH_SIZE,
    DEFAULT_MEMORY,
    EvaluationData,
    Prediction,
    choose_images,
    evaluation_data,
    predict,
)
from condnet.results import Journal, plot_predictions, summarize_predictions, write_predictions
from condnet.sharing import Team, join_team
from condnet.spaces import ARCH_HELP, ENUMERABLE, Arch, SearchSpace

_logger = logging.getLogger('validate')
DEFAULT_NUM_ARCHS = 200
_AMP_DTYPES = {'float32': None, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


def make_parser() -> argparse.ArgumentParser:
    """Flags of the command."""
    parser = argparse.ArgumentParser('condnet-validate', description=__doc__, allow_abbrev=False)
    parser.add_argument('--checkpoint', required=True, help='training checkpoint, folder of a model, or name of a '
                        'pretrained one')  # fmt: skip
    parser.add_argument('--model', help='refuse a checkpoint of another model')
    parser.add_argument('--results-file', default='output/ranking.csv', help='predictions; .json and .png beside it')
    group = parser.add_argument_group('architectures')
    group.add_argument('--num-archs', help="how many random ones of the benchmark's, or 'all' (default: "
                       f'{DEFAULT_NUM_ARCHS}, or all of fewer)')  # fmt: skip
    group.add_argument('--archs', nargs='*', help=f'these instead. {ARCH_HELP}')
    group.add_argument('--seed', type=int, default=0, help='seed of the random ones')
    add_evaluation_flags(parser)
    add_import_flag(parser)
    return parser


def add_evaluation_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of every command that evaluates architectures: weights, data, and how."""
    group = parser.add_argument_group('weights and data')
    group.add_argument('--use-ema', action='store_true', help='take the averaged weights of a training checkpoint')
    group.add_argument('--data-dir', help='directory with the data set that it was trained on; glyphs needs none')
    group.add_argument('--download', action='store_true', help='download what is missing: CIFAR-10, benchmark table')
    group.add_argument('--dataset', help=DATASET_HELP)
    group.add_argument('--train-split', default='train', help='with --dataset: the part it was trained on')
    group.add_argument('--val-split', default='validation', help='with --dataset: the part to validate on')
    group.add_argument('--benchmark', help='ground truth: file or directory (default: --data-dir, $CONDNET_DATA)')
    group = parser.add_argument_group('evaluation')
    group.add_argument('--calib-batches', type=int, default=20, help='BatchNorm calibration batches of 256')
    group.add_argument('--calib-momentum', type=float, help='do not reset the statistics, and move them by so much in '
                       'each batch (0.1: the variant of the authors)')  # fmt: skip
    group.add_argument('--calib-augment', action=argparse.BooleanOptionalAction, default=True, help='calibrate on '
                       'images augmented as in training, from a fixed seed')  # fmt: skip
    group.add_argument('--eval-images', type=int, help='withheld images (default: all, 5,000 of CIFAR-10)')
    group.add_argument('--batch-size', type=int, default=256, help='validation images per forward pass')
    group.add_argument('--amp-dtype', choices=_AMP_DTYPES, default='float32', help='data type of the forward passes')
    group.add_argument('--channels-last', action=argparse.BooleanOptionalAction, default=True, help='memory layout')
    group.add_argument('--device', default='cpu', help='device to evaluate on')
    group.add_argument('--memory', type=float, default=DEFAULT_MEMORY / 1e9, help='GB that a process may keep of what '
                       'several architectures start from; not part of the result (default: %(default)g)')  # fmt: skip


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the flags.

    Raises:
        CondnetError: If a value makes no sense.
    """
    args = make_parser().parse_args(argv)
    import_plugins(args)
    check_evaluation_flags(args)
    check_numbers(args, 0, 'seed')
    if args.num_archs not in (None, 'all') and not re.fullmatch('[0-9]{1,18}', args.num_archs):
        raise CondnetError(f"--num-archs is {args.num_archs!r}, expected a number or 'all'")
    path = Path(args.results_file)
    if path.suffix != '.csv' or path.is_dir():
        raise CondnetError(f'--results-file is {args.results_file!r}, expected the name of a file that ends in .csv')
    check_folder_to_write(path.parent)
    return args


def check_evaluation_flags(args: argparse.Namespace) -> None:
    """Check the values of `add_evaluation_flags`.

    Raises:
        CondnetError: If one makes no sense.
    """
    check_numbers(args, 1, 'calib_batches', 'batch_size', 'eval_images')
    check_numbers(args, 0, 'memory')
    if args.calib_momentum is not None and not 0 < args.calib_momentum <= 1:
        raise CondnetError(f'--calib-momentum is {args.calib_momentum}, expected a number in (0, 1]')


def main(argv: list[str] | None = None) -> int:
    """Rank; returns the exit status."""
    return run('condnet-validate', lambda: validate(parse_args(argv)))


def validate(args: argparse.Namespace) -> dict[str, Any]:
    """Rank architectures as `parse_args` describes it, write the results and return their summary.

    Raises:
        CondnetError: If checkpoint, data and table do not fit together. Nothing is written then.
    """
    model = load_supernet(args)
    given = {model.space.parse(arch) for arch in args.archs or ()}
    is_ranking = len(given) > 1 or (not given and args.num_archs != '1')  # one architecture has no rank
    team = join_team()
    with team.first_ahead(args.download) if team is not None else nullcontext():
        calibration, validation, name = load_evaluation_images(model, args)
        table = find_table(model, name, args) if is_ranking else None
    archs = sorted(given, key=model.space.index) or draw_archs(model.space, table, args)
    if warning := describe_untrained(model.space, archs, args.training.get('untrained', [])):
        _logger.warning(f'of what is ranked, {warning}')
    if table is not None:
        table = table.select([model.space.index(arch) for arch in archs])
    data = prepare_data(model, calibration, validation, args)
    settings = {**provenance(model, args), 'dataset': name, 'eval_images': len(validation)}
    settings['images_sha256'] = [calibration.sha256(), validation.sha256()]
    settings['architectures'] = 'given' if args.archs else f'{args.num_archs}, drawn with seed {args.seed}'
    settings |= {'table': None if table is None else {'file': Path(table.path).name, 'sha256': table.sha256}}
    if team is not None:
        team.check_equal(settings)
        if team.rank > 0:
            team.help(model, data)
            return settings
    path = Path(args.results_file)
    journal = Journal(path.with_suffix('.partial'), settings)
    predictions = rank_architectures(model, archs, data, journal, team)
    # The journal does without the last: those of before it was recorded are continued.
    summary = {**summarize_predictions(predictions, table), **settings, 'data_match': args.data_match}
    write_results(path, predictions, table, summary)
    journal.remove()
    print(format_summary(summary))
    return summary


def rank_architectures(
    model: Supernet, archs: list[Arch], data: EvaluationData, journal: Journal, team: Team | None
) -> list[Prediction]:
    """Predictions for all architectures: those in the journal, and the missing ones, which are added to it."""
    wanted = {model.space.index(arch): arch for arch in archs}
    missing = [wanted[index] for index in wanted.keys() - {done.index for done in journal.predictions}]
    missing.sort(key=model.space.index)
    num_done = len(archs) - len(missing)
    if num_done:
        _logger.info(f'{num_done} of {len(archs)} architectures are in {journal.path}')
    predictions = predict(model, missing, data) if team is None else team.lead(model, missing, data)
    progress = tqdm(predictions, 'ranking', len(archs), initial=num_done, disable=not sys.stderr.isatty())
    for prediction in log_lines(progress, len(missing)):
        journal.append(prediction)
    done = [prediction for prediction in journal.predictions if prediction.index in wanted]
    return sorted(done, key=lambda prediction: prediction.index)  # the plot depends on their order


def load_supernet(args: argparse.Namespace) -> Supernet:
    """The super-network of the checkpoint; settles `training`, `fingerprint` and `checkpoint_sha256` of `args`."""
    loaded = load_checkpoint(args.checkpoint, args.use_ema)
    model, args.training, args.checkpoint_sha256 = loaded.model, loaded.training, loaded.sha256
    args.fingerprint = loaded.fingerprint
    if not isinstance(model, Supernet):
        raise CondnetError(f'{args.checkpoint} holds a {type(model).__name__}, expected a super-network')
    name = model.pretrained_cfg['architecture']
    if args.model and args.model != name:
        raise CondnetError(f'{args.checkpoint} holds the model {name!r}, not {args.model!r}')
    model.to(memory_format=torch.channels_last if args.channels_last else torch.contiguous_format)
    model.to(device := find_device(args.device))
    check_forward(model, model.pretrained_cfg['input_size'], 2, device)
    return model


def load_evaluation_images(model: Supernet, args: argparse.Namespace) -> tuple[Images, Images, str]:
    """Images to calibrate on, images to validate on, which no training has seen, and the name of the data set.

    Settles `data_match` of `args`: how the images are those that the checkpoint was trained on, see `match_images`.

    Raises:
        CondnetError: If the checkpoint was trained on another data set.
    """
    if not args.data_dir and not args.dataset and args.training.get('data_name') == 'glyphs':
        args.dataset = 'glyphs'  # which is always at hand
    size, images = model.pretrained_cfg['input_size'], open_images(args)
    source, args.data_match = args.data_dir or args.dataset, None
    if images is not None:
        check_size(images, size)
    name = args.dataset if images is None else dataset_name(images)
    trained_on = args.training.get('data_name', name)
    if trained_on != name:
        raise CondnetError(f'{args.checkpoint} was trained on data {trained_on!r}, not on {name!r} of {source}')
    if images is None:
        nums = args.calib_batches * CALIBRATION_BATCH_SIZE, args.eval_images or 5000
        calibration, validation = choose_timm_images(
            args.dataset,
            args.data_dir,
            (args.train_split, args.val_split),
            nums,
            size,
            args.download,
            args.calib_augment,
        )
    else:
        has_names = args.dataset is not None or holds_names(args.data_dir)
        images, args.data_match = match_images(
            images, args.training, args.fingerprint, args.checkpoint, source, has_names
        )
        if args.data_match and 'largest_distance' in args.data_match:
            _logger.info(f'{source} matches the images of {args.checkpoint}: {args.data_match}')
        calibration, validation = choose_images(images, args.calib_batches, args.eval_images, args.calib_augment)
    if int(validation.targets.max()) >= model.num_classes:
        raise CondnetError(f'{source} has more classes than the {model.num_classes} of {args.checkpoint}')
    return calibration, validation, name


def prepare_data(model: Supernet, calibration: Images, validation: Images, args: argparse.Namespace) -> EvaluationData:
    """The images as the model takes them."""
    return evaluation_data(
        calibration,
        validation,
        model.pretrained_cfg,
        find_device(args.device),
        args.channels_last,
        batch_size=args.batch_size,
        momentum=args.calib_momentum,
        amp_dtype=_AMP_DTYPES[args.amp_dtype],
        memory=int(args.memory * 1e9),
    )


def draw_archs(space: SearchSpace, table: BenchmarkTable | None, args: argparse.Namespace) -> list[Arch]:
    """Random architectures in order of their index, out of those in the benchmark's table; settles their number.

    Raises:
        CondnetError: If there are fewer than asked for.
    """
    if table is None:
        size, archs = space.size, space.shuffled(args.seed)
    else:
        known = _archs_of_table(space, table, args.seed)
        size, archs = len(known), iter(known)
    if args.num_archs is None:
        args.num_archs = str(min(DEFAULT_NUM_ARCHS, size))
    if args.num_archs == 'all' and size > ENUMERABLE:
        raise CondnetError(f'{space} has {size} architectures, too many to rank all; give a number with --num-archs')
    num = size if args.num_archs == 'all' else int(args.num_archs)
    if not 0 < num <= size:
        where = '' if table is None else f' with a row in {table.path}'
        raise CondnetError(f'cannot draw {num} architectures, expected 1..{size}: {space} has no more{where}')
    return sorted(itertools.islice(archs, num), key=space.index)


def _archs_of_table(space: SearchSpace, table: BenchmarkTable, seed: int) -> list[Arch]:
    """Architectures of a space, or a part of one, that have a row in a table, in random order."""
    known = set(table.indices.tolist())
    if space.is_enumerable:
        return [arch for arch in space.shuffled(seed) if space.index(arch) in known]
    archs = [space.parse(index) for index in sorted(known) if index in space]
    order = torch.randperm(len(archs), generator=torch.Generator().manual_seed(seed))
    return [archs[i] for i in order.tolist()]


def find_table(model: Supernet, dataset: str, args: argparse.Namespace) -> BenchmarkTable | None:
    """The benchmark's table of the model's space; None for a data set that no benchmark is known of.

    Raises:
        CondnetError: If there should be one and is not, or the one that was given is of another data set.
    """
    space, path = model.space.name, args.benchmark
    benchmark = find_benchmark(space, dataset)
    if path is None and benchmark is None:
        _logger.info('no benchmark is known of space and data set: predictions are written without a comparison')
        return None
    is_beside = args.data_dir and not (benchmark and benchmark.packaged) and holds_table(args.data_dir, space, dataset)
    if path is None and is_beside:
        path = args.data_dir
    return load_benchmark(space, path, dataset, download=args.download)


def log_lines(predictions: Any, num: int) -> Any:
    """Pass predictions on, and leave a line in the log now and then."""
    started = time.perf_counter()
    for done, prediction in enumerate(predictions, 1):
        if done % 20 == 0 or done == num:
            rate = done / (time.perf_counter() - started)
            _logger.info(f'{done} of {num} architectures, {rate:.2f} per second, {(num - done) / rate:.0f} s left')
        yield prediction


def provenance(model: Supernet, args: argparse.Namespace) -> dict[str, Any]:
    """What made a result: model, checkpoint, data, calibration, seed and versions."""
    return {
        'model': model.pretrained_cfg['architecture'],
        'space': str(model.space),
        'split': model.is_split,
        'checkpoint': Path(args.checkpoint).name,
        'checkpoint_sha256': args.checkpoint_sha256,
        'ema': args.use_ema,
        'training': args.training,
        'eval_batch_size': args.batch_size,
        'calibration': {
            'batches': args.calib_batches,
            'batch_size': CALIBRATION_BATCH_SIZE,
            'augmented': args.calib_augment,
            'momentum': args.calib_momentum,
        },
        'amp_dtype': args.amp_dtype,
        'channels_last': args.channels_last,
        'device': args.device,
        'hardware': hardware_name(find_device(args.device)),
        'versions': {'condnet': condnet.__version__, 'torch': torch.__version__, 'timm': timm.__version__},
    }


def write_results(
    path: Path, predictions: list[Prediction], table: BenchmarkTable | None, summary: dict[str, Any]
) -> None:
    """Write predictions (CSV), summary (JSON) and, with a table, a scatter plot (PNG), each whole or not at all."""
    plot = None if table is None else plot_predictions(predictions, table, summary)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_predictions(path, predictions)
    write_file(path.with_suffix('.json'), (json.dumps(summary, indent=2) + '\n').encode())
    if plot is not None:
        write_file(path.with_suffix('.png'), plot)
    _logger.info(f'wrote {path} and what belongs to it')


def format_summary(summary: dict[str, Any]) -> str:
    """A small table of the summary, for the terminal."""
    if 'accuracy' not in summary:
        return f'{summary["model"]} ({summary["space"]}), {summary["num_archs"]} architectures, no ground truth'
    lines = [
        f'{summary["model"]} ({summary["space"]}, {"split" if summary["split"] else "unsplit"}), '
        f'{summary["num_archs"]} architectures, true accuracy: mean {summary["truth_mean"]:.2f}, '
        f'best {summary["truth_max"]:.2f}',
        f'{"ranked by":<12}{"KT all":>9}{"KT 50":>9}{"top-1":>9}{"top-5":>9}{"top-10":>9}{"improvement":>13}',
    ]
    for name in RANKED_BY:
        if name not in summary:  # a baseline of which nothing is known
            continue
        row = summary[name]
        cells = [row['kendall_tau'], row['kendall_tau_50'], row['top1'], row['top5'], row['top10'], row['improvement1']]
        texts = ['-' if cell is None else f'{cell:.3f}' for cell in cells]
        lines.append(f'{name:<12}' + ''.join(f'{text:>9}' for text in texts[:-1]) + f'{texts[-1]:>13}')
    return '\n'.join(lines)


if __name__ == '__main__':
    sys.exit(main())
