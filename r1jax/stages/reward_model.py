"""Reward-model stage: a policy with a scalar head learns which of two responses is better, or whether one is safe.

Two kinds (R1 Sec. 3.1, spec B.7): "helpful" learns pairs by Bradley-Terry and reads the summary alone, "safety" learns
labels by binary cross entropy and reads the whole response. Which examples make up an update follows from the seed and
its number, so a resumed run needs no other position.

Deviations: 1. examples longer than ``max_tokens`` (R1: 8192) are left out of training and counted; held-out ones and
those that RL scores may be of any length. 2. No balance loss; the router bias is updated if there is one.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.data.preferences import READS, Preference, parse_preference, split_preferences
from r1jax.data.records import check_records, records_of
from r1jax.evals.reward_model import length_bias, pair_calibration, pair_metrics, point_calibration, point_metrics
from r1jax.models.reward_head import rewards_at_end
from r1jax.models.transformer import Model
from r1jax.objectives.likelihood import pair_loss, point_loss
from r1jax.policies.preview import Previews
from r1jax.policies.reward_model import encode_response, init_head, make_reward_pass, pad_rows, score_sequences
from r1jax.sharding import make_mesh
from r1jax.specs.reader import read
from r1jax.specs.stages import RewardModelSpec
from r1jax.stages.open_run import open_run
from r1jax.stages.training import expert_counts, finite_update, make_train_state
from r1jax.text.chat import check_template
from r1jax.text.response import part_of
from r1jax.text.tokenizer import Tokenizer
from r1jax.training.learner import TrainState, Update


class Example(NamedTuple):
    """A preference as token ids."""

    sequences: tuple[list[int], ...]  # chosen and rejected, or the one response
    label: float  # 1 for safe, 0 for unsafe; of a pair always 1

    @property
    def longest(self) -> int:
        """Tokens of the longer sequence."""
        return max(map(len, self.sequences))


def check(spec: RewardModelSpec, previews: Previews | None = None) -> None:
    """Raises ValueError, naming the key, for what cannot train."""
    check_template(spec.template)
    make_mesh(spec.mesh.axes())
    check_records(spec.data, where="data")
    (previews or Previews()).policy(spec.init, seed=spec.seed)


def make_loss(model: Model, spec: RewardModelSpec):
    """(params, buffers, microbatch) -> (loss, sums): the loss of the batch's share, and "rewards_BK" of its examples.

    A microbatch holds R examples of K sequences (2 of kind "helpful", else 1): tokens [R·K, T], lengths [R·K], labels
    [R], weights [R] (0 for padding), places [R], where in the batch of at most ``examples_per_update`` each stands.
    """
    width = 2 if spec.kind == "helpful" else 1

    def loss_function(params, buffers, batch):
        rewards_B, aux = rewards_at_end(model, params, buffers, batch["tokens"], batch["lengths"])
        rewards_RK = rewards_B.reshape(-1, width)
        if spec.kind == "helpful":
            loss = pair_loss(rewards_RK[:, 0], rewards_RK[:, 1], weight_B=batch["weights"])
        else:
            loss = point_loss(rewards_RK[:, 0], batch["labels"], weight_B=batch["weights"])
        rewards_BK = jnp.zeros((spec.examples_per_update, width)).at[batch["places"]].set(rewards_RK, mode="drop")
        sums = {"rewards_BK": jax.lax.stop_gradient(rewards_BK), "expert_counts": expert_counts(buffers, aux)}
        return loss, sums

    return loss_function


def main(spec: RewardModelSpec, workdir: Path) -> dict:
    """Trains, and leaves checkpoints, model.json and tokenizer/ in ``workdir``. Returns the summary with held-out
    figures.

    Raises Stopped, when all is saved, if a signal asked it to end before it was done.
    """
    spec = read(RewardModelSpec, spec)
    check(spec)
    with open_run(spec, workdir) as run:
        # Policy and data
        policy, params, buffers = run.load_policy()
        train, heldout, counts = make_examples(spec, policy.tokenizer)
        num_updates = math.ceil(len(train) * spec.epochs / spec.examples_per_update)

        # Train state
        params = init_head(policy, params, mesh=run.mesh, seed=spec.seed)
        loss_function = make_loss(policy.model, spec)
        run.state, update = make_train_state(spec, loss_function, params, buffers, num_updates=num_updates)
        del params, buffers
        run.restore(total=num_updates, streams={}, num_tokens=0)

        # Loop
        for updates in run.loop():
            batch = batch_of(train, updates, spec)
            run.state, row = update_on_examples(run.state, update, batch, spec)
            run.kept["num_tokens"] += sum(len(ids) for example in batch for ids in example.sequences)
            epoch = (updates + 1) / num_updates * spec.epochs
            run.log(row | run.kept | {"epoch": epoch}, every=spec.log_every)

        # Held-out figures
        scores = heldout_figures(make_reward_pass(policy.model), run.state, heldout, spec)
        run.metrics.write(num_updates, {f"eval/{name}": value for name, value in scores.items()})
        center = scores["mean_reward"] if spec.kind == "helpful" else 0.0
        summary = {"kind": spec.kind, "updates": num_updates, "examples": counts, "heldout": scores, "center": center}
        return run.mark_done(summary)


def make_examples(spec: RewardModelSpec, tokenizer: Tokenizer) -> tuple[list[Example], list[Example], dict[str, int]]:
    """(training examples, held-out ones, counts).

    Raises ValueError naming the file, line and field of a bad record, or where one of the sides is empty.
    """
    records = records_of(spec.data, seed=spec.seed)
    preferences = [parse_preference(row.values, spec.kind, where=row.where) for row in records]
    train, heldout = (
        [_encode(preference, spec, tokenizer) for preference in side]
        for side in split_preferences(preferences, heldout_fraction=spec.heldout_fraction)
    )
    short = [example for example in train if example.longest <= spec.max_tokens]
    counts = {"train": len(short), "heldout": len(heldout), "too_long": len(train) - len(short)}
    for name in ("train", "heldout"):
        if not counts[name]:
            raise ValueError(f"data: no {name} example among {len(preferences)} records: {counts}")
    return short, heldout, counts


def batch_of(examples: Sequence[Example], update: int, spec: RewardModelSpec) -> list[Example]:
    """The examples of an update: each epoch goes through all of them in an order of its own; the last may be fewer."""
    size, batch = spec.examples_per_update, []
    for position in range(update * size, min((update + 1) * size, spec.epochs * len(examples))):
        epoch, within = divmod(position, len(examples))
        if not batch or within == 0:
            order = np.random.default_rng([spec.seed, epoch]).permutation(len(examples))
        batch.append(examples[order[within]])
    return batch


def pad_microbatches(batch: Sequence[Example], spec: RewardModelSpec) -> list[dict[str, Any]]:
    """The batch cut into micro-batches of examples of like length; see ``make_loss``."""
    rows, width, microbatches = spec.examples_per_microbatch, len(batch[0].sequences), []
    order = sorted(range(len(batch)), key=lambda index: (batch[index].longest, index))
    for start in range(0, len(order), rows):
        indices = order[start : start + rows]
        sequences = [ids for index in indices for ids in batch[index].sequences]
        tokens_BT, lengths_B = pad_rows(sequences, rows=rows * width, bucket=spec.length_bucket)
        labels, weights = np.zeros((2, rows), np.float32)
        labels[: len(indices)] = [batch[index].label for index in indices]
        weights[: len(indices)] = 1 / len(batch)
        places = np.array([*indices, *[spec.examples_per_update] * (rows - len(indices))], np.int32)
        fields = {"tokens": tokens_BT, "lengths": lengths_B, "labels": labels, "weights": weights, "places": places}
        microbatches.append(fields)
    return microbatches


def update_on_examples(
    state, update: Update, batch: Sequence[Example], spec: RewardModelSpec
) -> tuple[TrainState, dict]:
    """One update: (state, metrics row)."""
    state, sums, info = finite_update(state, update, pad_microbatches(batch, spec))
    row = {name: float(value) for name, value in info.items()} | {"loss": float(sums["loss"])}
    return state, row | _metrics(np.asarray(sums["rewards_BK"])[: len(batch)], batch, spec.kind)


def heldout_figures(score, state, examples: Sequence[Example], spec: RewardModelSpec) -> dict[str, float]:
    """Accuracy, margin, rewards, calibration error ("ece") and length bias on examples (``r1jax.evals.reward_model``)."""
    sequences = [ids for example in examples for ids in example.sequences]
    sizes = {"rows": spec.examples_per_microbatch, "bucket": spec.length_bucket}
    rewards_BK = score_sequences(score, state["params"], state["buffers"], sequences, **sizes).reshape(
        len(examples), -1
    )
    lengths_BK = np.array([len(ids) for ids in sequences]).reshape(rewards_BK.shape)
    labels_B = np.array([example.label for example in examples])
    is_pairs = spec.kind == "helpful"
    ece = pair_calibration(rewards_BK) if is_pairs else point_calibration(rewards_BK[:, 0], labels_B)
    return {**_metrics(rewards_BK, examples, spec.kind), "ece": ece, **length_bias(rewards_BK, lengths_BK)}


def _metrics(rewards_BK: np.ndarray, examples: Sequence[Example], kind: str) -> dict[str, float]:
    if kind == "helpful":
        return pair_metrics(rewards_BK)
    return point_metrics(rewards_BK[:, 0], np.array([example.label for example in examples]))


def _encode(preference: Preference, spec: RewardModelSpec, tokenizer: Tokenizer) -> Example:
    texts = [part_of(response, READS[spec.kind]) or "" for response in preference.responses]
    sequences = [encode_response(preference.messages, text, tokenizer, template=spec.template) for text in texts]
    return Example(tuple(sequences), 1.0 if preference.is_safe is None else float(preference.is_safe))
