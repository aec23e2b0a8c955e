"""Data: images in memory, the withheld ones, and batches to train on."""

from condnet.data.augmentation import Augmentation
from condnet.data.fingerprint import fingerprint_of, match_images
from condnet.data.images import (
    CIFAR10_CLASSES,
    CIFAR10_IMAGES,
    GLYPH_CLASSES,
    Images,
    check_size,
    dataset_name,
    holds_images,
    holds_names,
    load_images,
)
from condnet.data.loader import (
    AUGMENTATION,
    GLYPH_AUGMENTATION,
    Batch,
    InMemoryLoader,
    augment,
    augmentation_of,
    epoch_generator,
    normalize,
)
from condnet.data.splits import (
    calibration_indices,
    calibration_size,
    subset_withheld,
    withheld_indices,
)
from condnet.data.statistics import channel_statistics
from condnet.data.timm_data import (
    TimmLoader,
    choose_timm_images,
    create_timm_loader,
    describe_timm_data,
    timm_images,
)

__all__ = [
    'AUGMENTATION',
    'Augmentation',
    'Batch',
    'CIFAR10_CLASSES',
    'CIFAR10_IMAGES',
    'GLYPH_AUGMENTATION',
    'GLYPH_CLASSES',
    'Images',
    'InMemoryLoader',
    'TimmLoader',
    'augment',
    'augmentation_of',
    'calibration_indices',
    'calibration_size',
    'channel_statistics',
    'check_size',
    'choose_timm_images',
    'create_timm_loader',
    'describe_timm_data',
    'dataset_name',
    'epoch_generator',
    'fingerprint_of',
    'holds_images',
    'holds_names',
    'load_images',
    'match_images',
    'normalize',
    'subset_withheld',
    'timm_images',
    'withheld_indices',
]
