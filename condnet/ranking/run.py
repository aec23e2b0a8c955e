"""A ranking from checkpoint to results."""

import argparse
import itertools
import json
import logging
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from tqdm import tqdm

import condnet
from condnet.benchmarks.registry import find_benchmark
from condnet.benchmarks.tables import BenchmarkTable, holds_table, load_benchmark
from condnet.checkpoints.loading import load_checkpoint
from condnet.data import Images, check_size, choose_timm_images, dataset_name, holds_names, match_images
from condnet.data.sources import open_images
from condnet.errors import CondnetError
from condnet.models import Supernet
from condnet.models.counts import describe_untrained
from condnet.models.trial import check_forward
from condnet.ranking.calibration import CALIBRATION_BATCH_SIZE
from condnet.ranking.evaluate import EvaluationData, Prediction, choose_images, evaluation_data
from condnet.ranking.metrics import RANKED_BY
from condnet.ranking.results import Journal, plot_predictions, summarize_predictions, write_predictions
from condnet.ranking.tree import predict
from condnet.ranking.workers import Team, join_team
from condnet.spaces.base import ENUMERABLE, Arch, SearchSpace
from condnet.utils.device import find_device, hardware_name
from condnet.utils.files import write_file

_logger = logging.getLogger(__name__)


DEFAULT_NUM_ARCHS = 200
_AMP_DTYPES = {'float32': None, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


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
