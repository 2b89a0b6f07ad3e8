"""Several processes, one program: `jax.distributed` on TPU pods, GPU clusters under SLURM, and wherever the user says.

    --coordinator=HOST:PORT --num-processes=N --process-id=I    anywhere; on CPUs the collectives are gloo's
    --distributed=slurm                                         under srun, one task a GPU
    --distributed=tpu                                           on every worker of a TPU slice (Compute Engine, GKE)

Most often a process that died is noticed at once, by the next collective, and the others say that one was lost; else
`r1jax.launch.watchdog` ends them.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import jax
from jax._src import distributed as runtime  # its client, which keeps values for all, has no public name

from r1jax.launch.watchdog import Watchdog

_EXPLICIT = ("coordinator", "num_processes", "process_id")
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
CLUSTERS = ("slurm", "tpu")
LEAST_TIMEOUT = 10
_LOST = re.compile(
    r"gloo|connection (reset|closed|refused)|socket|coordination|heartbeat|barrier|nccl|peer|unavailable", re.IGNORECASE
)


class DistributedError(ValueError):
    """The processes of a run cannot find each other; the message says what to change."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a run of several processes; `initialise` takes what they give."""
    group = parser.add_argument_group("several processes", "see r1jax/launch/distributed.py and r1jax/launch/scripts")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument("--num-processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process-id", type=int, metavar="I", help="which one this is, from 0")
    group.add_argument("--distributed", choices=CLUSTERS, help="let the cluster say all three")
    group.add_argument(
        "--peer-timeout",
        type=int,
        default=100,
        metavar="SECONDS",
        help="a process that was not heard of for so long ends the run (default 100)",
    )
    group.add_argument(
        "--step-timeout",
        type=int,
        default=3600,
        metavar="SECONDS",
        help="so long may one step take, compilation and loading included, before the run is ended (default 3600)",
    )


def initialise(options: argparse.Namespace, *, start_timeout: int = 300) -> bool:
    """Joins the processes of a run, as the flags of `add_arguments` say; False where they say that there is one.

    Must be called before anything is computed. Waits for the others up to start_timeout seconds.

    Raises DistributedError naming the flag or the variable at fault, or where the others were not found.
    """
    check_flags(options, os.environ)
    if options.coordinator is None and options.distributed is None:
        return False
    if jax.distributed.is_initialized():
        raise DistributedError("jax.distributed is initialised already: a process can run one distributed run")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    timeouts = {
        "heartbeat_timeout_seconds": 2 * options.peer_timeout,  # the watchdog says more, and comes first
        "shutdown_timeout_seconds": options.peer_timeout,
        "initialization_timeout": start_timeout,
    }
    address = () if options.distributed else (options.coordinator, options.num_processes, options.process_id)
    method = {None: "deactivate", "slurm": "slurm", "tpu": None}[options.distributed]
    where = options.coordinator or f"what {options.distributed} names"
    try:
        jax.distributed.initialize(*address, cluster_detection_method=method, **timeouts)
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"cannot join the run at {where}: {str(error).splitlines()[0]}; is process 0 started, is its port free and "
            "reachable, and do all processes name the same number of them?"
        ) from error
    watch(options)
    return True


def watch(options: argparse.Namespace) -> None:
    """Ends this process, from now on, where another one of the run is gone or no step is done: see `Watchdog`.

    A run of one process, as on a TPU slice of one host, meets no other, so that no step of it is counted: it is not
    watched.
    """
    joined: Any = runtime.global_state
    if joined.num_processes > 1:
        timeouts = {"peer_timeout": options.peer_timeout, "step_timeout": options.step_timeout}
        Watchdog(joined.client, process=joined.process_id, num_processes=joined.num_processes, **timeouts).start()


def check_flags(options: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """Raises DistributedError, naming the flag or the variable, for flags of which no run can be made."""
    given = [name for name in _EXPLICIT if getattr(options, name) is not None]
    missing = [f"--{name.replace('_', '-')}" for name in _EXPLICIT if name not in given]
    for flag, seconds in (("peer", options.peer_timeout), ("step", options.step_timeout)):
        if seconds < LEAST_TIMEOUT:
            raise DistributedError(f"--{flag}-timeout={seconds}: must be at least {LEAST_TIMEOUT} seconds")
    if given and options.distributed:
        raise DistributedError(f"--distributed={options.distributed} finds --{given[0].replace('_', '-')} itself")
    if given and missing:
        raise DistributedError(f"--coordinator, --num-processes and --process-id belong together; no {missing[0]}")
    if given:
        host, _, port = options.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise DistributedError(f"--coordinator={options.coordinator}: must be HOST:PORT, say 10.0.0.2:8476")
        if options.num_processes < 1:
            raise DistributedError(f"--num-processes={options.num_processes}: must be at least 1")
        if not 0 <= options.process_id < options.num_processes:
            raise DistributedError(
                f"--process-id={options.process_id}: must be from 0 to {options.num_processes - 1}, "
                f"for --num-processes={options.num_processes}"
            )
    if options.distributed == "slurm" and (absent := [name for name in _SLURM if name not in environment]):
        raise DistributedError(f"--distributed=slurm: {absent[0]} is not set; start it with srun, in a job of sbatch")
    if options.distributed == "tpu" and environment.get("JAX_PLATFORMS", "tpu") not in ("tpu", "", "tpu,cpu"):
        raise DistributedError(f"--distributed=tpu with JAX_PLATFORMS={environment['JAX_PLATFORMS']}: unset it")


def lost_a_peer(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is likely what JAX raises when another process of the run is gone."""
    if error is None or not jax.distributed.is_initialized():
        return False
    is_jax = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)
    return (is_jax and _LOST.search(str(error)) is not None) or lost_a_peer(error.__cause__ or error.__context__)


def leave_at_once(code: int) -> int:
    """Ends a process that others may wait for, or that would wait for others; of a run of one it returns the code."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
