"""The sandbox's benchmark, small."""

import pytest

from r1jax.bench import sandbox
from r1jax.rewards.sandbox import probe


@pytest.mark.skipif(probe.find_problem() is not None, reason=str(probe.find_problem()))
def test_load_changes_no_result(monkeypatch):
    monkeypatch.setattr(sandbox, "_SOURCES", ("print(input())", "raise SystemExit(3)", "while True: print(1)"))
    figures = sandbox.run(num_programs=7, workers=3)
    assert (figures["programs"], figures["differ_from_alone"]) == (7, 0)
    assert figures["programs_per_second"] > 0 and figures["alone_ms"]["median"] > 1
