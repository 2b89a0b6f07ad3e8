#!/usr/bin/env bash
# R1 on a TPU slice of Compute Engine: the same command on every worker of it.
#
#   TPU_NAME=my-slice ZONE=us-east5-a [PROJECT=my-project] tpu_vm.sh setup
#   TPU_NAME=my-slice ZONE=us-east5-a [PROJECT=my-project] tpu_vm.sh run --config=configs/r1/zero.py --workdir=/mnt/shared/zero
#
# setup copies this checkout to ~/r1jax on all workers and installs it, with libtpu. run starts r1jax.run there; --workdir
# must lie on a file system that all workers have mounted (Filestore, NFS). It is started again, at most
# RESTARTS times (3), where it ended because a worker was lost or hung: from the last checkpoint.
# Ctrl-C here ends the run on all workers as a signal does: all is saved, the same command goes on.
# DRY_RUN=1 prints the commands and runs none.
set -euo pipefail

fail() {
  echo "tpu_vm.sh: $*" >&2
  exit 2
}

[ $# -ge 1 ] || fail "say setup or run; see the top of this file"
[ -n "${TPU_NAME:-}" ] || fail "TPU_NAME is not set: the name of the slice"
[ -n "${ZONE:-}" ] || fail "ZONE is not set: where the slice is"
where=("$TPU_NAME" "--zone=$ZONE")
[ -z "${PROJECT:-}" ] || where+=("--project=$PROJECT")
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)

do_it() {
  if [ "${DRY_RUN:-0}" = 1 ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

everywhere() {
  do_it gcloud compute tpus tpu-vm ssh "${where[@]}" --worker=all --command="$1"
}

case $1 in
  setup)
    everywhere "mkdir -p r1jax"
    do_it gcloud compute tpus tpu-vm scp --recurse "$checkout/r1jax" "$checkout/configs" "$checkout/requirements.txt" \
      "$checkout/pyproject.toml" "$checkout/README.md" "$checkout/LICENSE" "${where[0]}:r1jax/" "${where[@]:1}" --worker=all
    everywhere "cd r1jax && python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt && \
.venv/bin/pip install -q --no-deps -e . && \
.venv/bin/pip install -q \"jax[tpu]==\$(.venv/bin/python -c 'import jax; print(jax.__version__)')\""
    ;;
  run)
    shift
    [ $# -ge 1 ] || fail "run takes the flags of r1jax.run: --config=... --workdir=..."
    command="cd r1jax && exec .venv/bin/python -m r1jax.run --distributed=tpu$(printf ' %q' "$@")"
    stopped=0
    trap 'stopped=1; everywhere "pkill -TERM -f [r]1jax.run || true"' INT
    for ((restart = 0; ; restart++)); do
      code=0
      everywhere "$command" || code=$?
      case $code in
        75 | 134 | 137 | 143) [ "$stopped" = 0 ] && [ "$restart" -lt "${RESTARTS:-3}" ] || exit "$code" ;;
        *) exit "$code" ;;
      esac
      echo "tpu_vm.sh: a worker was lost or hung (exit code $code); start $((restart + 2)) goes on from the last checkpoint" >&2
    done
    ;;
  *) fail "unknown command $1: say setup or run" ;;
esac
