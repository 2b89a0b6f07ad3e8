"""Which code a config names: digests of the source behind its "module:function" strings."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_FUNCTION = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")


def code_digests(config: Any) -> dict[str, str]:
    """Digest of each module that a "module:function" string anywhere in `config` (nested dicts and lists) names.

    The key is the module. Where it has no file (a notebook's __main__) the key is the whole string and the digest that
    of the function's source. What has no source at all is left out; so is what those modules import.
    """
    digests = {}
    for name in sorted({text for text in _strings(config) if _FUNCTION.fullmatch(text)}):
        module, _, function = name.partition(":")
        if (source := _module_source(module)) is not None:
            digests[module] = _digest(source)
        elif (source := _function_source(module, function)) is not None:
            digests[name] = _digest(source)
    return digests


def _module_source(module: str) -> bytes | None:
    try:
        spec = importlib.util.find_spec(module)
        return Path(spec.origin).read_bytes() if spec and spec.origin else None
    except Exception:  # its parent package is code of others; whoever calls the function says what is wrong with it
        return None


def _function_source(module: str, function: str) -> bytes | None:
    try:
        return inspect.getsource(getattr(sys.modules.get(module), function)).encode()
    except (AttributeError, OSError, TypeError):
        return None


def _digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()[:16]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for child in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(child)
