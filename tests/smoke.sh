#!/usr/bin/env bash
# tests/smoke.sh PYTHON: what the package installed there has to do, tried in an empty folder (smoke.py).
set -euo pipefail
tree=$(cd "$(dirname "$0")/.." && pwd)
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
env -u PYTHONPATH HF_HUB_OFFLINE=1 "$python" "$tree/tests/smoke.py" "$tree"
