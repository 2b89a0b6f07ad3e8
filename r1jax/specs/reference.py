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

from r1jax.specs.fields import IsPath, types_of
from r1jax.specs.reader import kind_of
from r1jax.specs.stages import STAGES

_WIDTH = 100


def describe_stage(name: str, spec: Any) -> str:
    """The fields of a stage, those of its specs too: `key = value`, where it differs the default, and what it is."""
    lines = [f"stages.{name}: {spec.stage}. {_first_line(type(spec))}", ""]
    lines += [line for entry in _entries(spec, "") for line in entry]
    return "\n".join([*lines, ""])


def _entries(spec: Any, prefix: str) -> Iterator[list[str]]:
    for field in dataclasses.fields(spec):
        if is_tag(spec, field.name):
            continue
        value, key = getattr(spec, field.name), f"{prefix}{field.name}"
        default = default_of(field)
        differs = "" if default is dataclasses.MISSING or value == default else f"   (default {_text(default)})"
        type_words = type_text(types_of(type(spec))[field.name]).replace("`", "")
        is_spec = dataclasses.is_dataclass(value)
        marks = [
            field.metadata["unit"],
            "" if is_spec or "[" in type_words else type_words,
            "how it is run" if field.metadata["how"] is True else "",
        ]
        bracket = "; ".join(mark for mark in marks if mark)
        text = field.metadata["explanation"] + (f" [{bracket}]" if bracket else "")
        words = textwrap.wrap(text.replace("`", ""), _WIDTH - 6)
        shown = f": {_heading_of(value)}" if is_spec else f" = {_text(value)}{differs}"
        yield [f"  {key}{shown}", *(f"      {line}" for line in words)]
        if is_spec:
            yield from _entries(value, f"{key}.")
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for index, inner in enumerate(value):
                yield [f"  {key}[{index}]: {_heading_of(inner)}"]
                yield from _entries(inner, f"{key}[{index}].")


def _heading_of(spec: Any) -> str:
    kind = kind_of(type(spec))
    return f"{kind}. {_first_line(type(spec))}" if kind else _first_line(type(spec))


def is_tag(spec: Any, name: str) -> bool:
    """Whether a field only says which spec this is: "stage", or the "kind" that tells it from others."""
    return (
        name in ("stage", "kind")
        and len(typing.get_args(types_of(spec if isinstance(spec, type) else type(spec))[name])) == 1
    )


def default_of(field: dataclasses.Field) -> Any:
    """The default of a field; MISSING where it must be given."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def reference() -> str:
    """The page: every spec that a config can reach, a table each."""
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
        for field in dataclasses.fields(spec):
            if is_tag(spec, field.name):
                continue
            default = default_of(field)
            shown = f"`{_text(default)}`"
            if default is dataclasses.MISSING or dataclasses.is_dataclass(default):
                shown = "*required*" if default is dataclasses.MISSING else "its defaults"
            marks = [field.metadata["unit"], "*how*" if field.metadata["how"] is True else ""]
            words = " · ".join([field.metadata["explanation"], *filter(None, marks)])
            cells = (f"`{field.name}`", type_text(types_of(spec)[field.name]), shown, words)
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(parts) + "\n"


def reachable() -> list[type]:
    """The stages' specs, and those of their fields, in the order in which they are met."""
    specs: dict[type, None] = dict.fromkeys(STAGES.values())
    coming = list(specs)
    while coming:
        for kind in types_of(coming.pop(0)).values():
            for inner in _specs_of(kind):
                if inner not in specs:
                    specs[inner] = None
                    coming.append(inner)
    return list(specs)


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
    print(reference(), end="")
