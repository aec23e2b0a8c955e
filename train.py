#!/usr/bin/env python
"""Train a super-network or a stand-alone network; `python train.py --help`. Installed as `condnet-train`."""

import sys

from condnet.cli.train import main

if __name__ == '__main__':
    sys.exit(main())
