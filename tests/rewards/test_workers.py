import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from r1jax.rewards.workers import WorkerError, WorkerPool

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = """
import os, sys, time
def double(value):
    print("noise on stdout", flush=True)
    return value * 2
def act(value):
    if value == "hang": 9**9**9**9  # inside one call of C: no signal handler of Python would run
    if value == "loop":
        while True: pass
    if value == "sleep": time.sleep(60)
    if value == "memory": return len(bytearray(2**31))
    if value == "die": os._exit(3)
    if value == "raise": raise KeyError("x")
    if value == "pid": return os.getpid()
    return value
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("functions")
    (folder / "worker_functions.py").write_text(FUNCTIONS)
    sys.path.insert(0, str(folder))
    yield "worker_functions"
    sys.path.remove(str(folder))


@pytest.fixture
def pool(module):
    pool = WorkerPool(f"{module}:act", num_workers=2, seconds=0.3, memory_mb=512)
    yield pool
    pool.close()


def is_running(pid):
    return Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def test_results_are_in_order_and_printing_is_no_answer(module):
    pool = WorkerPool(f"{module}:double", num_workers=2)
    try:
        assert pool.map([]) == []
        assert pool.map(list(range(40))) == [2 * value for value in range(40)]
        assert pool.map(["é\n\u2028", [1]]) == ["é\n\u2028é\n\u2028", [1, 1]]
    finally:
        pool.close()


def test_hangs_crashes_and_errors_spare_the_others(pool):
    results = pool.map(["a", "hang", "memory", "die", "raise", "loop", "b"])
    assert results[0] == "a" and results[6] == "b"
    assert isinstance(results[1], TimeoutError) and isinstance(results[5], TimeoutError)
    assert "took more than 0.3 s" in str(results[1])
    assert isinstance(results[2], WorkerError) and "MemoryError" in str(results[2])
    assert isinstance(results[3], WorkerError) and "status 3" in str(results[3])
    assert isinstance(results[4], WorkerError) and "KeyError: 'x'" in str(results[4])


def test_sleeping_is_ended_by_the_wall_limit(pool):
    start = time.monotonic()
    assert isinstance(pool.map(["sleep"])[0], TimeoutError)
    assert time.monotonic() - start < 20


def test_killed_workers_are_gone_and_replaced_and_closing_ends_the_rest(pool):
    before = {pool.map(["pid"])[0] for _ in range(3)}
    assert len(before) == 1  # the same worker serves again
    pool.map(["loop", "loop"])
    after = set(pool.map(["pid"] * 4))
    assert not before & after and not any(map(is_running, before))
    pool.close()
    assert not any(map(is_running, after))
    with pytest.raises(RuntimeError, match="closed"):
        pool.map(["a"])


def test_several_threads_share_a_pool(pool):
    results = {}
    threads = [
        threading.Thread(target=lambda name=name: results.update({name: pool.map([name] * 20)})) for name in "abc"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {name: [name] * 20 for name in "abc"}


def test_a_function_that_is_not_there_is_named(module):
    pool = WorkerPool(f"{module}:missing", num_workers=1)
    with pytest.raises(RuntimeError, match="worker_functions:missing.*cannot start.*missing"):
        pool.map([1])
    pool.close()


@pytest.mark.parametrize("changes", [{"num_workers": 0}, {"seconds": 0.0}, {"memory_mb": 0}, {"function": "os.getpid"}])
def test_bad_limits_are_refused(changes):
    with pytest.raises(ValueError, match="worker pool"):
        WorkerPool(**{"function": "os:getpid", **changes})


def test_nothing_is_left_when_the_parent_is_killed(module, tmp_path):
    script = tmp_path / "parent.py"  # no main guard: a worker must not run it again
    script.write_text(
        textwrap.dedent(f"""
        import os, sys, threading
        sys.path.insert(0, {str(Path(sys.modules[module].__file__).parent) if module in sys.modules else sys.path[0]!r})
        from r1jax.rewards.workers import WorkerPool
        pool = WorkerPool("{module}:act", num_workers=1, seconds=0.2)
        print(pool.map(["pid"])[0], flush=True)
        threading.Thread(target=pool.map, args=(["sleep"],), daemon=True).start()
        sys.stdin.read()
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    )
    pid = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.communicate()
    end = time.monotonic() + 15
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not is_running(pid)


def test_a_forked_child_starts_its_own_workers():
    script = """
        import os
        from r1jax.rewards.workers import WorkerPool
        if __name__ == "__main__":
            pool = WorkerPool("os:getpgid", num_workers=1)
            own = pool.map([0])[0]
            child = os.fork()
            if child == 0:
                os._exit(pool.map([0])[0] == own)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert pool.map([0])[0] == own != os.getpgid(0)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, check=True, timeout=60)
