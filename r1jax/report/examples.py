"""Completions side by side: what the model wrote at the start and at the end, and the extremes."""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from r1jax.report.markup import count_marked, fill, show
from r1jax.workdir.read import Stage, read_rows, step_of, to_float

_MAX_ROWS = 20_000  # a file; more are not looked at
_MAX_PAIRS = 4  # a split
_MAX_EXTREMES = 2

Completions = list[dict[str, Any]]


def examples(stage: Stage) -> Markup:
    """First and last completions in pairs, then best, worst and most reflecting; "" if none was kept.

    Of an evaluation, whose files are its tasks, some of each.
    """
    notes: list[str] = []
    parts = []
    for split, title in (("heldout", "Held-out problems"), ("train", "Training problems")):
        files = stage.completion_files(split)
        if stage.kind == "evaluate":
            parts += [{"title": title, "pairs": _pairs([("", rows)])} for path in files if (rows := _read(path, notes))]
            continue
        ends = [
            (f"update {step_of(path):,}", rows) for path in (files[:1] + files[1:][-1:]) if (rows := _read(path, notes))
        ]
        if ends:
            when, rows = ends[-1]
            parts.append({"title": f"{title}: {' and '.join(when for when, _ in ends)}", "pairs": _pairs(ends)})
            parts[-1] |= {"when": when, "extremes": _extremes(when, rows) if split == "train" else []}
    return fill("examples.html", parts=parts, notes=notes)


def pair_up(first: Completions, last: Completions, *, limit: int) -> list[tuple[Completions, Completions]]:
    """Pairs groups of completions: of the same problem where both have it, else of the same kind.

    Kinds take turns and problems come in the order of the file, so that nothing is picked for its score.
    """
    groups_first, groups_last = _by_problem(first), _by_problem(last)
    shared = [key for key in groups_first if key in groups_last]
    if shared:
        pairs = [(groups_first[key], groups_last[key]) for key in shared]
    else:
        of_kind = _group_by(groups_last.values(), lambda rows: _kind(rows[0]))
        kinds = [(rows, of_kind.get(_kind(rows[0]))) for rows in groups_first.values()]
        pairs = [(rows, candidates.pop(0)) for rows, candidates in kinds if candidates]
    turns = _group_by(pairs, lambda pair: _kind(pair[0][0]))
    mixed = itertools.chain.from_iterable(itertools.zip_longest(*turns.values()))
    return [pair for pair in mixed if pair is not None][:limit]


def _read(path: Path, notes: list[str]) -> Completions:
    rows = read_rows(path, notes, limit=_MAX_ROWS)
    return [row for row in rows if isinstance(row.get("completion"), str) and isinstance(row.get("problem"), dict)]


def _kind(row: dict[str, Any]) -> str:
    return str(row["problem"].get("task", ""))


def _by_problem(rows: Completions) -> dict[str, Completions]:
    return _group_by(rows, lambda r: json.dumps([r.get("problem"), r.get("prompt")], sort_keys=True, default=str))


def _group_by(items: Iterable[Any], key: Callable[[Any], str]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _pairs(ends: list[tuple[str, Completions]]) -> list[dict[str, Any]]:
    """Of one or two sets of completions, each with the words that say when they are from."""
    whens, sets = zip(*ends, strict=True)
    groups = pair_up(*sets, limit=_MAX_PAIRS) if len(ends) > 1 else [(group,) for group in _by_problem(*sets).values()]
    return [_pair(whens, groups) for groups in groups[:_MAX_PAIRS]]


def _pair(whens: Sequence[str], groups: Sequence[Completions]) -> dict[str, Any]:
    """The first completion of each group, and the question: once if all were asked the same."""
    rows = [group[0] for group in groups]
    answers = ["" if (answer := row["problem"].get("answer")) is None else str(answer) for row in rows]
    asked = {(_kind(row), str(row.get("prompt", "")), answer): None for row, answer in zip(rows, answers, strict=True)}
    return {"asked": list(asked), "cards": [_card(when, group) for when, group in zip(whens, groups, strict=True)]}


def _card(when: str, group: Completions) -> dict[str, Any]:
    """The first completion of a group, and (text, look) of what is known of it."""
    row, *others = group
    facts = [(when, "when")] if when else []
    correct = _value(row, "correct")
    if math.isfinite(correct):
        verdict = "right" if correct >= 1 else "wrong" if correct <= 0 else show(correct)
        facts.append((verdict, "good" if correct >= 1 else "bad"))
        if others:
            facts.append((f"{sum(_value(r, 'correct') >= 1 for r in group)} of {len(group)} samples right", ""))
    parts = row.get("rewards")
    if "reward" in row:
        by_name = [f"{name} {show(to_float(v))}" for name, v in parts.items()] if isinstance(parts, dict) else []
        facts.append((f"reward {show(to_float(row['reward']))}" + (f" ({', '.join(by_name)})" if by_name else ""), ""))
    if math.isfinite(_value(row, "advantage")):
        facts.append((f"advantage {show(to_float(row['advantage']))}", ""))
    if "num_tokens" in row:
        facts.append((f"{show(to_float(row['num_tokens']))} tokens", ""))
    failed = row.get("errors")
    if isinstance(failed, dict) and failed:
        facts.append((f"no verdict of {', '.join(map(str, failed))}", "bad"))
    facts += [("not trained on", "")] if row.get("dropped") is True else []
    facts += [("cut off", "bad")] if row.get("stop_reason") == "length" else []
    return {"facts": facts, "text": row["completion"]}


def _value(row: dict[str, Any], key: str) -> float:
    """A number or a truth value as a float; nan if it is neither."""
    value = row.get(key)
    return float(value) if isinstance(value, bool) else to_float(value)


def _extremes(when: str, rows: Completions) -> list[tuple[str, list[dict[str, Any]]]]:
    """Highest and lowest reward, and most reflection words, of one update; one completion a problem."""
    scored = sorted((row for row in rows if math.isfinite(_value(row, "reward"))), key=lambda r: -_value(r, "reward"))
    wordy = sorted(
        (row for row in rows if count_marked(row["completion"])), key=lambda r: -count_marked(r["completion"])
    )
    rankings = {"Highest reward": scored, "Lowest reward": scored[::-1], "Most reflection words": wordy}
    extremes = []
    for title, ranked in rankings.items():
        best = _group_by(ranked, lambda row: json.dumps(row.get("problem"), default=str)).values()
        pairs = [_pair([when], [[group[0]]]) for group in itertools.islice(best, _MAX_EXTREMES)]
        extremes += [(title, pairs)] if pairs else []
    return extremes
