"""The supervised stage as a whole, on a tiny model: it learns, resumes bit for bit, and names bad configs."""

import dataclasses
import functools
import json
import os
import shutil
import signal
from collections import namedtuple

import jax
import numpy as np
import pytest

from r1jax.data.documents import encode_document
from r1jax.data.packing import pack
from r1jax.policies.policy import load_init
from r1jax.sharding import make_mesh
from r1jax.specs.reader import SpecError, read
from r1jax.specs.stages import SupervisedSpec
from r1jax.stages import supervised
from r1jax.stages.training import make_train_state
from r1jax.text.templates import TEMPLATES, write_jinja
from r1jax.text.tokenizer import Tokenizer
from r1jax.training.checkpoint import load_checkpoint
from r1jax.workdir.directory import WorkdirError
from r1jax.workdir.stop import Stopped
from tests.tiny import POLICY, rows_of

CORPUS = {"function": "r1jax.tasks.mini.corpus:corpus_text"}


def tiny_values(**changes) -> dict:
    """What a config says of a tiny supervised stage."""
    return {
        "stage": "supervised", "init": POLICY, "data": CORPUS, "template": "plain",
        "documents_per_update": 6, "row_length": 256, "rows_per_microbatch": 4, "num_updates": 6,
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 1, "weight_decay": 0.01}, "bias_rate": 0.001,
        "log_every": 1, "checkpoint_every": 2,
    } | changes  # fmt: skip


def tiny_config(**changes) -> SupervisedSpec:
    return read(SupervisedSpec, tiny_values(**changes))


def state_of(workdir, spec):
    policy, params, buffers = load_init(spec.init, mesh=make_mesh(), seed=0)
    loss_function = supervised.make_loss(policy.model, spec)
    state, _ = make_train_state(spec, loss_function, params, buffers, num_updates=spec.num_updates)
    return load_checkpoint(workdir, state)[0]


@pytest.mark.slow
def test_learns_and_a_crashed_run_goes_on_bit_for_bit(tmp_path, monkeypatch):
    config = tiny_config()
    supervised.main(config, tmp_path / "alone")
    rows = rows_of(tmp_path / "alone")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["loss"] < rows[0]["loss"]

    real, calls = supervised.update_on_documents, []

    def crash_in_the_fourth_update(*args, **kwargs):
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(supervised, "update_on_documents", crash_in_the_fourth_update)
    with pytest.raises(KeyboardInterrupt):
        supervised.main(config, tmp_path / "crashed")
    monkeypatch.setattr(supervised, "update_on_documents", real)
    supervised.main(config, tmp_path / "crashed")
    assert rows_of(tmp_path / "crashed") == rows
    jax.tree.map(
        np.testing.assert_array_equal, state_of(tmp_path / "crashed", config), state_of(tmp_path / "alone", config)
    )
    summary = json.loads((tmp_path / "crashed" / "summary.json").read_text())
    assert summary["updates"] == 6 and summary["loss"] == rows[-1]["loss"]


def test_a_signal_in_the_last_update_still_ends_the_stage_as_done_and_one_before_does_not(tmp_path, monkeypatch):
    config, real, calls = tiny_config(), supervised.update_on_documents, []

    def update_on_documents(*args, **kwargs):
        calls.append(None)
        if len(calls) in (3, 6):
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **kwargs)

    monkeypatch.setattr(supervised, "update_on_documents", update_on_documents)
    with pytest.raises(Stopped):
        supervised.main(config, tmp_path)
    assert len(calls) == 3 and not (tmp_path / "DONE").exists()
    assert supervised.main(config, tmp_path)["updates"] == 6
    assert len(calls) == 6 and (tmp_path / "DONE").exists()


def test_a_signal_before_the_first_update_locks_nothing(tmp_path, monkeypatch):
    real = supervised.make_document_iterator

    def make_document_iterator(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(supervised, "make_document_iterator", make_document_iterator)
    with pytest.raises(Stopped):
        supervised.main(tiny_config(), tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []
    monkeypatch.setattr(supervised, "make_document_iterator", real)
    assert supervised.main(tiny_config(seed=1, num_updates=2), tmp_path)["updates"] == 2


def every_fifth_is_long(index, *, seed, **arguments):
    return "?", "yes " * (300 if index % 5 == 0 else 3)


def test_documents_that_are_too_long_are_counted_over_a_restart(tmp_path, monkeypatch):
    config = tiny_config(too_long="drop", num_updates=4, data={"function": f"{__name__}:every_fifth_is_long"})
    real, calls = supervised.update_on_documents, []

    def crash_in_the_fourth_update(*args, **kwargs):
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(supervised, "update_on_documents", crash_in_the_fourth_update)
    with pytest.raises(KeyboardInterrupt):
        supervised.main(config, tmp_path)
    supervised.main(config, tmp_path)
    # Documents 0 and 5, 10, 15, 20 of the batches of six; the checkpoint is of update 2.
    assert [row["data/too_long"] for row in rows_of(tmp_path)] == [2, 3, 4, 5]


def test_the_tokenizer_that_is_saved_tells_other_programs_of_the_template(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise InterruptedError

    monkeypatch.setattr(supervised, "make_document_iterator", interrupt)
    special = ("<|endoftext|>", "<|pad|>", *TEMPLATES["r1"].tokens)
    init = POLICY | {"tokenizer": POLICY["tokenizer"] | {"vocab_size": 320, "special_tokens": special}}
    with pytest.raises(InterruptedError):
        supervised.main(tiny_config(init=init, template="r1"), tmp_path)
    saved = Tokenizer.load(tmp_path / "tokenizer")
    assert saved.chat_template == write_jinja("r1") and saved.vocab_size == 320
    assert saved.decode([saved.eos_id], skip_special_tokens=False) == TEMPLATES["r1"].end  # it was <|endoftext|>


def test_a_disk_that_cannot_hold_the_checkpoints_is_said_before_the_first_update(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 0, 68 * 10**6)  # enough for the logs
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(supervised, "update_on_documents", None)
    with pytest.raises(WorkdirError, match=rf"{tmp_path}: needs 1\d\d MB, 68 MB are free"):
        supervised.main(tiny_config(keep_checkpoints=99), tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_updates": 0}, "num_updates=0 must be at least 1"),
        ({"num_epochs": 2}, "num_updates or num_epochs must be there, one of the two"),
        ({"num_updates": None}, "num_updates or num_epochs must be there, one of the two"),
        ({"too_long": "skip"}, "too_long='skip' must be one of 'raise', 'cut', 'drop'"),
        ({"optimizer": {"warmup_steps": 6}}, r"optimizer\.warmup_steps=6 must be below the 6 updates"),
        ({"optimizer": {"learning_rate": float("nan")}}, r"optimizer\.learning_rate=nan must be finite"),
        ({"data": {"functoin": "a:b"}}, r"'data\.functoin'; near it: function"),
        ({"data": CORPUS | {"path": "x"}}, r"data\.path or function must be there, one of the two"),
    ],
)
def test_a_bad_config_is_said_when_it_is_read(changes, words):
    with pytest.raises(SpecError, match=words):
        tiny_config(**changes)


@pytest.mark.parametrize("too_long", ["raise", "drop"])
def test_documents_that_no_row_holds_are_said_before_training(too_long):
    spec = tiny_config(too_long=too_long, data={"function": f"{__name__}:every_fifth_is_long"})
    with pytest.raises(ValueError, match="row_length|leaves nothing to train on: 6 documents exceed the row of 4"):
        supervised.check(dataclasses.replace(spec, row_length=4))
    supervised.check(dataclasses.replace(spec, row_length=4096))
    if too_long == "raise":
        with pytest.raises(ValueError, match="a row holds 256: make row_length larger"):
            supervised.check(spec)
    else:
        supervised.check(spec)  # the others fit


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"template": "nothing"}, "nothing"),
        ({"template": "r1"}, "chat template 'r1': the tokenizer has no special token"),
        ({"data": {"function": "r1jax.tasks.mini.corpus:nothing"}}, r"data\.function=.*has no 'nothing'"),
        ({"num_updates": None, "num_epochs": 2}, "num_epochs=2: r1jax.tasks.mini.corpus:corpus_text has no end"),
        ({"mtp_weight": 0.3}, "mtp_weight=0.3"),
        ({"init": {"kind": "stage", "path": "runs/none"}}, r"init\.path='.*runs/none'"),
    ],
)
def test_what_cannot_train_is_named_before_compute(changes, words):
    with pytest.raises(ValueError, match=words):
        supervised.check(tiny_config(**changes))


def test_packed_is_alone_in_logits_loss_and_gradient(quick_compilation):
    """Three documents in one row, each in a row of its own, and each in a batch of its own (V3 Sec. 5.1)."""
    policy, params, buffers = load_init(tiny_config().init, mesh=make_mesh(), seed=0)
    model, source = policy.model, supervised.make_source(tiny_config().data, seed=0)
    documents = [encode_document(source(index), policy.tokenizer, tiny_config()) for index in range(3)]
    sizes = [len(document["tokens"]) for document in documents]

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(params, batch):
        losses = [
            supervised.make_loss(model, tiny_config(aggregation=name))(params, buffers, batch)[0]
            for name in ("token", "sequence")
        ]
        hidden_BTD, _, _ = model.hidden(
            params, buffers, batch["tokens"], positions_BT=batch["positions"], segments_BT=batch["segment_ids"]
        )
        return losses[0], (losses[1], model.logits(params, hidden_BTD))

    def run_on(*rows):
        """The documents of each row packed there; every batch has three rows, some of them empty."""
        rows = [pack([documents[n] for n in row], length=sum(sizes) + 2, rows_multiple=1)[0] for row in rows]
        empty = {name: np.zeros_like(values) for name, values in rows[0].items()}
        rows += [empty] * (3 - len(rows))
        batch = {name: np.concatenate([row[name] for row in rows]) for name in empty}
        num_sequences = batch["segment_ids"].max(axis=1).sum()
        counts = {"num_tokens": np.float32(batch["mask"].sum()), "num_sequences": np.float32(num_sequences)}
        (token, (sequence, logits)), grads = run(params, batch | counts)
        return {"token": float(token), "sequence": float(sequence)}, np.array(logits), grads

    _, slots = pack(documents, length=sum(sizes) + 2)
    packed, logits, grads = run_on([0, 1, 2])
    padded, own_logits, padded_grads = run_on([0], [1], [2])
    alone = [run_on([n])[0] for n in range(3)]
    for n, slot in enumerate(slots):
        np.testing.assert_allclose(logits[0, slot.start : slot.stop], own_logits[n, : sizes[n]], atol=2e-5)
    weights = {"token": [document["mask"].sum() for document in documents], "sequence": [1, 1, 1]}
    for name in weights:
        assert packed[name] == pytest.approx(padded[name], rel=1e-5)
        assert packed[name] == pytest.approx(
            np.average([loss[name] for loss in alone], weights=weights[name]), rel=1e-5
        )
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5), grads, padded_grads)


def test_documents_without_a_target_count_for_the_balance_loss_alone():
    seen = {}

    class Update:
        def zeros(self, microbatch):
            seen.update(microbatch)
            raise StopIteration

    batch = {name: np.zeros((2, 4), np.int32) for name in supervised.FIELDS}
    batch["segment_ids"] = np.array([[1, 1, 2, 0], [1, 2, 2, 3]])
    batch["mask"] = np.array([[0, 1, 0, 0], [1, 0, 1, 0]], np.float32)  # not one target in the second and the last
    with pytest.raises(StopIteration):
        supervised.update_on_documents({}, Update(), batch, rows=2)
    assert (seen["num_sequences"], seen["num_segments"], seen["num_tokens"]) == (3, 5, 3)
