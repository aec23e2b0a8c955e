"""The network that is evaluated, and what is known of it."""

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch import nn

from condnet.checkpoints.loading import Loaded, load_checkpoint, preprocessing
from condnet.errors import CondnetError
from condnet.models import Supernet
from condnet.models.trial import check_forward
from condnet.ranking.config import EvalConfig
from condnet.utils.device import find_device

Model = str | Path | nn.Module
Network = TypeVar('Network', bound=nn.Module, covariant=True)


@dataclass(frozen=True)
class Subject(Generic[Network]):
    """The network that is evaluated, and what is known of its weights.

    Args:
        model: The network, on the device and in the memory layout of the evaluation.
        checkpoint: The checkpoint as it was named; None for a model of the caller's.
        training: How it was trained, see `condnet.checkpoints.loading.Loaded`.
        sha256: Of the checkpoint, or of the weights of a model of the caller's.
        fingerprint: Of the training images; None if it is not recorded.
    """

    model: Network
    checkpoint: str | None
    training: dict[str, Any]
    sha256: str
    fingerprint: Any = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.checkpoint or 'the model'

    @property
    def cfg(self) -> dict[str, Any]:
        """The model's `pretrained_cfg`."""
        return cast(dict[str, Any], self.model.pretrained_cfg)

    @property
    def trained_on(self) -> str | None:
        """The data set that it was trained on, as far as that is known."""
        cfg = self.cfg
        letters = preprocessing('glyphs', (1, 16, 16))
        takes_letters = all(tuple(cfg.get(key, ())) == tuple(value) for key, value in letters.items())
        return self.training.get('data_name', 'glyphs' if takes_letters else None)


def open_network(model: Model, config: EvalConfig, expected: str | None = None) -> Subject[nn.Module]:
    """Load the network of a checkpoint; one that is given itself is copied, and left as it is.

    Args:
        model: The checkpoint, or a network.
        config: How it is evaluated.
        expected: Name of the model that it has to be.

    Raises:
        CondnetError: If it is another one.
    """
    checkpoint = None if isinstance(model, nn.Module) else str(model)
    loaded = _copy(model, config) if isinstance(model, nn.Module) else load_checkpoint(model, config.use_ema)
    network = loaded.model
    subject = Subject(network, checkpoint, loaded.training, loaded.sha256, loaded.fingerprint)
    if not hasattr(network, 'pretrained_cfg'):
        raise CondnetError(f'got a {type(network).__name__}, expected a super-network or another model of timm')
    name = subject.cfg['architecture']
    if expected and expected != name:
        raise CondnetError(f'{subject.name} holds the model {name!r}, not {expected!r}')
    network.to(memory_format=torch.channels_last if config.channels_last else torch.contiguous_format)
    network.to(device := find_device(config.device))
    check_forward(network, subject.cfg['input_size'], 2, device)
    return subject


def as_supernet_subject(subject: Subject[nn.Module]) -> Subject[Supernet]:
    """The same, of which it is known that it is a super-network.

    Raises:
        CondnetError: If it is a stand-alone network.
    """
    if not isinstance(subject.model, Supernet):
        got = f'{subject.checkpoint} holds' if subject.checkpoint else 'got'
        raise CondnetError(f'{got} a {type(subject.model).__name__}, expected a super-network: a stand-alone network '
                           'has no architectures; `condnet.validate` says how well it classifies')  # fmt: skip
    return cast(Subject[Supernet], subject)


def open_supernet(model: Model, config: EvalConfig, expected: str | None = None) -> Subject[Supernet]:
    """Load a super-network, see `open_network`.

    Raises:
        CondnetError: If it is none, or another one.
    """
    return as_supernet_subject(open_network(model, config, expected))


def _copy(model: nn.Module, config: EvalConfig) -> Loaded:
    if config.use_ema:
        raise CondnetError('use_ema is for training checkpoints; a model has only its own weights')
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f'{key} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        digest.update(tensor.detach().cpu().double().numpy().tobytes())
    return Loaded(copy.deepcopy(model), {}, digest.hexdigest())
