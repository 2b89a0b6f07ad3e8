"""The files of a tokenizer's folder, as Hugging Face lays them out: what they say of special tokens and templates.

`tokenizer.json` is the tokenizer itself. `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` may name
tokens that it lacks or does not mark; they are added to it, as transformers does. Which token ends a text is said in up to
four other files, which may differ: `tokenizer_config.json` before `special_tokens_map.json` before `generation_config.json`
before `config.json`; all the ends that `generation_config.json` lists (without it, `config.json`) stop a generation.
"""

import json
import os
from collections.abc import Mapping
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


def read_folder(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any], dict[str, str]]:
    """(tokenizer, keyword arguments of `Tokenizer`, text of each file of `KEPT` that is there) of a folder.

    FileNotFoundError: there is no tokenizer.json. ValueError, naming the file and the key: not JSON, a token that the
    vocabulary lacks, an added token whose id it cannot have, no file that says the end, a setting that is not supported.
    """
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
    eos_ids = next((found for found in ends.values() if found), None)
    if eos_ids is None:
        raise ValueError(f"{folder}: no eos_token in {CONFIG} or {SPECIAL}, no eos_token_id in {GENERATION} or {MODEL}")
    bos_ids, pad_ids = (
        next((ids for name in names if (ids := _ids(folder / name, configs[name], key, inner))), (None,))
        for key, names in (("bos", (CONFIG, SPECIAL)), ("pad", (CONFIG, SPECIAL, GENERATION)))
    )
    adds_bos = config.get("add_bos_token")
    if adds_bos is None:
        adds_bos = bos_ids[0] is not None and inner.encode("").ids[:1] == [bos_ids[0]]
    fields = {
        "eos_id": eos_ids[0],
        "bos_id": bos_ids[0],
        "pad_id": pad_ids[0],
        "stop_ids": (*eos_ids, *ends.get(GENERATION, ends.get(MODEL, ()))),
        "adds_bos": bool(adds_bos),
        "chat_template": texts.get(TEMPLATE) or _template(folder / CONFIG, config),
    }
    kept = {name: text for name, text in texts.items() if name != MODEL}
    if ends.get(MODEL) and GENERATION not in kept:  # `config.json` belongs to the model: it is not kept
        kept[GENERATION] = ends_file(ends[MODEL])
    return inner, fields, kept


def ends_file(stop_ids: tuple[int, ...]) -> str:
    """The text of a generation_config.json with these ends."""
    return json.dumps({"eos_token_id": list(stop_ids)}) + "\n"


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Writes the files; each appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        temporary = folder / f".{name}.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, folder / name)


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

    They are: `added_tokens_decoder` of tokenizer_config.json, or without it added_tokens.json; `additional_special_tokens`; and
    tokens of the vocabulary that have a role (`eos_token`). Without this, a text's special tokens are cut into pieces.
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
    ids = [inner.token_to_id(value) if isinstance(value, str) else None] if is_text else value
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
