"""What a network is evaluated on: images that it was not trained on, and the truth."""

import dataclasses
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import timm
import torch
from torch import nn

from condnet.benchmarks.registry import find_benchmark
from condnet.benchmarks.tables import BenchmarkTable, holds_table, load_benchmark
from condnet.data import Augmentation, Images, check_size, choose_timm_images, dataset_name, holds_names, match_images
from condnet.data.sources import open_images
from condnet.errors import CondnetError
from condnet.models import Supernet
from condnet.ranking.calibration import CALIBRATION_BATCH_SIZE
from condnet.ranking.config import AMP_DTYPES, EvalConfig
from condnet.ranking.evaluate import EvaluationData, choose_images, choose_validation, evaluation_data
from condnet.ranking.subject import Subject
from condnet.utils.device import find_device, hardware_name
from condnet.version import __version__

_logger = logging.getLogger(__name__)

Data = str | Path | Images | EvaluationData
Benchmark = str | Path | BenchmarkTable | bool


@dataclass(frozen=True)
class ChosenImages:
    """Images to calibrate on, and images to validate on, which no training has seen.

    Args:
        calibration: The former; None where nothing is calibrated.
        validation: The latter.
        dataset: Name of the data set.
        match: How they are those that the checkpoint was trained on, see `match_images`.
    """

    calibration: Images | None
    validation: Images
    dataset: str
    match: dict[str, Any] | None = None

    def facts(self, config: EvalConfig) -> dict[str, Any]:
        """What results say of them, and of how they are used."""
        sha256 = [images.sha256() for images in (self.calibration, self.validation) if images is not None]
        num_calibration = 0 if self.calibration is None else len(self.calibration)
        return {
            'dataset': self.dataset,
            'eval_images': len(self.validation),
            'images_sha256': sha256,
            'calibration': _calibration_facts(num_calibration, config.calib_augment, config.calib_momentum),
            'eval_batch_size': config.batch_size,
            'amp_dtype': config.amp_dtype,
        }

    def input_size(self, model: Supernet) -> tuple[int, ...]:
        """Channels, height and width of the images as the model takes them."""
        return tuple(model.pretrained_cfg['input_size'])

    def prepare(self, model: nn.Module, config: EvalConfig) -> EvaluationData:
        """The images as the model takes them."""
        return prepare_data(model, self.calibration, self.validation, config)


@dataclass(frozen=True)
class PreparedImages:
    """Images that the caller has prepared; its own settings hold.

    Args:
        data: The images.
        dataset: Name of the data set.
    """

    data: EvaluationData
    dataset: str
    match: None = None

    def facts(self, config: EvalConfig) -> dict[str, Any]:
        """What results say of them, and of how they are used."""
        data = self.data
        tensors = (data.to_calibrate(), data.images)
        sha256 = [hashlib.sha256(tensor.float().cpu().contiguous().numpy().tobytes()).hexdigest() for tensor in tensors]
        names = {dtype: name for name, dtype in AMP_DTYPES.items()}
        return {
            'dataset': self.dataset,
            'eval_images': len(data.targets),
            'images_sha256': sha256,
            'calibration': _calibration_facts(len(data.to_calibrate()), None, data.momentum),
            'eval_batch_size': data.batch_size,
            'amp_dtype': names.get(data.amp_dtype, str(data.amp_dtype)),
        }

    def input_size(self, model: Supernet) -> tuple[int, ...]:
        """Channels, height and width of the images."""
        return tuple(self.data.images.shape[1:])

    def prepare(self, model: nn.Module, config: EvalConfig) -> EvaluationData:
        """The images as they are."""
        return self.data


def _calibration_facts(num_images: int, augmented: bool | None, momentum: float | None) -> dict[str, Any]:
    """What BatchNorm is calibrated on, which may be less than was asked for."""
    return {
        'batches': -(-num_images // CALIBRATION_BATCH_SIZE),
        'batch_size': min(num_images, CALIBRATION_BATCH_SIZE),
        'augmented': augmented,
        'momentum': momentum,
    }


def open_evaluation_images(
    subject: Subject[nn.Module], config: EvalConfig, data: Data | None = None
) -> ChosenImages | PreparedImages:
    """Images to evaluate a network on.

    Args:
        subject: The network.
        config: Which and how many of them.
        data: A directory, `glyphs`, the whole training set, or images that are prepared already; None for those that
            `config` names, or of a model of the letters these.

    Raises:
        CondnetError: If the network was trained on another data set, or they are not what it takes.
    """
    if isinstance(data, EvaluationData):
        return PreparedImages(data, config.dataset or subject.trained_on or 'other')
    config, images = with_data(config, data), data if isinstance(data, Images) else None
    if images is None and not config.data_dir and not config.dataset and subject.trained_on == 'glyphs':
        config = with_data(config, 'glyphs')  # which is always at hand
    return load_evaluation_images(subject, config, images)


Config = TypeVar('Config', bound=EvalConfig)


def with_data(config: Config, data: Data | None) -> Config:
    """Settings that name a data set which the caller may have named in another way: a directory, or `glyphs`."""
    if isinstance(data, (str, Path)):
        named: dict[str, Any] = {'dataset': 'glyphs'} if data == 'glyphs' else {'data_dir': str(data)}
        return dataclasses.replace(config, **named)
    return config


def load_evaluation_images(
    subject: Subject[nn.Module], config: EvalConfig, images: Images | None = None
) -> ChosenImages:
    """Images to evaluate on, of the data set that `config` names, or out of a training set.

    Raises:
        CondnetError: If the network was trained on another data set.
    """
    source = config.data_dir or config.dataset if images is None else 'the images'
    images = open_images(config) if images is None else images
    if images is not None:
        check_size(images, subject.cfg['input_size'])
    name = str(config.dataset) if images is None else dataset_name(images)
    if (trained_on := subject.trained_on or name) != name:
        raise CondnetError(f'{subject.name} was trained on data {trained_on!r}, not on {name!r} of {source}')
    if images is None:
        chosen = ChosenImages(*_choose_timm_images(subject, config), name)
    else:
        chosen = _choose_from(images, subject, config, name, str(source))
    if int(chosen.validation.targets.max()) >= (num_classes := cast(int, subject.model.num_classes)):
        raise CondnetError(f'{source} has more classes than the {num_classes} of {subject.name}')
    return chosen


def _choose_timm_images(subject: Subject[nn.Module], config: EvalConfig) -> tuple[Images | None, Images]:
    return choose_timm_images(
        str(config.dataset),
        str(config.data_dir),
        (config.train_split, config.val_split),
        (_num_calibration(subject, config), config.eval_images or 5000),
        subject.cfg['input_size'],
        download=config.download,
        augmented=config.calib_augment,
        at_most=config.eval_images is None,
        augmentation=Augmentation.of(subject.training),
    )


def _num_calibration(subject: Subject[nn.Module], config: EvalConfig) -> int:
    """How many images a network is calibrated on; a stand-alone one is not."""
    return config.calib_batches * CALIBRATION_BATCH_SIZE if isinstance(subject.model, Supernet) else 0


def _choose_from(
    images: Images, subject: Subject[nn.Module], config: EvalConfig, name: str, source: str
) -> ChosenImages:
    has_names = config.dataset is not None or (config.data_dir is not None and holds_names(config.data_dir))
    images, match = match_images(images, subject.training, subject.fingerprint, subject.name, source, has_names)
    if match and 'largest_distance' in match:
        _logger.info(f'{source} matches the images of {subject.name}: {match}')
    if not _num_calibration(subject, config):
        return ChosenImages(None, choose_validation(images, config.eval_images), name, match)
    nums = config.calib_batches, config.eval_images
    chosen = choose_images(images, *nums, config.calib_augment, Augmentation.of(subject.training))
    return ChosenImages(*chosen, name, match)


def prepare_data(
    model: nn.Module, calibration: Images | None, validation: Images, config: EvalConfig
) -> EvaluationData:
    """Images as the model takes them."""
    return evaluation_data(
        calibration,
        validation,
        cast(dict[str, Any], model.pretrained_cfg),
        find_device(config.device),
        config.channels_last,
        batch_size=config.batch_size,
        momentum=config.calib_momentum,
        amp_dtype=AMP_DTYPES[config.amp_dtype],
        memory=int(config.memory * 1e9),
    )


def find_table(
    model: Supernet, dataset: str, config: EvalConfig, benchmark: Benchmark | None = None
) -> BenchmarkTable | None:
    """The benchmark's table of the model's space; None for a data set that no benchmark is known of.

    Args:
        model: The model.
        dataset: The data set that it is evaluated on.
        config: It may name the table, or where to look for it.
        benchmark: The table, or where it is, if the caller says so; False for no comparison.

    Raises:
        CondnetError: If there should be one and is not, or the one that was given is of another space or data set.
    """
    if benchmark is False:
        return None
    space = model.space.name
    if isinstance(benchmark, BenchmarkTable):
        if (benchmark.space, benchmark.dataset) != (space, dataset):
            raise CondnetError(f'the table {benchmark.path} is of {benchmark.space} on {benchmark.dataset}, not of '
                               f'{space} on {dataset}')  # fmt: skip
        return benchmark
    path = config.benchmark if benchmark in (None, True) else str(benchmark)
    known = find_benchmark(space, dataset)
    if path is None and known is None:
        _logger.info('no benchmark is known of space and data set: predictions are written without a comparison')
        return None
    is_beside = config.data_dir and not (known and known.packaged) and holds_table(config.data_dir, space, dataset)
    if path is None and is_beside:
        path = config.data_dir
    return load_benchmark(space, path, dataset, download=config.download)


def provenance(subject: Subject[Supernet], config: EvalConfig, images: ChosenImages | PreparedImages) -> dict[str, Any]:
    """What made a result: model, checkpoint, data, calibration, hardware and versions."""
    return {
        'model': subject.model.pretrained_cfg['architecture'],
        'space': str(subject.model.space),
        'split': subject.model.is_split,
        'checkpoint': None if subject.checkpoint is None else Path(subject.checkpoint).name,
        'checkpoint_sha256': subject.sha256,
        'ema': config.use_ema,
        'training': subject.training,
        **images.facts(config),
        'channels_last': config.channels_last,
        'device': config.device,
        'hardware': hardware_name(find_device(config.device)),
        'versions': {'condnet': __version__, 'torch': torch.__version__, 'timm': timm.__version__},
    }
