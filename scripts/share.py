#!/usr/bin/env python3
"""`rexnet share` without an installed command: python scripts/share.py --help."""
import sys

from rexnet_timm.__main__ import main

if __name__ == '__main__':
    sys.exit(main(['share', *sys.argv[1:]]))
