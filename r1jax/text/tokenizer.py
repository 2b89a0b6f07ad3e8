"""Text to token ids and back: a thin wrapper of a `tokenizers.Tokenizer`.

Nothing is added or cut that the caller did not write: no BOS, no truncation, no padding. A template that
wants a special token writes its text (`<|im_start|>`), and `encode` turns it into the one id.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import tokenizers

TOKENIZER_FILE = "tokenizer.json"
META_FILE = "tokenizer_meta.json"


class Tokenizer:
    """Encodes and decodes text and knows the ids of the end, begin and padding tokens.

    vocab_size: one more than the largest id, so every id indexes an embedding of `vocab_size` rows.
    eos_id: the id that ends a text.
    bos_id: the id that begins a text, or None where the model has none.
    pad_id: the id that fills rows; it may equal `eos_id`, so masks must never be derived from it.
    """

    def __init__(
        self, inner: tokenizers.Tokenizer, *, eos_id: int, bos_id: int | None = None, pad_id: int | None = None
    ):
        """Wraps `inner`; `pad_id` defaults to `eos_id`. ValueError names an id that the vocabulary lacks."""
        inner = tokenizers.Tokenizer.from_str(inner.to_str())  # ours alone: the two settings below change it
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        self._known_ids = frozenset(inner.get_vocab(with_added_tokens=True).values())
        if not self._known_ids:
            raise ValueError("the tokenizer has an empty vocabulary")
        self.vocab_size: int = max(self._known_ids) + 1
        self.eos_id: int = eos_id
        self.bos_id: int | None = bos_id
        self.pad_id: int = eos_id if pad_id is None else pad_id
        for name in ("eos_id", "bos_id", "pad_id"):
            value = getattr(self, name)
            if value is not None and value not in self._known_ids:
                raise ValueError(f"{name}={value} is not in the tokenizer's vocabulary of {self.vocab_size} ids")

    @classmethod
    def from_tokenizers(
        cls, inner: tokenizers.Tokenizer, *, eos: str, bos: str | None = None, pad: str | None = None
    ) -> "Tokenizer":
        """Wraps `inner`, with the end, begin and padding tokens given as text. ValueError names an absent token."""
        ids = {}
        for name, text in (("eos", eos), ("bos", bos), ("pad", pad)):
            ids[name] = None if text is None else inner.token_to_id(text)
            if text is not None and ids[name] is None:
                raise ValueError(f"{name} token {text!r} is not in the tokenizer's vocabulary")
        return cls(inner, eos_id=ids["eos"], bos_id=ids["bos"], pad_id=ids["pad"])

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; special tokens written in it become their ids, and none is added."""
        return self._inner.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """The text of `ids`, exactly: no space is cleaned up, special tokens appear unless skipped.

        Bytes that are not UTF-8 become U+FFFD. So does an id that has no token (a model's vocabulary may be
        padded beyond its tokenizer's, and a sampled completion must stay decodable). A negative id is a
        ValueError.
        """
        runs: list[list[int]] = [[]]
        for item in ids:
            token = int(item)
            if token in self._known_ids:
                runs[-1].append(token)
            elif token < 0:
                raise ValueError(f"token id {token} is negative")
            else:
                runs.append([])
        return "\ufffd".join(self._inner.decode(run, skip_special_tokens=skip_special_tokens) for run in runs)

    def token_id(self, text: str) -> int:
        """The id of the one token that is written `text`. KeyError names an absent one."""
        token = self._inner.token_to_id(text)
        if token is None:
            raise KeyError(f"no token is written {text!r}")
        return token

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes tokenizer.json (Hugging Face's format) and tokenizer_meta.json into the folder `path`."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        meta = {"eos_id": self.eos_id, "bos_id": self.bos_id, "pad_id": self.pad_id}
        for name, text in ((TOKENIZER_FILE, self._inner.to_str()), (META_FILE, json.dumps(meta) + "\n")):
            temporary = folder / f".{name}.{os.getpid()}"
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, folder / name)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Reads a folder written by `save`. FileNotFoundError or ValueError name the file at fault."""
        folder = Path(path)
        for name in (TOKENIZER_FILE, META_FILE):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"no tokenizer in {folder}: {name} is missing")
        try:
            meta = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
            ids = {name: meta[name] for name in ("eos_id", "bos_id", "pad_id")}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder / META_FILE} does not give eos_id, bos_id and pad_id: {error!r}") from error
        text = (folder / TOKENIZER_FILE).read_text(encoding="utf-8")
        try:
            inner = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"{folder / TOKENIZER_FILE} is not a tokenizer: {error}") from error
        return cls(inner, **ids)
