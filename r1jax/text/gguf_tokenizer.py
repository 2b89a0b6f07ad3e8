"""The tokenizer that a GGUF file's metadata describes (byte-level BPE, as GPT-2's and its descendants')."""

import functools
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from r1jax.text.tokenizer import Tokenizer

# llama.cpp's types of token (its llama_token_type).
_CONTROL = 3
_USER_DEFINED = 4

# llama.cpp's names of how text is split before BPE (its llama-vocab.cpp).
_PRE_TOKENIZERS = {
    "smollm": lambda: [  # \p{N} one by one, then GPT-2's regular expression
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ],
    "gpt-2": lambda: [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)],
}


def header_value(metadata: Mapping[str, Any], key: str) -> Any:
    """metadata[key]; ValueError names a key that is missing."""
    if key not in metadata:
        raise ValueError(f"the GGUF header has no {key!r}")
    return metadata[key]


def gguf_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a GGUF header (`r1jax.hf.gguf.read_gguf(path).metadata`).

    ValueError names a missing key, or a tokenizer model or pre-tokenizer (`tokenizer.ggml.pre`) not known here.
    """
    value = functools.partial(header_value, metadata)
    kind, pre = value("tokenizer.ggml.model"), value("tokenizer.ggml.pre")
    if kind != "gpt2":
        raise ValueError(f"tokenizer.ggml.model={kind!r} is not supported; known: 'gpt2' (byte-level BPE)")
    if pre not in _PRE_TOKENIZERS:
        raise ValueError(f"tokenizer.ggml.pre={pre!r} is not supported; known: {sorted(_PRE_TOKENIZERS)}")
    if metadata.get("tokenizer.ggml.add_space_prefix"):
        raise ValueError("tokenizer.ggml.add_space_prefix=True is not supported")
    tokens, kinds = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges")]
    inner = tokenizers.Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    inner.pre_tokenizer = pre_tokenizers.Sequence(_PRE_TOKENIZERS[pre]())
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([t for t, k in zip(tokens, kinds, strict=True) if k == _CONTROL])
    inner.add_tokens([t for t, k in zip(tokens, kinds, strict=True) if k == _USER_DEFINED])
    return Tokenizer(
        inner,
        eos_id=value("tokenizer.ggml.eos_token_id"),
        bos_id=metadata.get("tokenizer.ggml.bos_token_id"),
        pad_id=metadata.get("tokenizer.ggml.padding_token_id"),
        stop_ids=[
            metadata[key] for key in ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id") if key in metadata
        ],
        adds_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", False)),
        chat_template=metadata.get("tokenizer.chat_template"),
    )
