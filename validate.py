#!/usr/bin/env python
"""Rank architectures with a trained super-network; `python validate.py --help`. Installed as `condnet-validate`."""

import sys

from condnet.cli.validate import main

if __name__ == '__main__':
    sys.exit(main())
