#!/usr/bin/env bash
# Test with several processes, one for each GPU, or on CPUs.
#   tools/dist_test.sh CONFIG CHECKPOINT NUM_PROCESSES [options of tools/test.py]
# On several nodes, on each: NNODES=2 NODE_RANK=0 MASTER_ADDR=HOST tools/dist_test.sh ...
set -euo pipefail

if [ $# -lt 3 ]; then
  echo "usage: $0 CONFIG CHECKPOINT NUM_PROCESSES [options]" >&2
  exit 2
fi

config=$1
checkpoint=$2
num_processes=$3
tools=$(dirname "$0")

PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" \
  exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes="${NNODES:-1}" \
  --node_rank="${NODE_RANK:-0}" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" \
  --master_port="${PORT:-29500}" \
  --nproc_per_node="$num_processes" \
  "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
