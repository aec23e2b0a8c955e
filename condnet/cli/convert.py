"""A model folder from a training checkpoint: the `condnet-convert` command."""

import sys
from pathlib import Path

from condnet.checkpoints.folder import save_model
from condnet.checkpoints.loading import load_checkpoint
from condnet.cli.common import run, say_written
from condnet.cli.flags import Parser, add_import_flag, import_plugins
from condnet.models.pretrained import CONFIG_NAME, WEIGHTS_NAME


def main(argv: list[str] | None = None) -> int:
    """Write the model of a training checkpoint as a folder, as it goes to the Hub (`condnet-convert`)."""
    parser = Parser('condnet-convert', description=main.__doc__)
    parser.add_argument('checkpoint', help='training checkpoint')
    parser.add_argument('folder', help='folder to write')
    add_import_flag(parser)
    args = parser.parse_args(argv)

    def convert() -> None:
        import_plugins(args)
        loaded = load_checkpoint(args.checkpoint)
        save_model(loaded.model, args.folder, loaded.training, fingerprint=loaded.fingerprint)
        say_written(Path(args.folder) / name for name in (WEIGHTS_NAME, CONFIG_NAME))

    return run('condnet-convert', convert)


if __name__ == '__main__':
    sys.exit(main())
