"""Arguments of models as they are written in recipes and on the command line."""

import ast
from typing import Any

ARCHITECTURES = ('arch', 'active_subnet')  # arguments of models that are text as they stand


def parse_model_argument(key: str, text: str) -> Any:
    """What the text of a model's argument means: a Python literal, or else itself."""
    if key in ARCHITECTURES:
        return text
    if text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # all that it is documented to raise
        return text
