"""Supervised stage: next-token training on documents. Pretraining of the mini base, cold start, SFT and distillation.

Documents are rendered by a chat template, packed into rows of one length by best fit (segment ids keep them apart, V3 Sec. 5.1), and
the loss is the mean over the batch's target tokens ("token") or over documents ("sequence").
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from r1jax.data.documents import make_document_iterator
from r1jax.models.transformer import Model
from r1jax.objectives.sums import add_metrics, mean_metrics
from r1jax.objectives.supervised import cross_entropy_loss
from r1jax.objectives.weights import token_weights
from r1jax.sharding import make_mesh
from r1jax.stages.keys import check_counts, check_keys
from r1jax.stages.policy import load_policy, make_source
from r1jax.text.chat import render
from r1jax.training.checkpoint import Checkpoints
from r1jax.training.learner import NonFiniteError, TrainState, Update, init_state, make_update
from r1jax.training.metrics import MetricsWriter
from r1jax.training.optimizer import OPTIMIZER_KEYS, make_optimizer
from r1jax.training.stop import GracefulStop
from r1jax.training.workdir import open_workdir

COUNTS = frozenset(
    [
        "documents_per_update",
        "row_length",
        "rows_per_microbatch",
        "num_updates",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
    ]
)
KEYS = COUNTS.union(
    ["stage", "seed", "mesh", "init", "data", "template", "loss_on_prompt", "aggregation", "optimizer", "bias_rate"]
)
FIELDS = ("tokens", "targets", "mask", "segment_ids", "positions")


def check(config: ConfigDict) -> None:
    """Raises ValueError, naming the key, for a config that cannot train; costs a document."""
    check_keys(config, required=KEYS, where="supervised")
    check_keys(config.optimizer, required=("learning_rate",), optional=OPTIMIZER_KEYS, where="supervised: optimizer")
    check_counts(config, COUNTS, where="supervised")
    check_counts(config, ("seed",), where="supervised", least=0)
    if config.aggregation not in ("token", "sequence"):
        raise ValueError(f"aggregation={config.aggregation!r}: must be 'token' or 'sequence'")
    make_optimizer(total_steps=config.num_updates, **config.optimizer)
    source = make_source(config.data.to_dict(), seed=config.seed)
    question, _ = source(0)
    render([{"role": "user", "content": question}], template=config.template)


def make_loss(model, *, aggregation: str):
    """(params, buffers, microbatch) -> (loss, sums); the microbatch carries the whole batch's counts."""

    def loss_function(params, buffers, batch):
        hidden_BTD, _, aux = model.hidden(
            params, buffers, batch["tokens"], positions_BT=batch["positions"], segments_BT=batch["segment_ids"]
        )
        logp_BT, _ = model.token_logprob(params, hidden_BTD, batch["targets"])
        weight_BT = token_weights(
            batch["mask"],
            batch["segment_ids"],
            aggregation=aggregation,
            num_sequences=batch["num_sequences"],
            num_tokens=batch["num_tokens"],
        )
        loss, metrics = cross_entropy_loss(logp_BT, weight_BT=weight_BT)
        return loss, {**metrics, "expert_counts": aux}

    return loss_function


def build(config: ConfigDict, model: Model, params, buffers) -> tuple[TrainState, Update]:
    """Train state and jitted update from weights that are laid out on their mesh."""
    optimizer, schedule = make_optimizer(total_steps=config.num_updates, **config.optimizer)
    state = init_state(params, buffers, optimizer=optimizer)
    update = make_update(
        make_loss(model, aggregation=config.aggregation),
        optimizer,
        schedule=schedule,
        state=state,
        bias_rate=config.bias_rate,
        add_metrics=add_metrics,
    )
    return state, update


def main(config: ConfigDict, workdir: Path) -> dict:
    """Trains, and leaves checkpoints, model.json and tokenizer/ in ``workdir``. Returns the summary."""
    start_time = time.monotonic()
    check(config)
    run = open_workdir(workdir, config.to_dict())
    mesh = make_mesh(config.mesh)
    with (
        jax.set_mesh(mesh),
        GracefulStop() as stop,
        Checkpoints(workdir, keep=config.keep_checkpoints, every=config.checkpoint_every) as checkpoints,
    ):
        # Policy and data
        policy, params, buffers = load_policy(config.init.to_dict(), mesh=mesh, seed=config.seed)
        policy.save(workdir)
        batches = make_document_iterator(
            make_source(config.data.to_dict(), seed=config.seed),
            tokenizer=policy.tokenizer,
            template=config.template,
            loss_on_prompt=config.loss_on_prompt,
            documents_per_batch=config.documents_per_update,
            length=config.row_length,
            rows_multiple=config.rows_per_microbatch,
        )

        # Train state
        state, update = build(config, policy.model, params, buffers)
        del params, buffers
        updates, loss, earlier_seconds = 0, None, 0.0
        if checkpoints.latest_step() is not None:
            state, extra = checkpoints.restore(state)
            batches.set_state(extra["data"])
            updates, loss, earlier_seconds = int(state["step"]), extra["loss"], extra["wall_seconds"]

        def wall_seconds():
            return earlier_seconds + time.monotonic() - start_time

        def save():
            extra = {"data": batches.get_state(), "loss": loss, "wall_seconds": wall_seconds()}
            checkpoints.save(updates, state, extra=extra)

        # Loop
        with MetricsWriter(workdir, total=config.num_updates, resume_step=updates) as metrics:
            while updates < config.num_updates and not stop.requested:
                begin = time.perf_counter()
                batch = next(batches)
                state, row = update_once(state, update, batch, rows=config.rows_per_microbatch)
                updates += 1
                if not row.pop("finite"):
                    raise NonFiniteError(
                        f"update {updates}: the gradient is not finite; the last good checkpoint is kept"
                    )
                loss = row["loss"]
                if updates % config.log_every == 0 or updates == config.num_updates:
                    seconds = time.perf_counter() - begin
                    row |= {"tokens_per_second/train": row["num_tokens"] / seconds, "time/step": seconds}
                    metrics.write(updates, row)
                if checkpoints.is_due(updates):
                    save()
            save()

    summary = {"updates": updates, "loss": loss, "wall_seconds": wall_seconds(), "seed": config.seed}
    if updates == config.num_updates:
        run.mark_done(summary)
    return summary


def update_once(state, update: Update, batch: dict[str, np.ndarray], *, rows: int) -> tuple[TrainState, dict]:
    """One update over the micro-batches of a packed batch: (state, metrics row)."""
    counts = {
        "num_tokens": jnp.float32(batch["mask"].sum()),
        "num_sequences": jnp.float32(batch["segment_ids"].max(axis=1).sum()),
    }
    microbatches = [
        {name: batch[name][first : first + rows] for name in FIELDS} | counts
        for first in range(0, len(batch["tokens"]), rows)
    ]
    grads, sums = update.zeros(microbatches[0])
    for microbatch in microbatches:
        grads, sums = update.accumulate(state["params"], state["buffers"], grads, sums, microbatch)
    expert_counts = sums.pop("expert_counts").get("expert_counts_LE")
    state, info = update.apply(state, grads, expert_counts)
    row = {name: float(value) for name, value in (mean_metrics(sums) | info).items()}
    if "load_max_over_mean" in row:
        row["moe/load_max_over_mean"] = row.pop("load_max_over_mean")
    return state, row
