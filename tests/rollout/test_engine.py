import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from r1jax.data.packing import pack
from r1jax.models.transformer import make_model
from r1jax.rollout import engine as engine_module
from r1jax.rollout.engine import Engine, make_engine
from r1jax.rollout.sampling import Sampling, key_of
from r1jax.rollout.session import Request
from r1jax.specs.rollout import EngineSpec
from tests.tiny import GQA, V3, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

PROMPTS = [[5, 40, 17], [7], [33, 9, 26, 14, 1, 2], [4] * 8]
"""Of 3, 1, 6 and 8 tokens: with pages of 4, their tokens but the last share none, none, one, and one and a rest."""
STOP = (0, 11, 23, 31)
KEY = jax.random.key(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallPages(EngineSpec):
    """Segments of 6 steps, prompts of 8 tokens, and pages of 4, as no kernel takes them."""

    prompt_bucket: int = 8
    segment: int = 6
    page_size: int = 4
    cache: str = "dense"

    def __post_init__(self):
        pass


class Policy:
    """A tiny model, its weights, its engine and its trainer-side score."""

    def __init__(self, config):
        self.model = make_model(config)
        self.params, self.buffers = shaken(self.model)
        self.score, self.experts = jax.jit(self._score), jax.jit(self._experts)

    def engine(self, **options):
        return make_engine(self.model, SmallPages(**options))

    def _score(self, params, batch, temperature):
        hidden, _, _ = self.model.hidden(
            params, self.buffers, batch["tokens"], positions_BT=batch["positions"], segments_BT=batch["segment_ids"]
        )
        return self.model.token_logprob(params, hidden, batch["targets"], temperature=temperature)[0]

    def _experts(self, params, tokens, is_token):
        """[B, T, L, K]"""
        where = {"positions_BT": jnp.arange(tokens.shape[1])[None], "segments_BT": is_token.astype(int)}
        _, _, aux = self.model.hidden(params, self.buffers, tokens, **where, record=True)
        return jnp.moveaxis(aux["experts_LBTK"], 0, 2)

    def generate(self, prompts=PROMPTS, *, engine=None, trees=None, num_samples=4, max_new_tokens=10, **options):
        options = {"stop_ids": STOP, "temperature": 0.9, "key": KEY} | options
        trees = trees or (self.params, self.buffers)
        sizes = {"num_samples": num_samples, "max_new_tokens": max_new_tokens}
        return (engine or self.engine()).generate(*trees, prompts, **sizes, **options)

    def ask(self, *requests, num_slots=4, **options):
        """Completions of the requests, in order, in a session of its own."""
        session = self.engine(**options).open(self.params, self.buffers, num_slots=num_slots, num_tokens=40)
        numbers = [session.submit(request) for request in requests]
        done = {}
        while session.is_busy:
            done |= dict(session.step())
        return [done[number] for number in numbers]


def request(prompt=(5, 40, 17), *, seed=0, max_new_tokens=12, sampling=None, **options):
    sampling = sampling or Sampling(temperature=0.9)
    return Request(prompt=prompt, max_new_tokens=max_new_tokens, sampling=sampling, key=key_of(seed), **options)


@pytest.fixture(scope="module")
def gqa():
    return Policy(GQA)


@pytest.fixture(scope="module")
def v3():
    return Policy(dataclasses.replace(V3, num_layers=2))


@pytest.fixture(scope="module")
def mtp():
    return Policy(dataclasses.replace(V3, num_layers=2, num_mtp_layers=1))


@pytest.fixture(params=["gqa", "v3"])
def policy(request):
    return request.getfixturevalue(request.param)


def flat(groups):
    return [completion for group in groups for completion in group]


def num_tokens(completion):
    return len(completion.token_ids)


def assert_same(got, want, *, atol=1e-6):
    for a, b in zip(flat(got), flat(want), strict=True):
        np.testing.assert_array_equal(a.token_ids, b.token_ids)
        np.testing.assert_allclose(a.logps, b.logps, atol=atol)
        assert a.stop_reason == b.stop_reason


def test_each_prompt_is_reported_once_when_its_last_sample_is_done(gqa):
    reported, options = [], {"max_new_tokens": [4, 18, 9, 13], "stop_ids": ()}
    groups = gqa.generate(on_done=lambda prompt, completions: reported.append((prompt, completions)), **options)
    assert sorted(prompt for prompt, _ in reported) == [0, 1, 2, 3]
    for prompt, completions in reported:
        assert completions is groups[prompt]
    segments = [max(-(-len(c.token_ids) // 6) for c in completions) for _, completions in reported]
    assert segments == sorted(segments) and segments[0] < segments[-1]  # in the order in which they end
    assert_same(groups, gqa.generate(**options))


def test_a_call_may_end_with_enough_prompts_and_another_goes_on(policy):
    want, reported = policy.generate(max_new_tokens=18), []
    options = {"engine": policy.engine(slots=6), "max_new_tokens": 18}
    cut = policy.generate(enough=2, on_done=lambda prompt, _: reported.append(prompt), **options)
    assert len(reported) == 2
    assert_same([cut[prompt] for prompt in reported], [want[prompt] for prompt in reported], atol=1e-5)
    assert {c.stop_reason for prompt in {0, 1, 2, 3} - {*reported} for c in cut[prompt]} > {"unfinished"}
    for got, whole in zip(flat(cut), flat(want), strict=True):
        np.testing.assert_array_equal(got.token_ids, whole.token_ids[: len(got.token_ids)])
    counts = Counter()
    assert_same(policy.generate(so_far=[*cut[:3], None], counts=counts, **options), want, atol=1e-5)
    assert counts["tokens"] == sum(map(num_tokens, flat(want))) - sum(map(num_tokens, flat(cut[:3])))


def test_prompts_that_are_done_in_a_segment_are_taken_in_their_order_and_the_rest_waits_at_no_cost(gqa):
    reported, counts, options = [], Counter(), {"stop_ids": (), "max_new_tokens": 5}
    groups = gqa.generate(enough=3, on_done=lambda prompt, _: reported.append(prompt), **options)
    assert reported == [0, 1, 2] and {c.stop_reason for c in groups[3]} == {"length"}
    prompts, so_far = [PROMPTS[3], PROMPTS[0]], [groups[3], None]
    later = gqa.generate(
        prompts, so_far=so_far, enough=1, on_done=lambda *done: reported.append(done), counts=counts, **options
    )
    assert reported[3:] == [(0, groups[3])] and counts["steps"] == 0
    assert [(c.stop_reason, len(c.token_ids)) for c in later[1]] == [("unfinished", 0)] * 4


def test_a_call_can_be_ended_between_segments(gqa):
    segments = iter([lambda: None, lambda: None, lambda: [][1]])
    with pytest.raises(IndexError):
        gqa.generate(max_new_tokens=18, stop_ids=(), before_segment=lambda: next(segments)())
    assert next(segments, None) is None


@pytest.mark.parametrize("length", [20, 40], ids=["padded, one sequence a row", "packed"])
def test_log_probs_equal_the_trainers(policy, length):
    """Invariant 4: the sampler's numbers are those of a teacher-forced pass, beyond YaRN's original length too."""
    groups = policy.generate()
    sequences = []
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for completion in group:
            ids = np.array([*prompt, *completion.token_ids], np.int32)
            sequences.append({"tokens": ids[:-1], "targets": ids[1:]})
    if length == 20:
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
    others = policy.generate([PROMPTS[0], [20, 21], [8] * 7, [1]])
    assert_same(others[:1], both[:1], atol=1e-5)


def test_temperature_acts(gqa):
    cold, hot = gqa.generate(temperature=0.01), gqa.generate(temperature=5.0)
    for group in cold:
        assert len({tuple(c.token_ids.tolist()) for c in group}) == 1  # all but greedy
    assert np.mean([c.logps.mean() for c in flat(hot)]) < -2.5


KINDS = {
    "few slots": {"slots": 5},
    "pages": {"cache": "paged"},
    "pages, few slots": {"cache": "paged", "slots": 3},
    "pages that run out": {"cache": "paged", "cache_gb": 12 * 4 * 2 * 2 * 8 * 2 * 4e-9},  # 12 pages of GQA's
    "drafts": {"drafts": "ngram", "num_drafts": 3},
    "drafts, pages, few slots": {"drafts": "ngram", "num_drafts": 2, "cache": "paged", "slots": 5, "segment": 2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_same_tokens_whatever_the_slots_the_cache_and_the_drafts(policy, kind):
    want, counts = policy.generate(max_new_tokens=18), Counter()
    got = policy.generate(max_new_tokens=18, engine=policy.engine(**KINDS[kind]), counts=counts)
    assert_same(got, want, atol=1e-5)
    if kind == "pages that run out":
        assert counts["evictions"] > 0
    if "few slots" in kind:
        assert counts["busy_tokens"] < counts["tokens"]


class TestRecordedExperts:
    """They are those that the trainer chooses for the same tokens, but for the last, which the sampler never runs."""

    def check(self, v3, prompt, completion):
        tokens, length = [*prompt, *completion.token_ids][:-1], len(prompt) + len(completion.token_ids) - 1
        want = v3.experts(v3.params, np.array([tokens + [0] * (40 - length)]), np.arange(40)[None] < length)
        assert completion.experts.dtype == np.uint8
        np.testing.assert_array_equal(completion.experts, want[0, :length])

    @pytest.mark.parametrize("kind", KINDS)
    def test_of_every_token(self, v3, kind):
        options, counts = KINDS[kind] | {"record_routing": True}, Counter()
        if "cache_gb" in options:
            options["cache_gb"] = 8e-6  # 12 pages of V3's
        groups = v3.generate(max_new_tokens=18, engine=v3.engine(**options), counts=counts)
        for prompt, completions in zip(PROMPTS, groups, strict=True):
            for completion in completions[:2]:
                self.check(v3, prompt, completion)
        assert (counts["evictions"] > 0) == (kind == "pages that run out")
        assert all(completion.experts is None for completion in flat(v3.generate(max_new_tokens=2)))

    def test_of_an_answer_that_is_cut(self, v3):
        cut = request(is_finished=lambda tokens: 6 if len(tokens) >= 8 else None)
        (completion,) = v3.ask(cut, record_routing=True)
        assert len(completion.token_ids) == 6
        self.check(v3, cut.prompt, completion)

    def test_of_an_answer_that_is_carried_on_are_those_that_it_had(self, v3):
        session = v3.engine(segment=5, record_routing=True).open(v3.params, v3.buffers, num_slots=4, num_tokens=40)
        number = session.submit(request())
        session.step()
        so_far = session.unfinished()[number]
        assert so_far.experts.shape == (3 + 5 - 1, 1, 2)
        (got,) = v3.ask(request(so_far=dataclasses.replace(so_far, experts=so_far.experts + 1)), record_routing=True)
        np.testing.assert_array_equal(got.experts[:7], so_far.experts + 1)
        got.experts[:7] -= 1
        self.check(v3, request().prompt, got)

    def test_a_model_without_experts_is_refused(self, gqa):
        with pytest.raises(ValueError, match="engine.record_routing=True, but the model has num_experts=0"):
            gqa.engine(record_routing=True)


def test_drafts_make_more_than_a_token_a_step(gqa):
    """Greedy text of a tiny model repeats itself."""
    counts = Counter()
    options = {"temperature": 0.0, "stop_ids": (), "max_new_tokens": 40}
    want = gqa.generate(**options)
    assert_same(gqa.generate(engine=gqa.engine(drafts="ngram"), counts=counts, **options), want, atol=1e-5)
    assert counts["tokens"] > 1.5 * counts["row_steps"]


@pytest.mark.parametrize(
    "options", [pytest.param({}, marks=pytest.mark.slow), {"cache": "paged", "slots": 5}], ids=["dense", "paged"]
)
def test_drafts_by_mtp_change_no_token(mtp, options):
    for settings in ({}, {"temperature": 0.0}, {"top_p": 0.6}):
        want, counts = mtp.generate(max_new_tokens=14, **settings), Counter()
        engine = mtp.engine(drafts="mtp", **options)
        assert_same(mtp.generate(max_new_tokens=14, engine=engine, counts=counts, **settings), want, atol=1e-5)
        assert counts["tokens"] > counts["row_steps"]
    with pytest.raises(ValueError, match="engine.drafts='mtp', but the model has num_mtp_layers=0"):
        make_engine(make_model(GQA), EngineSpec(drafts="mtp"))


def test_drafts_keep_the_distribution(gqa):
    """Pearson's chi-square of the third token, whose distribution is exact by enumeration of the first two."""
    prompt, num_samples, counts = [5, 6, 7, 5, 6, 7, 5, 6], 8000, Counter()
    (group,) = gqa.generate(
        [prompt], engine=gqa.engine(drafts="ngram", num_drafts=2, segment=3), num_samples=num_samples, max_new_tokens=3,
        stop_ids=(), counts=counts, key=jax.random.key(7),
    )  # fmt: skip
    assert counts["tokens"] > 1.005 * counts["row_steps"]  # some drafts are kept
    firsts = np.stack(np.meshgrid(np.arange(48), np.arange(48), indexing="ij"), -1).reshape(-1, 2)
    tokens = np.concatenate([np.tile(prompt, (48 * 48, 1)), firsts], axis=1)
    positions, segments = np.broadcast_to(np.arange(10), tokens.shape), np.ones_like(tokens)
    inputs = {"positions_BT": positions, "segments_BT": segments}
    hidden, _, _ = gqa.model.hidden(gqa.params, gqa.buffers, tokens, **inputs)
    probs = np.asarray(jax.nn.softmax(gqa.model.logits(gqa.params, hidden[:, 7:]) / 0.9), np.float64)
    of_firsts = probs[np.arange(48 * 48), 0, firsts[:, 0]] * probs[np.arange(48 * 48), 1, firsts[:, 1]]
    expected = num_samples * of_firsts @ probs[:, 2]
    observed = np.bincount([completion.token_ids[2] for completion in group], minlength=48)
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


def test_a_slot_that_is_free_is_taken_by_the_next_request(gqa):
    """Log-normal lengths: nine of ten slot steps make a token until the queue is empty."""
    lengths = np.clip(np.random.default_rng(0).lognormal(2.5, 0.8, 96), 1, 80).astype(int).tolist()
    counts = Counter()
    prompts = [[index % 40 + 1] for index in range(96)]
    options = {"max_new_tokens": lengths, "stop_ids": (), "num_samples": 1, "counts": counts}
    completions = gqa.generate(prompts, engine=gqa.engine(slots=8, segment=16), **options)
    assert [len(group[0].token_ids) for group in completions] == lengths
    assert counts["busy_row_steps"] >= 0.9 * counts["busy_slot_steps"] and counts["busy_tokens"] > 0.8 * sum(lengths)


def test_samples_of_a_prompt_are_prefilled_once(gqa, monkeypatch):
    for options in ({}, {"cache": "paged"}, {"slots": 3}):
        engine, prefilled = gqa.engine(**options), []
        name = "prefill_paged" if options.get("cache") else "prefill_dense"
        prefill = getattr(engine.programs, name)

        def watch(*arguments, prefill=prefill, prefilled=prefilled, **options):
            prefilled.append(np.asarray(arguments[-1] if not options else arguments[-2]))
            return prefill(*arguments, **options)

        monkeypatch.setattr(engine.programs, name, watch)
        gqa.generate(engine=engine, num_samples=6)
        assert sorted(np.concatenate(prefilled)[np.concatenate(prefilled) > 0]) == [2, 5, 7], options
        monkeypatch.undo()


def test_few_programs_are_compiled(v3):
    engine = engine_module.Engine(v3.model, SmallPages(segment=5))
    engine.programs = engine_module.make_programs.__wrapped__(v3.model, "none")
    for temperature, stop_ids in ((0.9, STOP), (0.5, (3,)), (1.3, (0, 1, 2)), (2.0, tuple(range(8)))):
        for prompts in (PROMPTS, [[1, 2], [3] * 5, [4], [4] * 7]):
            v3.generate(prompts, engine=engine, temperature=temperature, stop_ids=stop_ids)
    # weights by layer, the cache, prefill, insertion, and decode of 16, 8 and 4 slots, with what moves slots twice
    assert 5 <= engine.num_compilations() <= 9


def test_an_answer_goes_on_from_what_was_sampled_before(policy):
    """As carried-over samples do; and their tokens so far keep their log-probs."""
    (want,) = policy.ask(request())
    session = policy.engine(segment=5).open(policy.params, policy.buffers, num_slots=4, num_tokens=40)
    number = session.submit(request())
    assert session.step() == [] and len(session.tokens_of(number)) == 5
    so_far = session.unfinished()[number]
    assert so_far.stop_reason == "unfinished" and len(so_far.token_ids) == 5
    (got,) = policy.ask(request(so_far=dataclasses.replace(so_far, logps=so_far.logps - 1)), request(seed=1))[:1]
    np.testing.assert_array_equal(got.token_ids, want.token_ids)
    np.testing.assert_allclose(got.logps[:5], want.logps[:5] - 1)
    np.testing.assert_allclose(got.logps[5:], want.logps[5:], atol=1e-5)


def test_tokens_depend_on_the_seed_alone_of_any_size(gqa):
    seeds = [0, 1, 2**32, 2**32 + 1, 2**80]
    (*alone,) = (gqa.ask(request(seed=seed))[0].token_ids.tolist() for seed in seeds)
    assert len({tuple(tokens) for tokens in alone}) == 5
    together = gqa.ask(*(request(seed=seed) for seed in reversed(seeds)), num_slots=2)
    assert [c.token_ids.tolist() for c in reversed(together)] == alone
    with pytest.raises(ValueError, match="a seed must be at least 0, got -1"):
        key_of(-1)


def test_requests_of_one_session_have_settings_of_their_own(gqa):
    settings = [Sampling(temperature=0), Sampling(top_k=1), Sampling(temperature=1.3), Sampling(top_p=0.5, min_p=0.1)]
    requests = [request(sampling=sampling, max_new_tokens=5 + i) for i, sampling in enumerate(settings)]
    together = gqa.ask(*requests)
    for one, completion in zip(requests, together, strict=True):
        np.testing.assert_array_equal(gqa.ask(one)[0].token_ids, completion.token_ids)
    assert together[0].token_ids.tolist() == together[1].token_ids.tolist()[:5]  # the likeliest token, twice
    assert together[2].sampled_logps is None and (together[3].sampled_logps >= together[3].logps - 1e-6).all()
    np.testing.assert_array_equal(together[0].sampled_logps, 0)


def test_penalties_act_on_what_prompt_and_answer_have(gqa):
    greedy = Sampling(temperature=0)
    (repeats,) = gqa.ask(request(sampling=greedy, max_new_tokens=24))
    assert len(set(repeats.token_ids.tolist())) < 20
    (never,) = gqa.ask(request(sampling=dataclasses.replace(greedy, repetition_penalty=1e6), max_new_tokens=24))
    assert len({5, 40, 17} | set(never.token_ids.tolist())) == 27
    for name in ("presence_penalty", "frequency_penalty"):
        (less,) = gqa.ask(request(sampling=dataclasses.replace(greedy, **{name: 2.0}), max_new_tokens=24))
        assert len(set(less.token_ids.tolist())) > len(set(repeats.token_ids.tolist()))


def test_a_mask_decides_token_by_token(gqa):
    def alternates(tokens):
        return np.isin(np.arange(48), [3, 4] if len(tokens) % 2 else [8, 9])

    masked, free = gqa.ask(request(allowed=alternates), request(seed=3), drafts="ngram")
    assert set(masked.token_ids[::2].tolist()) <= {8, 9} and set(masked.token_ids[1::2].tolist()) <= {3, 4}
    assert (masked.sampled_logps > masked.logps).all()
    np.testing.assert_array_equal(free.token_ids, gqa.ask(request(seed=3))[0].token_ids)
    (failed,) = gqa.ask(request(allowed=lambda tokens: np.zeros(48, bool)))
    assert failed.stop_reason == "failed" and len(failed.token_ids) == 0


def test_an_answer_ends_where_its_text_says_so(gqa):
    (want,) = gqa.ask(request())

    def ends_before(tokens):  # a stop string that spans tokens 7 and 8, which goes with both
        return 6 if len(tokens) >= 8 else None

    (cut,) = gqa.ask(request(is_finished=ends_before))
    assert (cut.stop_reason, cut.token_ids.tolist()) == ("stop", want.token_ids[:6].tolist())
    assert len(cut.logps) == 6


def test_a_request_that_fails_leaves_the_others_alone(gqa, v3):
    """Token 30's embedding is not a number, so neither is what follows it."""
    params = v3.params | {"embed_VD": v3.params["embed_VD"].at[30].set(np.nan)}
    session = v3.engine().open(params, v3.buffers, num_slots=2, num_tokens=40)
    bad, good = session.submit(request([30, 2])), session.submit(request(allowed=lambda _: np.arange(48) != 30))
    done = {}
    while session.is_busy:
        done |= dict(session.step())
    assert done[bad].stop_reason == "failed" and done[good].stop_reason == "length"
    assert np.isfinite(done[good].logps).all()
    params = jax.tree.map(lambda array: jnp.full_like(array, np.nan), gqa.params)
    with pytest.raises(FloatingPointError, match="not finite in 16 of 16 completions"):
        gqa.generate(trees=(params, gqa.buffers))


def test_a_request_can_be_given_up(gqa):
    session = gqa.engine().open(gqa.params, gqa.buffers, num_slots=1, num_tokens=40)
    first, second, third = (session.submit(request(seed=seed)) for seed in range(3))
    session.step()
    session.cancel(first)
    session.cancel(third)
    done = {}
    while session.is_busy:
        done |= dict(session.step())
    assert list(done) == [second]
    np.testing.assert_array_equal(done[second].token_ids, gqa.ask(request(seed=1))[0].token_ids)


BAD = [
    ({"prompt": []}, "a prompt needs at least one token"),
    ({"prompt": [3, 48]}, "token id 48 of a prompt is not in the vocabulary of 48"),
    ({"prompt": [-1]}, "token id -1 of a prompt is not in the vocabulary of 48"),
    ({"prompt": [1] * 30}, "a prompt of 30 tokens and 12 new ones are more than 40"),
    ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
    ({"stop_ids": tuple(range(9))}, "at most 8 stop ids, got 9"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_a_bad_request_is_refused(gqa, change, message):
    with pytest.raises(ValueError, match=message):
        gqa.ask(request(**change))


BAD_SETTINGS = [
    ({"temperature": -0.1}, "temperature must be at least 0, got -0.1"),
    ({"temperature": float("nan")}, "temperature must be at least 0, got nan"),
    ({"top_p": 0.0}, "top_p must be positive, got 0.0"),
    ({"top_p": 1.5}, "top_p must be in \\[-inf, 1\\], got 1.5"),
    ({"top_k": -1}, "top_k must be at least 0, got -1"),
    ({"min_p": 1.1}, "min_p must be in \\[0, 1\\], got 1.1"),
    ({"presence_penalty": 3.0}, "presence_penalty must be in \\[-2, 2\\], got 3.0"),
    ({"repetition_penalty": 0.0}, "repetition_penalty must be positive, got 0.0"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


def test_a_memory_that_holds_no_sequence_is_refused(gqa):
    with pytest.raises(ValueError, match=r"engine\.cache_gb=1e-06 holds no sequence of 40 tokens: "):
        gqa.ask(request(), cache_gb=1e-6)
    with pytest.raises(
        ValueError, match=r"engine\.cache_gb=1e-05 holds 9 pages of 4 tokens; a sequence of 40 tokens needs 11"
    ):
        gqa.ask(request(), cache="paged", cache_gb=1e-5)


def test_memory_decides_how_many_are_sampled_at_a_time(gqa):
    counts = Counter()
    of_row = 2 * 2 * 8 * 2 * 4 * 24 * 1e-9  # bytes of GQA's keys and values of 24 tokens
    gqa.generate(engine=gqa.engine(cache_gb=5.5 * of_row), counts=counts, stop_ids=(), max_new_tokens=16)
    assert counts["slot_steps"] / counts["steps"] <= 5
    assert counts["tokens"] == 16 * 16


def test_engines_of_the_same_settings_are_one():
    model = make_model(GQA)
    engine = make_engine(model, EngineSpec())
    assert engine is make_engine(make_model(GQA), EngineSpec())
    assert engine is not make_engine(model, EngineSpec(segment=6))
    assert Engine(model, EngineSpec()).programs is engine.programs


def test_a_page_is_a_multiple_of_what_the_kernels_need():
    with pytest.raises(ValueError, match="page_size=192 must be a multiple of 128"):
        EngineSpec(page_size=192)
