"""GRPO against a numpy reference that goes sequence by sequence, and against literal numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.objectives.advantages import group_advantages
from r1jax.objectives.grpo import grpo_loss, truncated_importance
from r1jax.objectives.sums import add_metrics, mean_metrics, token_weights

LENGTHS = (3, 1, 4, 2, 5, 2)  # generated tokens; each sequence has one prompt token before them
ADVANTAGES = (1.5, -0.5, -1.0, 2.0, 0.0, -2.0)
BUDGET = 8  # tokens, of the aggregation "constant"
PLAIN = {"clip_low": 10.0, "clip_high": 10.0, "kl_coef": 0.1}

# Where each sequence lies: rows of sequence indices, in rows of T tokens, None an empty row.
ONE_PER_ROW = ([[0], [1], [2], [3], [4], [5]], 7)
PACKED = ([[4, 1], [2, 0], [3, 5]], 9)
ONE_ROW = ([[5, 3, 1, 0, 2, 4]], 24)


def sequences(seed=0):
    """Float64 log-probs of the generated tokens of each sequence, under every policy of the loss."""
    rng = np.random.default_rng(seed)
    made = []
    for length in LENGTHS:
        logp = -rng.exponential(size=length) - 0.1
        made.append(
            {
                "logp": logp,
                "old_logp": logp + 0.5 * rng.standard_normal(length),
                "ref_logp": logp + 0.5 * rng.standard_normal(length),
                "sampler_logp": logp + 0.5 * rng.standard_normal(length),
                "entropy": rng.exponential(size=length),
            }
        )
    return made


def reference_loss(
    items,
    *,
    clip_low,
    clip_high,
    kl_coef,
    aggregation="sequence",
    kl_estimator="k3",
    dual_clip=None,
    ratio_level="token",
    importance_cap=None,
):
    """The objective as the papers print it, one sequence after another, float64."""
    losses = []
    for item, advantage in zip(items, ADVANTAGES, strict=True):
        log_ratio = item["logp"] - item["old_logp"]
        if ratio_level == "sequence":
            log_ratio = np.full_like(log_ratio, log_ratio.mean())
        ratio = np.exp(log_ratio)
        policy = np.minimum(ratio * advantage, np.clip(ratio, 1 - clip_low, 1 + clip_high) * advantage)
        if dual_clip is not None and advantage < 0:
            policy = np.maximum(policy, dual_clip * advantage)
        if importance_cap is not None:
            policy = policy * np.minimum(np.exp(item["old_logp"] - item["sampler_logp"]), importance_cap)
        delta = item["ref_logp"] - item["logp"]
        kl = {"k1": -delta, "k2": delta**2 / 2, "k3": np.exp(delta) - delta - 1}
        kl["k3_is"] = np.exp(item["logp"] - item["old_logp"]) * kl["k3"]
        losses.append(-(policy - kl_coef * kl[kl_estimator]))
    if aggregation == "sequence":
        return np.mean([loss.mean() for loss in losses])
    if aggregation == "token":
        return np.concatenate(losses).mean()
    return np.sum(np.concatenate(losses)) / (len(losses) * BUDGET)


def reference_gradient(items, **options):
    """By central differences, one array a sequence."""
    gradients = []
    for item in items:
        gradient = np.zeros_like(item["logp"])
        for t, value in enumerate(item["logp"].copy()):
            ends = []
            for step in (1e-6, -1e-6):
                item["logp"][t] = value + step
                ends.append(reference_loss(items, **options))
            item["logp"][t] = value
            gradient[t] = (ends[0] - ends[1]) / 2e-6
        gradients.append(gradient)
    return gradients


def lay_out(items, layout, *, padding=np.nan):
    """Rows with a prompt token before each sequence; prompt and padding hold `padding` in every float array."""
    rows, num_tokens = layout
    names = [*items[0], "advantage"]
    batch = {f"{name}_BT": np.full((len(rows), num_tokens), padding, np.float32) for name in names}
    segment_ids_BT = np.zeros((len(rows), num_tokens), np.int32)
    mask_BT = np.zeros((len(rows), num_tokens), np.float32)
    places = {}
    for b, row in enumerate(rows):
        start = 0
        for number, index in enumerate(row, start=1):
            stop = start + 1 + LENGTHS[index]
            segment_ids_BT[b, start:stop] = number
            places[index] = (b, slice(start + 1, stop))
            mask_BT[places[index]] = 1
            for name, values in items[index].items():
                batch[f"{name}_BT"][places[index]] = values
            batch["advantage_BT"][places[index]] = ADVANTAGES[index]
            start = stop
    return batch | {"segment_ids_BT": segment_ids_BT, "mask_BT": mask_BT}, places


@functools.partial(jax.jit, static_argnames=("aggregation", "options"))
def loss_metrics_gradient(batch, *, aggregation, options):
    weight_BT = batch["mask_BT"]
    if aggregation is not None:
        weight_BT = token_weights(
            batch["mask_BT"],
            batch["segment_ids_BT"],
            aggregation=aggregation,
            num_sequences=len(LENGTHS),
            num_tokens=sum(LENGTHS),
            constant=BUDGET,
        )
    rest = {name: array for name, array in batch.items() if name not in ("mask_BT", "logp_BT")}
    (loss, metrics), gradient_BT = jax.value_and_grad(grpo_loss, has_aux=True)(
        batch["logp_BT"], **rest, weight_BT=weight_BT, **dict(options)
    )
    return loss, metrics, gradient_BT


def run(batch, *, aggregation="sequence", **options):
    return loss_metrics_gradient(batch, aggregation=aggregation, options=tuple(options.items()))


@pytest.mark.parametrize(
    "options",
    [
        PLAIN,
        {**PLAIN, "aggregation": "token", "kl_estimator": "k3_is"},
        {**PLAIN, "aggregation": "constant", "kl_estimator": "k2", "kl_coef": 1.0},
        {**PLAIN, "kl_estimator": "k1", "clip_low": 0.2, "clip_high": 0.28},
        {**PLAIN, "dual_clip": 1.2, "aggregation": "token"},
        {**PLAIN, "ratio_level": "sequence", "clip_low": 0.1, "clip_high": 0.1},
        {**PLAIN, "importance_cap": 1.1, "clip_low": 0.2, "clip_high": 0.28},
    ],
    ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items() if PLAIN.get(k) != v) or "plain",
)
def test_equals_the_numpy_reference(options):
    items = sequences()
    batch, places = lay_out(items, PACKED)
    loss, metrics, gradient_BT = run(batch, **options)
    assert loss == pytest.approx(reference_loss(items, **options), abs=1e-5)
    for index, want in enumerate(reference_gradient(items, **options)):
        np.testing.assert_allclose(gradient_BT[places[index]], want, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(gradient_BT)[batch["mask_BT"] == 0], 0)
    assert metrics["num_tokens"] == sum(LENGTHS)


@pytest.mark.parametrize("layout", [ONE_PER_ROW, ONE_ROW, ([[], [4, 1], [], [2, 0], [3, 5]], 12)])
@pytest.mark.parametrize("ratio_level", ["token", "sequence"])
def test_packing_padding_and_order_do_not_matter(layout, ratio_level):
    options = {**PLAIN, "ratio_level": ratio_level, "clip_low": 0.1, "clip_high": 0.1, "importance_cap": 1.1}
    want_batch, want_places = lay_out(sequences(), PACKED)
    want_loss, want_metrics, want_BT = run(want_batch, **options)
    batch, places = lay_out(sequences(), layout, padding=7.0)
    loss, metrics, gradient_BT = run(batch, **options)
    assert loss == pytest.approx(float(want_loss), abs=1e-6)
    for index in range(len(LENGTHS)):
        np.testing.assert_allclose(gradient_BT[places[index]], want_BT[want_places[index]], atol=1e-6)
    assert jax.tree.map(float, metrics) == {
        name: pytest.approx(jax.tree.map(float, value), rel=1e-5) for name, value in want_metrics.items()
    }


@pytest.mark.parametrize("aggregation", ["sequence", "token", "constant"])
def test_micro_batches_add_up(aggregation):
    batch, _ = lay_out(sequences(), ONE_PER_ROW)
    whole_loss, whole_metrics, whole_BT = run(batch, aggregation=aggregation, **PLAIN)
    losses, gradients, metrics = [], [], jax.tree.map(jnp.zeros_like, whole_metrics)
    for rows in (slice(4, 6), slice(0, 2), slice(2, 4)):
        part = {name: array[rows] for name, array in batch.items()}
        loss, part_metrics, gradient_BT = run(part, aggregation=aggregation, **PLAIN)
        losses.append(loss)
        gradients.append(gradient_BT)
        metrics = add_metrics(metrics, part_metrics)
    assert sum(losses) == pytest.approx(float(whole_loss), abs=1e-6)
    np.testing.assert_allclose(np.concatenate([gradients[1], gradients[2], gradients[0]]), whole_BT, atol=1e-7)
    for name, value in mean_metrics(whole_metrics).items():
        assert mean_metrics(metrics)[name] == pytest.approx(float(value), rel=1e-5), name


@pytest.mark.parametrize("ratio_level", ["token", "sequence"])
def test_rows_sharded_over_devices(ratio_level):
    options = {**PLAIN, "ratio_level": ratio_level, "clip_low": 0.1, "clip_high": 0.1}
    batch, _ = lay_out(sequences(), ([[4, 1], [], [2, 0], [3], [5], [], [], []], 9))
    want_loss, want_metrics, want_BT = run(batch, **options)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    loss, metrics, gradient_BT = run(jax.device_put(batch, rows), **options)
    assert gradient_BT.sharding.is_equivalent_to(rows, 2)
    assert loss == pytest.approx(float(want_loss), abs=1e-6)
    np.testing.assert_allclose(gradient_BT, want_BT, atol=1e-7)
    for name, value in mean_metrics(want_metrics).items():
        assert mean_metrics(metrics)[name] == pytest.approx(float(value), rel=1e-5), name


def one_row(logp, old_logp, advantage, **options):
    """Loss, mean metrics and gradient of sequences of one token each, all weighing 1."""
    arrays = {name: values for name, values in options.items() if name.endswith("_BT")}
    arrays |= {"logp_BT": logp, "old_logp_BT": old_logp, "advantage_BT": advantage}
    batch = {name: jnp.asarray([values], jnp.float32) for name, values in arrays.items()}
    batch["mask_BT"] = jnp.ones((1, len(logp)))
    batch["segment_ids_BT"] = jnp.arange(1, len(logp) + 1)[None]
    loss, metrics, gradient_BT = run(
        batch, aggregation=None, **{name: value for name, value in options.items() if name not in arrays}
    )
    return float(loss), mean_metrics(metrics), gradient_BT[0]


def test_literal_clipping():
    # Ratios 2 and 1/2 with advantages of both signs; the range is [0.8, 1.3].
    ratio, advantage = [2.0, 2.0, 0.5, 0.5], [1.0, -1.0, 1.0, -1.0]
    options = {"clip_low": 0.2, "clip_high": 0.3, "kl_coef": 0.0}
    loss, metrics, gradient = one_row(np.log(ratio), [0.0] * 4, advantage, **options)
    assert loss == pytest.approx(-(1.3 - 2.0 + 0.5 - 0.8))
    np.testing.assert_allclose(gradient, [0, 2.0, -0.5, 0], atol=1e-6)
    assert metrics["clip_ratio/high_mean"] == 0.25
    assert metrics["clip_ratio/low_mean"] == 0.25
    assert metrics["clip_ratio/region_mean"] == 0.5
    assert metrics["ratio/mean"] == pytest.approx(1.25)
    assert metrics["ratio/max"] == pytest.approx(2.0)
    assert "kl" not in metrics and "entropy" not in metrics


def test_clip_ratio_of_the_paper_bounds_positive_advantages_alone():
    # R1: epsilon 10, so ratios may reach 11 where A > 0, and nothing is clipped where A < 0.
    loss, metrics, gradient = one_row(np.log([12.0, 1e-3, 12.0]), [0.0] * 3, [1.0, -1.0, -1.0], kl_coef=0.0)
    assert loss == pytest.approx(-(11 - 1e-3 - 12), rel=1e-5)
    np.testing.assert_allclose(gradient, [0, 1e-3, 12.0], rtol=1e-5)
    assert metrics["clip_ratio/low_mean"] == 0
    assert metrics["clip_ratio/high_mean"] == pytest.approx(1 / 3)


def test_dual_clip_bounds_negative_advantages():
    loss, _, gradient = one_row(np.log([12.0, 12.0, 2.0]), [0.0] * 3, [1.0, -1.0, -1.0], kl_coef=0.0, dual_clip=3.0)
    assert loss == pytest.approx(-(11 - 3 - 2), rel=1e-5)
    np.testing.assert_allclose(gradient, [0, 0, 2.0], rtol=1e-5)


def test_first_update_has_ratio_1_and_the_loss_is_the_kl():
    items = sequences()
    for item in items:
        item["old_logp"] = item["logp"].copy()
    batch, places = lay_out(items, PACKED)
    for ratio_level in ("token", "sequence"):
        _, metrics, gradient_BT = run(batch, clip_low=0.2, clip_high=0.2, kl_coef=0.04, ratio_level=ratio_level)
        metrics = mean_metrics(metrics)
        assert metrics["ratio/mean"] == metrics["ratio/max"] == 1
        assert metrics["clip_ratio/low_mean"] == metrics["clip_ratio/high_mean"] == 0
        # The coefficient of grad log p is A + beta (ref / policy - 1), over |o_i| and the group (DSM Eq. 21).
        for index, item in enumerate(items):
            coefficient = ADVANTAGES[index] + 0.04 * np.expm1(item["ref_logp"] - item["logp"])
            want = -coefficient / LENGTHS[index] / len(LENGTHS)
            np.testing.assert_allclose(gradient_BT[places[index]], want, atol=1e-6)
    # With advantages of mean 0 and sequences that weigh the same, what is left of the loss is beta KL.
    advantage = group_advantages(jnp.array([[1.0, 0, 0, 1]]))[0]
    loss, metrics, _ = one_row([-1.0] * 4, [-1.0] * 4, advantage, ref_logp_BT=[-1.0, -1.5, -2, -0.5], kl_coef=0.25)
    assert loss == pytest.approx(0.25 * 4 * float(metrics["kl"]), abs=1e-6)
    assert metrics["kl"] == pytest.approx((0 + 0.1065307 + 0.3678794 + 0.1487213) / 4, abs=1e-6)


def test_all_equal_group_moves_nothing_but_the_kl():
    advantage = group_advantages(jnp.full((1, 3), 0.1))[0]
    options = {"ref_logp_BT": [-1.0, -1.0, -1.0]}
    loss, _, gradient = one_row([-0.5, -1.0, -2.0], [-1.0] * 3, advantage, kl_coef=0.0, **options)
    assert loss == 0
    np.testing.assert_array_equal(gradient, 0)
    _, _, gradient = one_row([-0.5, -1.0, -2.0], [-1.0] * 3, advantage, kl_coef=1.0, **options)
    np.testing.assert_allclose(gradient, 1 - np.exp([-0.5, 0, 1.0]), atol=1e-6)


def test_truncated_importance_weighs_the_policy_term_alone():
    # Trainer 2x and 1/2 as sure as the sampler; cap 1.5. KL at d = ln 2 is 0.3068528.
    log2 = np.log(2.0)
    loss, metrics, gradient = one_row(
        [0.0, 0.0],
        [0.0, 0.0],
        [1.0, 1.0],
        sampler_logp_BT=[-log2, log2],
        ref_logp_BT=[log2, log2],
        kl_coef=1.0,
        importance_cap=1.5,
    )
    assert loss == pytest.approx(-1.5 - 0.5 + 2 * 0.3068528, abs=1e-6)
    np.testing.assert_allclose(gradient, [-1.5 - 1, -0.5 - 1], atol=1e-6)
    assert metrics["sampling/importance_sampling_ratio/mean"] == pytest.approx(1.0)
    np.testing.assert_array_equal(
        jax.grad(lambda x: truncated_importance(x, jnp.zeros(2), cap=5.0).sum())(jnp.zeros(2)), 0
    )


def test_sampler_metrics_without_correction():
    loss, metrics, _ = one_row(
        [-1.0, -1.0], [-1.0, -1.0], [1.0, 1.0], sampler_logp_BT=[-1.25, -0.25], entropy_BT=[0.5, 1.0], kl_coef=0.0
    )
    assert loss == -2
    assert metrics["sampling/sampling_logp_difference/mean"] == pytest.approx(0.5)
    assert metrics["sampling/sampling_logp_difference/max"] == pytest.approx(0.75)
    want = (np.exp(0.25) - 0.25 - 1 + np.exp(-0.75) + 0.75 - 1) / 2
    assert metrics["sampling/mismatch_kl"] == pytest.approx(want, rel=1e-5)
    assert metrics["entropy"] == 0.75


def test_log_ratio_is_clamped_at_20():
    options = {"clip_low": 1e9, "clip_high": 1e9, "kl_coef": 0.0}
    loss, metrics, gradient = one_row([-1.0, -500.0], [-500.0, -1.0], [1.0, 1.0], **options)
    assert loss == pytest.approx(-4.851652e8, rel=1e-6)
    assert metrics["ratio/max"] == pytest.approx(4.851652e8, rel=1e-6)
    np.testing.assert_array_equal(gradient, 0)
    # A sequence's mean log-ratio, not its sum, is what is clamped: 100 nats over 50 tokens is a ratio of e^2.
    batch = {name: jnp.full((1, 50), value) for name, value in (("old_logp_BT", -3.0), ("advantage_BT", 1.0))}
    loss, _ = grpo_loss(
        jnp.full((1, 50), -1.0),
        **batch,
        weight_BT=jnp.full((1, 50), 0.02),
        segment_ids_BT=jnp.ones((1, 50), jnp.int32),
        ratio_level="sequence",
        kl_coef=0.0,
    )
    assert loss == pytest.approx(-np.exp(2), rel=1e-5)


EOS = 3


@pytest.mark.parametrize("drop_truncated", [False, True])
def test_end_token_truncation_and_padding_that_looks_like_it(drop_truncated):
    """Sequences as the sampler leaves them: ended, empty but for EOS, and cut off without EOS; masks by length."""
    outputs = [[0, 1, EOS], [EOS], [2, 2, 2, 1]]
    advantages = [1.0, -1.0, 2.0]
    truncated = [output[-1] != EOS for output in outputs]
    lengths = jnp.array([len(output) for output in outputs])
    mask_BT = jnp.arange(6) < lengths[:, None]
    segment_ids_BT = mask_BT.astype(jnp.int32)
    if drop_truncated:
        mask_BT &= (~jnp.array(truncated)[:, None]) & (segment_ids_BT > 0)
    num_sequences = 2 if drop_truncated else 3

    def loss_of(table, pad):
        tokens_BT = jnp.array([[*output] + [pad] * (6 - len(output)) for output in outputs])
        logp_BT = jax.nn.log_softmax(table)[tokens_BT]
        return grpo_loss(
            logp_BT,
            old_logp_BT=jax.lax.stop_gradient(logp_BT),
            advantage_BT=jnp.array(advantages)[:, None] * (segment_ids_BT > 0),
            weight_BT=token_weights(mask_BT, segment_ids_BT, aggregation="sequence", num_sequences=num_sequences),
            segment_ids_BT=segment_ids_BT,
            kl_coef=0.0,
        )[0]

    table = jnp.array([0.1, -0.2, 0.3, 0.0])
    gradient = jax.jit(jax.grad(loss_of))
    gradients = [gradient(table, pad) for pad in (EOS, 0)]
    np.testing.assert_array_equal(gradients[0], gradients[1])
    # d loss / d table = -1/N sum_i A_i (share of each token in o_i - p); the EOS is one of the tokens of o_i.
    shares = np.array([[1 / 3, 1 / 3, 0, 1 / 3], [0, 0, 0, 1], [0, 1 / 4, 3 / 4, 0]])
    kept = [i for i in range(3) if not (drop_truncated and truncated[i])]
    probabilities = np.asarray(jax.nn.softmax(table))
    want = -sum(advantages[i] * (shares[i] - probabilities) for i in kept) / len(kept)
    np.testing.assert_allclose(gradients[0], want, atol=1e-6)


def test_only_the_policy_gets_a_gradient():
    rng = np.random.default_rng(0)
    names = ("logp", "old_logp_BT", "advantage_BT", "ref_logp_BT", "sampler_logp_BT", "entropy_BT")
    arrays = {name: jnp.asarray(rng.standard_normal((2, 3)), jnp.float32) for name in names}

    def loss(arrays):
        logp_BT, rest = arrays["logp"], {name: arrays[name] for name in names[1:]}
        return grpo_loss(
            logp_BT,
            **rest,
            weight_BT=jnp.full((2, 3), 0.5),
            segment_ids_BT=jnp.ones((2, 3), jnp.int32),
            kl_estimator="k3_is",
            ratio_level="sequence",
            importance_cap=2.0,
            kl_coef=0.1,
        )[0]

    gradients = jax.jit(jax.grad(loss))(arrays)
    assert {name for name, gradient in gradients.items() if gradient.any()} == {"logp"}


def test_bad_options_are_named():
    zeros_BT = jnp.zeros((2, 3))
    inputs = {"old_logp_BT": zeros_BT, "advantage_BT": zeros_BT, "weight_BT": zeros_BT, "segment_ids_BT": zeros_BT}
    call = functools.partial(grpo_loss, zeros_BT, **inputs)
    with pytest.raises(ValueError, match=r"kl_coef is 0.001 but ref_logp_BT is missing"):
        call()
    with pytest.raises(ValueError, match=r"importance_cap is 2.0 but sampler_logp_BT is missing"):
        call(kl_coef=0.0, importance_cap=2.0)
    with pytest.raises(ValueError, match=r"ratio_level must be one of .*'segment'"):
        call(kl_coef=0.0, ratio_level="segment")
    with pytest.raises(ValueError, match=r"dual_clip must be above 1, got 0.2"):
        call(kl_coef=0.0, dual_clip=0.2)
    with pytest.raises(ValueError, match=r"KL estimator must be one of .*'k5'"):
        call(ref_logp_BT=zeros_BT, kl_estimator="k5")
    with pytest.raises(ValueError, match=r"advantage_BT has shape \(2, 1\), logp_BT has \(2, 3\)"):
        call(kl_coef=0.0, advantage_BT=jnp.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"logp_BT must have 2 dims"):
        grpo_loss(jnp.zeros(3), **inputs, kl_coef=0.0)
