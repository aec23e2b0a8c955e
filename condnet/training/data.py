"""The data of a training: batches, and the images of the check after an epoch."""

from typing import Any

import torch

from condnet.data import (
    Augmentation,
    Images,
    InMemoryLoader,
    TimmLoader,
    augmentation_of,
    channel_statistics,
    check_size,
    choose_timm_images,
    create_timm_loader,
    dataset_name,
    describe_timm_data,
    fingerprint_of,
    withheld_indices,
)
from condnet.data.sources import open_images
from condnet.errors import CondnetError
from condnet.ranking.calibration import CALIBRATION_BATCH_SIZE
from condnet.ranking.evaluate import EvaluationData, choose_images, choose_validation, evaluation_data
from condnet.training.config import OF_OTHER_DATA, Settled, TrainConfig
from condnet.utils.device import hardware_name
from condnet.utils.distributed import Group

Batches = InMemoryLoader | TimmLoader
_DEFAULT_EVAL_IMAGES = 1000  # withheld images for the check after an epoch


def open_data(
    config: TrainConfig, device: torch.device, group: Group, before: dict[str, Any] | None = None
) -> tuple[Images | None, Settled]:
    """The training set in memory, or None for one that goes through timm, and what is settled by it.

    Args:
        config: Settings.
        device: Where to train.
        group: The processes that train together.
        before: The checkpoint that the training goes on from, whose images are normalised as they were; None for none.

    Raises:
        CondnetError: If it is missing, or does not go with the number of classes or the size of the images.
    """
    images = open_images(config)
    machine: dict[str, Any] = {'num_processes': group.size, 'hardware': hardware_name(device)}
    if images is None:
        size = config.input_size or (3, 32, 32)
        described = _describe(config, None, size, before)
        return None, Settled(config.num_classes or 10, size, config.dataset, **machine, **described)
    num_classes, (channels, height, width) = len(images.classes), images.images.shape[1:]
    size, name = config.input_size or (channels, height, width), dataset_name(images)
    if config.num_classes is not None and config.num_classes < num_classes:
        raise CondnetError(f'`num_classes` is {config.num_classes}, but {config.data_dir or config.dataset} has '
                           f'{num_classes} classes')  # fmt: skip
    # Another Pillow may draw the letters a little differently; that does not make glyphs another data set.
    is_drawn = name == 'glyphs'
    sha256 = None if is_drawn else images.sha256()
    check_size(images, size)
    fingerprint = None if is_drawn else fingerprint_of(images)
    machine |= _describe(config, images, size, before)
    return images, Settled(config.num_classes or num_classes, size, name, sha256, fingerprint, **machine)


def _describe(
    config: TrainConfig, images: Images | None, size: tuple[int, int, int], before: dict[str, Any] | None
) -> dict[str, Any]:
    """Statistics of the images that are trained on, and names of the classes, where no name of a data set says them."""
    if before is not None:
        return {name: value for name, value in vars(before['args']).items() if name in OF_OTHER_DATA}
    if images is None:
        where = config.dataset or '', config.data_dir or '', config.train_split
        return describe_timm_data(*where, size, config.download)
    if dataset_name(images) != 'other':
        return {}
    mean, std = channel_statistics(images.images, withheld_indices(images.targets)[0])
    return {'mean': list(mean), 'std': list(std), 'label_names': list(images.classes)}


def create_data(
    config: TrainConfig,
    settled: Settled,
    images: Images | None,
    statistics: dict[str, Any],
    device: torch.device,
    group: Group,
    calibrates: bool = True,
) -> tuple[Batches, EvaluationData | None]:
    """Batches to train on, this process's share, and the data of the check after an epoch, if there is to be one.

    Args:
        config: Settings.
        settled: Size of the images, and number of classes.
        images: The training set in memory, or None.
        statistics: `mean` and `std` of the channels, as a model's `pretrained_cfg` has them.
        device: Where to.
        group: The processes that share the batches.
        calibrates: Whether what is checked is calibrated before; a stand-alone network is not.

    Raises:
        CondnetError: If there are too few images, or a batch cannot be shared.
    """
    _check_shares(config, group)
    common = {'mean': statistics['mean'], 'std': statistics['std'], 'seed': config.seed, 'device': device,
              'rank': group.rank, 'world_size': group.size}  # fmt: skip
    batches: Batches
    if images is None:
        batches = _timm_batches(config, settled, common)
    else:
        chosen = images.select(withheld_indices(images.targets)[0])
        more = augmentation_of(images, Augmentation.of(vars(config)))
        batches = InMemoryLoader(chosen, config.batch_size, channels_last=config.channels_last, **more, **common)
    if len(batches) == 0:
        source = config.data_dir or config.dataset
        raise CondnetError(f'{source} has fewer training images than a batch of {config.batch_size}')
    if not config.eval_interval:
        return batches, None
    calibration, validation = _choose_evaluation_images(config, settled, images, calibrates)
    return batches, evaluation_data(calibration, validation, statistics, device, config.channels_last)


def _check_shares(config: TrainConfig, group: Group) -> None:
    share, rest = divmod(config.batch_size, group.size)
    if rest or share < config.grad_accum_steps:
        raise CondnetError(f'`batch_size` is {config.batch_size}, expected a multiple of the {group.size} processes, '
                           f'with at least {config.grad_accum_steps} images for each (`grad_accum_steps`)')  # fmt: skip
    if config.mixes and share % 2:
        raise CondnetError(f'`mixup` and `cutmix` mix images in pairs: a process has {share} of a batch, expected an '
                           'even number')  # fmt: skip


def _timm_batches(config: TrainConfig, settled: Settled, common: dict[str, Any]) -> TimmLoader:
    return create_timm_loader(
        config.dataset or '',
        config.data_dir or '',
        config.train_split,
        input_size=settled.input_size,
        batch_size=config.batch_size,
        workers=config.workers,
        download=config.download,
        train_split=config.train_split,
        num_classes=settled.num_classes,
        augmentation=Augmentation.of(vars(config)),
        pin_mem=config.pin_mem,
        worker_seeding=config.worker_seeding,
        **common,
    )


def _choose_evaluation_images(
    config: TrainConfig, settled: Settled, images: Images | None, calibrates: bool
) -> tuple[Images | None, Images]:
    """Images to calibrate on, and withheld images to validate on, for the check after an epoch."""
    augmentation = Augmentation.of(vars(config))
    if images is not None:
        num_images = config.eval_images
        if num_images is None:
            num_classes, withheld = len(images.classes), images.targets[withheld_indices(images.targets)[1]]
            least = int(withheld.bincount(minlength=num_classes).min())
            num_images = min(least, _DEFAULT_EVAL_IMAGES // num_classes) * num_classes or None  # None: all
        if calibrates:
            return choose_images(images, config.eval_batches, num_images, augmentation=augmentation)
        return None, choose_validation(images, num_images)
    num_calibration = config.eval_batches * CALIBRATION_BATCH_SIZE if calibrates else 0
    nums = num_calibration, config.eval_images or _DEFAULT_EVAL_IMAGES
    splits = config.train_split, config.val_split
    where = config.dataset or '', config.data_dir or ''
    calibration, validation = choose_timm_images(
        *where, splits, nums, settled.input_size, download=config.download,
        at_most=config.eval_images is None, augmentation=augmentation,
    )  # fmt: skip
    classes = 1 + max(int(chosen.targets.max()) for chosen in (calibration, validation) if chosen is not None)
    if classes > settled.num_classes:
        raise CondnetError(f'`num_classes` is {settled.num_classes}, but {config.dataset} has at least {classes} '
                           'classes')  # fmt: skip
    return calibration, validation
