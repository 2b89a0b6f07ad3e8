"""The sandbox: what a program is told, what it may use up, what is left of it, and a corpus of programs that attack it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from r1jax.rewards import sandbox
from r1jax.rewards.sandbox import bubblewrap, probe
from tests.rewards.corpus.programs.load import sections

ROOT = Path(__file__).resolve().parents[2]
PROBLEM = probe.find_problem()
confined = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
compiles = pytest.mark.skipif(PROBLEM is not None or shutil.which("g++") is None, reason=str(PROBLEM or "no g++"))

HOSTILE = sections("hostile.txt")
SMALL = {"cpu_seconds": 20, "seconds": 60.0, "memory_mb": 256, "output_kb": 64}


@pytest.fixture(scope="module")
def bait(tmp_path_factory):
    """What hostile programs look for: answers, a TCP port, an abstract socket, a secret in the environment."""
    folder = tmp_path_factory.mktemp("bait")
    folder.chmod(0o755)
    answers = folder / "answers.txt"
    answers.write_text("the-secret-answer")
    name = f"r1jax-{uuid.uuid4().hex}"
    os.environ["R1JAX_SECRET"] = "the-secret-answer"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind("\0" + name)
        unix.listen()
        yield [str(answers), str(tcp.getsockname()[1]), name, str(os.getpid())]
    del os.environ["R1JAX_SECRET"]


def processes_with(marker: str) -> list[str]:
    """Command lines on this machine that hold a marker."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if marker.encode() in line:
            found.append(line.replace(b"\0", b" ").decode())
    return found


def files_with(marker: str, bait: list[str]) -> list[str]:
    folders = ("/tmp", "/var/tmp", "/dev/shm", "/", "/home", str(Path.home()), str(ROOT), str(Path(bait[0]).parent))
    return [folder for folder in folders if os.path.lexists(os.path.join(folder, marker))]


@confined
@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.name)
def test_a_hostile_program_gets_nothing_and_leaves_nothing(case, bait):
    statuses, words = case.fields
    language, *options = words.split()
    if language == "cpp" and shutil.which("g++") is None:
        pytest.skip("no g++")
    limits = SMALL | {name: json.loads(value) for name, value in (option.split("=") for option in options)}
    marker = f"r1jax-marker-{uuid.uuid4().hex}"
    result = sandbox.run_source(case.source, language=language, args=[marker, *bait], stdin="1 2\n", **limits)
    assert "ESCAPED" not in result.stdout, case.tries  # stderr holds tracebacks, which quote the source
    assert "the-secret-answer" not in result.stdout + result.stderr
    assert result.status in statuses.split("/"), (result.status, result.stdout[-300:], result.stderr[-600:])
    assert len(result.stdout) <= 64 << 10 and len(result.stderr) <= 64 << 10
    assert processes_with(marker) == []
    assert files_with(marker, bait) == []


def test_the_corpus_is_as_large_as_promised():
    assert len(HOSTILE) >= 60


@confined
@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("print('hello')", "ok"),
        ("import sys; sys.exit(3)", "exit"),
        ("raise ValueError", "exit"),
        ("import os; os.kill(os.getpid(), 15)", "signal"),
        ("while True: pass", "cpu"),
        ("bytearray(10**10)", "memory"),
        ("print('x' * 100_000)", "output"),
        ("def f(:", "compile"),
        ("if 1:\nprint()", "compile"),
        ("exec('def f(:')", "exit"),
        ("\0", "compile/exit"),
        ("\ud800", "compile"),
        ("", "ok"),
    ],
)
def test_every_end_has_its_own_status(source, status):
    limits = SMALL | {"cpu_seconds": 1} if status == "cpu" else SMALL
    assert sandbox.run_source(source, **limits).status in status.split("/")


@confined
def test_wall_time_is_a_limit_of_its_own():
    result = sandbox.run_source("import time; print(1, flush=True); time.sleep(60)", seconds=0.5)
    assert (result.status, result.stdout) == ("time", "1\n")
    assert 0.5 <= result.seconds < 10.0


@pytest.mark.slow
@confined
def test_time_in_line_for_a_processor_does_not_count():
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # inherited by what is started here
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(8)]
    try:
        source = "import time\nwhile time.process_time() < 0.5: pass\nprint('done')"
        result = sandbox.run_source(source, seconds=1.5)
        assert (result.status, result.stdout) == ("ok", "done\n")
        assert sandbox.run_source("import time; time.sleep(60)", seconds=0.5).status == "time"
    finally:
        os.sched_setaffinity(0, cores)
        for process in busy:
            process.kill()
            process.wait()


@confined
def test_a_failure_of_bubblewrap_is_not_the_programs(monkeypatch):
    monkeypatch.setattr(bubblewrap, "_DEVICES", ("/dev/r1jax-no-such-device",))
    result = sandbox.run_source("print(1)")
    assert result.status == "sandbox" and "r1jax-no-such-device" in result.stderr


@confined
def test_input_arguments_and_output_are_passed_as_they_are():
    source = "import sys; print(sys.argv[1:], ascii(sys.stdin.read()), ascii(open('/dev/stdin').read()))"
    result = sandbox.run_source(source, stdin="a\né\r\n", args=["x y", "é"])
    assert result.stdout == "['x y', 'é'] 'a\\n\\xe9\\r\\n' 'a\\n\\xe9\\n'\n"
    assert sandbox.run_source("import sys; sys.stdout.buffer.write(b'\\xff\\n')").stdout == "\ufffd\n"


@confined
def test_large_input_does_not_lock_whether_it_is_read_or_not():
    text = "0123456789abcde\n" * (1 << 20)  # 16 MB: far more than any pipe holds
    assert sandbox.run_source("import sys; print(len(sys.stdin.read()))", stdin=text).stdout == f"{1 << 24}\n"
    assert sandbox.run_source("print('ignored')", stdin=text).stdout == "ignored\n"
    echo = sandbox.run_source(
        "import sys\nfor line in sys.stdin: sys.stdout.write(line)", stdin=text, output_kb=1 << 15
    )
    assert echo.stdout == text


@confined
def test_output_is_cut_at_the_limit_and_kept_up_to_it():
    result = sandbox.run_source("while True: print('x' * 9)", output_kb=1)
    assert (result.status, result.stdout) == ("output", ("x" * 9 + "\n") * 102 + "xxxx")


@confined
def test_runs_know_nothing_of_each_other():
    source = "import builtins, os; print(hasattr(builtins, 'mark'), os.listdir('/home')); builtins.mark = 1"
    assert {sandbox.run_source(source).stdout for _ in range(3)} == {"False []\n"}


@confined
def test_equal_programs_give_equal_results():
    source = "print(list({str(i) for i in range(50)}))"  # the order of a set of text depends on the hash seed
    assert len({sandbox.run_source(source).stdout for _ in range(3)}) == 1


@confined
def test_honest_needs_are_met():
    source = """
import asyncio, concurrent.futures, decimal, fractions, functools, heapq, itertools, json, math, os, re, sys, threading
sys.setrecursionlimit(10**6)
def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
threading.stack_size(1 << 26)
threads = [threading.Thread(target=lambda: seen.append(depth(20000))) for _ in range(2)]
seen = []
for thread in threads: thread.start()
for thread in threads: thread.join()
with concurrent.futures.ThreadPoolExecutor(4) as pool: squares = list(pool.map(lambda x: x * x, range(4)))
async def nap(): await asyncio.sleep(0); return 7
print(seen, squares, asyncio.run(nap()), os.cpu_count() > 0, open(0).read())
exit()
"""
    result = sandbox.run_source(source, stdin="in")
    assert result.stdout == "[20000, 20000] [0, 1, 4, 9] 7 True in\n", result


@confined
def test_numpy_and_sortedcontainers_are_the_only_packages_and_read_only():
    source = """
import importlib, os, sys
for name in ("numpy", "sortedcontainers", "jax", "pip", "r1jax", "pytest"):
    try:
        print(name, os.access(os.path.dirname(importlib.import_module(name).__file__), os.W_OK))
    except ImportError:
        pass
print(sys.version_info[:2], os.listdir("/box/packages") <= ["numpy", "numpy.libs", "sortedcontainers"])
"""
    result = sandbox.run_source(source.replace('os.listdir("/box/packages")', 'sorted(os.listdir("/box/packages"))'))
    assert result.stdout == f"numpy False\nsortedcontainers False\n{sys.version_info[:2]} True\n", result


@compiles
def test_cpp_is_compiled_once_and_run():
    source = "#include <bits/stdc++.h>\nint main(int n, char** a) { int x; std::cin >> x; std::cout << x + 1 << a[1] << '\\n'; }"
    program = sandbox.prepare(source, language="cpp")
    assert isinstance(program, sandbox.Command)
    limits = sandbox.Limits(cpu_seconds=2)
    assert [sandbox.run_command(program, limits, stdin=str(x), args=["!"]).stdout for x in (1, 41)] == ["2!\n", "42!\n"]


@compiles
def test_cpp_that_does_not_compile_says_why():
    result = sandbox.run_source("int main() { return missing; }", language="cpp")
    assert result.status == "compile" and "missing" in result.stderr


@confined
def test_many_runs_keep_their_order_and_differ_in_nothing_from_one_alone():
    futures = [
        sandbox.submit(lambda i=i: sandbox.run_source(f"print({i} + int(input()))", stdin=f"{i}\n")) for i in range(24)
    ]
    assert [result.stdout for result in sandbox.results_of(futures)] == [f"{2 * i}\n" for i in range(24)]


@pytest.mark.parametrize(
    ("names", "language"),
    [
        ("python Python3 py py3 python3.11 pypy pypy3 PyPy_3-64 PYTHON3", "python"),
        ("cpp c++ C++ cc cxx cpp17 c++17 GNU_C++17 GNU_C++17_(64) C++17_(GCC_7-32) g++ GNU_C++", "cpp17"),
        ("cpp20 c++20 GNU_C++20_(64) C++20_(GCC_13-64) GNU_G++20_11.2.0_(64_bit,_winlibs)", "cpp20"),
        ("cpp11 c++11 GNU_C++11", "cpp11"),
        ("python2 pypy2 c c# cpp98 c++98 rust java ccc", None),
    ],
)
def test_languages_are_named_as_data_sets_do(names, language):
    assert {name: sandbox.read_language(name.replace("_", " ")) for name in names.split()} == dict.fromkeys(
        names.split(), language
    )


@confined
def test_a_pair_talks_and_a_partner_that_leaves_is_noticed():
    first = sandbox.prepare("print(20, flush=True); assert input() == '21'")
    second = sandbox.prepare("print(int(input()) + 1, flush=True)")
    leaves = sandbox.prepare("pass")
    limits = sandbox.Limits(seconds=20.0)
    assert [result.status for result in sandbox.run_pair(first, second, limits)] == ["ok", "ok"]
    assert sandbox.run_pair(first, leaves, limits)[0].status == "exit"
    assert sandbox.run_pair(leaves, second, limits)[1].status == "exit"


@confined
def test_programs_die_with_the_process_that_ran_them():
    marker = f"r1jax-marker-{uuid.uuid4().hex}"
    code = f"from r1jax.rewards import sandbox; sandbox.run_source('import time; time.sleep(600)', args=['{marker}'], seconds=600.0)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as runner:
        wait_until(lambda: any("prlimit" not in line and "bwrap" not in line for line in inside(marker)))
        runner.send_signal(signal.SIGKILL)
    wait_until(lambda: processes_with(marker) == [])


def inside(marker: str) -> list[str]:
    return [line for line in processes_with(marker) if "/box/main.py" in line and "sandbox.run" not in line]


def wait_until(holds, *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


@confined
def test_no_thread_process_or_file_descriptor_is_left_here():
    sandbox.submit(sandbox.run_source, "print(1)").result()
    before = children(), len(os.listdir("/proc/self/fd")), threading.active_count()
    for source in ("print(1)", "def f(:", "while True: print('x' * 999)"):
        sandbox.run_source(source, **SMALL)
    sandbox.results_of(sandbox.submit(sandbox.run_source, "print(1)") for _ in range(4))
    assert (children(), len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def children() -> set[int]:
    """Processes, zombies too, that this one has started."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == os.getpid():
            found.add(int(path.parent.name))
    return found


@confined
@pytest.mark.skipif(os.getuid() != 0 or shutil.which("runuser") is None, reason="needs root, to become somebody else")
def test_an_ordinary_user_is_confined_as_root_is(tmp_path):
    for room in ("rewards", "specs"):
        shutil.copytree(ROOT / "r1jax" / room, tmp_path / "r1jax" / room)
    (tmp_path / "r1jax" / "__init__.py").write_text("")
    code = "from r1jax.rewards import sandbox; print(sandbox.run_source('import os; print(os.getuid(), os.listdir())'))"
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("no interpreter that another user may enter")
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    command = ["runuser", "-u", "nobody", "--", python, "-B", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "status='ok', printed=b'65534 []\\n'" in done.stdout, done


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cpu_seconds": 0}, "cpu_seconds=0 must be at least 1"),
        ({"cpu_seconds": 0.5}, "cpu_seconds=0.5 must be a whole number"),
        ({"memory_mb": 8}, "memory_mb=8 must be at least 32"),
        ({"output_kb": 0}, "output_kb=0 must be at least 1"),
        ({"seconds": 0.0}, "seconds=0.0 must be more than 0"),
        ({"seconds": float("nan")}, "seconds=nan must be finite"),
    ],
)
def test_limits_out_of_range_are_errors(arguments, words):
    with pytest.raises(ValueError, match=words):
        sandbox.run_source("", **arguments)


def test_an_unknown_language_is_an_error():
    with pytest.raises(ValueError, match="'rust'; known are Python 3 and C"):
        sandbox.prepare("", language="rust")
