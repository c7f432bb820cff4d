#!/usr/bin/env python3
"""`rexnet report` without an installed command: python scripts/report.py --help."""
import sys

from rexnet_timm.__main__ import main

if __name__ == '__main__':
    sys.exit(main(['report', *sys.argv[1:]]))
