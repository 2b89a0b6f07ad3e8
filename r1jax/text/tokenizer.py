"""Text to token ids and back: a thin wrapper of a `tokenizers.Tokenizer`.

Nothing is added or cut that the caller did not write: no BOS (whatever the file's post-processor says), no truncation,
no padding. A template that wants a special token writes its text (`<|im_start|>`), and `encode` turns it into one id.
"""

import copy
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from r1jax.text.tokenizer_files import CONFIG, GENERATION, TOKENIZER, ends_file, read_folder, write_folder


class Tokenizer:
    """Encodes and decodes text and knows the ids of the end, begin and padding tokens."""

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        *,
        eos_id: int,
        bos_id: int | None = None,
        pad_id: int | None = None,
        stop_ids: Iterable[int] = (),
        adds_bos: bool = False,
        chat_template: str | None = None,
        files: Mapping[str, str] | None = None,
    ):
        """Wraps `inner`; `pad_id` defaults to `eos_id`. ValueError names an id that the vocabulary lacks.

        files: the texts of the folder that all this came from, by name; `save` writes them back as they were.
        """
        inner = tokenizers.Tokenizer.from_str(inner.to_str())  # ours alone: the two settings below change it
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        self._files = dict(files or {})
        self._known_ids = frozenset(inner.get_vocab(with_added_tokens=True).values())
        if not self._known_ids:
            raise ValueError("the tokenizer has an empty vocabulary")
        self.vocab_size: int = max(self._known_ids) + 1  # so every id indexes an embedding of as many rows
        self.eos_id: int = eos_id  # ends a text
        self.bos_id: int | None = bos_id  # begins a text; None where the model has none
        self.pad_id: int = eos_id if pad_id is None else pad_id  # fills rows; it may be eos_id: derive no mask from it
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys((eos_id, *stop_ids)))  # all that end a generation
        self.adds_bos: bool = adds_bos  # the model was trained on texts that begin with bos_id, see `r1jax.text.chat`
        self.chat_template: str | None = chat_template  # jinja
        named = {"eos_id": eos_id, "bos_id": bos_id, "pad_id": self.pad_id}
        for name, value in [*named.items(), *(("stop_ids", stop) for stop in self.stop_ids)]:
            if value is not None and value not in self._known_ids:
                raise ValueError(f"{name}={value} is not in the tokenizer's vocabulary of {self.vocab_size} ids")
        if adds_bos and bos_id is None:
            raise ValueError("adds_bos=True for a tokenizer without a bos_id")

    @classmethod
    def from_tokenizers(
        cls, inner: tokenizers.Tokenizer, *, eos: str, bos: str | None = None, pad: str | None = None, **options: Any
    ) -> "Tokenizer":
        """Wraps `inner`, with the end, begin and padding tokens given as text. ValueError names an absent token."""
        for name, text in (("eos", eos), ("bos", bos), ("pad", pad)):
            options[f"{name}_id"] = None if text is None else inner.token_to_id(text)
            if text is not None and options[f"{name}_id"] is None:
                raise ValueError(f"{name} token {text!r} is not in the tokenizer's vocabulary")
        return cls(inner, **options)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; special tokens written in it become their ids, and none is added."""
        return self._inner.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """The text of `ids`, exactly: no space is cleaned up, special tokens appear unless skipped.

        Bytes that are not UTF-8 become U+FFFD, and so does an id without a token: a model's vocabulary may be padded beyond
        its tokenizer's. A negative id is a ValueError.
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

    def token_text(self, token: int) -> str:
        """How the token `token` is written in the vocabulary. KeyError names an absent id."""
        text = self._inner.id_to_token(token)
        if text is None:
            raise KeyError(f"no token has the id {token}")
        return text

    def is_special(self, token: int) -> bool:
        """Whether the id is a special token: one that plain text never becomes and that `decode` can skip."""
        added = self._inner.get_added_tokens_decoder().get(token)
        return added is not None and added.special

    def check_fits(self, vocab_size: int) -> None:
        """ValueError if a model of `vocab_size` ids lacks some of the tokenizer's. A larger one is padded: that is fine."""
        if vocab_size < self.vocab_size:
            raise ValueError(
                f"the model has {vocab_size} token ids and the tokenizer {self.vocab_size}: "
                f"{self.token_text(max(self._known_ids))!r} would be outside the embedding"
            )

    def with_special_tokens(
        self, renamed: Mapping[str, str], *, eos: str, bos: str | None = None, chat_template: str | None = None
    ) -> "Tokenizer":
        """The same ids with some special tokens written otherwise, as DeepSeek made the students' from Qwen's and Llama's.

        renamed: the text of a special token of this tokenizer -> its new text, which no token may have.
        eos, bos: the end and begin tokens afterwards; a text begins with `bos` if one is given.

        ValueError names a token that is not special here, or a new text that is taken.
        """
        special = {token.content for token in self._inner.get_added_tokens_decoder().values() if token.special}
        for old, new in renamed.items():
            if old not in special:
                raise ValueError(f"{old!r} is no special token of this tokenizer")
            if self._inner.token_to_id(new) is not None and new not in renamed:
                raise ValueError(f"cannot rename {old!r} to {new!r}: a token is written so already")
        if len(set(renamed.values())) < len(renamed):
            raise ValueError(f"cannot rename two tokens to the same text: {dict(renamed)}")
        data = json.loads(self._inner.to_str())
        for token in data["added_tokens"]:
            token["content"] = renamed.get(token["content"], token["content"])
        vocabulary = data["model"]["vocab"]
        if isinstance(vocabulary, dict):
            data["model"]["vocab"] = {renamed.get(text, text): index for text, index in vocabulary.items()}
        data["post_processor"] = None  # it may add the old tokens; `adds_bos` says what it said
        inner = tokenizers.Tokenizer.from_str(json.dumps(data))
        return self.from_tokenizers(inner, eos=eos, bos=bos, adds_bos=bos is not None, chat_template=chat_template)

    def with_chat_template(self, chat_template: str, *, eos: str) -> "Tokenizer":
        """The same tokens with another chat template and the end token that it writes; what ended a text before still does.

        KeyError names an absent token.
        """
        other = copy.copy(self)
        other.chat_template, other.eos_id, other._files = chat_template, self.token_id(eos), {}
        other.stop_ids = tuple(dict.fromkeys((other.eos_id, *self.stop_ids)))
        return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a folder that `load` and transformers' `AutoTokenizer` read, with the original files if it has some."""
        files = self._files
        if not files:
            config: dict[str, Any] = {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": self.token_text(self.eos_id),
                "bos_token": None if self.bos_id is None else self.token_text(self.bos_id),
                "pad_token": self.token_text(self.pad_id),
                "add_bos_token": self.adds_bos,
                "clean_up_tokenization_spaces": False,
            }
            if self.chat_template is not None:
                config["chat_template"] = self.chat_template
            files = {TOKENIZER: self._inner.to_str(), CONFIG: json.dumps(config, indent=2, ensure_ascii=False) + "\n"}
            if len(self.stop_ids) > 1:
                files[GENERATION] = ends_file(self.stop_ids)
        write_folder(Path(path), files)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Reads a folder of `save`'s or of Hugging Face's. FileNotFoundError or ValueError name the file and key."""
        inner, fields, files = read_folder(Path(path))
        try:
            return cls(inner, files=files, **fields)
        except ValueError as error:
            raise ValueError(f"{Path(path)}: {error}") from error
