#!/usr/bin/env python3
"""`rexnet train` without an installed command: python scripts/train.py --help."""
import sys

from rexnet_timm.__main__ import main

if __name__ == '__main__':
    sys.exit(main(['train', *sys.argv[1:]]))
