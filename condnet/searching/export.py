"""A sub-network as a network of its own: calibrated, as a folder that timm loads, and as ONNX."""

import importlib.util
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from condnet.checkpoints.folder import save_model
from condnet.checkpoints.loading import load_model
from condnet.errors import CondnetError
from condnet.models import Supernet
from condnet.ranking.costs import measure_cost
from condnet.ranking.evaluate import EvaluationData, accuracy_and_loss, calibrated_for
from condnet.spaces.base import Arch

_ONNX_PACKAGES = ('onnx', 'onnxruntime', 'onnxscript')
ONNX_TOLERANCE = 1e-4  # BatchNorm is folded into the convolutions


def calibrated_subnet(model: Supernet, arch: 'str | int | Arch', data: EvaluationData) -> nn.Module:
    """The stand-alone network of an architecture, with the statistics that the super-network's prediction rests on.

    The super-network is left as it was.
    """
    with calibrated_for(model, arch, data):
        return model.eval().get_active_subnet()


def export_network(net: nn.Module, folder: Path, training: dict[str, Any], data: EvaluationData) -> dict[str, Any]:
    """Write a network so that `timm.create_model('local-dir:FOLDER', pretrained=True)` loads it, in full precision.

    Args:
        net: The network.
        folder: Where to; it is created.
        training: How its weights were trained, for the folder's `config.json`.
        data: What to check it on.

    Returns:
        Of the network as it is read back: its own parameters and FLOPs, and accuracy and loss on the withheld images.
    """
    save_model(net, folder, training, half=False)
    read_back = load_model(folder).to(data.images.device)
    accuracy, loss = accuracy_and_loss(read_back, data)
    cost = measure_cost(read_back, data.images[:1])
    return {'folder': folder.name, 'accuracy': accuracy, 'loss': loss, 'params': cost.params, 'flops': cost.flops}


def check_onnx_packages() -> None:
    """Say what is missing before anything is computed.

    Raises:
        CondnetError: If a package that ONNX needs is not installed.
    """
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise CondnetError(f"`onnx` needs {', '.join(missing)}: pip install 'condnet[export]'")


def export_onnx(net: nn.Module, path: Path, images: torch.Tensor) -> float:
    """Write a network as ONNX, for any batch size, and check it with onnxruntime.

    Args:
        net: The network; it is moved to the CPU.
        path: The file to write; it is complete or not there.
        images: (N, C, H, W), N > 1, to compare on.

    Returns:
        The largest difference between the logits, relative to the largest logit.

    Raises:
        CondnetError: If the two compute different things.
    """
    net = net.cpu().to(memory_format=torch.contiguous_format).eval()
    images = images.cpu().contiguous()
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary, _quiet('onnxscript', 'onnx_ir'):
        file = Path(temporary) / path.name
        torch.onnx.export(
            net,
            (images,),
            file,
            input_names=['images'],
            output_names=['logits'],
            dynamic_shapes=({0: torch.export.Dim('batch')},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        difference = _onnx_difference(net, file, images)
        if not difference <= ONNX_TOLERANCE:
            raise CondnetError(f'the ONNX network differs from the original by {difference:.2g}; it was not kept')
        os.replace(file, path)
    return difference


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Have loggers of other packages, and those below them, tell of warnings only, unless a level was asked for."""
    loggers = [logger for logger in map(logging.getLogger, names) if logger.level == logging.NOTSET]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger in loggers:
            logger.setLevel(logging.NOTSET)


@torch.no_grad()
def _onnx_difference(net: nn.Module, file: Path, images: torch.Tensor) -> float:
    import onnxruntime  # of the extra 'export'

    session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    (logits,) = session.run(None, {'images': images.numpy()})
    expected = net(images)
    difference: float = ((torch.from_numpy(logits) - expected).abs().max() / expected.abs().max()).item()
    return difference
