"""Which code a spec names: digests of the source behind its "module:function" strings."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from r1jax.specs.fields import leaves

_FUNCTION = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")


def code_digests(spec: Any) -> dict[str, str]:
    """Digest of each module that a "module:function" text anywhere in a spec (or in dicts and lists) names.

    The key is the module. Where it has no file (a notebook's __main__) the key is the whole string and the digest that
    of the function's source. What has no source at all is left out; so is what those modules import.
    """
    digests = {}
    for name in sorted({text for _, text, _, _ in leaves(spec) if isinstance(text, str) and _FUNCTION.fullmatch(text)}):
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
