"""Every field of every spec in words: for `r1jax run --config=F --help`, and the reference page of the repository.

python -m r1jax.specs.reference > r1jax/specs/REFERENCE.md
"""

from __future__ import annotations

import dataclasses
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union

from r1jax.specs.fields import IsPath, is_spec, types_of
from r1jax.specs.reader import kind_of
from r1jax.specs.stages import STAGES

_WIDTH = 100


def describe_stage(name: str, spec: Any) -> str:
    """The fields of a stage, those of its specs too: `key = value`, where it differs the default, and what it is."""
    return "\n".join([f"stages.{name}: {spec.stage}. {_first_line(type(spec))}", "", *_lines(spec, ""), ""])


def _lines(spec: Any, prefix: str) -> Iterator[str]:
    for field, kind, marks in _described(type(spec)):
        value, key = getattr(spec, field.name), f"{prefix}{field.name}"
        differs = value != default_of(field) is not dataclasses.MISSING
        shown = f" = {_text(value)}" + (f"   (default {_text(default_of(field))})" if differs else "")
        yield f"  {key}: {_heading_of(value)}" if is_spec(value) else f"  {key}{shown}"
        bracket = "; ".join(filter(None, [marks[0], "" if is_spec(value) or "[" in kind else kind, *marks[1:]]))
        words = field.metadata["explanation"] + (f" [{bracket}]" if bracket else "")
        yield from textwrap.wrap(words.replace("`", ""), _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
        below = [(key, value)] if is_spec(value) else []
        if isinstance(value, tuple) and value and is_spec(value[0]):
            below = [(f"{key}[{index}]", inner) for index, inner in enumerate(value)]
        for inner_key, inner in below:
            if inner is not value:
                yield f"  {inner_key}: {_heading_of(inner)}"
            yield from _lines(inner, f"{inner_key}.")


def _described(spec: type) -> Iterator[tuple[dataclasses.Field, str, tuple[str, str]]]:
    """(field, its type in words, (unit, "how it is run" if it only says that)) of the fields that are set."""
    for field in dataclasses.fields(spec):
        kind = types_of(spec)[field.name]
        if not (field.name in ("stage", "kind") and len(typing.get_args(kind)) == 1):  # which says what spec it is
            how = "how it is run" if field.metadata["how"] is True else ""
            yield field, type_text(kind), (field.metadata["unit"], how)


def _heading_of(spec: Any) -> str:
    kind = kind_of(type(spec))
    return f"{kind}. {_first_line(type(spec))}" if kind else _first_line(type(spec))


def default_of(field: dataclasses.Field) -> Any:
    """The default of a field; MISSING where it must be given."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def reference_page() -> str:
    """Every spec that a config can reach, a table each."""
    parts = [
        "# Every field of a config\n\n"
        "Made from `r1jax/specs` by `python -m r1jax.specs.reference`; a test keeps it in step.\n"
        "A field can be set in a config file or by `--config.stages.NAME.field=value`.\n"
        "*how* marks what only says how something is run: a run goes on with another value of it."
    ]
    for spec in reachable():
        stage = next((name for name, stage in STAGES.items() if stage is spec), None)
        kind = f'`"stage": "{stage}"`. ' if stage else f'`"kind": "{kind_of(spec)}"`. ' if kind_of(spec) else ""
        parts.append(f"\n## {spec.__name__}\n\n{kind}{_first_line(spec)}\n")
        parts.append("| field | type | default | |\n|---|---|---|---|")
        for field, type_words, (unit, how) in _described(spec):
            default = default_of(field)
            shown = "*required*" if default is dataclasses.MISSING else f"`{_text(default)}`"
            words = " · ".join(filter(None, [field.metadata["explanation"], unit, how and "*how*"]))
            cells = (f"`{field.name}`", type_words, "its defaults" if is_spec(default) else shown, words)
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(parts) + "\n"


def reachable() -> list[type]:
    """The stages' specs, and those of their fields, in the order in which they are met."""
    specs = list(STAGES.values())
    for spec in specs:  # which grow on the way
        for kind in types_of(spec).values():
            specs += [inner for inner in _specs_of(kind) if inner not in specs]
    return specs


def _specs_of(kind: Any) -> Iterator[type]:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        yield kind
    for argument in typing.get_args(kind):
        yield from _specs_of(argument)


def type_text(kind: Any) -> str:
    """A type as a reader of the page knows it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        if IsPath() in arguments:
            return "path"
        words = [note.words.removeprefix("must be ") for note in arguments[1:] if note.words.startswith("must be ")]
        return f"{type_text(arguments[0])} ({words[0]})" if words else type_text(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(argument) for argument in arguments)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin is tuple:
        inner = type_text(arguments[0])
        return f"list of ({inner})" if " or " in inner or ", " in inner else f"list of {inner}"
    if origin is dict:
        return "dict"
    if dataclasses.is_dataclass(kind):
        name = typing.cast(type, kind).__name__
        return f"[{name}](#{name.lower()})"
    return {type(None): "None", int: "int", float: "float", str: "text", bool: "bool", Any: "any"}[kind]


def _first_line(spec: type) -> str:
    return (spec.__doc__ or "").strip().splitlines()[0]


def _text(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return type(value).__name__
    if isinstance(value, tuple):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    return repr(value)


if __name__ == "__main__":
    print(reference_page(), end="")
