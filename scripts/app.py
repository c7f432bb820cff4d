#!/usr/bin/env python3
"""`rexnet app` without an installed command: python scripts/app.py --help."""
import sys

from rexnet_timm.__main__ import main

if __name__ == '__main__':
    sys.exit(main(['app', *sys.argv[1:]]))
