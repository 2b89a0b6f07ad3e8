"""From what a config says to a spec: types, bounds and unknown keys, each mistake one line under the key as it was written."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import os
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union

from r1jax.specs.fields import Bound, IsPath, types_of

HERE = "{here}/"
"""At the start of a path in a config.json: the work directory itself, so that directories can be moved together."""
_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", dict: "a dict"}


class SpecError(ValueError):
    """A config says what cannot be; the message begins with the dotted key."""


class FlagText(str):
    """The text of a flag, which is read by the type of the field that it sets."""


def read(kind: Any, value: Any, where: str = "") -> Any:
    """``value`` (dicts, lists, numbers, texts) as an instance of ``kind``: a spec, a container of specs, or a plain
    type.

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
        return _read_spec(kind, value, where)
    base, typed = origin or kind, value
    value = _literal(base, value) if isinstance(value, FlagText) else value
    if base in (dict, Any) and hasattr(value, "items"):
        inner = arguments[1] if arguments else Any
        return {str(key): read(inner, item, _under(where, key)) for key, item in value.items()}
    if base in (tuple, list, Any) and isinstance(value, list | tuple):
        inner = arguments[0] if arguments else Any
        container: Any = type(value) if base is Any else base
        return container(read(inner, item, f"{where}[{index}]") for index, item in enumerate(value))
    if base is Literal:
        allowed = any(type(value) is type(choice) and value == choice for choice in arguments)
        words = f"one of {', '.join(map(repr, arguments))}"
    elif base is Any:
        allowed, words = value is None or type(value) in _WORDS, "made of numbers, texts, lists and dicts"
    else:
        allowed, words = type(value) is base or (base, type(value)) == (float, int), _WORDS.get(base, "a list")
    if (
        allowed
        and (isinstance(value, float) or base is float)
        and not abs(typing.cast(float, value)) <= sys.float_info.max
    ):
        allowed, words = False, "finite"
    if not allowed:
        is_typed = isinstance(typed, FlagText) and not isinstance(value, str)
        raise SpecError(f"{where}={str(typed)[:200] if is_typed else _shown(value)} must be {words}")
    return float(typing.cast(float, value)) if base is float else value


def read_some(spec: type, value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Those fields of a dataclass that ``value`` names, each of its type: what is changed of a preset. Raises SpecError."""
    known = types_of(spec)
    for key in value:
        if key not in known:
            raise SpecError(f"there is no key {_under(where, key)!r}{near(key, known)}")
    return {key: read(known[key], item, _under(where, key)) for key, item in value.items()}


def _read_spec(spec: Any, value: Any, where: str) -> Any:
    if isinstance(value, spec):
        return value
    value = _literal(dict, value) if isinstance(value, FlagText) else value
    if not hasattr(value, "items"):
        raise SpecError(f"{where}={_shown(value)} must be a dict of {', '.join(types_of(spec))}")
    values = read_some(spec, value, where)
    for field in dataclasses.fields(spec):
        if field.default is field.default_factory is dataclasses.MISSING and field.name not in values:
            raise SpecError(
                f"the key {_under(where, field.name)!r} is missing: {field.metadata.get('explanation', 'it has no default')}"
            )
    try:
        return spec(**values)
    except ValueError as error:
        raise SpecError(_under(where, str(error))) from error


def _read_union(kinds: Sequence[Any], value: Any, where: str) -> Any:
    """One of several: None, specs that their key "kind" tells apart, plain types."""
    if type(None) in kinds and (value is None or (isinstance(value, FlagText) and value == "None")):
        return None
    specs: dict[str | None, Any] = {kind_of(spec): spec for spec in kinds if dataclasses.is_dataclass(spec)}
    fields: Any = _literal(dict, value) if isinstance(value, FlagText) and specs else value
    if type(fields) in specs.values():
        return fields
    if specs and hasattr(fields, "items"):
        name = fields.get("kind")
        if name not in specs:
            choices = ", ".join("absent" if known is None else repr(known) for known in specs)
            written = (
                f"{_under(where, 'kind')}={name!r}"
                if "kind" in fields
                else f"the key {_under(where, 'kind')!r} is missing: it"
            )
            raise SpecError(f"{written} must be one of {choices}")
        return read(specs[name], fields, where)
    problems = []
    for kind in (kind for kind in kinds if kind is not type(None) and kind not in specs.values()):
        try:
            return read(kind, value, where)
        except SpecError as error:
            text = str(error)
            problems.append("must" + text.partition(" must")[2] if text.startswith(f"{where}=") else text)
    words = ", or ".join(problems) or "must be a dict"
    if type(None) in kinds and all(problem.startswith("must") for problem in problems):
        words += " or None"
    raise SpecError(f"{where}={_shown(value)} {words}")


def kind_of(spec: Any) -> str | None:
    """The value of "kind" that tells a spec from the others of a union; None of one that has no such field."""
    return next(iter(typing.get_args(types_of(spec).get("kind"))), None)


def near(key: str, known: Iterable[str]) -> str:
    """A hint with the known keys most like ``key``; without one, all of them."""
    known = list(known)
    close = difflib.get_close_matches(str(key), known, n=3)
    return f"; near it: {', '.join(close)}" if close else f"; there are {', '.join(known)}"


def _literal(kind: Any, text: str) -> Any:
    """What the text of a flag means where a value of ``kind`` is wanted; the text itself where nothing else."""
    if kind is str:
        return str(text)
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text) if kind is float else ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError):
        return str(text)


def _under(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _shown(value: Any) -> str:
    """A value as it was written, in one line."""
    if isinstance(value, FlagText) and not isinstance(_literal(Any, value), str):
        return str(value)[:200]
    return " ".join(line.strip() for line in repr(value)[:200].splitlines())
