#!/usr/bin/env bash
# R1 on TPU slices of a GKE cluster, by xpk (pip install xpk; the cluster is made with `xpk cluster create`).
#
#   CLUSTER=my-cluster TPU_TYPE=v5p-1024 IMAGE=REGISTRY/r1jax:TAG [NUM_SLICES=1] [ZONE=...] [PROJECT=...] [NAME=r1jax] \
#     gke_xpk.sh --config=configs/r1/zero.py --workdir=/mnt/shared/zero
#
# IMAGE holds a checkout with its packages as working directory, so that `python -m r1jax.run` starts there, and jax[tpu].
# --workdir must lie on a volume that all pods mount (xpk storage attach). The job is restarted from the last checkpoint
# RESTARTS times (10) when a pod is lost, and has GRACE seconds (300) to save when it is taken away.
# DRY_RUN=1 prints the command and does not run it.
set -euo pipefail

fail() {
  echo "gke_xpk.sh: $*" >&2
  exit 2
}

[ $# -ge 1 ] || fail "takes the flags of r1jax.run: --config=... --workdir=...; see the top of this file"
for name in CLUSTER TPU_TYPE IMAGE; do
  [ -n "${!name:-}" ] || fail "$name is not set; see the top of this file"
done
workload=(
  xpk workload create
  "--cluster=$CLUSTER"
  "--workload=${NAME:-r1jax}"
  "--tpu-type=$TPU_TYPE"
  "--num-slices=${NUM_SLICES:-1}"
  "--docker-image=$IMAGE"
  "--max-restarts=${RESTARTS:-10}"
  "--termination-grace-period-seconds=${GRACE:-300}"
  "--command=exec python -m r1jax.run --distributed=tpu$(printf ' %q' "$@")"
)
[ -z "${ZONE:-}" ] || workload+=("--zone=$ZONE")
[ -z "${PROJECT:-}" ] || workload+=("--project=$PROJECT")
if [ "${DRY_RUN:-0}" = 1 ]; then
  printf '%q ' "${workload[@]}"
  echo
else
  "${workload[@]}"
fi
