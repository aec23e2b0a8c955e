"""Model folders from the Hugging Face Hub, which is asked once and briefly whether it has them."""

import os
import queue
import threading
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

from condnet.errors import CondnetError

_PATIENCE = 1.5  # seconds; the client's own variable sets another limit
_PATIENCE_VARIABLE = 'HF_HUB_ETAG_TIMEOUT'


def hub_error(repo: str, file: str) -> Exception | None:
    """Why a file is not available from the Hub just now; None if it is.

    Without a network the client tries again for half a minute, and a name may take as long to be resolved.

    Args:
        repo: `organization/name`, or `organization/name@revision`.
        file: Name of the file there.
    """
    repo_id, _, revision = repo.partition('@')
    setting = os.environ.get(_PATIENCE_VARIABLE, '')
    patience = float(setting) if setting.isdecimal() else _PATIENCE
    answers: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            get_hf_file_metadata(hf_hub_url(repo_id, file, revision=revision or None), timeout=patience)
            answers.put(None)
        except Exception as error:  # the Hub's client lets through what its HTTP library raises
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=patience)
    except queue.Empty:
        return TimeoutError(f'no answer within {patience:g} s, see {_PATIENCE_VARIABLE}')


def fetch(repo: str, files: Sequence[str], name: str, cache_dir: str | Path | None, hint: str = '') -> Path:
    """The folder of a model that the Hub has, or that was fetched from there before.

    Args:
        repo: As of `hub_error`.
        files: Names of its files.
        name: What the model is asked for by.
        cache_dir: Where the Hub's files are kept; None for its own cache.
        hint: What else can be done, for the message of an error.

    Raises:
        CondnetError: If it cannot be fetched.
    """
    repo_id, _, revision = repo.partition('@')
    refusal = hub_error(repo, files[0])
    try:
        paths = [
            hf_hub_download(
                repo_id, file, revision=revision or None, cache_dir=cache_dir, local_files_only=refusal is not None
            )
            for file in files
        ]
    except Exception as error:  # as above
        error = refusal or error
        reason = ' '.join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        raise CondnetError(f'cannot get {name} from the Hub ({repo}: {reason}){hint}') from error
    return Path(paths[0]).parent
