"""One-shot NAS super-networks with conditional weights. Importing it registers the models with timm.

Packages that bring their own search spaces are imported as well, if they say so, see `condnet.plugins`.
"""

from typing import Any

from condnet.benchmarks.registry import BenchmarkRow, register_benchmark
from condnet.benchmarks.tables import BenchmarkTable, load_benchmark
from condnet.checkpoints.folder import save_model
from condnet.checkpoints.loading import load_model
from condnet.choice import ChoiceBlock, split_supernet
from condnet.errors import CondnetError
from condnet.models import MacroNet, MacroSupernet, NB201Net, NB201Supernet, Supernet
from condnet.models.build import build_supernet
from condnet.models.pretrained import Tag, list_pretrained, register_tags, where_pretrained
from condnet.models.supernet import Step, checkpoint_filter_fn
from condnet.plugins import load_entry_points
from condnet.ranking.calibration import calibrate
from condnet.ranking.config import EvalConfig, RankConfig
from condnet.ranking.evaluate import EvaluationData, Prediction
from condnet.ranking.ranking import Ranking
from condnet.ranking.run import rank
from condnet.ranking.standalone import Validation, validate
from condnet.ranking.tree import predict
from condnet.reports.drawing import draw
from condnet.searching.config import SearchConfig
from condnet.spaces.base import Arch, SearchSpace
from condnet.spaces.costs import Cost
from condnet.spaces.registry import get_space, register_space
from condnet.training.config import TrainConfig
from condnet.training.run import TrainingRun, train
from condnet.version import __version__

__all__ = [
    'Arch',
    'BenchmarkRow',
    'BenchmarkTable',
    'ChoiceBlock',
    'CondnetError',
    'Cost',
    'EvalConfig',
    'EvaluationData',
    'MacroNet',
    'MacroSupernet',
    'NB201Net',
    'NB201Supernet',
    'Prediction',
    'RankConfig',
    'Ranking',
    'SearchConfig',
    'SearchResult',
    'SearchSpace',
    'Step',
    'Supernet',
    'Tag',
    'TrainConfig',
    'TrainingRun',
    'Validation',
    '__version__',
    'build_supernet',
    'calibrate',
    'checkpoint_filter_fn',
    'draw',
    'get_space',
    'list_pretrained',
    'load_benchmark',
    'load_model',
    'predict',
    'rank',
    'register_benchmark',
    'register_space',
    'register_tags',
    'save_model',
    'search',
    'split_supernet',
    'train',
    'validate',
    'where_pretrained',
]


def __getattr__(name: str) -> Any:
    """What needs Optuna, which is slow to import."""
    if name == 'search':
        from condnet.searching.run import search

        return search
    if name == 'SearchResult':
        from condnet.searching.result import SearchResult

        return SearchResult
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    """What there is, that included."""
    return sorted({*globals(), *__all__})


load_entry_points()
