"""A whole RL run on two processes: one of them dies, the other says so, the same command ends as one process does."""

import json
import signal
import time

import pytest

from r1jax.stages.rl import stage as rl
from tests.launch import peers
from tests.launch.rl_config import get_config
from tests.tiny import rows_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilation")]


def test_a_run_that_lost_a_process_goes_on_from_its_checkpoint(tmp_path):
    run = ["-m", "r1jax.run", "--config=tests/launch/rl_config.py", f"--workdir={tmp_path / 'many'}"]
    first = tmp_path / "many" / "zero" / "checkpoints" / "1"
    deadline = time.monotonic() + 1800
    while not first.exists():  # as often as gloo gives up on a loaded machine
        two = peers.start(run, 2, tmp_path / "killed", peer_timeout=20)
        while not first.exists() and time.monotonic() < deadline and all(peer.poll() is None for peer in two):
            time.sleep(0.2)
        if not first.exists():
            codes = peers.wait(two, seconds=120)
            assert time.monotonic() < deadline and "Gloo context" in peers.said(tmp_path / "killed", 0), codes
    two[1].send_signal(signal.SIGKILL)
    codes = peers.wait(two, seconds=300)
    told = peers.said(tmp_path / "killed", 0)
    assert codes[1] == -signal.SIGKILL and codes[0] in (75, -signal.SIGABRT), told[-2000:]
    if codes[0] == 75:
        by_gloo, by_the_watchdog = "another process of this run was lost", "It is gone, was stopped, or hangs"
        assert (by_gloo in told or by_the_watchdog in told) and "goes on from the last checkpoint" in told, told[-2000:]
    else:
        assert "another task died" in told or "heartbeat" in told, told[-2000:]
    assert not (tmp_path / "many" / "zero" / "DONE").exists()

    codes = peers.run(run, 2, tmp_path / "again", seconds=1800)
    told = [peers.said(tmp_path / "again", process) for process in range(2)]
    assert codes == [0, 0], told[0][-2000:] + told[1][-2000:]
    assert "report: " in told[0] and "report: " not in told[1] and "update" not in told[1]
    summary = json.loads((tmp_path / "many" / "zero" / "summary.json").read_text())
    assert summary["updates"] == 2

    rl.main(get_config().stages.zero.to_dict(), tmp_path / "one")
    assert [row["sampling/staleness/max"] for row in rows_of(tmp_path / "one") if "reward" in row] == [0, 1]
    for ours, single in zip(rows_of(tmp_path / "many" / "zero"), rows_of(tmp_path / "one"), strict=True):
        for name, value in single.items():
            assert ours[name] == pytest.approx(value, rel=2e-3, abs=2e-4), name
