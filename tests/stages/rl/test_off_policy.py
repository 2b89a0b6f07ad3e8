"""Tokens of older weights: questions that are carried over, and a phase that is sampled ahead."""

import dataclasses
import json
import os
import signal
import threading

import jax
import numpy as np
import pytest

from r1jax.models.transformer import make_model
from r1jax.policies.policy import load_init
from r1jax.rewards.calls import make_entry
from r1jax.rewards.rubric import Rubric
from r1jax.rollout.collect import Collector
from r1jax.rollout.engine import make_engine
from r1jax.sharding import make_mesh
from r1jax.specs.rollout import EngineSpec
from r1jax.stages.rl import stage as rl
from r1jax.stages.rl.phase import collect_groups
from r1jax.stages.rl.questions import Question, draw
from r1jax.tasks.problem import Problem
from r1jax.training.checkpoint import load_checkpoint
from r1jax.workdir.stop import Stopped
from tests.stages.rl.test_stage import length_reward, tiny_config
from tests.tiny import GQA, V3, padded, rows_of, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

BRIEF = {
    "updates_per_phase": 1, "num_updates": 6, "importance_cap": 2.0, "max_new_tokens": 12, "reference_every": 6,
    "checkpoint_every": 3, "rows_per_microbatch": 8, "optimizer": {"learning_rate": 3e-2},
    "eval": {"every": 6, "problems": 2, "samples": 2, "final_problems": 2, "final_samples": 2},
}  # fmt: skip
PARTIAL = BRIEF | {
    "partial_rollouts": 0.5,
    "engine": {"segment": 2, "slots": 10},
    "num_updates": 4,
    "checkpoint_every": 2,
}
PARTIAL |= {"eval": BRIEF["eval"] | {"every": 4}, "reference_every": 4}
AHEAD = BRIEF | {"overlap": True, "rollout_mesh": {"first_device": 1}}


class Characters:
    """One id of 48 a character."""

    eos_id, pad_id, bos_id, adds_bos, stop_ids = 0, 0, None, False, (0, 11, 23)

    def encode(self, text):
        return [ord(c) % 48 for c in text]

    def decode(self, ids, *, skip_special_tokens=False):
        return "".join(chr(48 + i) for i in ids)


class Sums:
    name = "sums"

    def problem(self, index, *, split):
        return Problem(({"role": "user", "content": f"{index} + 1?"},), str(index + 1), {"task": self.name})

    def grade(self, answer, problem):
        return float(answer == problem.answer)


class Stream:
    """The problems of ``Sums``, in order."""

    def __init__(self):
        self.next = 0

    def take_indexed(self, count):
        first, self.next = self.next, self.next + count
        return [(index, Sums().problem(index, split="train")) for index in range(first, self.next)]

    def at(self, updates):
        return Sums()


@pytest.mark.parametrize("config", [GQA, dataclasses.replace(V3, num_layers=2)], ids=["gqa", "v3"])
def test_each_token_has_the_logp_of_the_weights_that_sampled_it(config):
    """Over five phases, each under weights of its own; what is carried goes by way of JSON."""
    model, stream, num_phases = make_model(config), Stream(), 5
    weights = [dict(zip(("params", "buffers"), shaken(model, seed), strict=True)) for seed in range(num_phases)]
    spec = tiny_config(
        partial_rollouts=1.0, importance_cap=2.0, questions_per_phase=3, group_size=3, max_new_tokens=20,
        temperature=0.9, updates_per_phase=1,
    )  # fmt: skip
    engine = make_engine(model, EngineSpec(prompt_bucket=8, segment=4, slots=7))
    collector = Collector(
        engine, Characters(), Sums(), Rubric([make_entry(length_reward)]), template="plain", max_prompt_tokens=40
    )

    @jax.jit
    def score(params, buffers, tokens, positions, segments):
        hidden, _, _ = model.hidden(
            params, buffers, tokens[:, :-1], positions_BT=positions[:, :-1], segments_BT=segments[:, :-1]
        )
        return model.token_logprob(params, hidden, tokens[:, 1:], temperature=0.9)[0]

    carried, trained, ages = [], [], set()
    for updates in range(num_phases):
        rows = json.loads(json.dumps([question.to_json() for question in carried]))
        again = [Question.from_json(row, stream) for row in rows]
        jax.tree.map(
            np.testing.assert_array_equal,
            *([q.so_far and [vars(c) for c in q.so_far] for q in questions] for questions in (carried, again)),
        )
        questions = again + draw(stream, spec.questions_in_flight - len(again), updates=updates)
        assert len(questions) == 6
        phase = collect_groups(collector, weights[updates], stream, spec, updates=updates, questions=questions)
        assert len(phase.groups) == 3 and phase.metrics["sampling/carried"] == len(phase.carried) == 3
        staleness = [updates - r.completion.versions for group in phase.groups for r in group.rollouts]
        assert phase.metrics["sampling/staleness/mean"] == pytest.approx(np.concatenate(staleness).mean())
        assert phase.metrics["sampling/staleness/max"] == np.concatenate(staleness).max()
        trained += [g.problem.answer for g in phase.groups]
        carried = phase.carried
        rollouts = [rollout for group in phase.groups for rollout in group.rollouts]
        rows = [[*rollout.prompt_ids, *rollout.completion.token_ids] for rollout in rollouts]
        logps_VBT = np.stack([score(*w.values(), *padded(rows, length=60)) for w in weights])
        for index, (rollout, row) in enumerate(zip(rollouts, rows, strict=True)):
            versions = rollout.completion.versions
            assert len(versions) == len(rollout.completion.token_ids) <= 20 and rollout.policy_version == versions[-1]
            ages.add(len(set(versions.tolist())))
            want = logps_VBT[versions, index, np.arange(len(row) - len(versions), len(row)) - 1]
            np.testing.assert_allclose(rollout.completion.logps, want, atol=1e-4)
    assert len(set(trained)) == 15 and max(ages) >= 2  # no question twice; some of them under several weights


def params_and_rest(workdir, spec):
    _, params, _ = load_init(spec.init, mesh=make_mesh(), seed=spec.seed)
    state, extra = load_checkpoint(workdir, {"params": params}, partial=True)
    return state["params"], {name: value for name, value in extra.items() if name != "wall_seconds"}


def assert_same_end(one, other, spec):
    assert rows_of(one) == rows_of(other)
    ours, theirs = params_and_rest(one, spec), params_and_rest(other, spec)
    jax.tree.map(np.testing.assert_array_equal, ours[0], theirs[0])
    assert ours[1] == theirs[1]


def phases_of(workdir):
    return [row for row in rows_of(workdir) if "reward" in row]


def completions_of(workdir, update):
    text = (workdir / "completions" / f"update_{update:06d}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def signal_at(monkeypatch, updates):
    """A SIGTERM while the phase after so many updates is trained on."""
    real = rl.update_on_groups

    def update_on_groups(*args, **kwargs):
        if kwargs["updates"] == updates:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(rl, "update_on_groups", update_on_groups)


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_what_was_carried_bit_for_bit(tmp_path, monkeypatch):
    config = tiny_config(**PARTIAL)
    rl.main(config, tmp_path / "alone")
    phases = phases_of(tmp_path / "alone")
    assert [row["sampling/carried"] for row in phases] == [2] * 4
    assert [row["sampling/staleness/max"] > 0 for row in phases] == [False, True, True, True]
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        signal_at(patched, updates=1)
        rl.main(config, tmp_path / "stopped")
    _, kept = params_and_rest(tmp_path / "stopped", config)
    num_tokens = [len(sample["token_ids"]) for question in kept["carried"] for sample in question["samples"]]
    assert kept["prompts"]["next"] == 10 and len(num_tokens) == 8 and max(num_tokens) > 0
    rl.main(config, tmp_path / "stopped")
    assert_same_end(tmp_path / "stopped", tmp_path / "alone", config)


@pytest.fixture(scope="module")
def ahead(tmp_path_factory):
    """(config, work directory) of a run that samples ahead."""
    config, workdir = tiny_config(**AHEAD), tmp_path_factory.mktemp("ahead")
    rl.main(config, workdir)
    return config, workdir


def test_the_next_phase_is_sampled_during_the_update_but_not_across_a_checkpoint(ahead):
    _, workdir = ahead
    phases = phases_of(workdir)
    ages = [0, 1, 1, 0, 1, 1]
    assert (
        [row["sampling/staleness/mean"] for row in phases] == [row["sampling/staleness/max"] for row in phases] == ages
    )
    for row, age in zip(phases, ages, strict=True):  # the copy has the weights from before the update
        assert (row["sampling/sampling_logp_difference/max"] > 1e-3) == bool(age)
        assert row["sampling/sampling_logp_difference/max"] < 1e-4 or age
    timed = [row for row in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()) if "reward" in row]
    assert ["time/generate_hidden" in row for row in timed] == list(map(bool, ages))
    assert ["time/copy" in row for row in timed] == [True, True, False, True, True, False]
    assert all(
        0 <= row["time/generate_hidden"] <= row["time/generate"] for row in timed if "time/generate_hidden" in row
    )
    versions = [{row["policy_version"] for row in completions_of(workdir, update)} for update in range(1, 7)]
    assert versions == [{0}, {0}, {1}, {3}, {3}, {4}]


@pytest.mark.slow
def test_equal_seeds_give_equal_runs_that_sample_ahead_also_after_a_crash(ahead, tmp_path, monkeypatch):
    """The second one ends with an error in the trainer while a phase is under way, and goes on from its checkpoint."""
    config, workdir = ahead
    real = rl.update_on_groups

    def fails(*args, **kwargs):
        if kwargs["updates"] == 4:
            raise MemoryError("out of it")
        return real(*args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(MemoryError, match="out of it"):
        patched.setattr(rl, "update_on_groups", fails)
        rl.main(config, tmp_path)
    rl.main(config, tmp_path)
    assert_same_end(tmp_path, workdir, config)


@pytest.mark.slow
def test_a_signal_gives_up_the_phase_under_way(ahead, tmp_path, monkeypatch):
    """What was sampled ahead counts for nothing: the run goes on with the same questions, from the newest weights."""
    config, workdir = ahead
    real, gate, ends = Collector.start, threading.Event(), []

    def start(*args, **kwargs):
        if kwargs["policy_version"] == 1:
            gate.wait(20)  # it has begun when the signal comes, and is not done
        return real(*args, **kwargs)

    def wait(futures):
        gate.set()
        ends.extend(type(future.exception()).__name__ for future in futures)

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        signal_at(patched, updates=1)
        patched.setattr(Collector, "start", start)
        patched.setattr("r1jax.stages.rl.ahead.concurrent.futures.wait", wait)
        rl.main(config, tmp_path)
    assert ends == ["_GivenUp"]
    _, kept = params_and_rest(tmp_path, config)
    assert kept["prompts"]["next"] == 8
    rl.main(config, tmp_path)
    asked = [[row["prompt"] for row in completions_of(path, 3)] for path in (tmp_path, workdir)]
    assert asked[0] == asked[1]
    assert [row["sampling/staleness/max"] for row in phases_of(tmp_path)][:3] == [0, 1, 0]


def test_an_error_of_the_thread_that_samples_ahead_ends_the_run(tmp_path, monkeypatch):
    real = Collector.start

    def start(*args, **kwargs):
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError("no room for a cache")
        return real(*args, **kwargs)

    monkeypatch.setattr(Collector, "start", start)
    with pytest.raises(MemoryError, match="no room for a cache"):
        rl.main(tiny_config(**AHEAD), tmp_path)
    assert [row["step"] for row in phases_of(tmp_path)] == [1]


def test_where_each_phase_ends_with_a_checkpoint_nothing_is_sampled_ahead(tmp_path):
    sizes = {"checkpoint_every": 1, "num_updates": 3, "reference_every": 3, "eval": BRIEF["eval"] | {"every": 3}}
    rl.main(tiny_config(**AHEAD | sizes), tmp_path / "ahead")
    rl.main(tiny_config(**AHEAD | sizes | {"overlap": False}), tmp_path / "in turn")
    rows = [{k: v for k, v in row.items() if "staleness" not in k} for row in rows_of(tmp_path / "ahead")]
    assert rows == rows_of(tmp_path / "in turn")
    assert {row["sampling/staleness/max"] for row in phases_of(tmp_path / "ahead")} == {0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"partial_rollouts": 0.5},
            "partial_rollouts=0.5 trains on tokens of older weights, which needs an importance_cap",
        ),
        ({"partial_rollouts": 0.5, "importance_cap": 2.0, "max_refills": 2}, "partial_rollouts=0.5 .* max_refills=2"),
        ({"partial_rollouts": -0.5}, "partial_rollouts=-0.5 must be at least 0"),
        ({"overlap": True, "rollout_mesh": {"first_device": 1}}, "overlap=True .* importance_cap"),
        ({"overlap": True, "importance_cap": 2.0}, "overlap=True needs rollout_mesh.first_device"),
        (
            {"overlap": True, "importance_cap": 2.0, "rollout_mesh": {"data": 1}},
            "overlap=True needs rollout_mesh.first",
        ),
        ({"overlap": True, "importance_cap": 2.0, "max_refills": 1}, "overlap=True .* max_refills=1"),
    ],
)
def test_what_does_not_go_together_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        tiny_config(**changes)


@pytest.mark.parametrize(("share", "questions"), [(0.0, 30), (0.1, 33), (0.7, 51), (0.01, 31), (2.0, 90)])
def test_questions_in_flight(share, questions):
    spec = tiny_config(questions_per_phase=30, partial_rollouts=share, importance_cap=2.0)
    assert spec.questions_in_flight == questions
