"""Model folders for the Hugging Face Hub: `condnet-hub prepare` makes one, `publish` uploads it.

What a card says is computed from the saved file, on images that no training has seen.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any, cast

from huggingface_hub import HfApi

from condnet.benchmarks.tables import BenchmarkTable
from condnet.checkpoints.folder import save_model
from condnet.checkpoints.loading import load_model
from condnet.data import Images, holds_images, load_images
from condnet.data.glyphs import render_glyphs
from condnet.errors import CondnetError, first_line
from condnet.hub.card import make_card
from condnet.models import Supernet
from condnet.models.pretrained import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME, check_folder
from condnet.ranking.calibration import calibrate
from condnet.ranking.config import EvalConfig
from condnet.ranking.evaluate import Prediction, accuracy_and_loss, autocast
from condnet.ranking.inputs import (
    ChosenImages,
    find_table,
    open_evaluation_images,
    prepare_data,
    provenance,
)
from condnet.ranking.results import read_predictions, read_summary
from condnet.ranking.subject import Subject, open_supernet
from condnet.utils.files import write_file

_logger = logging.getLogger(__name__)


def prepare(
    checkpoint: str | Path, folder: str | Path, results: str | Path, config: EvalConfig, expected: str | None = None
) -> dict[str, Any]:
    """Write a folder with the best found sub-network active and calibrated, and a card; return what the card says.

    Args:
        checkpoint: Training checkpoint, or model folder.
        folder: Folder to write, named as the model with its tag.
        results: Predictions of its ranking (CSV), with the summary (JSON) beside them.
        config: How it was ranked.
        expected: Name of the model that the checkpoint has to hold.

    Raises:
        CondnetError: If results and checkpoint do not fit together.
    """
    folder, results = Path(folder), Path(results)
    predictions, summary = read_predictions(results), read_summary(results.with_suffix('.json'))
    subject = open_supernet(checkpoint, config, expected)
    images = cast(ChosenImages, open_evaluation_images(subject, config))
    evaluation = provenance(subject, config, images)
    _check_same(results, summary, checkpoint, evaluation)
    table = find_table(subject.model, images.dataset, config)
    best = max(predictions, key=lambda prediction: (prediction.accuracy, -prediction.loss))
    save_calibrated(subject, best, images, folder, config)
    (test, kind), space = find_test_images(images, config), subject.model.space
    facts = {
        **evaluate_saved(folder, test, config),
        'kind': kind,
        'arch': space.format(space.parse(best.index)),
        'index': best.index,
        'dataset': images.dataset,
        'truth': true_accuracy(table, best.index),
        'evaluation': evaluation,
        'ranking': summary,
    }
    write_file(folder / CARD_NAME, str(make_card(folder.name, facts)).encode())
    _logger.info(f'{folder}: sub-network {facts["arch"]}, accuracy {facts["accuracy"]:.2f}')
    return facts


def _check_same(results: Path, summary: dict[str, Any], checkpoint: str | Path, evaluation: dict[str, Any]) -> None:
    """Refuse results that are not of a checkpoint as it is to be evaluated."""
    for key in ('model', 'space', 'split', 'training', 'ema', 'checkpoint_sha256', 'calibration'):
        if summary.get(key) != evaluation[key]:
            raise CondnetError(f'{results} ranks with {key} {summary.get(key)!r}, {checkpoint} with these settings '
                               f'has {evaluation[key]!r}')  # fmt: skip


def save_calibrated(
    subject: Subject[Supernet], best: Prediction, images: ChosenImages, folder: Path, config: EvalConfig
) -> None:
    """Save a super-network with a sub-network active, and its BatchNorm statistics as the stored weights give them."""
    model = subject.model
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    data = images.prepare(model, config)
    model.set_active_subnet(best.index)
    with autocast(data):
        calibrate(model, data.to_calibrate(), momentum=data.momentum)
    save_model(model.eval(), folder, subject.training, fingerprint=subject.fingerprint)


def find_test_images(images: ChosenImages, config: EvalConfig) -> tuple[Images, str]:
    """Images for the card: the data set's test images if they are there, or else the withheld ones.

    The active sub-network is the best of many on the withheld images, which therefore flatter it.

    Returns:
        The images, and what to call them.

    Raises:
        CondnetError: If the test images are damaged, or of other classes.
    """
    if images.dataset == 'glyphs':
        return render_glyphs(train=False), 'test images'
    if config.dataset is None and config.data_dir and holds_images(config.data_dir, train=False):
        return load_images(config.data_dir, train=False), 'test images'
    return images.validation, 'withheld images'


def evaluate_saved(folder: Path, images: Images, config: EvalConfig) -> dict[str, Any]:
    """Accuracy and loss of the active sub-network of a folder, freshly loaded."""
    config = dataclasses.replace(config, use_ema=False)
    model = open_supernet(folder, config).model.eval()
    accuracy, loss = accuracy_and_loss(model, prepare_data(model, None, images, config))
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
        raise CondnetError(f'cannot publish {folder} as {repo}: {first_line(error)}') from error
    return str(commit.commit_url)
