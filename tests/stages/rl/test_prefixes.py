"""Prompts that a row holds once give the losses, gradients and metrics of outputs that are packed each by itself."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.data.packing import pack
from r1jax.models.transformer import make_model
from r1jax.rollout.records import Completion, Group, Rollout
from r1jax.stages.rl import phase
from r1jax.stages.rl.phase import make_microbatches
from r1jax.stages.rl.stage import make_logprob_pass, make_loss, with_logps
from r1jax.stages.training import hidden_of, loss_weights, mtp_loss
from r1jax.tasks.problem import Problem
from tests.stages.rl.test_stage import tiny_config
from tests.tiny import GQA, V3, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

PROBLEM = Problem(({"role": "user", "content": "?"},), "1", {"task": "none"})
MLA = dataclasses.replace(V3, num_layers=2, num_dense_layers=0, num_experts=0, num_groups=0, num_groups_per_token=0)
MOE = dataclasses.replace(V3, num_layers=2)
ROW = 28


def random_groups(seed=0):
    """Groups of one to five outputs; a prompt of one token; more than a row holds; a reward that failed; an output cut off."""
    rng = np.random.default_rng(seed)
    groups = []
    for prompt_length, num_outputs in ((9, 5), (1, 3), (6, 1), (2, 2), (12, 4), (4, 2)):
        prompt = rng.integers(1, 48, prompt_length).astype(np.int32)
        rollouts = []
        for output in range(num_outputs):
            ids = rng.integers(1, 48, rng.integers(1, 16)).astype(np.int32)
            logps = -rng.uniform(1, 5, len(ids)).astype(np.float32)
            reward = np.nan if (prompt_length, output) == (12, 1) else 1.0
            done = Completion(ids, logps, "length" if (prompt_length, output) == (9, 2) else "stop")
            rollouts.append(Rollout(prompt, done, "", 0, {"r": reward}, reward, False, None))
        groups.append(Group(PROBLEM, tuple(rollouts)))
    return groups, [rng.normal(size=len(group.rollouts)).astype(np.float32) for group in groups]


def packed_apart(groups, advantages, spec):
    """``make_microbatches`` without groups."""
    sequences = [
        phase._sequence(rollout, advantage, spec)
        for group, of_group in zip(groups, advantages, strict=True)
        for rollout, advantage in zip(group.rollouts, of_group, strict=True)
    ]
    arrays, _ = pack(sequences, length=spec.tokens_per_row, rows_multiple=spec.rows_per_microbatch)
    scalars = {n: v for n, v in make_microbatches(groups, advantages, spec)[0].items() if np.ndim(v) == 0}
    rows = range(0, len(arrays["tokens"]), spec.rows_per_microbatch)
    return [{n: a[row : row + spec.rows_per_microbatch] for n, a in arrays.items()} | scalars for row in rows]


def spec_of(**changes):
    sizes = {"row_length": ROW, "rows_per_microbatch": 2, "max_prompt_tokens": 1, "max_new_tokens": 1}
    return tiny_config(
        **sizes, temperature=0.8, mask_truncated=True, kl_coef=0.1, clip_low=0.2, clip_high=0.2, **changes
    )


def summed(values):
    return functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), values)


def check_near(got, want):
    """Within 1e-5 of the largest number of all."""
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(want))
    assert np.isfinite(largest) and largest > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest), got, want)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (GQA, {}),
        (dataclasses.replace(GQA, remat="full"), {"aggregation": "token", "ratio_level": "sequence"}),
        (MLA, {"importance_cap": 2.0}),
        (MOE, {"balance_weight": 0.1, "ratio_level": "sequence"}),
    ],
    ids=["gqa", "gqa, remat", "mla", "moe"],
)
def test_an_update_is_that_of_outputs_packed_apart(config, options):
    spec, model = spec_of(**options), make_model(config)
    (params, buffers), others = shaken(model), [shaken(model, seed) for seed in (1, 2)]
    nearby = jax.tree.map(lambda a, b: a + 0.01 * b, params, others[0][0])  # what sampled
    old, reference = {"params": nearby, "buffers": buffers}, dict(zip(("params", "buffers"), others[1], strict=True))
    score, loss = make_logprob_pass(model), jax.jit(jax.value_and_grad(make_loss(model, spec), has_aux=True))

    def update(batches):
        batches = [with_logps(score, old, reference, batch | {"is_on_policy": np.float32(0)}) for batch in batches]
        results = [loss(params, buffers, batch) for batch in batches]
        maxima = [metrics.pop("max") for (_, metrics), _ in results]
        maxima = {name: max(float(of_batch[name]) for of_batch in maxima) for name in maxima[0]}
        counts = summed([metrics.pop("expert_counts") for (_, metrics), _ in results])
        metrics = summed([metrics for (_, metrics), _ in results])
        return summed([value for (value, _), _ in results]), summed([g for _, g in results]), metrics, maxima, counts

    groups, advantages = random_groups()
    together, apart = make_microbatches(groups, advantages, spec), packed_apart(groups, advantages, spec)
    tokens = [sum((batch["segment_ids"] > 0).sum() for batch in batches) for batches in (together, apart)]
    assert tokens[0] < tokens[1] and len(together) <= len(apart)
    assert max(batch["prefix_ids"].max() for batch in together) > 1  # a row with two prefixes
    (*got, got_counts), (*want, want_counts) = update(together), update(apart)
    for values in zip(got, want, strict=True):
        check_near(*values)
    assert got[2]["ratio/mean"] != got[2]["num_tokens"] and got[2]["kl"] > 0  # off-policy
    if config is MOE:
        assert got[2]["moe/balance_loss"] > 0
        leaves = [jax.tree.leaves(counts["moe"])[0].sum() for counts in (got_counts, want_counts)]
        assert leaves == [2 * number for number in tokens]  # two experts a token, each token once


def test_multi_token_prediction_is_that_of_outputs_packed_apart():
    """Two depths, so that three tokens of a prompt are repeated in each output."""
    spec, config = spec_of(), dataclasses.replace(V3, num_layers=1, num_dense_layers=0, num_mtp_layers=2)
    model = make_model(config)
    params, buffers = shaken(model)

    @jax.jit
    @jax.value_and_grad
    def loss(params, batch):
        hidden_BTD, _, _ = hidden_of(model, params, buffers, batch)
        value, aux = mtp_loss(model, params, buffers, hidden_BTD, batch, loss_weights(batch, spec), balance=True)
        return value + 0.01 * aux["balance_L"].sum()

    groups, advantages = random_groups()
    together = make_microbatches(groups, advantages, spec, num_ahead=3)
    got, want = (summed([loss(params, b) for b in of]) for of in (together, packed_apart(groups, advantages, spec)))
    check_near(*(values[0] for values in (got, want)))
    check_near(*(values[1] for values in (got, want)))
