"""Recipes: one YAML file per experiment. Its keys are the long flags of `condnet-train`, with underscores."""

from pathlib import Path

from condnet.errors import CondnetError


def find_recipe(name: str) -> Path:
    """Find a recipe by path, or by the name of a packaged one (with or without `.yaml`).

    Raises:
        CondnetError: If there is none.
    """
    folder = Path(__file__).parent
    for path in (Path(name), folder / name, folder / f'{name}.yaml'):
        if path.is_file():
            return path
    packaged = ', '.join(sorted(path.stem for path in folder.glob('*.yaml')))
    raise CondnetError(f'no recipe {name!r}: neither a file nor one of the packaged ones ({packaged})')
