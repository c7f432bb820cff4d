#!/usr/bin/env python3
"""`rexnet export` without an installed command: python scripts/export.py --help."""
import sys

from rexnet_timm.__main__ import main

if __name__ == '__main__':
    sys.exit(main(['export', *sys.argv[1:]]))
