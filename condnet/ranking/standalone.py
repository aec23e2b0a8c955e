"""Validation of a stand-alone network, as a training or a search has left it: it is not recalibrated."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import nn

from condnet.errors import CondnetError
from condnet.models import Supernet
from condnet.ranking.config import EvalConfig
from condnet.ranking.evaluate import EvaluationData, accuracy_and_loss
from condnet.ranking.inputs import Data, open_evaluation_images
from condnet.ranking.run import for_model
from condnet.ranking.subject import Model, Subject, open_network
from condnet.utils.settings import SettingError, make_config

# Settings that mean nothing here. `results_file` does in commands, which have a default of their own for it.
_OF_RANKINGS = (
    'benchmark', 'calib_batches', 'calib_momentum', 'calib_augment', 'memory', 'report', 'num_archs', 'archs', 'seed',
    'rank_by', 'rank_columns',
)  # fmt: skip


@dataclass(frozen=True)
class Validation:
    """What a stand-alone network reaches.

    Args:
        accuracy: In percent.
        loss: Mean cross-entropy.
        num_images: Of how many images.
        dataset: Of which data set.
    """

    accuracy: float
    loss: float
    num_images: int
    dataset: str

    def __str__(self) -> str:
        of = '' if self.dataset == 'other' else f' of {self.dataset}'  # class folders of any name
        return (f'accuracy {self.accuracy:.2f}%, loss {self.loss:.4f} on {self.num_images} images{of} that it was not '
                'trained on')  # fmt: skip


def validate(network: Model, data: Data | None = None, config: EvalConfig | None = None, **settings: Any) -> Validation:
    """Validate a stand-alone network on images that no training here has seen.

    Args:
        network: Training checkpoint, folder of a model (as a search exports it), or a timm model, left as it is.
        data: What to validate on, see `condnet.rank`: of a training set the withheld images.
        config: How; by default `EvalConfig()`.
        **settings: Fields of `EvalConfig`, which take precedence.

    Raises:
        CondnetError: If it is a super-network, or does not fit the data.
    """
    config = make_config(EvalConfig, config, for_model(network, config, settings))
    return validate_subject(open_network(network, config), config, data)


def validate_subject(subject: Subject[nn.Module], config: EvalConfig, data: Data | None = None) -> Validation:
    """Validate a network that is loaded, see `validate`.

    Raises:
        CondnetError: If it is a super-network, does not fit the data, or a setting is one of rankings.
    """
    if isinstance(subject.model, Supernet):
        raise CondnetError(f'{subject.name} is a super-network, which has one accuracy for each architecture; '
                           '`condnet.rank` predicts them')  # fmt: skip
    for field in dataclasses.fields(config):
        if field.name in _OF_RANKINGS and getattr(config, field.name) != field.default:
            raise SettingError(field.name, 'is for super-networks: a stand-alone network is validated as it is')
    images = open_evaluation_images(subject, config, data)
    prepared: EvaluationData = images.prepare(subject.model, config)
    accuracy, loss = accuracy_and_loss(subject.model, prepared)
    return Validation(accuracy, loss, len(prepared.targets), images.dataset)
