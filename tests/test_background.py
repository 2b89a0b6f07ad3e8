import subprocess
import sys
import threading
import time

import pytest

from r1jax.background import Background

LANE = Background("a test's")


def test_jobs_run_in_order_one_at_a_time_in_one_other_thread():
    seen = []

    def job(number):
        time.sleep(0.01 * (3 - number))
        seen.append((number, threading.get_ident()))
        return number * 10

    futures = [LANE.run(job, number) for number in range(3)]
    assert [future.result(timeout=10) for future in futures] == [0, 10, 20]
    assert [number for number, _ in seen] == [0, 1, 2]
    assert {thread for _, thread in seen}.isdisjoint({threading.get_ident()}) and len({t for _, t in seen}) == 1


def test_what_a_job_raises_is_raised_by_its_future_and_the_next_runs():
    failed, fine = LANE.run(int, "x"), LANE.run(int, "7")
    with pytest.raises(ValueError, match="'x'"):
        failed.result(timeout=10)
    assert fine.result(timeout=10) == 7


def test_a_cancelled_job_does_not_run():
    gate, seen = threading.Event(), []
    first, second = LANE.run(gate.wait, 10), LANE.run(seen.append, 1)
    assert second.cancel()
    gate.set()
    assert first.result(timeout=10) and LANE.run(len, seen).result(timeout=10) == 0


def test_who_gives_up_leaves_a_job_that_hangs_behind_and_cancels_what_waits():
    gate, began, seen = threading.Event(), threading.Event(), []

    def hang():
        began.set()
        return gate.wait(60)

    with pytest.raises(KeyboardInterrupt), LANE.or_give_up():
        hanging, waiting = LANE.run(hang), LANE.run(seen.append, 1)
        assert began.wait(10)
        raise KeyboardInterrupt
    assert waiting.cancelled() and not hanging.done()
    assert LANE.run(len, seen).result(timeout=10) == 0  # in a thread of its own
    gate.set()
    assert hanging.result(timeout=10)
    with LANE.or_give_up():
        later = LANE.run(time.sleep, 0.05), LANE.run(len, "ab")
    assert later[1].result(timeout=10) == 2  # who does not raise gives nothing up


def test_a_job_that_hangs_does_not_keep_the_program_from_ending():
    code = "import time; from r1jax.background import Background; Background('x').run(time.sleep, 600); time.sleep(0.2)"
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
