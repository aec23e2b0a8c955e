"""Settings of evaluations and rankings, of which the flags of the commands are made."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from condnet.errors import CondnetError
from condnet.ranking.evaluate import DEFAULT_MEMORY
from condnet.ranking.mean_ranks import parse_rank_by
from condnet.spaces.notation import ARCH_HELP
from condnet.utils.settings import SettingError, check_settings, setting

AMP_DTYPES = {'float32': None, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
DEFAULT_NUM_ARCHS = 200
_DATA, _EVALUATION, _ARCHITECTURES = 'weights and data', 'evaluation', 'architectures'
_RANK_MEANS = 'rank means'


@dataclass(frozen=True)
class EvalConfig:
    """How architectures are evaluated: with which weights, on which data, and how.

    Raises:
        SettingError: If a value makes no sense.
    """

    use_ema: bool = setting(False, 'take the averaged weights of a training checkpoint', group=_DATA)
    data_dir: str | None = setting(
        None, 'directory with the data set that it was trained on; glyphs needs none', group=_DATA
    )
    download: bool = setting(False, 'download what is missing: CIFAR-10, benchmark table', group=_DATA)
    dataset: str | None = setting(
        None,
        "glyphs, or a data set by timm's name for it; default: small images in --data-dir, kept in memory",
        group=_DATA,
    )
    train_split: str = setting('train', 'with --dataset: the part it was trained on', group=_DATA)
    val_split: str = setting('validation', 'with --dataset: the part to validate on', group=_DATA)
    benchmark: str | None = setting(
        None, 'ground truth: file or directory (default: --data-dir, $CONDNET_DATA)', group=_DATA
    )
    calib_batches: int = setting(
        20, 'BatchNorm calibration batches of 256, or fewer of fewer images', group=_EVALUATION, least=1
    )
    calib_momentum: float | None = setting(
        None,
        "do not reset the statistics, and move them by so much in each batch (0.1: the authors' variant)",
        group=_EVALUATION,
    )
    calib_augment: bool = setting(
        True, 'calibrate on images augmented as in training, from a fixed seed', group=_EVALUATION
    )
    eval_images: int | None = setting(
        None, 'withheld images (default: all, 5,000 of CIFAR-10)', group=_EVALUATION, least=1
    )
    batch_size: int = setting(
        256, 'validation images per forward pass; results depend on it by rounding alone', group=_EVALUATION, least=1
    )
    amp_dtype: str = setting('float32', 'data type of the forward passes', group=_EVALUATION, choices=tuple(AMP_DTYPES))
    channels_last: bool = setting(True, 'memory layout', group=_EVALUATION)
    device: str = setting('cpu', 'device to evaluate on', group=_EVALUATION)
    memory: float = setting(
        DEFAULT_MEMORY / 1e9,
        'GB that a process may keep of what several architectures start from; not part of the result '
        '(default: %(default)g)',
        group=_EVALUATION,
        least=0,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.calib_momentum is not None and not 0 < self.calib_momentum <= 1:
            raise SettingError('calib_momentum', f'is {self.calib_momentum}, expected a number in (0, 1]')


@dataclass(frozen=True)
class RankConfig(EvalConfig):
    """What is ranked, how it is evaluated, and where the results go.

    Raises:
        SettingError: If a value makes no sense.
    """

    model: str | None = setting(None, 'refuse a checkpoint of another model')
    results_file: str | None = setting(None, 'predictions; .json and .png beside it')
    report: bool = setting(False, 'write a page (HTML) beside the results: plots, the best drawn, settings')
    num_archs: str | None = setting(
        None,
        f"how many random ones of the benchmark's, or 'all' (default: {DEFAULT_NUM_ARCHS}, or all of fewer)",
        group=_ARCHITECTURES,
    )
    archs: tuple[str, ...] | None = setting(None, f'these instead. {ARCH_HELP}', group=_ARCHITECTURES)
    seed: int = setting(0, 'seed of the random ones', group=_ARCHITECTURES, least=0)
    rank_by: str = setting(
        '',
        'show rank means as well: accuracy+flops, loss+params, or with a column of --rank-columns, subtracted if less '
        'is better: accuracy-latency_ms; several with commas',
        group=_RANK_MEANS,
    )
    rank_columns: str | None = setting(
        None, 'table (CSV) with index, arch_str and columns for --rank-by', group=_RANK_MEANS
    )

    def __post_init__(self) -> None:
        if isinstance(given := cast(Any, self.num_archs), int):  # a number is as good as its text
            object.__setattr__(self, 'num_archs', str(given))
        super().__post_init__()
        if self.num_archs not in (None, 'all') and not re.fullmatch('[0-9]{1,18}', self.num_archs):
            raise SettingError('num_archs', f"is {self.num_archs!r}, expected a number or 'all'")
        if self.num_archs is not None and self.archs is not None:
            raise SettingError('num_archs', f'is {self.num_archs} beside `archs`; expected one of them')
        try:
            parse_rank_by(self.rank_by)
        except CondnetError as error:
            raise SettingError('rank_by', f'is {self.rank_by!r}: {error}') from error
        if self.results_file is not None and Path(self.results_file).suffix != '.csv':
            raise SettingError('results_file', f'is {self.results_file!r}, expected the name of a file that ends in '
                               '.csv')  # fmt: skip
