"""Model folders as they go to the Hub."""

import copy
import json
import os
import tempfile
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from timm.models import save_for_hf
from torch import nn

from condnet.data.fingerprint import PACKAGED
from condnet.models.pretrained import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME, file_sha256
from condnet.models.supernet import Supernet
from condnet.spaces.notation import plain
from condnet.utils.files import check_folder_to_write


def save_model(
    model: nn.Module,
    folder: str | Path,
    training: dict[str, Any] | None = None,
    half: bool = True,
    fingerprint: dict[str, Any] | None = None,
) -> None:
    """Write a model as it goes to the Hub: `model.safetensors` and `config.json`.

    BatchNorm statistics are always stored in full precision. timm and condnet load everything into fp32.

    Args:
        model: The model.
        folder: Where to; it is created.
        training: How the weights were trained, see `training_of`.
        half: Whether parameters are stored in half precision.
        fingerprint: Of the training images, see `condnet.data.fingerprint`; left out where the package has it.

    Raises:
        CondnetError: If the folder is a file, or may not be written to.
        OSError: If it cannot be written. What was there is as it was then. (A kill between the replacement of the one
            file and of the other leaves a pair that is refused, as the hash in `config.json` is of other weights.)
    """
    folder = Path(folder)
    check_folder_to_write(folder)
    stored = _as_stored(model, half, tag=folder.name.partition('.')[2])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        try:
            is_known = (training or {}).get('data_sha256') in PACKAGED
            more = {'training': training or {}}
            more |= {'data_fingerprint': fingerprint} if fingerprint and not is_known else {}
            save_for_hf(stored, temporary, _label_names(stored) | more, safe_serialization=True)
        except SafetensorError as error:  # its own even where the disk is full
            raise OSError(f'cannot write the weights to {folder}: {error}') from error
        weights, config = Path(temporary) / WEIGHTS_NAME, Path(temporary) / CONFIG_NAME
        content = json.loads(config.read_text()) | {'weights_sha256': file_sha256(weights)}
        config.write_text(json.dumps(content, indent=2) + '\n')
        _replace((weights, config), folder)


def _as_stored(model: nn.Module, half: bool, tag: str) -> nn.Module:
    """A model as its folder holds it, and as timm writes it into `config.json`; in full precision it shares weights."""
    stored = copy.copy(model)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)} if half else set()
    tensors = {key: (value.half() if key in parameters else value).contiguous()
               for key, value in model.state_dict().items()}  # fmt: skip
    # What timm writes is what it is given by this method; a deep copy of the model would take its memory once more.
    stored.state_dict = lambda: tensors  # type: ignore[method-assign, assignment]
    stored.pretrained_cfg = {**stored.pretrained_cfg, 'tag': tag}  # type: ignore[assignment, dict-item]
    if args := cast(dict[str, Any], getattr(stored, '_model_args', {})):  # an architecture may be an array
        stored._model_args = {key: plain(value) for key, value in args.items()}  # type: ignore[assignment]
    if isinstance(stored, Supernet):
        calibrated = stored.calibrated_subnet
        active = {} if calibrated is None else {'active_subnet': stored.space.format(calibrated)}
        model_args = {k: v for k, v in getattr(stored, '_model_args', {}).items() if k != 'active_subnet'}
        stored._model_args = {**model_args, **active}
    return stored


def _label_names(stored: nn.Module) -> dict[str, Any]:
    """Names of the classes, which timm keeps beside the `pretrained_cfg` in `config.json`."""
    names = cast(dict[str, Any], stored.pretrained_cfg).pop('label_names', None)
    return {'label_names': list(names)} if names and len(names) == stored.num_classes else {}


def _replace(files: tuple[Path, ...], folder: Path) -> None:
    """Let files take the place of those in a folder."""
    for file in files:
        file.chmod(0o644)  # safetensors keeps its files to their owner
        with file.open('r+b') as stream:  # Windows syncs nothing that is only read
            os.fsync(stream.fileno())  # or a power failure could leave a renamed file without content
    (folder / CARD_NAME).unlink(missing_ok=True)  # it describes other weights
    for file in files:
        os.replace(file, folder / file.name)
