#!/usr/bin/env python3
"""`rexnet convert` without an installed command: python scripts/convert_checkpoint.py --help."""
import sys

from rexnet_timm.__main__ import main

if __name__ == '__main__':
    sys.exit(main(['convert', *sys.argv[1:]]))
