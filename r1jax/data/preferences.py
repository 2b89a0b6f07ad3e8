"""What reward models learn from: preference pairs and safety labels, one JSON record a line (R1 Sec. 3.1, spec B.7).

    helpful   {"messages": [...], "chosen": "...", "rejected": "..."}
    safety    {"messages": [...], "response": "...", "is_safe": true}

Further keys are provenance and are not read; a message may have what ``text.templates.MESSAGE_FIELDS`` lists. Responses are
whole, with their thought if they have one.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from r1jax.tasks.problem import split_of
from r1jax.text.templates import MESSAGE_FIELDS, Messages

KINDS = ("helpful", "safety")
READS = {"helpful": "summary", "safety": "whole"}
"""The part of a response that each kind of reward model reads (R1 Sec. 3.1; ``r1jax.text.response.part_of``)."""
FIELDS = {"helpful": {"chosen": str, "rejected": str}, "safety": {"response": str, "is_safe": bool}}


@dataclasses.dataclass(frozen=True)
class Preference:
    """One example of a reward model.

    Attributes:
        messages: the conversation, which the user ends.
        responses: (chosen, rejected), or the one that has a label.
        is_safe: the label; None of a pair.
    """

    messages: Messages
    responses: tuple[str, ...]
    is_safe: bool | None = None


def check_kind(kind: str) -> None:
    """Raises ValueError unless ``kind`` is one of KINDS."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: must be one of {', '.join(KINDS)}")


def parse_preference(record: Any, kind: str, *, where: str = "record") -> Preference:
    """A record as an example. Raises ValueError naming ``where`` and the field for anything else."""
    check_kind(kind)
    messages = check_messages(record, where=where)
    for name, of_type in FIELDS[kind].items():
        if not isinstance(record.get(name), of_type):
            raise ValueError(f"{where}: {name!r} must be a {of_type.__name__}, got {record.get(name)!r:.80}")
    if kind == "safety":
        return Preference(messages, (record["response"],), record["is_safe"])
    return Preference(messages, (record["chosen"], record["rejected"]))


def check_messages(record: Any, *, where: str) -> list[dict[str, str]]:
    """The conversation of a record. Raises ValueError naming ``where`` unless it is one that the user ends."""
    if not isinstance(record, Mapping):
        raise ValueError(f"{where}: must be an object, got {record!r:.80}")
    messages = record.get("messages")
    if not isinstance(messages, list | tuple) or not messages or not all(map(_is_message, messages)):
        raise ValueError(f"{where}: 'messages' must be a list of role and content, got {messages!r:.80}")
    if messages[-1]["role"] != "user":
        raise ValueError(f"{where}: the last of 'messages' must be the user's")
    return [
        {name: m[name] for name in ("role", "content", *MESSAGE_FIELDS) if m.get(name) is not None} for m in messages
    ]


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def split_preferences(
    examples: Iterable[Preference], *, heldout_fraction: float
) -> tuple[list[Preference], list[Preference]]:
    """(training, held-out) examples, in their order; all of a prompt are on the side that its hash decides."""
    sides: dict[str, list[Preference]] = {"train": [], "heldout": []}
    for example in examples:
        content = json.dumps([[m["role"], m["content"]] for m in example.messages], ensure_ascii=False)
        sides[split_of(content, heldout_fraction=heldout_fraction, space="preferences")].append(example)
    return sides["train"], sides["heldout"]
