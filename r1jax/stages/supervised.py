"""Supervised stage: next-token training on documents. Pretraining of the mini base, cold start, SFT and distillation.

Documents are rendered by a chat template and packed into rows of one length (segment ids keep them apart, V3 Sec. 5.1);
the loss is the mean over the batch's target tokens ("token") or over documents ("sequence").
"""

import functools
import math
from pathlib import Path

import numpy as np

from r1jax.data.documents import as_messages, encode_document, fit_documents, make_document_iterator
from r1jax.data.records import RecordsMissingError
from r1jax.models.transformer import Model
from r1jax.objectives.likelihood import cross_entropy_loss
from r1jax.objectives.sums import mean_metrics
from r1jax.policies.policy import count_documents, make_source
from r1jax.policies.preview import Previews
from r1jax.processes import require_same
from r1jax.sharding import make_mesh, place_batch
from r1jax.specs.reader import read
from r1jax.specs.stages import SupervisedSpec
from r1jax.stages.open_run import open_run
from r1jax.stages.training import (
    auxiliary_losses,
    check_auxiliary,
    finite_update,
    hidden_of,
    loss_weights,
    make_train_state,
    mtp_loss,
)
from r1jax.text.chat import check_template, tokenizer_for
from r1jax.training.learner import TrainState, Update
from r1jax.training.offload import check_offload

FIELDS = ("tokens", "targets", "mask", "segment_ids", "positions")
_NUM_CHECKED = 16
_UNKNOWN_UPDATES = 1 << 30  # updates of a run whose data an earlier stage has still to make


def check(spec: SupervisedSpec, previews: Previews | None = None) -> None:
    """Raises ValueError, naming the key, for what cannot train; costs a few documents."""
    previews = previews or Previews()
    check_template(spec.template)
    mesh = make_mesh(spec.mesh.axes())
    check_offload(spec.offload, devices=mesh.local_devices)
    try:
        source = make_source(spec.data, seed=spec.seed)
    except ValueError as error:
        raise ValueError(f"data.function={error}") from error
    try:
        documents = [source(index) for index in range(min(spec.documents_per_update, _NUM_CHECKED))]
        check_template(spec.template, as_messages(documents[0])[:-1])
        num_updates = num_updates_of(spec)
    except RecordsMissingError:  # an earlier stage makes the data; main needs it
        documents, num_updates = [], spec.num_updates or _UNKNOWN_UPDATES
    spec.optimizer.check_steps(num_updates)
    preview = previews.policy(spec.init, seed=spec.seed)
    if preview is not None:
        check_auxiliary(preview.config, mtp_weight=spec.mtp_weight, balance_weight=spec.balance_weight)
        tokenizer = tokenizer_for(preview.tokenizer, spec.template)
        tokenizer.check_fits(preview.config.vocab_size)
        encoded = [encode_document(document, tokenizer, spec) for document in documents]
        is_whole = len(documents) == spec.documents_per_update  # else one that fits may be among the others
        if encoded and (is_whole or spec.too_long == "raise"):
            fit_documents(encoded, length=spec.row_length, too_long=spec.too_long)


def num_updates_of(spec: SupervisedSpec) -> int:
    """Updates of the whole run: as the spec says, or so many that every document was seen ``num_epochs`` times.

    Raises ValueError for epochs of a source without end; RecordsMissingError where the data is not there.
    """
    if spec.num_updates is not None:
        return spec.num_updates
    count = count_documents(spec.data)
    if count is None:
        raise ValueError(f"num_epochs={spec.num_epochs}: {spec.data.function} has no end: say num_updates")
    return math.ceil((spec.num_epochs or 1) * count / spec.documents_per_update)


def make_loss(model: Model, spec: SupervisedSpec):
    """(params, buffers, microbatch) -> (loss, sums); the microbatch carries the whole batch's counts."""

    def loss_function(params, buffers, batch):
        hidden_BTD, _, aux = hidden_of(model, params, buffers, batch, balance=spec.balance_weight > 0)
        logp_BT, _ = model.token_logprob(params, hidden_BTD, batch["targets"])
        weight_BT = loss_weights(batch, spec)
        loss, metrics = cross_entropy_loss(logp_BT, weight_BT=weight_BT)
        mtp = functools.partial(mtp_loss, model, params, buffers, hidden_BTD, batch, weight_BT)
        extra, sums = auxiliary_losses(spec, buffers, batch, aux, mtp=mtp)
        return loss + extra, {**metrics, **sums}

    return loss_function


def main(spec: SupervisedSpec, workdir: Path) -> dict:
    """Trains, and leaves checkpoints, model.json and tokenizer/ in ``workdir``. Returns the summary.

    Raises Stopped, when all is saved, if a signal asked it to end before it was done.
    """
    spec = read(SupervisedSpec, spec)
    check(spec)
    source = make_source(spec.data, seed=spec.seed)
    source(0)  # data that is not there is said now
    num_updates = num_updates_of(spec)
    with open_run(spec, workdir) as run:
        # Policy and data
        policy, params, buffers = run.load_policy(template=spec.template)
        batches = make_document_iterator(source, spec, tokenizer=policy.tokenizer)

        # Train state
        loss_function = make_loss(policy.model, spec)
        run.state, update = make_train_state(spec, loss_function, params, buffers, num_updates=num_updates)
        del params, buffers
        run.restore(total=num_updates, streams={"data": batches}, loss=None, too_long=0)

        # Loop
        kept = run.kept
        for _ in run.loop():
            batch = next(batches)
            run.state, row = update_on_documents(run.state, update, batch, rows=spec.rows_per_microbatch)
            kept |= {"loss": row["loss"], "too_long": kept["too_long"] + int(batch["num_too_long"])}
            if spec.too_long != "raise":
                row["data/too_long"] = kept["too_long"]
            rate = row["num_loss_tokens"] / run.seconds()
            run.log(row | {"tokens_per_second/train": rate}, every=spec.log_every)
        return run.mark_done({"updates": num_updates, "loss": kept["loss"]})


def update_on_documents(state, update: Update, batch: dict[str, np.ndarray], *, rows: int) -> tuple[TrainState, dict]:
    """One update over the micro-batches of a packed batch: (state, metrics row)."""
    counts = {
        "num_tokens": np.float32(batch["mask"].sum()),
        "num_sequences": _count_segments(batch["segment_ids"] * (batch["mask"] > 0)),
        "num_segments": _count_segments(batch["segment_ids"]),
    }
    require_same(batch, "the batch of documents")
    microbatches = [
        place_batch({name: batch[name][first : first + rows] for name in FIELDS} | counts)
        for first in range(0, len(batch["tokens"]), rows)
    ]
    state, sums, info = finite_update(state, update, microbatches)
    row = {name: float(value) for name, value in (mean_metrics(sums) | info).items()}
    row["num_loss_tokens"] = row.pop("num_tokens")  # TRL's num_tokens is of the whole run
    return state, row


def _count_segments(segment_ids_RT: np.ndarray) -> np.float32:
    """Documents in packed rows, padding (0) aside."""
    return np.float32(sum(len(np.setdiff1d(row, [0])) for row in segment_ids_RT))
