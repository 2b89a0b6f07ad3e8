"""Supervised stage: next-token training on documents. Pretraining of the mini base, cold start, SFT and distillation.

Documents are rendered by a chat template, packed into rows of one length by best fit (segment ids keep them apart, V3 Sec. 5.1), and
the loss is the mean over the batch's target tokens ("token") or over documents ("sequence").
"""

import dataclasses
import math
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from r1jax.data.documents import TOO_LONG, as_messages, make_document_iterator
from r1jax.data.records import RecordsMissingError
from r1jax.models.transformer import Model
from r1jax.objectives.sums import add_metrics, mean_metrics
from r1jax.objectives.supervised import cross_entropy_loss
from r1jax.objectives.weights import token_weights
from r1jax.policies.policy import check_init, check_source, count_documents, load_policy, make_source
from r1jax.processes import require_same
from r1jax.sharding import make_mesh, place_batch
from r1jax.stages.auxiliary import balance_loss, check_auxiliary, expert_counts, mtp_loss
from r1jax.stages.keys import check_counts, check_finite, check_keys, check_not_negative, offload_of, options_of
from r1jax.text.chat import TRAIN, check_template, tokenizer_for
from r1jax.training.checkpoint import Checkpoints
from r1jax.training.learner import NonFiniteError, TrainState, Update, init_state, make_update, update_once
from r1jax.training.offload import OPTIMIZER, check_offload, to_host
from r1jax.training.optimizer import OPTIMIZER_KEYS, make_optimizer
from r1jax.workdir.directory import open_workdir
from r1jax.workdir.lineage import record_lineage
from r1jax.workdir.metrics import MetricsWriter
from r1jax.workdir.stop import Stopped, graceful_stop

COUNTS = frozenset(
    [
        "documents_per_update",
        "row_length",
        "rows_per_microbatch",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
    ]
)
KEYS = COUNTS.union(
    ["stage", "seed", "mesh", "init", "data", "template", "loss_on_prompt", "aggregation", "optimizer", "bias_rate"]
)
LENGTHS = ("num_updates", "num_epochs")
"""How long it trains: one of the two. Epochs are of a source that is finite, and end with the update that completes them."""
AUXILIARY = ("mtp_weight", "balance_weight")
DOCUMENT_OPTIONS = {"train": TRAIN, "too_long": TOO_LONG}
FIELDS = ("tokens", "targets", "mask", "segment_ids", "positions")


def check(config: ConfigDict) -> None:
    """Raises ValueError, naming the key, for a config that cannot train; costs a document."""
    check_keys(config, required=KEYS, optional=[*LENGTHS, *AUXILIARY, *DOCUMENT_OPTIONS, "offload"], where="supervised")
    lengths = options_of(config, LENGTHS)
    if len(lengths) != 1:
        raise ValueError("supervised: there must be one of num_updates and num_epochs")
    check_keys(config.optimizer, required=("learning_rate",), optional=OPTIMIZER_KEYS, where="supervised: optimizer")
    check_counts(config, COUNTS.union(lengths), where="supervised")
    check_counts(config, ("seed",), where="supervised", least=0)
    check_finite(config.to_dict(), where="supervised")
    check_not_negative(config, ("bias_rate", *AUXILIARY), where="supervised")
    if config.aggregation not in ("token", "sequence"):
        raise ValueError(f"aggregation={config.aggregation!r}: must be 'token' or 'sequence'")
    for name, allowed in DOCUMENT_OPTIONS.items():
        if name in config and config[name] not in allowed:
            raise ValueError(f"{name}={config[name]!r}: must be one of {', '.join(allowed)}")
    check_init(config.init.to_dict())
    check_source(config.data, where="supervised: data")
    source = make_source(config.data.to_dict(), seed=config.seed)
    try:
        check_template(config.template, as_messages(source(0))[:-1])
        num_updates = num_updates_of(config)
    except RecordsMissingError:  # an earlier stage makes the data; main needs it
        num_updates = config.num_updates if "num_updates" in config else 1 << 30
    check_offload(offload_of(config), (OPTIMIZER,), devices=make_mesh(config.mesh).local_devices, where="supervised")
    make_optimizer(total_steps=num_updates, **config.optimizer)


def num_updates_of(config: ConfigDict) -> int:
    """Updates of the whole run: as the config says, or so many that every document was seen ``num_epochs`` times.

    Raises ValueError for epochs of a source without end; RecordsMissingError where the data is not there.
    """
    if "num_updates" in config:
        return config.num_updates
    count = count_documents(config.data.to_dict())
    if count is None:
        raise ValueError(f"num_epochs={config.num_epochs}: {config.data.function} has no end: say num_updates")
    return math.ceil(config.num_epochs * count / config.documents_per_update)


def make_loss(model, *, aggregation: str, mtp_weight: float = 0.0, balance_weight: float = 0.0):
    """(params, buffers, microbatch) -> (loss, sums); the microbatch carries the whole batch's counts.

    mtp_weight is λ of V3 Eq. 25, balance_weight α of Eq. 17; where one is 0, its part is not computed.
    """
    check_auxiliary(model, mtp_weight=mtp_weight, balance_weight=balance_weight)
    routing = {"balance": balance_weight > 0}

    def loss_function(params, buffers, batch):
        hidden_BTD, _, aux = model.hidden(
            params,
            buffers,
            batch["tokens"],
            positions_BT=batch["positions"],
            segments_BT=batch["segment_ids"],
            **routing,
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
        extras, mtp_aux = {}, None
        if mtp_weight:
            extras["mtp_loss"], mtp_aux = mtp_loss(model, params, buffers, hidden_BTD, batch, weight_BT, **routing)
            loss += mtp_weight * extras["mtp_loss"]
        if balance_weight:
            extras["moe/balance_loss"] = balance_loss(aux, mtp_aux, num_sequences=batch["num_segments"])
            loss += balance_weight * extras["moe/balance_loss"]
        sums = {name: jax.lax.stop_gradient(value) * batch["num_tokens"] for name, value in extras.items()}
        return loss, {**metrics, **sums, "expert_counts": expert_counts(buffers, aux, mtp_aux)}

    return loss_function


def build(
    config: ConfigDict, model: Model, params, buffers, *, num_updates: int | None = None
) -> tuple[TrainState, Update]:
    """Train state and jitted update from weights that are laid out on their mesh, or ShapeDtypeStructs of them.

    num_updates: of the whole run; None: as the config and its data say.
    """
    num_updates = num_updates_of(config) if num_updates is None else num_updates
    optimizer, schedule = make_optimizer(total_steps=num_updates, **config.optimizer)
    state = init_state(params, buffers, optimizer=optimizer)
    if OPTIMIZER in offload_of(config):
        state["opt_state"] = to_host(state["opt_state"])
    update = make_update(
        make_loss(model, aggregation=config.aggregation, **options_of(config, AUXILIARY)),
        optimizer,
        schedule=schedule,
        state=state,
        bias_rate=config.bias_rate,
        add_metrics=add_metrics,
    )
    return state, update


def main(config: ConfigDict, workdir: Path) -> dict:
    """Trains, and leaves checkpoints, model.json and tokenizer/ in ``workdir``. Returns the summary.

    Raises Stopped, when all is saved, if a signal asked it to end before it was done.
    """
    start_time = time.monotonic()
    check(config)
    source = make_source(config.data.to_dict(), seed=config.seed)
    source(0)  # data that is not there is said now
    num_updates = num_updates_of(config)
    mesh = make_mesh(config.mesh)
    with (
        open_workdir(workdir, config.to_dict()) as run,
        jax.set_mesh(mesh),
        graceful_stop() as stop,
        Checkpoints(workdir, keep=config.keep_checkpoints, every=config.checkpoint_every) as checkpoints,
    ):
        record_lineage(workdir, config.to_dict())

        # Policy and data
        policy, params, buffers = load_policy(config.init.to_dict(), mesh=mesh, seed=config.seed)
        policy = dataclasses.replace(policy, tokenizer=tokenizer_for(policy.tokenizer, config.template))
        policy.save(workdir)
        batches = make_document_iterator(
            source,
            tokenizer=policy.tokenizer,
            template=config.template,
            loss_on_prompt=config.loss_on_prompt,
            documents_per_batch=config.documents_per_update,
            length=config.row_length,
            rows_multiple=config.rows_per_microbatch,
            **options_of(config, DOCUMENT_OPTIONS),
        )

        # Train state
        state, update = build(config, policy.model, params, buffers, num_updates=num_updates)
        del params, buffers
        run.require_space(checkpoints.bytes_to_come(state))
        updates, loss, too_long, earlier_seconds = 0, None, 0, 0.0
        if checkpoints.latest_step() is not None:
            state, extra = checkpoints.restore(state)
            batches.set_state(extra["data"])
            updates, loss, earlier_seconds = int(state["step"]), extra["loss"], extra["wall_seconds"]
            too_long = extra["too_long"]

        def wall_seconds():
            return earlier_seconds + time.monotonic() - start_time

        def save():
            extra = {"data": batches.get_state(), "loss": loss, "too_long": too_long, "wall_seconds": wall_seconds()}
            checkpoints.save(updates, state, extra=extra)

        # Loop
        with MetricsWriter(workdir, total=num_updates, resume_step=updates) as metrics:
            while updates < num_updates and not stop.agreed():
                begin = time.perf_counter()
                batch = next(batches)
                state, row = train_on(state, update, batch, rows=config.rows_per_microbatch)
                updates += 1
                if not row.pop("finite"):
                    raise NonFiniteError(
                        f"update {updates}: the gradient is not finite; the last good checkpoint is kept"
                    )
                loss = row["loss"]
                too_long += int(batch["num_too_long"])
                if "too_long" in config:
                    row["data/too_long"] = too_long
                if updates % config.log_every == 0 or updates == num_updates:
                    seconds = time.perf_counter() - begin
                    row["num_loss_tokens"] = row.pop("num_tokens")  # TRL's num_tokens is of the whole run
                    row |= {"tokens_per_second/train": row["num_loss_tokens"] / seconds, "time/step": seconds}
                    metrics.write(updates, row)
                if checkpoints.is_due(updates):
                    save()
            save()
        if updates < num_updates:
            raise Stopped
        checkpoints.wait()
        summary = {"updates": updates, "loss": loss, "wall_seconds": wall_seconds(), "seed": config.seed}
        run.mark_done(summary)
    return summary


def train_on(state, update: Update, batch: dict[str, np.ndarray], *, rows: int) -> tuple[TrainState, dict]:
    """One update over the micro-batches of a packed batch: (state, metrics row)."""
    counts = {
        "num_tokens": np.float32(batch["mask"].sum()),
        "num_sequences": np.float32(_count_segments(batch["segment_ids"] * (batch["mask"] > 0))),
        "num_segments": np.float32(_count_segments(batch["segment_ids"])),
    }
    require_same(batch, "the batch of documents")
    microbatches = [
        place_batch({name: batch[name][first : first + rows] for name in FIELDS} | counts)
        for first in range(0, len(batch["tokens"]), rows)
    ]
    state, sums, info = update_once(state, update, microbatches)
    return state, {name: float(value) for name, value in (mean_metrics(sums) | info).items()}


def _count_segments(segment_ids_RT: np.ndarray) -> int:
    """Documents in packed rows, padding (0) aside."""
    return sum(len(np.setdiff1d(row, [0])) for row in segment_ids_RT)
