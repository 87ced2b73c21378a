#!/usr/bin/env bash
# Train under Slurm.
#   [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS=...] \
#     tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of tools/train.py]
set -euo pipefail

if [ $# -lt 3 ]; then
  echo "usage: $0 PARTITION JOB_NAME CONFIG [options]" >&2
  exit 2
fi

partition=$1
job_name=$2
config=$3
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
  "${PYTHON:-python}" -u "$tools/train.py" "$config" --launcher slurm "${@:4}"
