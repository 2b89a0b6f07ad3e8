"""The flags of a run of several processes: what cannot be a run is refused before anything waits."""

import argparse
import types

import jax
import pytest

from r1jax.launch import distributed
from r1jax.launch.distributed import DistributedError, add_arguments, check_flags, initialise, lost_a_peer

SLURM = {
    "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "16", "SLURM_PROCID": "3", "SLURM_LOCALID": "3",
}  # fmt: skip
EXPLICIT = "--coordinator=10.0.0.2:8476 --num-processes=4 --process-id=3"


def parse(flags):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(flags.split())


@pytest.mark.parametrize(
    ("flags", "environment"),
    [
        ("", {}),
        (EXPLICIT, {}),
        ("--distributed=slurm --peer-timeout=30", SLURM),
        ("--distributed=tpu", {}),
        ("--distributed=tpu", {"JAX_PLATFORMS": "tpu,cpu"}),
    ],
)
def test_good_flags(flags, environment):
    check_flags(parse(flags), environment)


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        ("--coordinator=h:1 --num-processes=2", {}, "no --process-id"),
        ("--process-id=0", {}, "no --coordinator"),
        ("--coordinator=h --num-processes=2 --process-id=0", {}, "--coordinator=h: must be HOST:PORT"),
        ("--coordinator=h:99999 --num-processes=2 --process-id=0", {}, "h:99999: must be HOST:PORT"),
        ("--coordinator=h:1 --num-processes=0 --process-id=0", {}, "--num-processes=0: must be at least 1"),
        ("--coordinator=h:1 --num-processes=2 --process-id=2", {}, "--process-id=2: must be from 0 to 1"),
        ("--coordinator=h:1 --num-processes=2 --process-id=-1", {}, "--process-id=-1: must be from 0 to 1"),
        (EXPLICIT + " --distributed=tpu", {}, "--distributed=tpu finds --coordinator itself"),
        (EXPLICIT + " --peer-timeout=5", {}, "--peer-timeout=5: must be at least 10 seconds"),
        (EXPLICIT + " --step-timeout=9", {}, "--step-timeout=9: must be at least 10 seconds"),
        ("--distributed=slurm", {}, "SLURM_JOB_ID is not set; start it with srun"),
        ("--distributed=slurm", {k: v for k, v in SLURM.items() if k != "SLURM_PROCID"}, "SLURM_PROCID is not set"),
        ("--distributed=tpu", {"JAX_PLATFORMS": "cpu"}, "JAX_PLATFORMS=cpu: unset it"),
    ],
)
def test_bad_flags_are_named(flags, environment, words):
    with pytest.raises(DistributedError, match=words):
        check_flags(parse(flags), environment)


def test_without_flags_there_is_one_process():
    assert initialise(parse("")) is False
    assert not jax.distributed.is_initialized()


def test_what_is_said_of_jax_is_what_it_gets(monkeypatch):
    calls, watched = [], []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setattr(distributed, "watch", watched.append)
    monkeypatch.setattr(distributed.os, "environ", SLURM)
    assert initialise(parse(EXPLICIT)) and initialise(parse("--distributed=slurm --peer-timeout=20"), start_timeout=60)
    assert calls[0][0] == ("10.0.0.2:8476", 4, 3) and calls[0][1]["heartbeat_timeout_seconds"] == 200
    assert calls[0][1]["cluster_detection_method"] == "deactivate"
    assert calls[1] == (
        (),
        {
            "cluster_detection_method": "slurm", "heartbeat_timeout_seconds": 40, "shutdown_timeout_seconds": 20,
            "initialization_timeout": 60,
        },
    )  # fmt: skip
    assert [(options.peer_timeout, options.step_timeout) for options in watched] == [(100, 3600), (20, 3600)]


def test_only_a_run_of_several_processes_is_watched(monkeypatch):
    """One alone meets nobody: it would be taken to hang after --step-timeout."""
    joined = types.SimpleNamespace(client=None, process_id=0)
    monkeypatch.setattr(distributed.runtime, "global_state", joined)
    started = []
    monkeypatch.setattr(distributed.Watchdog, "start", lambda self: started.append(joined.num_processes))
    for joined.num_processes in (1, 2):
        distributed.watch(parse(EXPLICIT))
    assert started == [2]


def test_failing_to_join_says_what_to_look_at(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("DEADLINE_EXCEEDED: Barrier timed out.\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(
        DistributedError, match=r"cannot join the run at 10.0.0.2:8476: DEADLINE.*timed out.; is process 0 sta"
    ):
        initialise(parse(EXPLICIT))


def test_which_errors_tell_of_a_lost_peer(monkeypatch):
    gone = jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed: Connection reset by peer")
    wrapped = RuntimeError("cannot save")
    wrapped.__cause__ = gone
    assert not lost_a_peer(gone)  # a run of one process has none
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert lost_a_peer(gone) and lost_a_peer(wrapped)
    assert not lost_a_peer(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"))
    assert not lost_a_peer(ValueError("a peer said no"))
