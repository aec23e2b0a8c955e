"""Model folders for the Hugging Face Hub: `condnet-hub prepare` makes one, `publish` uploads it.

What a card says is computed from the saved file, on images that no training has seen.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from condnet.benchmarks.tables import BenchmarkTable
from condnet.checkpoints.folder import save_model
from condnet.checkpoints.loading import load_model
from condnet.cli.validate import check_evaluation_flags
from condnet.data import Images, holds_images, load_images
from condnet.data.glyphs import render_glyphs
from condnet.errors import CondnetError
from condnet.hub.card import make_card
from condnet.models import Supernet
from condnet.models.pretrained import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME, check_folder
from condnet.ranking.calibration import calibrate
from condnet.ranking.evaluate import Prediction, accuracy_and_loss, autocast
from condnet.ranking.results import read_predictions, read_summary
from condnet.ranking.run import find_table, load_evaluation_images, load_supernet, prepare_data, provenance
from condnet.utils.files import write_file

_logger = logging.getLogger(__name__)


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    """Write a folder with the best found sub-network active and calibrated, and a card; return what the card says.

    Raises:
        CondnetError: If results and checkpoint do not fit together.
    """
    check_evaluation_flags(args)
    folder, results = Path(args.folder), Path(args.results)
    predictions, summary = read_predictions(results), read_summary(results.with_suffix('.json'))
    model = load_supernet(args)
    evaluation = provenance(model, args)
    for key in ('model', 'space', 'split', 'training', 'ema', 'checkpoint_sha256', 'calibration'):
        if summary.get(key) != evaluation[key]:
            raise CondnetError(f'{results} ranks with {key} {summary.get(key)!r}, {args.checkpoint} with these flags '
                               f'has {evaluation[key]!r}')  # fmt: skip
    calibration, validation, dataset = load_evaluation_images(model, args)
    table = find_table(model, dataset, args)
    best = max(predictions, key=lambda prediction: (prediction.accuracy, -prediction.loss))
    save_calibrated(model, best, calibration, validation, folder, args)
    test, kind = find_test_images(validation, args)
    facts = {
        **evaluate_saved(folder, test, args),
        'kind': kind,
        'arch': model.space.format(model.space.parse(best.index)),
        'index': best.index,
        'dataset': dataset,
        'truth': true_accuracy(table, best.index),
        'evaluation': evaluation,
        'ranking': summary,
    }
    write_file(folder / CARD_NAME, str(make_card(folder.name, facts)).encode())
    _logger.info(f'{folder}: sub-network {facts["arch"]}, accuracy {facts["accuracy"]:.2f}')
    return facts


def save_calibrated(
    model: Supernet,
    best: Prediction,
    calibration: Images,
    validation: Images,
    folder: Path,
    args: argparse.Namespace,
) -> None:
    """Save a super-network with a sub-network active, and its BatchNorm statistics as the stored weights give them."""
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    data = prepare_data(model, calibration, validation, args)
    model.set_active_subnet(best.index)
    with autocast(data):
        calibrate(model, data.calibration, momentum=data.momentum)
    save_model(model.eval(), folder, args.training, fingerprint=args.fingerprint)


def find_test_images(validation: Images, args: argparse.Namespace) -> tuple[Images, str]:
    """Images for the card: the data set's test images if they are there, or else the withheld ones.

    The active sub-network is the best of many on the withheld images, which therefore flatter it.

    Returns:
        The images, and what to call them.

    Raises:
        CondnetError: If the test images are damaged, or of other classes.
    """
    if args.dataset == 'glyphs':
        return render_glyphs(train=False), 'test images'
    if args.dataset is None and holds_images(args.data_dir, train=False):
        return load_images(args.data_dir, train=False), 'test images'
    return validation, 'withheld images'


def evaluate_saved(folder: Path, images: Images, args: argparse.Namespace) -> dict[str, Any]:
    """Accuracy and loss of the active sub-network of a folder, freshly loaded."""
    loaded = argparse.Namespace(**{**vars(args), 'checkpoint': str(folder), 'use_ema': False})
    model = load_supernet(loaded).eval()
    data = prepare_data(model, images.select(images.targets.new_zeros(1)), images, loaded)
    accuracy, loss = accuracy_and_loss(model, data)
    return {'accuracy': accuracy, 'loss': loss, 'num_images': len(images)}


def true_accuracy(table: BenchmarkTable | None, index: int) -> float | None:
    """What the benchmark says of an architecture, if it says something."""
    return None if table is None or index not in table.indices else float(table.select([index]).accuracy[0])


def publish(folder: str | Path, repo: str, private: bool = False) -> str:
    """Upload a model folder: weights, configuration and card, and nothing else that may lie there.

    Args:
        folder: As `prepare` wrote it.
        repo: `organization/name`; it is created if it does not exist.
        private: Whether a new one is private.

    Returns:
        Address of the commit.

    Raises:
        CondnetError: If the folder is incomplete or damaged, or the Hub refuses it. Nothing is uploaded then.
    """
    folder = Path(folder)
    check_folder(folder)
    load_model(folder)  # what does not load is not published
    if not (folder / CARD_NAME).is_file():
        raise CondnetError(f'{folder} has no card {CARD_NAME}; make it with condnet-hub prepare')
    api = HfApi(library_name='condnet')
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[WEIGHTS_NAME, CONFIG_NAME, CARD_NAME],
            commit_message=f'{folder.name}',
        )
    except Exception as error:  # the Hub's client lets through what its HTTP library raises
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CondnetError(f'cannot publish {folder} as {repo}: {reason}') from error
    return str(commit.commit_url)
