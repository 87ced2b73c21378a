#!/usr/bin/env bash
# Train with several processes, one for each GPU, or on CPUs.
#   tools/dist_train.sh CONFIG NUM_PROCESSES [options of tools/train.py]
# On several nodes, on each: NNODES=2 NODE_RANK=0 MASTER_ADDR=HOST tools/dist_train.sh ...
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: $0 CONFIG NUM_PROCESSES [options]" >&2
  exit 2
fi

config=$1
num_processes=$2
tools=$(dirname "$0")

# torchrun passes SIGTERM on and then has a status of its own: a run that saved ends with 143.
stopped=
PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" \
  "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes="${NNODES:-1}" \
  --node_rank="${NODE_RANK:-0}" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" \
  --master_port="${PORT:-29500}" \
  --nproc_per_node="$num_processes" \
  "$tools/train.py" "$config" --launcher pytorch "${@:3}" &
torchrun=$!
trap 'stopped=1; kill -TERM "$torchrun"' TERM
trap 'kill -INT "$torchrun"' INT
while kill -0 "$torchrun" 2>/dev/null; do
  # Ends early at a signal.
  wait "$torchrun" && status=0 || status=$?
done
exit "$([ "$stopped" ] && echo 143 || echo "$status")"
