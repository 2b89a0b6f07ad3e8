"""Supervised batches: documents, tokenised and packed, by a grain pipeline whose position is saved."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import grain
import numpy as np

from r1jax.data.packing import pack
from r1jax.specs.stages import SupervisedSpec
from r1jax.text.chat import Messages, encode_conversation
from r1jax.text.tokenizer import Tokenizer

DocumentSource = Callable[[int], tuple[str, str] | Messages]
"""index -> (question, completion), or the messages of a conversation that the assistant ends; endless, deterministic."""


def as_messages(document: tuple[str, str] | Messages) -> Messages:
    """A document of a source as messages."""
    first, *rest = document
    if isinstance(first, str):
        return [{"role": "user", "content": first}, {"role": "assistant", "content": str(rest[0])}]
    return cast(Messages, document)


def encode_document(
    document: tuple[str, str] | Messages, tokenizer: Tokenizer, spec: SupervisedSpec
) -> dict[str, np.ndarray]:
    """Inputs, targets t + 1 and loss mask, each [n - 1], of a conversation of n tokens (`encode_conversation`).

    The mask is 1 where the target is in a trained assistant turn or ends one; with ``loss_on_prompt`` everywhere.
    """
    ids, mask = encode_conversation(as_messages(document), tokenizer, template=spec.template, train=spec.train)
    tokens = np.array(ids, np.int32)
    weights = np.ones(len(ids), np.float32) if spec.loss_on_prompt else np.array(mask, np.float32)
    return {"tokens": tokens[:-1], "targets": tokens[1:], "mask": weights[1:]}


def fit_documents(
    documents: Sequence[dict[str, np.ndarray]], *, length: int, too_long: str
) -> tuple[list[dict[str, np.ndarray]], int]:
    """(documents of at most ``length`` tokens, how many were longer).

    Raises ValueError for a longer one with "raise", and where "drop" leaves none or "cut" one without a trained token.
    """
    sizes = [len(document["tokens"]) for document in documents]
    count = sum(size > length for size in sizes)
    if count and too_long == "raise":
        raise ValueError(
            f"a document has {max(sizes)} tokens and a row holds {length}: make row_length larger, or say too_long='cut' "
            "or 'drop'"
        )
    if too_long == "drop":
        documents = [document for document, size in zip(documents, sizes, strict=True) if size <= length]
    fitting = [{name: values[:length] for name, values in document.items()} for document in documents]
    if not any(document["mask"].any() for document in fitting):
        raise ValueError(
            f"too_long={too_long!r} leaves nothing to train on: {count} documents exceed the row of {length}"
        )
    return fitting, count


def make_document_iterator(source: DocumentSource, spec: SupervisedSpec, *, tokenizer: Tokenizer) -> Any:
    """Grain iterator of packed batches: dicts of [R, row_length] arrays, R a multiple of ``rows_per_microbatch``.

    Fields: tokens, targets, mask, segment_ids, positions; and "num_too_long", how many documents of the batch were
    longer than a row. ``get_state``/``set_state`` save and restore the position. A batch raises what ``fit_documents``
    does.
    """

    def encode(index: int) -> dict[str, np.ndarray]:
        return encode_document(source(index), tokenizer, spec)

    def pack_batch(documents: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        fitting, count = fit_documents(documents, length=spec.row_length, too_long=spec.too_long)
        arrays, _ = pack(fitting, length=spec.row_length, rows_multiple=spec.rows_per_microbatch)
        return arrays | {"num_too_long": np.array(count)}

    dataset = grain.MapDataset.range(2**40).map(encode)
    batches = dataset.batch(spec.documents_per_update, batch_fn=list).map(pack_batch)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))
