import dataclasses

import jax
import numpy as np
import pytest

from r1jax.data.packing import pack
from r1jax.models.transformer import make_model
from r1jax.rollout import engine as engine_module
from r1jax.rollout.engine import Engine, make_engine
from r1jax.specs.rollout import EngineSpec
from tests.tiny import GQA, V3, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

PROMPTS = [[5, 40, 17], [7], [33, 9, 26, 14, 1, 2]]
STOP = (0, 11, 23, 31)
KEY = jax.random.key(0)


class Policy:
    """A tiny model, its weights, its engine (segments of 6 steps, prompts of 8) and its trainer-side score."""

    def __init__(self, config):
        self.model = make_model(config)
        self.params, self.buffers = shaken(self.model)
        self.engine = Engine(self.model, EngineSpec(prompt_bucket=8, segment=6), pad_id=0)
        self.score = jax.jit(self._score)

    def _score(self, params, batch, temperature):
        hidden, _, _ = self.model.hidden(
            params, self.buffers, batch["tokens"], positions_BT=batch["positions"], segments_BT=batch["segment_ids"]
        )
        return self.model.token_logprob(params, hidden, batch["targets"], temperature=temperature)[0]

    def generate(self, prompts=PROMPTS, *, num_samples=4, max_new_tokens=10, temperature=0.9, key=KEY, **options):
        options = {"stop_ids": STOP} | options
        return self.engine.generate(
            self.params, self.buffers, prompts, num_samples=num_samples, max_new_tokens=max_new_tokens,
            temperature=temperature, key=key, **options,
        )  # fmt: skip


@pytest.fixture(scope="module")
def gqa():
    return Policy(GQA)


@pytest.fixture(scope="module")
def v3():
    return Policy(dataclasses.replace(V3, num_layers=2))


@pytest.fixture(params=["gqa", "v3"])
def policy(request):
    return request.getfixturevalue(request.param)


def flat(groups):
    return [completion for group in groups for completion in group]


def assert_same(got, want, *, atol=1e-6):
    for a, b in zip(flat(got), flat(want), strict=True):
        np.testing.assert_array_equal(a.token_ids, b.token_ids)
        np.testing.assert_allclose(a.logps, b.logps, atol=atol)
        assert a.stop_reason == b.stop_reason


def test_each_prompt_is_reported_once_when_its_last_sample_is_done(gqa):
    reported = []
    groups = gqa.generate(max_new_tokens=18, on_done=lambda prompt, completions: reported.append((prompt, completions)))
    assert sorted(prompt for prompt, _ in reported) == [0, 1, 2]
    for prompt, completions in reported:
        assert completions is groups[prompt]
    segments = [max(-(-len(c.token_ids) // 6) for c in completions) for _, completions in reported]
    assert segments == sorted(segments) and segments[0] < segments[-1]  # in the order in which they end
    assert_same(groups, gqa.generate(max_new_tokens=18))


@pytest.mark.parametrize("length", [16, 40], ids=["padded, one sequence a row", "packed"])
def test_log_probs_equal_the_trainers(policy, length):
    """Invariant 4: the sampler's numbers are those of a teacher-forced pass, beyond YaRN's original length too."""
    groups = policy.generate()
    sequences = []
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for completion in group:
            ids = np.array([*prompt, *completion.token_ids], np.int32)
            sequences.append({"tokens": ids[:-1], "targets": ids[1:]})
    if length == 16:
        packs = [pack([sequence], length=length) for sequence in sequences]
        arrays = {name: np.concatenate([p[0][name] for p in packs]) for name in packs[0][0]}
        slots = [p[1][0]._replace(row=row) for row, p in enumerate(packs)]
    else:
        arrays, slots = pack(sequences, length=length, rows_multiple=6)
        assert arrays["segment_ids"].max() > 1
    logp_BT = np.array(policy.score(policy.params, arrays, np.float32(0.9)))
    for slot, completion in zip(slots, flat(groups), strict=True):
        got = logp_BT[slot.row, slot.start : slot.stop]
        np.testing.assert_allclose(got[-len(completion.logps) :], completion.logps, atol=1e-5)
    assert max(len(c.token_ids) for c in flat(groups)) == 10


def test_completions_end_at_a_stop_token_or_at_the_budget(policy):
    completions = flat(policy.generate())
    assert {c.stop_reason for c in completions} == {"stop", "length"}
    for completion in completions:
        ids = completion.token_ids.tolist()
        assert completion.token_ids.dtype == np.int32 and completion.logps.dtype == np.float32
        assert len(ids) == len(completion.logps) and all(0 <= i < 48 for i in ids)
        assert not set(ids[:-1]) & set(STOP)
        assert (ids[-1] in STOP) == (completion.stop_reason == "stop")
        assert len(ids) == 10 or completion.stop_reason == "stop"  # 10 is no multiple of the 6 steps of a segment


def test_a_smaller_budget_cuts_the_same_samples(gqa):
    full, cut = flat(gqa.generate()), flat(gqa.generate(max_new_tokens=3))
    for a, b in zip(full, cut, strict=True):
        np.testing.assert_array_equal(a.token_ids[:3], b.token_ids)
        assert b.stop_reason == ("stop" if a.token_ids[: len(b.token_ids)][-1] in STOP else "length")
    assert max(len(c.token_ids) for c in cut) == 3


def test_same_key_same_samples_and_another_key_others(policy):
    first = policy.generate()
    assert_same(policy.generate(), first, atol=0)
    other = policy.generate(key=jax.random.key(1))
    assert [c.token_ids.tolist() for c in flat(other)] != [c.token_ids.tolist() for c in flat(first)]
    tokens = [tuple(c.token_ids.tolist()) for c in flat(first)]
    assert len(set(tokens)) > 9  # the samples of a prompt differ


def test_samples_do_not_depend_on_the_other_prompts(policy):
    both = policy.generate()
    others = policy.generate([PROMPTS[0], [20, 21], [8] * 7])
    assert_same(others[:1], both[:1], atol=1e-5)


def test_leaving_finished_rows_behind_changes_nothing(gqa, monkeypatch):
    rows_seen = []
    gather = gqa.engine._gather
    monkeypatch.setattr(gqa.engine, "_gather", lambda state, rows: rows_seen.append(len(rows)) or gather(state, rows))
    want = gqa.generate(max_new_tokens=12, stop_ids=tuple(range(8)))
    assert rows_seen == []  # 12 rows are fewer than MIN_ROWS
    monkeypatch.setattr(engine_module, "MIN_ROWS", 1)
    got = gqa.generate(max_new_tokens=12, stop_ids=tuple(range(8)))
    assert rows_seen and rows_seen == sorted(rows_seen, reverse=True)
    assert_same(got, want, atol=1e-5)


def test_fewer_rows_halves_while_the_alive_fit(monkeypatch):
    assert [engine_module._fewer_rows(256, alive) for alive in (256, 129, 128, 65, 3)] == [256, 256, 128, 128, 16]
    assert engine_module._fewer_rows(96, 3) == 24  # 12 would be fewer than MIN_ROWS
    assert engine_module._fewer_rows(33, 1) == 33


def test_compilations_are_bounded_and_settings_are_arrays(v3):
    v3.generate()
    before = v3.engine.num_compilations()
    assert before <= 1 + 2  # a prefill, and a decode loop for each of the cache lengths 14 and 20
    for temperature, budget, stop_ids in ((0.5, 10, (3,)), (1.3, 7, (0, 1, 2)), (2.0, 2, tuple(range(8)))):
        v3.generate([[1, 2], [3], [4]], temperature=temperature, max_new_tokens=budget, stop_ids=stop_ids)
    assert v3.engine.num_compilations() == before


def test_temperature_acts(gqa):
    cold, hot = gqa.generate(temperature=0.01), gqa.generate(temperature=5.0)
    for group in cold:
        assert len({tuple(c.token_ids.tolist()) for c in group}) == 1  # all but greedy
    assert np.mean([c.logps.mean() for c in flat(hot)]) < -2.5


BAD = [
    ({"prompts": []}, "every prompt needs at least one token"),
    ({"prompts": [[1], []]}, "every prompt needs at least one token"),
    ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
    ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
    ({"stop_ids": ()}, "1 to 8 stop ids, got 0"),
    ({"stop_ids": tuple(range(9))}, "1 to 8 stop ids, got 9"),
    ({"top_p": 0.0}, "top_p must be in \\(0, 1\\], got 0.0"),
    ({"top_p": 1.5}, "top_p must be in \\(0, 1\\], got 1.5"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_raises(gqa, change, message):
    with pytest.raises(ValueError, match=message):
        gqa.generate(**change)


def test_engines_of_the_same_settings_are_one():
    model = make_model(GQA)
    engine = make_engine(model, EngineSpec(), pad_id=0)
    assert engine is make_engine(make_model(GQA), EngineSpec(), pad_id=0)
    assert engine is not make_engine(model, EngineSpec(), pad_id=1)
    assert engine is not make_engine(model, EngineSpec(segment=6), pad_id=0)
