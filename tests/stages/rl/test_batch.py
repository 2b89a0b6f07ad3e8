import dataclasses

import jax
import numpy as np
import pytest

from r1jax.models.transformer import make_model
from r1jax.objectives.sums import mean_metrics
from r1jax.rollout.engine import Engine
from r1jax.rollout.records import Completion, Group, Rollout
from r1jax.sharding import make_mesh, tree_shardings
from r1jax.specs.rollout import EngineSpec
from r1jax.stages.rl.mismatch import divided_by_shares, mismatch_metrics
from r1jax.stages.rl.phase import advantages_of, make_microbatches, split_by_question, teaching
from r1jax.stages.rl.stage import build, make_logprob_pass, make_loss, update_on_groups, with_logps
from r1jax.tasks.problem import Problem
from tests.stages.rl.test_stage import tiny_config
from tests.tiny import V3, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

PROBLEM = Problem(({"role": "user", "content": "?"},), "1", {"task": "none"})


def rollout(prompt, completion, *, reward=0.0, reason="stop", logps=None, experts=None):
    logps = np.arange(1, len(completion) + 1) / -10 if logps is None else logps
    done = Completion(np.array(completion, np.int32), np.array(logps, np.float32), reason, experts=experts)
    return Rollout(np.array(prompt, np.int32), done, "", 0, {"r": reward}, reward, False, None)


def literal_groups():
    """Two questions of two outputs; 8, 6, 5 and 4 inputs."""
    return [
        Group(PROBLEM, (rollout([1, 2, 3], [4, 5, 6, 7, 8, 9], reward=1.0), rollout([1, 2, 3], [4, 5, 6, 0]))),
        Group(PROBLEM, (rollout([7], [8, 9, 8, 9, 8], reward=0.5, reason="length"), rollout([7], [8, 9, 8, 0]))),
    ]


def batches(groups, *, row_length=12, rows=1, mask_truncated=False, **options):
    spec = tiny_config(
        row_length=row_length, rows_per_microbatch=rows, temperature=0.8, mask_truncated=mask_truncated,
        max_prompt_tokens=1, max_new_tokens=1, **options,
    )  # fmt: skip
    return make_microbatches(groups, advantages_of(groups, normalization="std"), spec)


def sequences_of(microbatches):
    """Fields of every packed sequence with its prefix, padding aside, but for the ids."""
    found = []
    for batch in microbatches:
        names = [name for name, v in batch.items() if np.ndim(v) == 2 and name not in ("segment_ids", "prefix_ids")]
        for row, (segments, prefixes) in enumerate(zip(batch["segment_ids"], batch["prefix_ids"], strict=True)):
            for segment in set(segments) - set(prefixes) - {0}:
                (prefix,) = set(prefixes[segments == segment])
                place = (segments == segment) | ((segments == prefix) & (prefix > 0))
                found.append({name: batch[name][row][place].tolist() for name in names})
    return sorted(found, key=lambda fields: -len(fields["tokens"]))


def test_fields_of_each_sequence_are_literal():
    first, second, third, fourth = sequences_of(batches(literal_groups(), rows=2))
    assert first["tokens"] == [1, 2, 3, 4, 5, 6, 7, 8] and first["targets"] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert first["mask"] == [0, 0, 1, 1, 1, 1, 1, 1]  # the last prompt token predicts the first sampled one
    np.testing.assert_allclose(first["sampler_logp"], [0, 0, -0.1, -0.2, -0.3, -0.4, -0.5, -0.6], rtol=1e-6)
    assert first["positions"] == list(range(8))
    np.testing.assert_allclose(first["advantage"], 1.0, rtol=1e-4)
    np.testing.assert_allclose(second["advantage"][2:], -1.0, rtol=1e-4)  # of the prompt it does not matter
    assert second["targets"] == [2, 3, 4, 5, 6, 0] and second["mask"] == [0, 0, 1, 1, 1, 1]  # the end token counts
    assert third["tokens"] == [7, 8, 9, 8, 9] and third["mask"] == [1] * 5
    assert fourth["targets"] == [8, 9, 8, 0]
    np.testing.assert_allclose(fourth["advantage"], -1.0, rtol=1e-4)


def test_a_prompt_is_packed_once_a_row_without_its_last_token():
    (batch,) = batches(literal_groups(), rows=1, row_length=21)
    assert batch["tokens"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 3, 4, 5, 6, 7, 8, 9, 8, 9, 7, 8, 9, 8]]
    assert batch["segment_ids"].tolist() == [[1, 1, *[2] * 6, *[3] * 4, *[4] * 5, *[5] * 4]]
    assert batch["prefix_ids"].tolist() == [[0, 0, *[1] * 10, *[0] * 9]]  # a prompt of one token is none's prefix
    assert batch["positions"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 2, 3, 4, 5, 0, 1, 2, 3, 4, 0, 1, 2, 3]]
    assert batch["targets"][0, :9].tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 4]
    split = batches(literal_groups()[:1], rows=2, row_length=8)[0]  # a row has no room for both outputs
    assert split["segment_ids"].tolist() == [[1, 1, 2, 2, 2, 2, 2, 2], [1, 1, 2, 2, 2, 2, 0, 0]]
    assert split["prefix_ids"].tolist() == [[0, 0, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 0, 0]]


def test_counts_are_those_of_the_whole_update_in_every_microbatch():
    packed = batches(literal_groups(), rows=2, row_length=8)
    assert len(packed) == 2 and all(batch["tokens"].shape == (2, 8) for batch in packed)  # 8, 6, 5 and 4: four rows
    for batch in packed:
        assert (batch["num_sequences"], batch["num_tokens"], batch["temperature"]) == (4, 19, np.float32(0.8))
    assert sum(batch["mask"].sum() for batch in packed) == 19
    assert len(batches(literal_groups(), rows=1, row_length=12)) == 2  # packed: 8 + 4 and 6 + 5


def test_truncated_outputs_are_masked_and_not_counted():
    (batch,) = batches(literal_groups(), rows=2, mask_truncated=True)
    assert (batch["num_sequences"], batch["num_segments"], batch["num_tokens"]) == (3, 4, 14)
    assert sequences_of([batch])[2]["mask"] == [0] * 5
    (batch,) = batches(literal_groups(), rows=2, mask_truncated=False)
    assert (batch["num_sequences"], batch["num_tokens"]) == (4, 19)


def test_an_output_whose_verifier_failed_is_in_no_count_and_has_no_target():
    """What is left is a batch of the other outputs alone, but for the router's balance, which knows no targets."""
    whole = literal_groups()
    failed = Group(PROBLEM, (rollout([7], [8, 9, 8, 0], reward=np.nan), rollout([7], [9, 9, 0], reward=np.nan)))
    spoilt = Group(PROBLEM, (*whole[0].rollouts, rollout([1, 2, 3], [4, 4, 4, 0], reward=np.nan)))
    one = Group(PROBLEM, (*whole[1].rollouts, rollout([7], [5, 0], reward=np.nan)))
    (clean,) = batches(whole, rows=2)
    mixed = batches([spoilt, one, Group(PROBLEM, (*failed.rollouts, failed.rollouts[0]))], rows=1)
    for name in ("num_sequences", "num_tokens"):
        assert {float(batch[name]) for batch in mixed} == {float(clean[name])}
    assert mixed[0]["num_segments"] == 9 and sum(batch["mask"].sum() for batch in mixed) == 19
    left = [[f for f in sequences_of(of) if any(f["mask"])] for of in (mixed, [clean])]
    assert len(left[0]) == 4 and left[0] == left[1]


def test_a_sequence_longer_than_a_row_raises():
    with pytest.raises(ValueError, match="8 tokens, longer than a row of 7"):
        batches(literal_groups(), row_length=7)


def test_a_group_of_equal_rewards_has_advantage_zero():
    equal = Group(PROBLEM, (rollout([1], [2], reward=0.3), rollout([1], [3], reward=0.3)))
    assert teaching([equal, literal_groups()[0]]).tolist() == [False, True]
    np.testing.assert_array_equal(advantages_of([equal], normalization="std"), 0.0)
    (batch,) = batches([equal])
    assert batch["num_sequences"] == 2  # kept: the mean is over all


def test_questions_are_split_into_equal_parts_that_cover_all():
    parts = split_by_question(12, 3, np.random.default_rng(0))
    assert [len(part) for part in parts] == [4, 4, 4]
    assert sorted(np.concatenate(parts)) == list(range(12))
    assert np.concatenate(parts).tolist() != list(range(12))


@pytest.fixture(scope="module")
def on_policy():
    """(loss function, params, buffers, rollouts' groups) of a tiny V3 that sampled its own rollouts at 0.8."""
    model = make_model(dataclasses.replace(V3, num_layers=2))
    params, buffers = shaken(model)
    prompts = [[5, 40, 17], [7]]
    engine = Engine(model, EngineSpec(prompt_bucket=4, segment=8, record_routing=True))
    samples = engine.generate(
        params, buffers, prompts, num_samples=4, max_new_tokens=8, temperature=0.8, stop_ids=(0, 11, 23),
        key=jax.random.key(0),
    )  # fmt: skip
    groups = [
        Group(
            PROBLEM,
            tuple(
                rollout(prompt, c.token_ids, reward=float(i), reason=c.stop_reason, logps=c.logps, experts=c.experts)
                for i, c in enumerate(completions)
            ),
        )
        for prompt, completions in zip(prompts, samples, strict=True)
    ]
    return model, params, buffers, groups


@pytest.mark.parametrize("mask_truncated", [False, True])
def test_first_on_policy_update_has_ratio_one_and_clips_nothing(on_policy, mask_truncated):
    """Invariant 4, with sequences packed and a narrow clip; old log-probs are the trainer's, and the sampler's agree."""
    model, params, buffers, groups = on_policy
    microbatches = batches(groups, row_length=16, rows=3, mask_truncated=mask_truncated)
    assert max(batch["segment_ids"].max() for batch in microbatches) > 1
    spec = tiny_config(clip_low=0.01, clip_high=0.01, kl_coef=0.1)
    score, loss = make_logprob_pass(model), jax.jit(make_loss(model, spec))
    total, sums = 0.0, {}
    for batch in microbatches:
        old_logp = score(params, buffers, batch)
        logps = {"old_logp": old_logp, "ref_logp": old_logp, "is_on_policy": np.float32(0)}
        value, metrics = loss(params, buffers, batch | logps)
        total += float(value)
        maxima = metrics.pop("max")
        assert abs(float(maxima["sampling/sampling_logp_difference/max"])) < 1e-5
        assert float(maxima["ratio/max"]) in (0.0, pytest.approx(1.0, abs=1e-5))  # 0: nothing counts in it
        assert metrics.pop("expert_counts")["moe"]["ffn"]["router_bias_E"].shape == (1, 8)
        sums = {name: sums.get(name, 0.0) + float(metrics[name]) for name in metrics}
    assert sums["num_tokens"] == microbatches[0]["num_tokens"]
    assert sums["ratio/mean"] / sums["num_tokens"] == pytest.approx(1.0, abs=1e-5)
    assert sums["clip_ratio/low_mean"] == sums["clip_ratio/high_mean"] == sums["clip_ratio/region_mean"] == 0.0
    assert sums["kl"] == pytest.approx(0.0, abs=1e-5)
    # With ratio 1 the loss is minus the mean advantage of the counted outputs.
    advantages = advantages_of(groups, normalization="std")
    counted = np.array(
        [[not mask_truncated or r.completion.stop_reason == "stop" for r in group.rollouts] for group in groups]
    )
    assert counted.any() and counted.all() != mask_truncated
    assert total == pytest.approx(-advantages[counted].mean(), abs=1e-5)


@pytest.mark.parametrize("options", [{"importance_cap": 1.5}, {"ratio_level": "sequence", "kl_estimator": "k3_is"}])
def test_on_policy_the_loss_needs_no_old_logps(on_policy, options):
    """It computes them itself: loss, gradient and metrics are those with the separate pass's, and a ratio is 1 exactly."""
    model, params, buffers, groups = on_policy
    loss = jax.jit(jax.value_and_grad(make_loss(model, tiny_config(kl_coef=0.1, **options)), has_aux=True))
    score, nearby = make_logprob_pass(model), jax.tree.map(lambda a: 1.01 * a, params)
    for batch in batches(groups, row_length=16, rows=3):
        batch["sampler_logp"] = batch["sampler_logp"] - 0.3 * batch["mask"]  # as if the sampler were another
        ref_logp = score(nearby, buffers, batch)
        passed = {"old_logp": score(params, buffers, batch), "is_on_policy": np.float32(0)}
        skipped = {"old_logp": np.full_like(ref_logp, np.nan), "is_on_policy": np.float32(1)}
        results = [loss(params, buffers, batch | logps | {"ref_logp": ref_logp}) for logps in (passed, skipped)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)
        (_, metrics), _ = results[1]
        assert metrics["ratio/mean"] == metrics["num_tokens"] and metrics["max"]["ratio/max"] == 1
        assert metrics["sampling/sampling_logp_difference/mean"] > 0.2 * metrics["num_tokens"] > 0


REPLAY = {"replay_routing": True, "engine": {"record_routing": True}}


def with_other_experts(groups):
    """The groups as if the sampler had taken other experts, each the next one."""

    def changed(rollout):
        completion = dataclasses.replace(rollout.completion, experts=(rollout.completion.experts + 1) % V3.num_experts)
        return dataclasses.replace(rollout, completion=completion)

    return [dataclasses.replace(group, rollouts=tuple(map(changed, group.rollouts))) for group in groups]


def test_the_policy_is_trained_with_the_experts_that_sampled(on_policy):
    """Loss, gradient, counts and old log-probs are of those; the reference takes its own."""
    model, params, buffers, groups = on_policy
    weights, score = {"params": params, "buffers": buffers}, make_logprob_pass(model)

    def result(groups, **options):
        spec = tiny_config(**options)
        loss, sums, logps = jax.jit(jax.value_and_grad(make_loss(model, spec), has_aux=True)), [], []
        for batch in batches(groups, row_length=24, rows=2, **options):
            batch = with_logps(score, weights, weights, batch | {"is_on_policy": np.float32(0)})
            logps.append({name: batch[name] * batch["mask"] for name in ("old_logp", "ref_logp")})
            sums.append(loss(params, buffers, batch))
        return logps, sums

    def is_same(got, want):
        return all(np.allclose(a, b, atol=1e-4) for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True))

    as_sampled, replayed = result(groups), result(groups, **REPLAY)
    assert is_same(replayed, as_sampled)
    (logps, sums), (other_logps, other_sums) = as_sampled, result(with_other_experts(groups), **REPLAY)
    assert is_same([of["ref_logp"] for of in other_logps], [of["ref_logp"] for of in logps])
    assert not is_same([of["old_logp"] for of in other_logps], [of["old_logp"] for of in logps])
    for ((_, metrics), gradient), ((_, want_metrics), want_gradient) in zip(other_sums, sums, strict=True):
        counts, want_counts = (m["expert_counts"]["moe"]["ffn"]["router_bias_E"] for m in (metrics, want_metrics))
        np.testing.assert_array_equal(counts, np.roll(want_counts, 1))
        assert metrics["ratio/mean"] == pytest.approx(float(metrics["num_tokens"]), rel=1e-4)
        assert not is_same(gradient, want_gradient)
    others = result(with_other_experts(groups))  # recorded, but not replayed
    assert is_same(others[0], logps)
    names = [name for name in others[1][0][0][1] if name.startswith("sampling/routing_difference")]
    assert names == ["sampling/routing_difference/moe_00"]
    for of, share in ((sums, 0.0), (others[1], 1.0), (other_sums, 1.0)):
        for (_, metrics), _ in of:
            assert metrics[names[0]] == share * metrics["num_tokens"] > -1
    with pytest.raises(ValueError, match="replay_routing=True needs engine.record_routing=True"):
        tiny_config(replay_routing=True)


def test_the_sampler_is_compared_by_depth_of_context():
    """Of a longest sequence of 16 tokens, depths begin at 0, 2, 4 and 8."""
    counted = np.array([[True, True, True, False, True]])
    batch = {"positions": np.array([[0, 2, 4, 6, 6]]), "sampler_logp": np.array([[-1.0, -1.0, -1.0, -1.0, -2.0]])}
    difference = np.array([[0.0, 0.5, -0.2, 9.0, 0.4]], np.float32)
    sums = mismatch_metrics(batch, batch["sampler_logp"] + difference, counted, {}, longest=16)
    row = divided_by_shares(mean_metrics(sums | {"num_tokens": 4}))
    k3 = np.exp(difference) - 1 - difference
    want = {"sampling/from_0/": [[0]], "sampling/from_2/": [[1]], "sampling/from_4/": [[2, 4]]}
    for prefix, ((*tokens,),) in want.items():
        assert row[f"{prefix}share"] == len(tokens) / 4
        assert row[f"{prefix}logp_difference_mean"] == pytest.approx(np.abs(difference[0, tokens]).mean())
        assert row[f"{prefix}logp_difference_max"] == pytest.approx(np.abs(difference[0, tokens]).max())
        assert row[f"{prefix}mismatch_kl"] == pytest.approx(k3[0, tokens].mean(), rel=1e-4)
    assert len(row) == 1 + 3 * 4  # no token is 8 deep


@pytest.mark.parametrize("num_updates", [1, 2])
def test_an_update_passes_over_the_old_logps_of_the_first_alone(on_policy, num_updates, compiled):
    model, params, buffers, groups = on_policy
    spec = tiny_config(updates_per_phase=num_updates, row_length=32, max_prompt_tokens=1, max_new_tokens=1)
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        layouts = (tree_shardings(*trees, mesh) for trees in zip(model.logical_axes(), (params, buffers), strict=True))
        params, buffers = map(jax.device_put, (params, buffers), layouts)
        state, update, score = build(spec, model, params, buffers)
        policy, scored, new_programs = jax.tree.leaves(state["params"])[0], [], []

        def counted_score(params, buffers, batch):
            scored.append(jax.tree.leaves(params)[0] is policy)
            return score(params, buffers, batch)

        def counted_accumulate(*arguments):
            before = len(compiled)
            sums = update.accumulate(*arguments)
            new_programs.append(len(compiled) - before)
            return sums

        counted = update._replace(accumulate=counted_accumulate)
        advantages = advantages_of(groups, normalization="mean")
        _, row, _ = update_on_groups(groups, advantages, state, counted, counted_score, spec, updates=0)
    assert (sum(scored), len(scored) - sum(scored)) == (num_updates - 1, num_updates)  # policy, reference
    assert (row["ratio/max"] == 1) == (num_updates == 1)
    assert new_programs == [1, 0][:num_updates]  # one program for both kinds of update


@pytest.fixture
def compiled():
    """Grows by one for each program that is compiled."""
    programs = []

    def listener(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            programs.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    yield programs
    jax.monitoring.unregister_event_duration_listener(listener)


def test_truncated_outputs_may_be_left_out_of_the_baseline():
    counted = [rollout([1], [2, 3], reward=1.0), rollout([1], [2, 3], reward=0.0)]
    cut = rollout([1], [2, 3], reward=4.0, reason="length")
    groups = [Group(PROBLEM, (*counted, cut))]
    with_cut = advantages_of(groups, normalization="mean")
    np.testing.assert_allclose(with_cut, [[1 - 5 / 3, -5 / 3, 4 - 5 / 3]], rtol=1e-6)
    without = advantages_of(groups, normalization="mean", without_truncated=True)
    np.testing.assert_allclose(without, [[0.5, -0.5, 0.0]])
    by_name = advantages_of(groups, normalization="mean", weights={"r": 1.0}, without_truncated=True)
    np.testing.assert_allclose(by_name, [[1.0, -1.0, 0.0]], atol=1e-5)
