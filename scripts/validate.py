#!/usr/bin/env python3
"""`rexnet validate` without an installed command: python scripts/validate.py --help."""
import sys

from rexnet_timm.__main__ import main

if __name__ == '__main__':
    sys.exit(main(['validate', *sys.argv[1:]]))
