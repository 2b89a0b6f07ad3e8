"""MTP and balance in the losses, the counts for the router biases, and what no loss uses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.transformer import make_model
from r1jax.specs.reader import read
from r1jax.specs.stages import RewardModelSpec, SupervisedSpec
from r1jax.specs.training import OptimizerSpec
from r1jax.stages import reward_model, supervised
from r1jax.stages.rl import stage as rl
from r1jax.stages.training import (
    check_auxiliary,
    expert_counts,
    finite_update,
    hidden_of,
    loss_weights,
    make_train_state,
    mtp_loss,
)
from r1jax.training.learner import init_state, make_update
from r1jax.training.optimizer import make_optimizer
from tests.stages.rl.test_stage import tiny_config
from tests.tiny import GQA, POLICY, V3, padded, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODEL = make_model(dataclasses.replace(V3, num_layers=1, num_dense_layers=0, num_mtp_layers=2))
DENSE = POLICY | {"preset": "mini_llama", "model": {}}
DOCUMENTS = [[5, 40, 17, 3, 29, 11, 8], [7, 41, 13, 2], [33, 9]]
MASKED = 3
"""The token of the first document that is no target."""


def make_spec(**changes):
    source = POLICY["tokenizer"]["source"]
    return read(SupervisedSpec, {"init": POLICY, "data": source, "template": "plain", "num_updates": 10} | changes)


def make_batch():
    """The documents in one row of 14, which has padding between and after them, and a row of padding."""
    names = ("tokens", "targets", "mask", "segment_ids", "positions")
    batch = {name: np.zeros((2, 14), np.int32) for name in names}
    for number, (start, ids) in enumerate(zip((0, 6, 10), DOCUMENTS, strict=True), 1):
        place = slice(start, start + len(ids) - 1)
        values = (ids[:-1], ids[1:], 1, number, np.arange(len(ids) - 1))
        for name, value in zip(names, values, strict=True):
            batch[name][0, place] = value
    batch["mask"][0, MASKED - 1] = 0
    return batch | {
        "num_sequences": np.float32(3),
        "num_segments": np.float32(3),
        "num_tokens": np.float32(batch["mask"].sum()),
    }


@pytest.fixture(scope="module")
def trees():
    return shaken(MODEL)


@pytest.fixture(scope="module")
def loss_and_gradient(trees):
    """((loss, metrics), gradient) of the supervised loss with both auxiliary parts."""
    loss = supervised.make_loss(MODEL, make_spec(mtp_weight=0.3, balance_weight=0.01))
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(*trees, make_batch())


def mtp_by_hand(params, buffers):
    """(sum over depths, documents, positions of −log p(token i + m + 1) where that counts, tokens that each depth sees)."""

    @jax.jit
    def drafts(tokens, positions, segments):
        places = {"positions_BT": positions, "segments_BT": segments}
        hidden, _, _ = MODEL.hidden(params, buffers, tokens, **places)
        logits = []
        for depth in range(2):
            ahead = jnp.pad(tokens[:, depth + 1 :], ((0, 0), (0, depth + 1)))
            hidden, *_ = MODEL.mtp_hidden(params, buffers, hidden, ahead, depth=depth, **places)
            logits.append(MODEL.logits(params, hidden))
        return logits

    total, seen = 0.0, [0, 0]
    for ids in DOCUMENTS:
        logits = drafts(*padded([ids], length=7))
        for depth in (1, 2):
            for i in range(len(ids) - 1 - depth):
                seen[depth - 1] += 1
                if (ids, i + depth + 1) != (DOCUMENTS[0], MASKED):
                    total -= float(jax.nn.log_softmax(logits[depth - 1][0, i])[ids[i + depth + 1]])
    return total, seen


def test_mtp_loss_equals_the_equations_on_each_document_alone(trees, loss_and_gradient):
    total, seen = mtp_by_hand(*trees)
    (loss, metrics), grads = loss_and_gradient
    assert metrics["num_tokens"] == 9
    mtp, balance = float(metrics["mtp_loss"] / 9), float(metrics["moe/balance_loss"] / 9)
    assert mtp == pytest.approx(total / 9 / 2, rel=1e-5)
    assert float(loss) == pytest.approx(float(metrics["nll"] / 9) + 0.3 * mtp + 0.01 * balance, rel=1e-5)
    assert 2.5 < balance < 6.0  # three MoE blocks, each about 1, or more where sequences are short
    counts = metrics["expert_counts"]["mtp"]["block"]["ffn"]["router_bias_E"]
    np.testing.assert_array_equal(counts.sum(1), 2 * np.array(seen))
    for path, leaf in jax.tree.leaves_with_path(grads):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


def test_without_weights_nothing_is_computed(trees):
    """As many matmuls as in the same model without MTP; its biases see no token."""
    without = make_model(dataclasses.replace(MODEL.config, num_mtp_layers=0))
    jaxprs = [
        jax.make_jaxpr(supervised.make_loss(model, make_spec()), return_shape=True)(*model.abstract(), make_batch())
        for model in (MODEL, without)
    ]
    num_matmuls = [str(jaxpr).count("dot_general") for jaxpr, _ in jaxprs]
    assert num_matmuls[0] == num_matmuls[1] > 10
    metrics = [shapes[1] for _, shapes in jaxprs]
    assert set(metrics[0]) == set(metrics[1]) == {"nll", "num_tokens", "max", "expert_counts"}
    counts = expert_counts(trees[1], {"expert_counts_LE": np.ones((1, 8))})
    np.testing.assert_array_equal(counts["mtp"]["block"]["ffn"]["router_bias_E"], np.zeros((2, 8)))


def test_mtp_loss_reads_no_other_document(trees):
    batch = make_batch()
    hidden = np.random.default_rng(0).normal(size=(2, 14, 32)).astype(np.float32)
    weight = np.where(batch["segment_ids"] == 1, 1.0, 0.0).astype(np.float32)

    @jax.jit
    def loss(hidden, targets):
        return mtp_loss(MODEL, *trees, hidden, batch | {"targets": targets}, weight)[0]

    # The last of document 0's six positions predicts nothing that is its own.
    elsewhere = (batch["segment_ids"] != 1)[..., None] | (np.arange(14) == 5)[None, :, None]
    want = float(loss(hidden, batch["targets"]))
    others = np.where(batch["segment_ids"] != 1, 30, batch["targets"])
    assert float(loss(np.where(elsewhere, 1.0, hidden), others)) == pytest.approx(want, rel=1e-6)
    for position in range(5):
        changed = hidden.copy()
        changed[0, position] += 1.0
        assert abs(float(loss(changed, batch["targets"])) - want) > 1e-4


def test_biases_of_all_routers_follow_their_counts(trees, loss_and_gradient):
    _, buffers = trees
    params = {"w": jnp.zeros(3)}  # the biases take no part in the optimizer's work
    optimizer, schedule = make_optimizer(OptimizerSpec(learning_rate=0.01), total_steps=10)
    state = init_state(params, buffers, optimizer=optimizer)
    update = make_update(lambda *_: None, optimizer, schedule=schedule, state=state, bias_rate=0.25)
    (_, metrics), _ = loss_and_gradient
    state, info = update.apply(state, params, metrics["expert_counts"])
    loads = {name: value for name, value in info.items() if name.startswith("moe/load/")}
    assert {name[:-3] for name in loads} == {"moe/load/moe", "moe/load/mtp"}
    assert info["moe/load_max_over_mean"] == max(loads.values()) > 1
    for name in ("moe", "mtp"):
        before, after, counts = (
            np.array(jax.tree.leaves(tree[name])[0]) for tree in (buffers, state["buffers"], metrics["expert_counts"])
        )
        step = 0.25 * np.sign(counts.mean(1, keepdims=True) - counts)
        np.testing.assert_allclose(after, before + step, atol=1e-6)
        assert np.abs(step).max() == 0.25


def make_rl_batch():
    """The same as rollouts, of a policy that has moved since; the first target of each was in the prompt."""
    batch, rng = make_batch(), np.random.default_rng(3)
    noise = {name: rng.normal(size=(2, 14)).astype(np.float32) for name in ("old_logp", "ref_logp", "advantage")}
    noise |= {"old_logp": noise["old_logp"] - 3, "ref_logp": noise["ref_logp"] - 3}
    scalars = {"temperature": np.float32(0.7), "is_on_policy": np.float32(0)}
    return batch | noise | scalars | {"sampler_logp": noise["old_logp"]}


def test_mtp_is_trained_on_rollouts_without_touching_the_policy_s_gradient(trees):
    (with_mtp, metrics), grads = rl_loss_and_gradient(trees, mtp_weight=0.3)
    (without, others), wanted = rl_loss_and_gradient(trees)
    assert set(metrics) - set(others) == {"mtp_loss"}
    mtp, zeros = grads.pop("mtp"), wanted.pop("mtp")
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7), grads, wanted)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted)) > 0.1
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(mtp))
    assert not any(np.abs(leaf).max() for leaf in jax.tree.leaves(zeros))

    # The loss is that of the supervised stage, but at the temperature that the rollouts were sampled with.
    batch, spec = make_rl_batch(), tiny_config(mtp_weight=0.3)

    @jax.jit
    def supervised_loss(params, buffers):
        hidden, _, _ = hidden_of(MODEL, params, buffers, batch)
        return mtp_loss(MODEL, params, buffers, hidden, batch, loss_weights(batch, spec), temperature=0.7)[0]

    want = supervised_loss(*trees)
    assert float(with_mtp - without) == pytest.approx(0.3 * float(want), rel=1e-5)
    assert float(metrics["mtp_loss"]) == pytest.approx(9 * float(want), rel=1e-5)
    assert metrics["expert_counts"]["mtp"]["block"]["ffn"]["router_bias_E"].sum() > 0


def rl_loss_and_gradient(trees, **weights):
    loss = rl.make_loss(MODEL, tiny_config(kl_coef=0.1, **weights))
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(*trees, make_rl_batch())


REWARD_BATCH = {
    "tokens": np.array([[5, 40, 17, 3], [7, 41, 13, 2]]),
    "lengths": np.array([4, 3]),
    "labels": np.ones(1, np.float32),
    "weights": np.ones(1, np.float32),
    "places": np.zeros(1, np.int32),
}
DECAYED = {"optimizer": {"weight_decay": 0.5, "learning_rate": 0.01}, "bias_rate": 0.25}


def make_reward_spec(**changes):
    values = {"init": POLICY, "data": POLICY["tokenizer"]["source"], "kind": "helpful", "examples_per_update": 1}
    return read(RewardModelSpec, values | changes)


@pytest.mark.parametrize(
    ("stage", "make", "batch", "unused"),
    [
        (supervised, make_spec, make_batch(), {"mtp"}),
        (rl, functools.partial(tiny_config, mtp_weight=0.3), make_rl_batch(), set()),
        (reward_model, make_reward_spec, REWARD_BATCH, {"mtp", "unembed_VD"}),
    ],
    ids=["supervised", "rl with MTP", "reward model"],
)
def test_what_no_loss_uses_comes_out_bit_for_bit(trees, stage, make, batch, unused):
    spec, (params, buffers) = make(**DECAYED), trees
    if stage is reward_model:
        params = params | {"reward_head": {"w_D": jnp.ones(32)}}
    state, update = make_train_state(spec, stage.make_loss(MODEL, spec), params, buffers, num_updates=10)
    state, _, _ = finite_update(state, update, [batch])
    for name in params:
        pairs = zip(jax.tree.leaves(params[name]), jax.tree.leaves(state["params"][name]), strict=True)
        is_same = {np.asarray(before).tobytes() == np.asarray(after).tobytes() for before, after in pairs}
        assert is_same == {name in unused}, name
    biases = [np.asarray(jax.tree.leaves(tree["mtp"])[0]) for tree in (buffers, state["buffers"])]
    assert (biases[0] == biases[1]).all() == ("mtp" in unused)


def test_counts_of_models_without_biases():
    assert expert_counts({}, {"expert_counts_LE": np.ones((2, 8))}) == {}
    assert expert_counts({}, {}) == {}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"mtp_weight": 0.3}, "mtp_weight=0.3, but the model has num_mtp_layers=0"),
        ({"balance_weight": 1e-4}, "balance_weight=0.0001, but the model has num_experts=0"),
    ],
)
def test_weights_on_parts_that_are_not_there(weights, message):
    with pytest.raises(ValueError, match=message):
        check_auxiliary(GQA, **weights)
    check_auxiliary(MODEL.config, **weights)


@pytest.mark.parametrize(("stage", "make"), [(supervised, make_spec), (rl, tiny_config)], ids=["supervised", "rl"])
def test_stages_read_the_weights_from_their_config(stage, make):
    stage.check(make(balance_weight=1e-4))
    with pytest.raises(ValueError, match="balance_weight=0.0001, but the model has num_experts=0"):
        stage.check(make(balance_weight=1e-4, init=DENSE))
    with pytest.raises(ValueError, match="mtp_weight=0.1, but the model has num_mtp_layers=0"):
        stage.check(make(mtp_weight=0.1))
