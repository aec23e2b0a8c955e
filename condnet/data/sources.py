"""The data set that a setting names."""

import argparse

from condnet.data import Images, load_images
from condnet.data.glyphs import render_glyphs
from condnet.errors import CondnetError


def open_images(args: argparse.Namespace) -> Images | None:
    """The training set in memory that the flags `--dataset`, `--data-dir` and `--download` name.

    Returns:
        The images; None for a data set that goes through timm.

    Raises:
        CondnetError: If the directory is missing or holds no data set.
    """
    if args.dataset == 'glyphs':
        return render_glyphs()
    if not args.data_dir:
        raise CondnetError(
            '--data-dir is missing: a directory with the data set; --download fetches CIFAR-10 into it '
            '(only models of the letters, --dataset glyphs, need none)'
        )
    return None if args.dataset else load_images(args.data_dir, train=True, download=args.download)
