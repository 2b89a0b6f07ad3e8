"""From what a config says to a spec: types, bounds and unknown keys, each mistake one line under the key as it was written."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import math
import os
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union

from r1jax.specs.fields import Bound, IsPath, types_of

HERE = "{here}/"
"""At the start of a path in a config.json: the work directory itself, so that directories can be moved together."""
_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "True or False",
    dict: "a dict",
    tuple: "a list",
}


class SpecError(ValueError):
    """A config says what cannot be; the message begins with the dotted key."""


class FlagText(str):
    """The text of a flag, which is read by the type of the field that it sets."""


def read(kind: Any, value: Any, where: str = "") -> Any:
    """``value`` (dicts, lists, numbers, texts) as an instance of ``kind``: a spec, a container of specs, or a plain type.

    where: the dotted key of the value, for messages. An instance of a spec is given back as it is. Raises SpecError.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        result = read(arguments[0], value, where)
        for note in arguments[1:]:
            if isinstance(note, Bound) and not note.holds(result):
                raise SpecError(f"{where}={_shown(value)} {note.words}")
            if isinstance(note, IsPath) and not result.startswith((HERE, "package:")):
                result = os.path.abspath(os.path.expanduser(result))
        return result
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, where)
    if dataclasses.is_dataclass(kind):
        return _read_fields(kind, value, where)
    if isinstance(value, FlagText):
        value = _literal(kind, value)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise SpecError(f"{where}={_shown(value)} must be one of {', '.join(map(repr, arguments))}")
        return value
    base = origin or kind
    if base is Any:
        return value
    if base is float and type(value) is int:
        value = float(value)
    if base is tuple and isinstance(value, list | tuple):
        return tuple(read(arguments[0] if arguments else Any, item, f"{where}[{i}]") for i, item in enumerate(value))
    if base is dict and isinstance(value, Mapping):
        return {
            str(key): read(arguments[1] if arguments else Any, item, f"{where}.{key}") for key, item in value.items()
        }
    if type(value) is not base:
        raise SpecError(f"{where}={_shown(value)} must be {_WORDS.get(base, base.__name__)}")
    if base is float and not math.isfinite(value):
        raise SpecError(f"{where}={value} must be finite")
    return value


def _read_fields(spec: Any, value: Any, where: str, *, optional: bool = False) -> Any:
    """A spec; with ``optional`` a dict of those fields alone that are given."""
    if isinstance(value, spec):
        return value
    value = _literal(dict, value) if isinstance(value, FlagText) else value
    if not hasattr(value, "items"):
        raise SpecError(f"{where}={_shown(value)} must be a dict of {', '.join(types_of(spec))}")
    known = types_of(spec)
    values = {key: item for key, item in value.items() if optional or key != "kind" or "kind" in known}
    for key in values:
        if key not in known:
            raise SpecError(f"{_at(where)}there is no key {_under(where, key)!r}{near(key, known)}")
    read_values = {key: read(known[key], item, _under(where, key)) for key, item in values.items()}
    if optional:
        return read_values
    for field in dataclasses.fields(spec):
        if field.default is field.default_factory is dataclasses.MISSING and field.name not in values:
            raise SpecError(
                f"{_at(where)}the key {_under(where, field.name)!r} is missing: {field.metadata.get('explanation', '')}"
            )
    try:
        return spec(**read_values)
    except SpecError:
        raise
    except ValueError as error:
        raise SpecError(_under(where, str(error))) from error


def read_some(spec: type, value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Those fields of a dataclass that ``value`` names, each of its type: what is changed of a preset. Raises SpecError."""
    return _read_fields(spec, value, where, optional=True)


def _read_union(kinds: Iterable[Any], value: Any, where: str) -> Any:
    """One of several: None, specs told apart by their key "kind", plain types."""
    kinds = list(kinds)
    if type(None) in kinds and (value is None or (isinstance(value, FlagText) and value == "None")):
        return None
    specs = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    for spec in specs:
        if isinstance(value, spec):
            return value
    fields = _literal(dict, value) if isinstance(value, FlagText) and specs else value
    if specs and hasattr(fields, "items"):
        by_kind = {typing.get_args(types_of(spec).get("kind"))[:1] or (None,): spec for spec in specs}
        chosen = by_kind.get((fields.get("kind"),))
        if chosen is None:
            choices = ", ".join(repr(kind) for (kind,) in by_kind if kind is not None)
            raise SpecError(f"{_under(where, 'kind')}={fields.get('kind')!r} must be one of {choices}")
        return read(chosen, fields, where)
    plain = [kind for kind in kinds if kind is not type(None) and kind not in specs]
    problems = []
    for kind in plain:
        try:
            return read(kind, value, where)
        except SpecError as error:
            problems.append(str(error))
    if not problems:
        raise SpecError(f"{where}={_shown(value)} must be a dict")
    raise SpecError(
        problems[0]
        if len(problems) == 1
        else f"{where}={_shown(value)} "
        + ", or ".join(problem.partition(f"{where}={_shown(value)} ")[2] or problem for problem in problems)
    )


def _literal(kind: Any, text: str) -> Any:
    """What the text of a flag means where a value of ``kind`` is wanted; the text itself where nothing else."""
    if kind is str:
        return str(text)
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text) if kind is float else ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return str(text)


def near(key: str, known: Iterable[str]) -> str:
    """A hint with the known keys most like ``key``; without one, all of them."""
    close = difflib.get_close_matches(key, list(known), n=3)
    return f"; near it: {', '.join(close)}" if close else f"; there are {', '.join(known)}"


def _under(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _at(where: str) -> str:
    return ""


def _shown(value: Any) -> str:
    return repr(str(value)) if isinstance(value, str) else repr(value)[:200]
