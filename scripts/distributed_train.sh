#!/usr/bin/env bash
# Train on N processes of this machine: distributed_train.sh N [OPTIONS OF torchrun --] [DATA] [OPTIONS OF rexnet train]
# One process for each GPU, or for each group of CPU cores. What stands before " -- " goes to torchrun, as in
#   distributed_train.sh 8 --max-restarts 3 -- DATA --resume auto
#   distributed_train.sh 8 --nnodes 2 --rdzv-backend c10d --rdzv-endpoint host1:29400 -- DATA
set -euo pipefail

if [[ ! ${1:-} =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: $(basename "$0") N [OPTIONS OF torchrun --] [DATA] [OPTIONS OF rexnet train ...]" >&2
    echo "N, the number of processes, must be a whole number of at least 1, got '${1:-}'." >&2
    exit 2
fi
processes=$1
shift

launch=()
for word in "$@"; do
    if [[ $word == -- ]]; then
        while [[ $1 != -- ]]; do
            launch+=("$1")
            shift
        done
        shift
        break
    fi
done
# on one machine, the processes meet at a free port of it
if [[ ! " ${launch[*]-}" =~ \ --(nnodes|rdzv|master|standalone) ]]; then
    launch+=(--standalone)
fi

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

exec "$python" "$here/launch.py" "${launch[@]}" --nproc-per-node "$processes" "$here/train.py" "$@"
