#!/usr/bin/env bash
# Train on N processes of this machine: distributed_train.sh N [DATA] [OPTIONS OF rexnet train ...]
# One process for each GPU, or for each group of CPU cores.
set -euo pipefail

if [[ ! ${1:-} =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: $(basename "$0") N [DATA] [OPTIONS OF rexnet train ...]" >&2
    echo "N, the number of processes, must be a whole number of at least 1, got '${1:-}'." >&2
    exit 2
fi
processes=$1
shift

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
# without an activated environment, the one that make has set up
if [[ -z ${PYTHON:-} && -z ${VIRTUAL_ENV:-} && -x $here/../.venv/bin/python ]]; then
    python=$here/../.venv/bin/python
fi

# the processes share the cores of the machine
if [[ -z ${OMP_NUM_THREADS:-} ]]; then
    cores=$(getconf _NPROCESSORS_ONLN)
    export OMP_NUM_THREADS=$((cores > processes ? cores / processes : 1))
fi

exec "$python" "$here/launch.py" --standalone --nproc-per-node "$processes" "$here/train.py" "$@"
