"""Which code a spec names: digests of the source behind its "module:function" strings."""

from __future__ import annotations

import contextlib
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
    sources: dict[str, bytes] = {}
    for name in sorted({text for _, text, _, _ in leaves(spec) if isinstance(text, str) and _FUNCTION.fullmatch(text)}):
        module, _, function = name.partition(":")
        # Packages above it are code of others: whoever calls the function says what is wrong with them.
        with contextlib.suppress(Exception):
            if (found := importlib.util.find_spec(module)) and found.origin:
                sources[module] = Path(found.origin).read_bytes()
        if module not in sources:
            with contextlib.suppress(AttributeError, OSError, TypeError):
                sources[name] = inspect.getsource(getattr(sys.modules.get(module), function)).encode()
    return {name: hashlib.sha256(source).hexdigest()[:16] for name, source in sources.items()}
