#!/usr/bin/env python3
"""`rexnet predict` without an installed command: python scripts/predict.py --help."""
import sys

from rexnet_timm.__main__ import main

if __name__ == '__main__':
    sys.exit(main(['predict', *sys.argv[1:]]))
