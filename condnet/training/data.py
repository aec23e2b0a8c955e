"""The data of a training: batches, and the images of the check after an epoch."""

import argparse
from typing import Any

import torch

from condnet.data import (
    Images,
    InMemoryLoader,
    TimmLoader,
    augmentation_of,
    check_size,
    choose_timm_images,
    create_timm_loader,
    dataset_name,
    fingerprint_of,
    withheld_indices,
)
from condnet.data.sources import open_images
from condnet.errors import CondnetError
from condnet.ranking.calibration import CALIBRATION_BATCH_SIZE
from condnet.ranking.evaluate import EvaluationData, choose_images, evaluation_data
from condnet.utils.distributed import Group

_DEFAULT_EVAL_IMAGES = 1000  # withheld images for the check after an epoch


def open_data(args: argparse.Namespace) -> Images | None:
    """The training set in memory, or None with `--dataset`; settles number of classes and size of the images."""
    images = open_images(args)
    num_classes = 10 if images is None else len(images.classes)
    input_size = [3, 32, 32] if images is None else list(images.images.shape[1:])
    args.num_classes, args.input_size = args.num_classes or num_classes, args.input_size or input_size
    args.data_name, args.data_sha256, args.data_fingerprint = args.dataset, None, None
    source = args.data_dir or args.dataset
    if images is not None:
        args.data_name = dataset_name(images)
        # Another Pillow may draw the letters a little differently; that does not make glyphs another data set.
        args.data_sha256 = None if args.data_name == 'glyphs' else images.sha256()
        if args.num_classes < num_classes:
            raise CondnetError(f'--num-classes is {args.num_classes}, but {source} has {num_classes} classes')
        check_size(images, args.input_size)
        args.data_fingerprint = None if args.data_name == 'glyphs' else fingerprint_of(images)
    return images


def create_data(
    args: argparse.Namespace, images: Images | None, config: dict[str, Any], device: torch.device, group: Group
) -> tuple[InMemoryLoader | TimmLoader, EvaluationData | None]:
    """Batches to train on, this process's share, and the data of the check after an epoch, if there is to be one.

    Raises:
        CondnetError: If there are too few images, or a batch cannot be shared.
    """
    share, rest = divmod(args.batch_size, group.size)
    if rest or share < args.grad_accum_steps:
        raise CondnetError(f'--batch-size is {args.batch_size}, expected a multiple of the {group.size} processes, '
                           f'with at least {args.grad_accum_steps} images for each (--grad-accum-steps)')  # fmt: skip
    batches: InMemoryLoader | TimmLoader
    if images is None:
        batches = create_timm_loader(
            args.dataset,
            args.data_dir,
            args.train_split,
            input_size=tuple(args.input_size),
            batch_size=args.batch_size,
            mean=config['mean'],
            std=config['std'],
            seed=args.seed,
            workers=args.workers,
            device=device,
            download=args.download,
            rank=group.rank,
            world_size=group.size,
            train_split=args.train_split,
            num_classes=args.num_classes,
        )
    else:
        batches = InMemoryLoader(
            images.select(withheld_indices(images.targets)[0]),
            args.batch_size,
            config['mean'],
            config['std'],
            seed=args.seed,
            device=device,
            channels_last=args.channels_last,
            rank=group.rank,
            world_size=group.size,
            **augmentation_of(images),
        )
    if len(batches) == 0:
        raise CondnetError(
            f'{args.data_dir or args.dataset} has fewer training images than a batch of {args.batch_size}'
        )
    if not args.eval_interval:
        return batches, None
    calibration, validation = choose_evaluation_images(args, images)
    return batches, evaluation_data(calibration, validation, config, device, args.channels_last)


def choose_evaluation_images(args: argparse.Namespace, images: Images | None) -> tuple[Images, Images]:
    """Images to calibrate on, and withheld images to validate on, for the check after an epoch."""
    if images is not None:
        num_images = args.eval_images
        if num_images is None:
            num_classes, withheld = len(images.classes), images.targets[withheld_indices(images.targets)[1]]
            least = int(withheld.bincount(minlength=num_classes).min())
            num_images = min(least, _DEFAULT_EVAL_IMAGES // num_classes) * num_classes or None  # None: all
        return choose_images(images, args.eval_batches, num_images)
    nums = args.eval_batches * CALIBRATION_BATCH_SIZE, args.eval_images or _DEFAULT_EVAL_IMAGES
    calibration, validation = choose_timm_images(
        args.dataset, args.data_dir, (args.train_split, args.val_split), nums, tuple(args.input_size), args.download
    )
    classes = 1 + int(max(calibration.targets.max(), validation.targets.max()))
    if classes > args.num_classes:
        raise CondnetError(f'--num-classes is {args.num_classes}, but {args.dataset} has at least {classes} classes')
    return calibration, validation
