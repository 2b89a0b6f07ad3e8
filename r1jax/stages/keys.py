"""The keys that a stage's config must have, no fewer and no more, so that a forked config cannot say what nobody reads."""

import difflib
import math
from collections.abc import Iterable
from typing import Any


def check_keys(config: Any, *, required: Iterable[str], optional: Iterable[str] = (), where: str) -> None:
    """Raises ValueError naming the keys that ``config`` (ConfigDict or dict) lacks, or has though nothing reads them."""
    required, known = set(required), {*required, *optional}
    missing, unknown = sorted(required - set(config)), sorted(set(config) - known)
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f" (near it: {near[0]})" if near else ""
        raise ValueError(f"{where}: unknown key {', '.join(unknown)}{hint}")
    if missing:
        raise ValueError(f"{where}: missing key {', '.join(missing)}")


def options_of(config: Any, names: Iterable[str]) -> dict[str, Any]:
    """The optional keys that ``config`` has: what is absent keeps the default of the function that takes it."""
    return {name: config[name] for name in names if name in config}


def check_counts(config: Any, names: Iterable[str], *, where: str, least: int = 1) -> None:
    """Raises ValueError naming the first of ``names`` that is no whole number of at least ``least``."""
    for name in names:
        value = config[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{where}: {name}={value!r} must be a whole number of at least {least}")


def check_finite(value: Any, *, where: str) -> None:
    """Raises ValueError naming the first number below ``value`` (nested dicts and lists) that is NaN or infinite."""
    if isinstance(value, dict):
        children = [(f"{where}.{key}", child) for key, child in value.items()]
    elif isinstance(value, list | tuple):
        children = [(f"{where}[{place}]", child) for place, child in enumerate(value)]
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}={value}: must be finite")
    else:
        return
    for name, child in children:
        check_finite(child, where=name)
