"""Text to token ids and back: a thin wrapper of a `tokenizers.Tokenizer`, and its folder as Hugging Face lays it out.

Nothing is added or cut that the caller did not write: no BOS (whatever the file's post-processor says), no truncation,
no padding. A template that wants a special token writes its text (`<|im_start|>`), and `encode` turns it into one id.

`tokenizer.json` is the tokenizer itself. `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` may
name tokens that it lacks or does not mark; they are added to it, as transformers does. Which token ends a text is said
in up to four other files, which may differ: `tokenizer_config.json` before `special_tokens_map.json` before
`generation_config.json` before `config.json`; all the ends that `generation_config.json` lists (without it,
`config.json`) stop a generation.
"""

import copy
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers

TOKENIZER, CONFIG, SPECIAL = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
GENERATION, MODEL = "generation_config.json", "config.json"
TEMPLATE, ADDED = "chat_template.jinja", "added_tokens.json"
KEPT = (TOKENIZER, CONFIG, SPECIAL, GENERATION, TEMPLATE, ADDED, "vocab.json", "merges.txt")
"""What a folder holds of a tokenizer, and what is written back as it was."""
_ROLES = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


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

        Bytes that are not UTF-8 become U+FFFD, and so does an id without a token: a model's vocabulary may be padded
        beyond its tokenizer's. A negative id is a ValueError.
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

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """What each of `ids` adds to their text: joined, the pieces are `decode(ids)`.

        Of a character that spans tokens the last one has all of it, and the others have nothing.
        """
        ids, texts, start, known = list(ids), [], 0, 0
        for end in range(1, len(ids) + 1):
            old, new = self.decode(ids[start:known]), self.decode(ids[start:end])
            is_half = new.endswith("\ufffd") and end < len(ids) and end - known < 4  # bytes of UTF-8
            texts.append("" if is_half else new[len(old) :])
            if not is_half:
                start, known = known, end
        return texts

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
        """The same ids with some special tokens written otherwise, as DeepSeek made the students' from Qwen's and
        Llama's.

        renamed: the text of a special token -> its new text; ValueError names one that is not special here, or is
        taken.
        eos, bos: the end and begin tokens afterwards; a text begins with `bos` if one is given.
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
        """The same tokens with another chat template and the end token that it writes; what ended a text before still
        does.

        KeyError names an absent token.
        """
        other = copy.copy(self)
        other.chat_template, other.eos_id, other._files = chat_template, self.token_id(eos), {}
        other.stop_ids = tuple(dict.fromkeys((other.eos_id, *self.stop_ids)))
        return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a folder that `load` and transformers' `AutoTokenizer` read, with the original files if it has some.

        Each file appears whole or not at all.
        """
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
                files[GENERATION] = _ends_file(self.stop_ids)
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            temporary = folder / f".{name}.{os.getpid()}"
            temporary.write_text(text, encoding="utf-8", newline="")
            os.replace(temporary, folder / name)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Reads a folder of `save`'s or of Hugging Face's.

        FileNotFoundError: there is no tokenizer.json. ValueError, naming the file and the key: not JSON, a token that
        the vocabulary lacks, an added token whose id it cannot have, no file that says the end, a setting that is not
        supported.
        """
        folder = Path(path)
        if not (folder / TOKENIZER).is_file():
            others = [name for name in ("tokenizer.model", "vocab.json", "vocab.txt") if (folder / name).is_file()]
            hint = f"; of {others[0]}, transformers' AutoTokenizer makes one and saves it" if others else ""
            raise FileNotFoundError(f"no tokenizer in {folder}: {TOKENIZER} is missing{hint}")
        texts = {name: _text(folder / name) for name in (*KEPT, MODEL) if (folder / name).is_file()}
        try:
            inner = tokenizers.Tokenizer.from_str(texts[TOKENIZER])
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"{folder / TOKENIZER} is not a tokenizer: {error}") from error
        known = (CONFIG, SPECIAL, GENERATION, MODEL, ADDED)
        configs = {name: _object(folder / name, texts[name]) if name in texts else {} for name in known}
        added, config = configs.pop(ADDED), configs[CONFIG]
        if config.get("split_special_tokens"):
            raise ValueError(
                f"{folder / CONFIG}: split_special_tokens=true is not supported: special tokens are one id here"
            )
        _add_tokens(inner, folder, config, configs[SPECIAL], added)
        ends = {name: _ids(folder / name, values, "eos", inner) for name, values in configs.items() if name in texts}
        eos_ids = next(filter(None, ends.values()), None)
        if eos_ids is None:
            raise ValueError(
                f"{folder}: no eos_token in {CONFIG} or {SPECIAL}, no eos_token_id in {GENERATION} or {MODEL}"
            )
        bos_ids, pad_ids = (
            next((ids for name in names if (ids := _ids(folder / name, configs[name], key, inner))), (None,))
            for key, names in (("bos", (CONFIG, SPECIAL)), ("pad", (CONFIG, SPECIAL, GENERATION)))
        )
        adds_bos = config.get("add_bos_token")
        if adds_bos is None:
            adds_bos = bos_ids[0] is not None and inner.encode("").ids[:1] == [bos_ids[0]]
        template = texts.get(TEMPLATE) or _template(folder / CONFIG, config)
        files = {name: text for name, text in texts.items() if name != MODEL}  # which belongs to the model
        if ends.get(MODEL) and GENERATION not in files:
            files[GENERATION] = _ends_file(ends[MODEL])
        stop_ids = (*eos_ids, *ends.get(GENERATION, ends.get(MODEL, ())))
        ids = {"eos_id": eos_ids[0], "bos_id": bos_ids[0], "pad_id": pad_ids[0], "stop_ids": stop_ids}
        try:
            return cls(inner, **ids, adds_bos=bool(adds_bos), chat_template=template, files=files)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error


def _ends_file(stop_ids: tuple[int, ...]) -> str:
    return json.dumps({"eos_token_id": list(stop_ids)}) + "\n"


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error


def _object(path: Path, text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object but {str(values)[:40]!r}")
    return values


def _add_tokens(
    inner: tokenizers.Tokenizer,
    folder: Path,
    config: Mapping[str, Any],
    special_map: Mapping[str, Any],
    added_json: Mapping[str, Any],
) -> None:
    """Adds to `inner` the tokens that the other files name and tokenizer.json does not, or not as they do.

    They are: `added_tokens_decoder` of tokenizer_config.json, or without it added_tokens.json;
    `additional_special_tokens`; and tokens of the vocabulary that have a role (`eos_token`). Without this, a text's
    special tokens are cut into pieces.
    """
    before = {token.content: token for token in inner.get_added_tokens_decoder().values()}
    words: list[Any] = []
    for values in (config, special_map):
        words += [text for key in _ROLES if (text := _content(values.get(key))) and inner.token_to_id(text) is not None]
        for key in ("additional_special_tokens", "extra_special_tokens"):
            listed = values.get(key) or []
            words += [_content(token) for token in (listed.values() if isinstance(listed, dict) else listed)]
    special = dict.fromkeys(word for word in words if word)

    key, tokens = f"{folder / CONFIG}: added_tokens_decoder", config.get("added_tokens_decoder")
    if tokens is None:
        key, new = str(folder / ADDED), {text: index for text, index in added_json.items() if text not in before}
        tokens = {index: {"content": text, "normalized": text not in special} for text, index in new.items()}
    for index, fields in tokens.items() if isinstance(tokens, dict) else [(None, tokens)]:
        if not str(index).isdecimal() or not isinstance(fields, dict) or not _content(fields):
            raise ValueError(f"{key} must give each id a token, got {index!r}: {fields!r:.80}")
    ids: dict[str, int] = {}
    changed = []
    for index, fields in sorted(tokens.items(), key=lambda item: int(item[0])):
        text, flags = fields["content"], {name: bool(fields[name]) for name in _FLAGS if name in fields}
        flags["special"] = flags.get("special", False) or (text in special and text not in before)
        token = tokenizers.AddedToken(text, **flags)
        ids[text] = int(index)
        if repr(before.get(text)) != repr(token):
            changed.append(token)
    inner.add_tokens(changed)
    for text, index in ids.items():
        if (got := inner.token_to_id(text)) != index:
            raise ValueError(f"{key} gives {text!r} the id {index}, and {TOKENIZER} makes it {got}")
    inner.add_tokens([tokenizers.AddedToken(text, special=True) for text in special if text not in {*before, *ids}])


def _content(token: Any) -> str | None:
    """The text of a token that is written as text or as an AddedToken's fields."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _ids(path: Path, values: Mapping[str, Any], kind: str, inner: tokenizers.Tokenizer) -> tuple[int, ...]:
    """The ids that a file gives for "eos", "bos" or "pad": of a token's text (or AddedToken), or an id, or ids."""
    is_text = path.name in (CONFIG, SPECIAL)
    key = f"{kind}_token" if is_text else f"{kind}_token_id"
    value = values.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    if value is None:
        return ()
    ids: Any = [inner.token_to_id(value) if isinstance(value, str) else None] if is_text else value
    ids = ids if isinstance(ids, list) else [ids]
    if not all(type(item) is int and inner.id_to_token(item) is not None for item in ids):
        raise ValueError(f"{path}: {key} {value!r} is not in the vocabulary of {TOKENIZER}")
    return tuple(ids)


def _template(path: Path, values: Mapping[str, Any]) -> str | None:
    """The chat template of tokenizer_config.json: one text, or a list of named ones of which "default" counts."""
    value = values.get("chat_template")
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
        value = named.get("default")
        if value is None:
            there = sorted(map(str, named))
            raise ValueError(f"{path}: chat_template is a list without the name 'default', it has {there}")
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{path}: chat_template is neither text nor a list of templates")
    return value
