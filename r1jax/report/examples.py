"""Completions side by side: what the model wrote at the start and at the end, and the extremes."""

import itertools
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from r1jax.report.markup import clip, count_marked, escape, highlight, show, visible
from r1jax.workdir.read import Stage, dig, number, read_rows, step_of

_MAX_ROWS = 20_000  # a file; more are not looked at
_MAX_PAIRS = 4  # a split
_MAX_EXTREMES = 2

Rows = list[dict[str, Any]]


def examples(stage: Stage) -> str:
    """HTML: first and last completions in pairs, then best, worst and most reflecting; "" if none was kept.

    Of an evaluation, whose files are its tasks, some of each.
    """
    notes: list[str] = []
    parts = []
    for split, heading in (("heldout", "Held-out problems"), ("train", "Training problems")):
        files = stage.completion_files(split)
        if stage.kind == "evaluate":
            for rows in (_read(path, notes) for path in files):
                parts += [f"<h3>{heading}</h3>", _side_by_side([("", rows)])] if rows else []
            continue
        ends = [
            (f"update {step_of(path):,}", rows) for path in (files[:1] + files[1:][-1:]) if (rows := _read(path, notes))
        ]
        if ends:
            parts.append(f"<h3>{heading}: {' and '.join(when for when, _ in ends)}</h3>")
            parts.append(_side_by_side(ends))
            if split == "train":
                parts.append(_extremes(*ends[-1]))
    parts += [f'<p class="note">{escape(note)}</p>' for note in notes]
    return "".join(parts)


def pair_up(first: Rows, last: Rows, *, limit: int) -> list[tuple[Rows, Rows]]:
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


def question(row: dict[str, Any]) -> str:
    """What was asked: the last message of the problem, else the problem as text, else the prompt."""
    problem = row.get("problem")
    messages = dig(problem, "messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        return str(messages[-1].get("content", ""))
    asked = dig(problem, "question") if isinstance(problem, dict) else problem
    return asked if isinstance(asked, str) and asked else str(row.get("prompt", ""))


def _read(path: Path, notes: list[str]) -> Rows:
    return [row for row in read_rows(path, notes, limit=_MAX_ROWS) if isinstance(row.get("completion"), str)]


def _kind(row: dict[str, Any]) -> str:
    kinds = [dig(row, *way, "task") for way in ((), ("problem", "columns"), ("problem",))]
    return next((kind for kind in kinds if isinstance(kind, str)), "")


def _by_problem(rows: Rows) -> dict[str, Rows]:
    return _group_by(rows, lambda r: json.dumps([r.get("problem"), r.get("prompt")], sort_keys=True, default=str))


def _group_by(items: Iterable[Any], key: Callable[[Any], str]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _side_by_side(ends: list[tuple[str, Rows]]) -> str:
    """Of one or two sets of completions, each with the words that say when they are from."""
    whens, sets = zip(*ends, strict=True)
    if len(ends) == 1:
        shown = [(group,) for group in itertools.islice(_by_problem(sets[0]).values(), _MAX_PAIRS)]
    else:
        shown = pair_up(*sets, limit=_MAX_PAIRS)
    return "".join(
        _asked(groups) + _pair(_card(group[0], when, group) for when, group in zip(whens, groups, strict=True))
        for groups in shown
    )


def _asked(groups: Iterable[Rows]) -> str:
    """The question, once if both sides were asked the same."""
    rows = [group[0] for group in groups]
    kind = f"{escape(_kind(rows[0]))}: " if _kind(rows[0]) else ""
    texts = list(dict.fromkeys((question(row), _answer(row)) for row in rows))
    return "".join(
        f'<p class="prompt">{kind}{escape(clip(text, 500))}{f" <b>= {escape(clip(answer, 80))}</b>" if answer else ""}</p>'
        for text, answer in texts
    )


def _answer(row: dict[str, Any]) -> str:
    answer = dig(row, "problem", "answer") if isinstance(row.get("problem"), dict) else row.get("answer")
    return str(answer) if isinstance(answer, (str, int, float)) else ""


def _pair(cards: Iterable[str]) -> str:
    return f'<div class="pair">{"".join(cards)}</div>'


def _card(row: dict[str, Any], heading: str, group: Rows) -> str:
    facts = [f"<b>{escape(heading)}</b>"] if heading else []
    correct = _value(row, "correct")
    if math.isfinite(correct):
        verdict = "right" if correct >= 1 else "wrong" if correct <= 0 else show(correct)
        facts.append(f'<span class="{"good" if correct >= 1 else "bad"}">{verdict}</span>')
        if len(group) > 1:
            facts.append(f"{sum(_value(r, 'correct') >= 1 for r in group)} of {len(group)} samples right")
    parts = row.get("rewards")
    if "reward" in row:
        by_name = [f"{escape(k)} {show(number(v))}" for k, v in parts.items()] if isinstance(parts, dict) else []
        facts.append(f"reward {show(number(row['reward']))}" + (f" ({', '.join(by_name)})" if by_name else ""))
    if math.isfinite(_value(row, "advantage")):
        facts.append(f"advantage {show(number(row['advantage']))}")
    if "num_tokens" in row:
        facts.append(f"{show(number(row['num_tokens']))} tokens")
    failed = row.get("errors")
    if isinstance(failed, dict) and failed:
        facts.append(f'<span class="bad">no verdict of {escape(", ".join(map(str, failed)))}</span>')
    if row.get("dropped") is True:
        facts.append("not trained on")
    if row.get("stop_reason") == "length":
        facts.append('<span class="bad">cut off</span>')
    text = row["completion"]
    body = highlight(clip(text)) if text.strip() else f'<span class="quiet">(empty) {escape(visible(text))}</span>'
    return f'<div class="answer"><header>{" · ".join(facts)}</header><pre>{body}</pre></div>'


def _value(row: dict[str, Any], key: str) -> float:
    """A number or a truth value as a float; nan if it is neither."""
    value = row.get(key)
    return float(value) if isinstance(value, bool) else number(value)


def _extremes(when: str, rows: Rows) -> str:
    """Highest and lowest reward, and most reflection words, of one update; one completion a problem."""
    rewarded = [row for row in rows if math.isfinite(_value(row, "reward"))]
    scored = sorted(rewarded, key=lambda row: -_value(row, "reward"))
    marked = [row for row in rows if count_marked(row["completion"])]
    wordy = sorted(marked, key=lambda row: -count_marked(row["completion"]))
    rankings = {"Highest reward": scored, "Lowest reward": scored[::-1], "Most reflection words": wordy}
    parts = []
    for title, ranked in rankings.items():
        best = {json.dumps(row.get("problem"), default=str): row for row in reversed(ranked)}
        cards = [
            f"<div>{_asked([[row]])}{_card(row, when, [row])}</div>" for row in [*best.values()][::-1][:_MAX_EXTREMES]
        ]
        parts += [f"<h3>{title}, {when}</h3>{_pair(cards)}"] if cards else []
    if not parts:
        return ""
    title = f"<summary>Best, worst and most reflecting completions of {when}</summary>"
    return f"<details>{title}{''.join(parts)}</details>"
