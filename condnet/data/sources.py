"""The data set that a setting names."""

import difflib
from typing import Protocol

from condnet.data import Images, load_images
from condnet.data.glyphs import render_glyphs
from condnet.errors import CondnetError


class DataSettings(Protocol):
    """Settings that name a data set."""

    @property
    def dataset(self) -> str | None: ...
    @property
    def data_dir(self) -> str | None: ...
    @property
    def download(self) -> bool: ...


def open_images(args: DataSettings) -> Images | None:
    """The training set in memory that the settings `dataset`, `data_dir` and `download` name.

    Returns:
        The images; None for a data set that goes through timm.

    Raises:
        CondnetError: If the directory is missing or holds no data set.
    """
    if args.dataset == 'glyphs':
        return render_glyphs()
    if not args.data_dir and args.dataset:
        near = ', or is it glyphs?' if difflib.get_close_matches(args.dataset, ('glyphs',)) else ''
        raise CondnetError(f"`dataset` is {args.dataset!r}, one of timm's, which needs `data_dir`, where it is{near}")
    if not args.data_dir:
        raise CondnetError(
            '`data_dir` is missing: a directory with the data set; `download` fetches CIFAR-10 into it '
            '(only models of the letters, `dataset` glyphs, need none)'
        )
    return None if args.dataset else load_images(args.data_dir, train=True, download=args.download)
