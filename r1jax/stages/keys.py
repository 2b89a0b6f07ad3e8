"""The keys that a stage's config must have, no fewer and no more, so that a forked config cannot say what nobody reads."""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from r1jax.rollout.engine import CacheChoice

_ENGINE_KEYS = ("prompt_bucket", "segment")
_ENGINE_OPTIONS = ("cache", "page_size", "max_rows")


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


def rollout_axes(config: Any) -> dict[str, int] | None:
    """The optional key "rollout_mesh", for ``r1jax.rollout.weight_sync.make_rollout_mesh``. Raises ValueError for no mapping."""
    axes = config.get("rollout_mesh")
    if axes is not None and not hasattr(axes, "keys"):
        raise ValueError(f"rollout_mesh={axes!r} must be axes and their sizes, as in {{'tensor': 4}}")
    return None if axes is None else dict(axes)


def offload_of(config: Any) -> list[str]:
    """The optional key "offload": the parts of the train state that wait in the host's memory (``r1jax.training.offload``)."""
    return list(config.get("offload") or ())


def check_counts(config: Any, names: Iterable[str], *, where: str, least: int = 1) -> None:
    """Raises ValueError naming the first of ``names`` that is no whole number of at least ``least``."""
    for name in names:
        value = config[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{where}: {name}={value!r} must be a whole number of at least {least}")


def check_not_negative(config: Any, names: Iterable[str], *, where: str) -> None:
    """Raises ValueError naming the first of ``names`` that ``config`` has and that is no number of at least 0."""
    for name, value in options_of(config, names).items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
            raise ValueError(f"{where}: {name}={value!r} must be a number of at least 0")


def check_sampling(config: Any, *, where: str) -> None:
    """Raises ValueError naming "temperature", or "top_p" if there is one, where nothing can be sampled by it."""
    temperature, top_p = config["temperature"], config.get("top_p")
    if not temperature > 0:
        raise ValueError(f"{where}: temperature={temperature}: must be positive")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"{where}: top_p={top_p}: must be in (0, 1], or None for all tokens")


def check_engine(config: Any, *, where: str, samples: Mapping[str, int] | None = None) -> None:
    """Raises ValueError, naming the key, for an "engine" that no sampler can be made of.

    samples: by the key that says so, how many samples of one prompt the stage asks for; the engine samples them together.
    """
    check_keys(config, required=_ENGINE_KEYS, optional=_ENGINE_OPTIONS, where=where)
    check_counts(config, _ENGINE_KEYS, where=where)
    options = {"cache": "auto", "page_size": 128, "max_rows": None} | options_of(config, _ENGINE_OPTIONS)
    max_rows = options["max_rows"]
    check_counts(options, ["page_size"] if max_rows is None else ["page_size", "max_rows"], where=where)
    if options["cache"] not in get_args(CacheChoice):
        raise ValueError(f"{where}: cache={options['cache']!r} must be one of {list(get_args(CacheChoice))}")
    if options["page_size"] % 128:
        raise ValueError(f"{where}: page_size={options['page_size']} must be a multiple of 128, as the kernels need it")
    for name, count in (samples or {}).items():
        if max_rows is not None and count > max_rows:
            raise ValueError(f"{where}: max_rows={max_rows} must be at least {name}={count}, the samples of one prompt")


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
