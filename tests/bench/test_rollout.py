"""The sampler's benchmark, small."""

from pathlib import Path

import numpy as np
import pytest

from r1jax.bench import rollout


def test_log_normal_lengths_have_the_mean_and_the_longest_that_were_asked_for():
    lengths_N = rollout.log_normal_lengths(256, mean=128, longest=1024)
    assert max(lengths_N) == 1024 and min(lengths_N) >= 1
    assert np.mean(lengths_N) == pytest.approx(128, rel=0.01)
    logs_N = np.log(lengths_N)
    assert np.median(logs_N) == pytest.approx(np.mean(logs_N), abs=0.02)  # symmetric
    assert lengths_N == rollout.log_normal_lengths(256, mean=128, longest=1024) != sorted(lengths_N)
    with pytest.raises(ValueError, match=r"3 log-normal lengths of mean 2 do not reach 1024"):
        rollout.log_normal_lengths(3, mean=2, longest=1024)


class Fake:
    def __init__(self, name, seconds, asked, lengths=(3, 4)):
        self.name, self.seconds, self.asked, self.lengths = name, iter(seconds), asked, list(lengths)

    def ask(self, request):
        self.asked.append(self.name)
        lengths = self.lengths if sum(request["lengths"]) > 4 else request["lengths"]
        seconds, occupancy = next(self.seconds), 0.5 if self.name == "b" else None
        return {"seconds": seconds, "cpu_seconds": 2 * seconds, "lengths": lengths, "occupancy": occupancy}


def test_all_take_turns_and_the_first_turn_is_not_counted():
    asked = []
    running = {"r1jax": Fake("a", [99, 1, 2], asked), "other": Fake("b", [99, 3, 4], asked)}
    row = rollout.take_turns(running, {"lengths": [3, 4]}, repeats=2)
    assert asked == ["a", "b"] * 3
    assert row["seconds"] == {"r1jax": [1, 2], "other": [3, 4]} and row["tokens"] == 7
    assert row["tokens_per_second"] == {"r1jax": 7 / 1.5, "other": 2.0}
    assert row["ratio"] == {"other": {"median": 2.5, "least": 2.0, "largest": 3.0}}
    assert row["cpu_ratio"] == row["ratio"] and row["cpu_seconds"]["r1jax"] == [2, 4]
    assert row["occupancy"] == {"other": 0.5}


def test_a_peer_that_makes_other_lengths_is_refused():
    running = {"r1jax": Fake("a", [1, 1], []), "other": Fake("b", [1, 1], [], lengths=[3, 3])}
    with pytest.raises(ValueError, match=r"other made 6 tokens, not 7 as asked"):
        rollout.take_turns(running, {"lengths": [3, 4]}, repeats=1)


@pytest.mark.slow
def test_both_parts_run_on_a_small_model(monkeypatch):
    monkeypatch.chdir(rollout.ROOT)
    sizes = {"batches": [2], "prompt_tokens": 5, "new_tokens": 3, "requests": 6, "slots": 3, "mean_length": 4}
    table = rollout.run(
        parts=["fixed", "lengths"], models=["mini_qwen"], dtypes=["float32"], **sizes, longest=9, repeats=1,
        engine={"segment": 4},
    )  # fmt: skip
    fixed, lengths = table["rows"]
    assert (fixed["part"], fixed["tokens"], lengths["requests"]) == ("fixed", 6, 6)
    for row in (fixed, lengths):
        assert set(row["tokens_per_second"]) == {"r1jax"} and row["tokens_per_second"]["r1jax"] > 0


def test_a_folder_without_r1jax_is_refused():
    with pytest.raises(ValueError, match=r"--before=tests: there is no r1jax in it"):
        rollout.run(
            parts=[], models=[], dtypes=[], batches=[], prompt_tokens=1, new_tokens=1, requests=1, slots=1,
            mean_length=1, longest=1, repeats=1, before=Path("tests"),
        )  # fmt: skip
