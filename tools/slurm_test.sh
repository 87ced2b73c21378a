#!/usr/bin/env bash
# Test under Slurm.
#   [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS=...] \
#     tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
set -euo pipefail

if [ $# -lt 4 ]; then
  echo "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [options]" >&2
  exit 2
fi

partition=$1
job_name=$2
config=$3
checkpoint=$4
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-8}
tools=$(dirname "$0")

# shellcheck disable=SC2086  # SRUN_ARGS holds several options
PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" \
  exec srun -p "$partition" \
  --job-name="$job_name" \
  --gres="gpu:$gpus_per_node" \
  --ntasks="$gpus" \
  --ntasks-per-node="$gpus_per_node" \
  --cpus-per-task="${CPUS_PER_TASK:-5}" \
  --kill-on-bad-exit=1 \
  ${SRUN_ARGS:-} \
  "${PYTHON:-python}" -u "$tools/test.py" "$config" "$checkpoint" --launcher slurm "${@:5}"
