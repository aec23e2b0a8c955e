#!/usr/bin/env python
"""Measure speed; `python benchmark.py ranking --help`."""

import sys

from tools.speed import main

if __name__ == '__main__':
    sys.exit(main())
