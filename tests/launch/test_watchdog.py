"""A process that is gone or hangs ends the run in a stated time, and is named."""

import io
import signal
import sys
import time

import pytest

from r1jax.launch import watchdog as watchdog_module
from r1jax.launch.watchdog import TURNS, Watchdog
from r1jax.processes import pulse
from tests.launch import peers


class Coordinator(dict):
    """What the coordinator keeps, in this process."""

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite
        self[key] = value

    def key_value_dir_get(self, key):
        return [(name, value) for name, value in self.items() if name.startswith(key)]


def watchdogs(count, *, step_timeout=200):
    """A turn is a second."""
    store = Coordinator()
    options = {"num_processes": count, "peer_timeout": 10, "step_timeout": step_timeout}
    return [Watchdog(store, process=process, **options) for process in range(count)]


def test_a_silent_process_is_named_when_its_time_is_over():
    first, second, third = all_of = watchdogs(3)
    for one in all_of:
        one.talk()
    for _ in range(40):  # all talk: nothing is wrong
        for one in all_of:
            one.talk()
        assert [one.turn() for one in all_of] == [None] * 3
    for _ in range(1 + TURNS):  # the third one's last word came after the others had asked
        first.talk()
        second.talk()
        assert first.turn() is None and second.turn() is None
    first.talk()
    problem = first.turn()
    assert problem is not None and problem.startswith("process 2 (pid ") and "not heard of for 11 s" in problem
    assert "the same command goes on from the last checkpoint" in problem
    third.talk()
    first.talk()
    assert first.turn() is None  # it was late, no more


def test_a_process_that_never_spoke_and_one_that_has_ended():
    first, second, _ = watchdogs(3)
    second.stop()
    second.talk()
    for _ in range(TURNS):
        first.talk()
        assert first.turn() is None
    first.talk()
    assert str(first.turn()).startswith("process 2 not heard of")  # second said that it is over


def test_waiting_for_a_process_that_has_ended(monkeypatch):
    first, second = watchdogs(2)
    monkeypatch.setattr(pulse, "waits_for", None)
    second.stop()
    second.talk()
    for _ in range(30):  # the report is written, say: nobody is waited for
        first.talk()
        assert first.turn() is None
    monkeypatch.setattr(pulse, "waits_for", "update 7: its batch")
    for _ in range(3):
        first.talk()
        assert first.turn() is None  # it may have ended after they met, which takes a moment to be seen
    first.talk()
    problem = str(first.turn())
    assert (
        problem.startswith("process 1 (pid ") and "ended while this one waits for update 7: its batch. See" in problem
    )


def test_a_coordinator_that_does_not_answer():
    first, second = watchdogs(2)
    first.talk()
    second.talk()
    assert [second.turn() for _ in range(1 + TURNS)] == [None] * (1 + TURNS)  # the first turn saw the reply
    assert (
        "process 0 (pid " in (problem := str(second.turn())) and "the coordinator, does not answer for 11 s" in problem
    )


def test_a_run_without_a_step_says_who_is_behind(monkeypatch):
    first, second = watchdogs(2, step_timeout=20)
    monkeypatch.setattr(pulse, "meetings", 7)
    monkeypatch.setattr(pulse, "waits_for", None)
    for _ in range(21):  # the first turn saw a step
        monkeypatch.setattr(pulse, "waits_for", None)
        second.talk()
        monkeypatch.setattr(pulse, "waits_for", "what each has done")
        first.talk()
        assert first.turn() is None
    problem = str(first.turn())
    assert "the run makes no step for 21 s (--step-timeout). process 1 (pid " in problem
    assert "did not come to where the others wait (what each has done); the logs hold the stacks" in problem
    monkeypatch.setattr(pulse, "meetings", 9)  # the second one makes steps: it hears of it all the same
    second.turn()
    first.talk()
    second.talk()
    assert "(--step-timeout)" in str(second.turn())


def test_a_log_that_nobody_reads_does_not_keep_a_process(monkeypatch, capsys):
    class Closed(io.StringIO):
        def flush(self):
            raise BrokenPipeError

    deadlines, codes = [], []
    monkeypatch.setattr(sys, "stdout", Closed())
    monkeypatch.setattr(watchdog_module.faulthandler, "dump_traceback_later", lambda *a, **k: deadlines.append((a, k)))
    monkeypatch.setattr(watchdog_module.os, "_exit", codes.append)
    watchdogs(2)[1]._end("process 0 is gone")
    assert codes == [75] and capsys.readouterr().err == "error: process 0 is gone\n"
    (((seconds,), options),) = deadlines  # where a write does not even fail
    assert seconds == 10 and options["exit"]


@pytest.mark.slow
def test_runs_end_where_one_process_hangs(tmp_path):
    """At the same time, since they mostly wait: (how, which process) of two."""
    cases = [("stopped", 1), ("stopped", 0), ("host", 1), ("interpreter", 1)]
    runs = []
    for manner, which in cases:
        command = ["tests/launch/hang_program.py", manner, str(which)]
        log = tmp_path / f"{manner}{which}"
        step_timeout = 10 if manner == "host" else 3600
        runs.append((log, peers.start(command, 2, log, peer_timeout=10, step_timeout=step_timeout)))
    try:
        for (manner, which), (log, two) in zip(cases, runs, strict=True):
            deadline = time.monotonic() + 600
            while manner == "stopped" and "begun" not in peers.said(log, 0) + peers.said(log, 1):
                assert time.monotonic() < deadline and two[0].poll() is None, peers.said(log, 0)
                time.sleep(0.1)
            if manner == "stopped":
                two[which].send_signal(signal.SIGSTOP)
        for (manner, which), (log, two) in zip(cases, runs, strict=True):
            survivor = two[1 - which]
            assert survivor.wait(timeout=300) == 75, (manner, which, peers.said(log, 1 - which))
            two[which].kill() if manner == "stopped" else two[which].wait(timeout=300)
    finally:
        for _, two in runs:
            for peer in two:
                peer.kill()
                peer.wait()
    for (manner, which), (log, two) in zip(cases, runs, strict=True):
        survivor, hanging = peers.said(log, 1 - which), peers.said(log, which)
        if manner == "host":
            assert "error: the run makes no step for 1" in survivor and "did not come to where the others" in survivor
            assert f"process {which} (" in survivor and two[which].returncode == 75
            assert "in a_reward_that_hangs" in hanging  # its stacks
        else:
            assert f"error: process {which} (pid {two[which].pid} on " in survivor, survivor
        if manner == "interpreter":
            assert "in fullmatch" in hanging and two[which].returncode == -signal.SIGABRT
