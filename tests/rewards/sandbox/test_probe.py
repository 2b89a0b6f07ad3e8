"""The sandbox fails closed: without its tools, or where they do not confine, nothing is run. No bubblewrap is needed here."""

import concurrent.futures
import json
import os
import sys
from pathlib import Path

import pytest

from r1jax.rewards import sandbox
from r1jax.rewards.sandbox import bubblewrap, probe

PROBLEM = probe.find_problem()


@pytest.fixture
def fresh_probe():
    probe.find_problem.cache_clear()
    yield
    probe.find_problem.cache_clear()


def fake_bubblewrap(folder: Path, monkeypatch, script: str, *, names=("bwrap", "setpriv", "prlimit", "unshare", "sh")):
    """Puts programs on PATH that run a Python script, in which ``status`` is the descriptor of bubblewrap's report."""
    start = "import os, sys\nstatus = int(sys.argv[sys.argv.index('--json-status-fd') + 1])\n"
    for name in names:
        (folder / name).write_text(f"#!{sys.executable} -IS\n{start}{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    ("present", "words"),
    [
        (("prlimit", "setpriv", "unshare", "sh"), "bwrap is not on PATH.*apt-get install bubblewrap"),
        (("bwrap",), "prlimit is not on PATH.*apt-get install util-linux"),
    ],
)
def test_without_its_tools_nothing_is_run(tmp_path, monkeypatch, fresh_probe, present, words):
    fake_bubblewrap(tmp_path, monkeypatch, "", names=present)
    for call in (
        lambda: sandbox.run_source(f"open({str(tmp_path / 'ran')!r}, 'w')"),
        lambda: sandbox.prepare(""),
        sandbox.require,
    ):
        with pytest.raises(sandbox.SandboxUnavailable, match=f"not run without its sandbox.*{words}"):
            call()
    assert {path.name for path in tmp_path.iterdir()} == set(present)


def test_where_user_namespaces_are_forbidden_nothing_is_run(tmp_path, monkeypatch, fresh_probe):
    message = "bwrap: No permissions to create new namespace, likely because the kernel does not allow it"
    fake_bubblewrap(tmp_path, monkeypatch, f"sys.exit({message!r})")
    with pytest.raises(sandbox.SandboxUnavailable, match="No permissions.*User namespaces are forbidden.*seccomp"):
        sandbox.run_source("print(1)")


def test_a_bubblewrap_that_confines_nothing_is_found_out(tmp_path, monkeypatch, fresh_probe):
    seen = {
        "user": [0] * 4,
        "parent": 99,
        "host": "here",
        "environment": ["HOME"],
        "root": ["etc", "srv"],
        "home": [],
        "descriptors": [0, 1, 2, 9],
    }
    seen |= {
        "processes": False,
        "network": False,
        "namespaces": True,
        "writable": ["/"],
        "new privileges": 0,
        "limits": [],
    }
    script = f"print({json.dumps(seen)!r})\nos.write(status, b'{{\"exit-code\": 0}}')"
    fake_bubblewrap(tmp_path, monkeypatch, script)
    with pytest.raises(
        sandbox.SandboxUnavailable,
        match="leaks here: user.*parent: 99.*host.*descriptors.*processes.*network.*writable.*limits.*srv",
    ):
        sandbox.run_source("print(1)")


def test_an_old_kernel_is_refused(monkeypatch, fresh_probe):
    monkeypatch.setattr(probe.os, "uname", lambda: os.uname_result(("Linux", "x", "5.10.0-9-amd64", "x", "x86_64")))
    assert "needs Linux 5.14 or later, this is 5.10.0" in str(probe.find_problem())


@pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
def test_the_probe_is_made_once(monkeypatch, fresh_probe):
    calls = []
    monkeypatch.setattr(
        probe, "confine", lambda *args, **options: calls.append(1) or bubblewrap.confine(*args, **options)
    )
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for _ in range(3):
            pool.submit(sandbox.require).result()
    assert calls == [1]
