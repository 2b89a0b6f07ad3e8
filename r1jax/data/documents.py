"""Supervised batches: generated documents, tokenised and packed, by a grain pipeline whose position is saved."""

from collections.abc import Callable, Mapping
from typing import Any

import grain
import numpy as np

from r1jax.data.packing import pack
from r1jax.text.chat import render
from r1jax.text.tokenizer import Tokenizer

Source = Callable[[int], tuple[str, str]]
"""index -> (question, completion); endless and deterministic."""

_LENGTH = 2**40


def encode_document(
    question: str, completion: str, *, tokenizer: Tokenizer, template: str, loss_on_prompt: bool
) -> dict[str, np.ndarray]:
    """Inputs, targets and loss mask, each [n − 1], of prompt + completion + end token (n tokens).

    Position t holds token t and the target t + 1; the mask is 1 where the target is a completion token or the end token.
    """
    prompt = render([{"role": "user", "content": question}], template=template)
    prompt_ids = tokenizer.encode(prompt)
    ids = np.array([*prompt_ids, *tokenizer.encode(completion), tokenizer.eos_id], np.int32)
    mask = np.ones(len(ids), np.float32)
    if not loss_on_prompt:
        mask[: len(prompt_ids)] = 0.0
    return {"tokens": ids[:-1], "targets": ids[1:], "mask": mask[1:]}


class _Documents:
    """Tokenised documents as a grain source; a document longer than a row raises."""

    def __init__(self, source: Source, options: Mapping[str, Any], length: int):
        self._source, self._options, self._max = source, dict(options), length

    def __len__(self) -> int:
        return _LENGTH

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        document = encode_document(*self._source(int(index)), **self._options)
        if len(document["tokens"]) > self._max:
            raise ValueError(f"document {index} has {len(document['tokens'])} tokens, a row holds {self._max}")
        return document

    def __repr__(self) -> str:
        return "documents"


def make_document_iterator(
    source: Source,
    *,
    tokenizer: Tokenizer,
    template: str,
    loss_on_prompt: bool,
    documents_per_batch: int,
    length: int,
    rows_multiple: int,
) -> Any:
    """Grain iterator of packed batches: dicts of [R, length] arrays, R a multiple of ``rows_multiple``.

    Fields: tokens, targets, mask, segment_ids, positions. ``get_state``/``set_state`` save and restore the position.
    Raises ValueError, on the batch that holds it, for a document longer than a row.
    """
    options = {"tokenizer": tokenizer, "template": template, "loss_on_prompt": loss_on_prompt}
    dataset = grain.MapDataset.source(_Documents(source, options, length)).batch(documents_per_batch, batch_fn=list)
    dataset = dataset.map(lambda documents: pack(documents, length=length, rows_multiple=rows_multiple)[0])
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))
