"""Trains the small tokenizer of the mini models: byte-level BPE of whole words.

Any text comes back byte for byte. A piece that BPE may merge into one token is: a tag (`<think>`), a whole number, a
run of letters, one other sign, each with the space before it; or a run of white space. Nothing is merged across pieces.
A frequent number is one token: a model of half a million active parameters learns to copy, add and compare the numbers
of a small range several times sooner that way.
"""

from collections.abc import Iterable, Sequence

import tokenizers

from r1jax.text.tokenizer import Tokenizer

_PIECES = r" ?</?[A-Za-z]+>| ?\p{N}+| ?\p{L}+| ?[^\s\p{L}\p{N}]|\s+"
SPECIAL_TOKENS = ("<|endoftext|>", "<|pad|>")


def train_tokenizer(
    texts: Iterable[str],
    *,
    vocab_size: int,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
) -> Tokenizer:
    """A byte-level BPE tokenizer trained on `texts`, a sample of what the model will see.

    vocab_size: at most this many ids: the special tokens, 256 bytes, then merges. ValueError where the first two do not
    fit.
    special_tokens: the end-of-text token, then the padding token if there are two or more, then any others.
    """
    if not special_tokens:
        raise ValueError("special_tokens is empty: the first one must be the end-of-text token")
    smallest = 256 + len(special_tokens)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size={vocab_size}: must be >= {smallest} (256 bytes and the special tokens)")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(_PIECES), behavior="isolated")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level])
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return Tokenizer.from_tokenizers(inner, eos=special_tokens[0], pad=next(iter(special_tokens[1:]), None))
