"""What reward models learn from: preference pairs and safety labels, one JSON record a line (R1 Sec. 3.1, spec B.7).

    helpful   {"messages": [...], "chosen": "...", "rejected": "..."}
    safety    {"messages": [...], "response": "...", "is_safe": true}

Further keys are provenance and are not read; a message may have what ``text.templates.MESSAGE_FIELDS`` lists. Responses
are whole, with their thought if they have one.

Pairs are made of a judge's verdicts: four queries a pair in random order, a clear mean, no length bias. A judge is a
function of many comparisons at once, ``judge(questions, responses_a, responses_b, seed=...)``; it returns the reply to
each, or what went wrong with it (`r1jax.text.comparison`). A pair one of whose queries failed is not used: what a judge
did not say is never guessed.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from r1jax.tasks.problem import split_of, stable_hash
from r1jax.text.comparison import parse_comparison
from r1jax.text.response import summary_of
from r1jax.text.sample import Rejection
from r1jax.text.templates import MESSAGE_FIELDS, Messages

READS = {"helpful": "summary", "safety": "whole"}
"""The part of a response that each kind of reward model reads (R1 Sec. 3.1; ``r1jax.text.response.part_of``)."""
_FIELDS = {"helpful": {"chosen": str, "rejected": str}, "safety": {"response": str, "is_safe": bool}}
Judge = Callable[..., Sequence[Any]]
FAILURES = ("malformed", "error")  # kinds: a reply that is no verdict, and no reply


@dataclasses.dataclass(frozen=True)
class Preference:
    """One example of a reward model."""

    messages: Messages  # the conversation, which the user ends
    responses: tuple[str, ...]  # (chosen, rejected), or the one that has a label
    is_safe: bool | None = None  # the label; None of a pair


def check_kind(kind: str) -> None:
    """Raises ValueError unless ``kind`` is a kind of reward model."""
    if kind not in READS:
        raise ValueError(f"kind={kind!r}: must be one of {', '.join(READS)}")


def parse_preference(record: Any, kind: str, *, where: str = "record") -> Preference:
    """A record as an example. Raises ValueError naming ``where`` and the field for anything else."""
    check_kind(kind)
    messages = check_messages(record, where=where)
    for name, of_type in _FIELDS[kind].items():
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


@dataclasses.dataclass(frozen=True)
class Judged:
    """Two responses to a prompt and what the judge said of them."""

    messages: Messages  # the conversation, which the user ends
    responses: tuple[str, str]  # the first and the second, as given
    verdicts: tuple[int | None, ...]
    """Of each query, how much better the first is, in [-2, 2]; None where the query failed."""
    failures: tuple[tuple[str, str], ...] = ()  # (one of ``FAILURES``, message) for each query that failed

    @property
    def delta(self) -> float | None:
        """The mean verdict; None if a query failed."""
        known = [verdict for verdict in self.verdicts if verdict is not None]
        return sum(known) / len(known) if known and len(known) == len(self.verdicts) else None


def parse_candidate(record: Any, *, where: str = "record") -> tuple[Messages, tuple[str, str]]:
    """(messages, responses) of {"messages": [...], "responses": [two texts]}; ValueError naming ``where`` otherwise."""
    messages = check_messages(record, where=where)
    responses = record.get("responses")
    if not isinstance(responses, list | tuple) or len(responses) != 2 or not all(isinstance(r, str) for r in responses):
        raise ValueError(f"{where}: 'responses' must be two texts, got {responses!r:.80}")
    return messages, (responses[0], responses[1])


def judge_pairs(
    candidates: Iterable[tuple[Messages, tuple[str, str]]], judge: Judge, *, queries: int = 4, seed: int = 0
) -> list[Judged]:
    """Asks the judge ``queries`` times about each pair's summaries; which one is shown as A is drawn for every query.

    Orders depend on the seed, the prompt, the responses and the query alone, so they are the same however candidates
    are batched. The judge is called once for each query, with a seed of its own; where it raises, that query failed on
    all pairs. Raises ValueError for a judge that returns another number of replies.
    """
    pairs = list(candidates)
    judged = [Judged(messages, responses, ()) for messages, responses in pairs]
    for query in range(queries if pairs else 0):
        signs = [_draw_order(pair, seed, query) for pair in judged]
        shown = [
            [summary_of(r) or "" for r in pair.responses][::sign] for pair, sign in zip(judged, signs, strict=True)
        ]
        asked = [messages for messages, _ in pairs], [first for first, _ in shown], [second for _, second in shown]
        try:
            replies = list(judge(*asked, seed=stable_hash("judge", seed, query) % 2**31))
        except Exception as error:
            replies = [error] * len(pairs)
        if len(replies) != len(pairs):
            raise ValueError(f"the judge gave {len(replies)} replies to {len(pairs)} comparisons")
        judged = [_with_reply(*values) for values in zip(judged, replies, signs, strict=True)]
    return judged


def _draw_order(pair: Judged, seed: int, query: int) -> int:
    """1, or -1 where the second response is shown first."""
    texts = (*(message["content"] for message in pair.messages), *pair.responses)
    return -1 if stable_hash("order", seed, query, *texts) % 2 == 1 else 1


def _with_reply(pair: Judged, reply: Any, sign: int) -> Judged:
    """With one verdict more, or why there is none."""
    verdict, failures = None, pair.failures
    if isinstance(reply, Exception):
        failures += (("error", f"{type(reply).__name__}: {reply}"),)
    elif not isinstance(reply, str):
        failures += (("malformed", f"a reply must be text, got {reply!r:.80}"),)
    else:
        try:
            verdict = sign * parse_comparison(reply)
        except Rejection as error:
            failures += (("malformed", str(error)),)
    return dataclasses.replace(pair, verdicts=(*pair.verdicts, verdict), failures=failures)


def select_pairs(
    judged: Iterable[Judged], *, threshold: float = 1.0, balance_lengths: bool = True
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """(records of kind "helpful" in their order, counts) of the pairs with |delta| > threshold.

    Lengths are balanced over the set: as many pairs have the longer summary chosen as rejected. Of the larger group
    those with the largest difference in length go first.
    """
    counts: Counter[str] = Counter(dict.fromkeys(["candidates", *FAILURES, "judge_failed", "unclear"], 0))
    records = []
    for pair in judged:
        counts["candidates"] += 1
        counts.update(kind for kind, _ in pair.failures)
        if pair.delta is None:
            counts["judge_failed"] += 1
        elif not abs(pair.delta) > threshold:
            counts["unclear"] += 1
        else:
            chosen, rejected = pair.responses if pair.delta > 0 else pair.responses[::-1]
            record = {"messages": list(pair.messages), "chosen": chosen, "rejected": rejected}
            records.append(record | {"delta": abs(pair.delta)})
    kept = _balanced(records) if balance_lengths else records
    return kept, {**counts, "unbalanced": len(records) - len(kept), "kept": len(kept)}


def _balanced(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lengths = [[len(summary_of(record[name]) or "") for name in ("chosen", "rejected")] for record in records]
    differences = [chosen - rejected for chosen, rejected in lengths]
    longer = [place for place, difference in enumerate(differences) if difference > 0]
    shorter = [place for place, difference in enumerate(differences) if difference < 0]
    larger, surplus = (longer if len(longer) > len(shorter) else shorter), abs(len(longer) - len(shorter))
    dropped = set(sorted(larger, key=lambda place: (-abs(differences[place]), place))[:surplus])
    return [record for place, record in enumerate(records) if place not in dropped]
