"""Starts the processes of one run on this machine, over loopback."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NUM_DEVICES = 8  # of a run, however many processes share them


def start(
    command: Sequence[str], num_processes: int, log: Path, *, peer_timeout: int = 60, step_timeout: int = 900
) -> list[subprocess.Popen]:
    """Process i runs `python <command> --coordinator=... --process-id=i`; what it says goes to <log>.i."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # the programs run once or twice
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={NUM_DEVICES // num_processes}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    shared = [
        f"--coordinator=127.0.0.1:{_free_port()}",
        f"--num-processes={num_processes}",
        f"--peer-timeout={peer_timeout}",
        f"--step-timeout={step_timeout}",
    ]
    peers = []
    for process in range(num_processes):
        with _log_of(log, process).open("wb") as output:
            arguments = [sys.executable, *command, *shared, f"--process-id={process}"]
            peers.append(
                subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
            )
    return peers


def wait(peers: Sequence[subprocess.Popen], *, seconds: float) -> list[int]:
    """Exit codes; all are killed if one is not done in time."""
    try:
        return [peer.wait(timeout=seconds) for peer in peers]
    finally:
        for peer in peers:
            peer.kill()
            peer.wait()


def run(command: Sequence[str], num_processes: int, log: Path, *, seconds: float) -> list[int]:
    """Exit codes of a run; it is started again where gloo gave up before the processes had met.

    It waits 30 s, and on a machine under load one process may compile for longer than another by that.
    """
    for _ in range(4):
        codes = wait(start(command, num_processes, log), seconds=seconds)
        texts = [said(log, process) for process in range(num_processes)]
        if not any(codes) or not any("Gloo context initialization failed" in text for text in texts):
            break
    return codes


def said(log: Path, process: int) -> str:
    """What a process printed, without gloo's own lines."""
    lines = _log_of(log, process).read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines if not line.startswith("[Gloo]"))


def _log_of(log: Path, process: int) -> Path:
    return log.with_name(f"{log.name}.{process}")


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
