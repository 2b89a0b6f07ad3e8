"""How a field of a spec is declared: its default, one line that explains it, its unit, its bounds, and whether it only
says how it runs.

A spec is a frozen dataclass of such fields. Where fields depend on each other, its ``__post_init__`` raises ValueError
with a message that begins with the name of a field; ``reader.read`` puts the way to it in front.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal


@dataclasses.dataclass(frozen=True)
class Bound:
    """A rule that a value must obey, and how it is said."""

    holds: Callable[[Any], bool]
    words: str  # "must be at least 1"


@dataclasses.dataclass(frozen=True)
class IsPath:
    """Marks a text that names a file or folder: made absolute when it is read, and part of the lineage of a run."""


Count = Annotated[int, Bound(lambda value: value >= 1, "must be at least 1")]
Natural = Annotated[int, Bound(lambda value: value >= 0, "must be at least 0")]
Seed = Annotated[int, Bound(lambda value: 0 <= value < 2**31, "must be at least 0 and below 2**31")]
Positive = Annotated[float, Bound(lambda value: value > 0, "must be more than 0")]
NotNegative = Annotated[float, Bound(lambda value: value >= 0, "must be at least 0")]
Share = Annotated[float, Bound(lambda value: 0 <= value <= 1, "must be in [0, 1]")]
InnerShare = Annotated[float, Bound(lambda value: 0 < value < 1, "must be in (0, 1)")]
TopP = Annotated[float, Bound(lambda value: 0 < value <= 1, "must be in (0, 1]")]
Decay = Annotated[float, Bound(lambda value: 0 <= value < 1, "must be in [0, 1)")]
PathText = Annotated[str, Bound(bool, "must name a file or folder"), IsPath()]
TemplateName = Literal["r1_zero", "plain", "r1", "v3", "chatml", "qwen2.5", "llama3", "tokenizer"]
"""The names of ``r1jax.text.templates``, and the template that comes with a tokenizer."""
Names = Annotated[tuple[str, ...], Bound(bool, "must name at least one; leave it out for all")]


def option(
    default: Any = dataclasses.MISSING,
    explanation: str = "",
    *,
    unit: str = "",
    how: bool | tuple[str, ...] = False,
    factory: Callable[[], Any] | None = None,
) -> Any:
    """A field of a spec.

    default: its value where a config says nothing; without one, or a factory that makes a spec, the field is required.
    explanation: one line, with the place in the paper. unit: of a number ("tokens", "updates", "seconds").
    how: it says how something is run and not what is learned: a run goes on with another value of it. Of a dict, the
      keys of which this holds.
    """
    metadata = {"explanation": explanation, "unit": unit, "how": how}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@functools.cache
def types_of(spec: type) -> dict[str, Any]:
    """The type of each field of a dataclass, ``Annotated`` kept."""
    hints = typing.get_type_hints(spec, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(spec)}


def is_spec(value: Any) -> typing.TypeGuard[Any]:
    """Whether a value is an instance of a spec."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def to_plain(value: Any) -> Any:
    """A spec as JSON's types: dicts, lists, strings, numbers, None."""
    if is_spec(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(inner) for key, inner in value.items()}
    return [to_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _nodes(value: Any, key: str, how: bool | tuple[str, ...], kind: Any) -> Iterator[tuple[str, Any, bool, bool]]:
    """What ``leaves`` gives of a value and of all below it, each container before what it holds."""
    kinds = (kind, *typing.get_args(kind)) if isinstance(value, str) else (kind,)  # of a union: a text is its path
    yield key, value, how is True, any(IsPath() in getattr(option, "__metadata__", ()) for option in kinds)
    if is_spec(value):
        for field in dataclasses.fields(value):
            inner_how = how is True or field.metadata.get("how", False)
            name = f"{key}.{field.name}".lstrip(".")
            yield from _nodes(getattr(value, field.name), name, inner_how, types_of(type(value))[field.name])
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            inner_how = how is True or (how is not False and name in how)
            yield from _nodes(inner, f"{key}.{name}".lstrip("."), inner_how, _item_type(kind))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _nodes(inner, f"{key}[{index}]", how, _item_type(kind))


def leaves(value: Any) -> Iterator[tuple[str, Any, bool, bool]]:
    """(dotted key, value, whether it only says how the run is run, whether it is a path) of all that a spec holds."""
    for node in _nodes(value, "", False, Any):
        if not is_spec(node[1]) and not (node[1] and isinstance(node[1], Mapping | list | tuple)):
            yield node


def paths_of(spec: Any) -> dict[str, str]:
    """Dotted key -> path of every file or folder that a spec names."""
    return {key: value for key, value, _, is_path in leaves(spec) if is_path and isinstance(value, str)}


def specs_in(value: Any) -> Iterator[tuple[str, Any]]:
    """(dotted key, spec) of a spec and of every one below it."""
    return ((key, inner) for key, inner, *_ in _nodes(value, "", False, Any) if is_spec(inner))


def _item_type(kind: Any) -> Any:
    """The type of what a container holds, as far as its annotation says."""
    if typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    arguments = [argument for argument in typing.get_args(kind) if argument is not Ellipsis]
    return arguments[-1] if arguments else Any
