"""What a mini base can do before any RL: RL only chooses among strategies that the base can carry out.

    .venv/bin/python experiments/mini_base/measure.py runs/zero/zero/completions/heldout_*.jsonl

prints a table for each file of completions: which kinds of trace it holds and how often each is right, and how good its single
moves are (sums, comparison with the target, noticing slips, going on, copying the answer). A base is worth RL if it says yes to
hits (> .8) and not to misses (< .05), and if persistent traces are right far more often than short ones.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1jax.tasks.mini.corpus import BIG, GIVE_UP, GO_ON, HIT, NOTICE, SMALL, VERIFY
from r1jax.tasks.mini.pair_sum import PairSum
from r1jax.tasks.problem import Problem

_TAGGED = re.compile(
    r"\s*<think>(?:(?!</?think>|</?answer>).)*</think>\s*<answer>(?:(?!</?answer>).)*</answer>\s*", re.S
)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.S)
_STEP = re.compile(r"(\d+) \+ (\d+) = (\d+)(?: vs (\d+))?(?P<tail>[^\d<]*)")


def _words(groups: dict[str, tuple[str, ...]]) -> set[str]:
    return {word for words in groups.values() for word in words}


_GO_ON, _HIT, _NOTICE, _VERIFY = map(_words, (GO_ON, HIT, NOTICE, VERIFY))
_REFLECTION = _GO_ON | _NOTICE | _VERIFY
_SAYINGS = (BIG, SMALL, GO_ON, HIT, NOTICE, VERIFY, GIVE_UP)
_ENGLISH = {word for group in _SAYINGS for word in group["en"]}
_CHINESE = {word for group in _SAYINGS for word in group["zh"]}


def analyse(completions: Sequence[str], problems: Sequence[Problem]) -> dict[str, Any]:
    """The table over completions and the problems they answer (equal lengths, at least one).

    Returns:
        A flat dict of floats (nan where nothing was counted) and counts. `share/KIND` and `right/KIND` go over the kinds:
        untagged (no answer tag), direct (answer, no step), gave_up_1 and gave_up_n (one step, several, the last not called
        a hit), hit_1 and hit_n (the last called a hit after one pair, several), broken (the rest). Steps: `sum_right`,
        `operands_right`, `target_right`, `yes_given_hit`, `yes_given_miss` (hit: the written sum equals the target),
        `notice_given_slip`, `notice_given_right`, `go_on_given_miss`, `repeats` (pair tried before, going on aside).
        Completions: `pass@1`, `well_formed`, `answer_miscopied` (of those that called a hit), `attempts`, `reflections`
        (words a completion), `language/en`, `language/zh`, `language/mixed`.

    Raises:
        ValueError: no completions, or unequal lengths.
    """
    if not completions or len(completions) != len(problems):
        raise ValueError(f"analyse needs as many problems as completions, got {len(problems)} and {len(completions)}")
    task = PairSum()
    count: Counter[str] = Counter()
    for text, problem in zip(completions, problems, strict=True):
        tagged = _TAGGED.fullmatch(text)
        found = _ANSWER.findall(text)
        right = bool(found) and task.grade(found[-1], problem) == 1.0
        steps = _steps(text, problem, count)
        kind = _kind(bool(tagged), bool(found), "<think>" in text, steps)
        count["completions"] += 1
        count["right"] += right
        count["well_formed"] += bool(tagged)
        count[f"kind/{kind}"] += 1
        count[f"right/{kind}"] += right
        if kind.startswith("hit"):
            count["called"] += 1
            count["miscopied"] += task.canonical(found[-1]) != task.canonical("{} + {}".format(*steps[-1]["pair"]))
        words = re.findall(r"[^\W\d_]+", text)
        count["reflections"] += sum(word in _REFLECTION for word in words)
        english, chinese = any(word in _ENGLISH for word in words), any(word in _CHINESE for word in words)
        if english or chinese:
            count["with_words"] += 1
            count["language/" + ("mixed" if english and chinese else "en" if english else "zh")] += 1
    return _table(count)


def _steps(text: str, problem: Problem, count: Counter[str]) -> list[dict[str, Any]]:
    """The steps of one completion, counted; each has the pair and what was said after it."""
    numbers, target = problem.columns["numbers"], problem.columns["target"]
    steps: list[dict[str, Any]] = []
    tried: set[frozenset[int]] = set()
    again = False  # a look at the same pair that was announced (check, verify)
    for match in _STEP.finditer(text):
        first, second, total = int(match[1]), int(match[2]), int(match[3])
        said = set(match["tail"].split())
        right = first + second == total
        count["steps"] += 1
        count["sum_right"] += right
        count["operands_right"] += first != second and first in numbers and second in numbers
        noticed = match[4] is None and bool(said & _NOTICE)
        count["right_steps" if right else "slips"] += 1
        count["notice_right" if right else "notice_slip"] += noticed
        pair = frozenset((first, second))
        if not again:
            count["attempts"] += 1
            count["repeats"] += pair in tried
        tried.add(pair)
        yes = bool(said & _HIT)
        if match[4] is not None:
            hit = total == target
            count["compared"] += 1
            count["target_right"] += int(match[4]) == target
            count["hits" if hit else "misses"] += 1
            count["yes_hit" if hit else "yes_miss"] += yes
            if not hit and not yes:
                count["admitted"] += 1
                count["go_on"] += bool(said & _GO_ON)
        again = noticed or bool(said & _VERIFY)
        steps.append({"pair": (first, second), "yes": yes, "attempt": count["attempts"]})
    return steps


def _kind(tagged: bool, answered: bool, thinks: bool, steps: list[dict[str, Any]]) -> str:
    if not answered:
        return "untagged"
    if not steps:
        return "broken" if thinks else "direct"
    if not tagged:
        return "broken"
    several = "n" if steps[-1]["attempt"] > steps[0]["attempt"] else "1"
    return f"{'hit' if steps[-1]['yes'] else 'gave_up'}_{several}"


def _table(count: Counter[str]) -> dict[str, Any]:
    def rate(part: str, whole: str) -> float:
        return count[part] / count[whole] if count[whole] else float("nan")

    total = "completions"
    table: dict[str, Any] = {"completions": count[total], "steps": count["steps"]}
    table |= {"pass@1": rate("right", total), "well_formed": rate("well_formed", total)}
    for kind in ("untagged", "direct", "gave_up_1", "gave_up_n", "hit_1", "hit_n", "broken"):
        table[f"share/{kind}"] = rate(f"kind/{kind}", total)
        table[f"right/{kind}"] = rate(f"right/{kind}", f"kind/{kind}")
    table |= {
        "sum_right": rate("sum_right", "steps"),
        "operands_right": rate("operands_right", "steps"),
        "target_right": rate("target_right", "compared"),
        "hits": count["hits"],
        "yes_given_hit": rate("yes_hit", "hits"),
        "yes_given_miss": rate("yes_miss", "misses"),
        "slips": count["slips"],
        "notice_given_slip": rate("notice_slip", "slips"),
        "notice_given_right": rate("notice_right", "right_steps"),
        "go_on_given_miss": rate("go_on", "admitted"),
        "repeats": rate("repeats", "attempts"),
        "answer_miscopied": rate("miscopied", "called"),
        "attempts": rate("attempts", total),
        "reflections": rate("reflections", total),
    }
    return table | {f"language/{name}": rate(f"language/{name}", "with_words") for name in ("en", "zh", "mixed")}


def main(paths: list[str]) -> None:
    """Prints one table a file."""
    for path in paths:
        rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        problems = [
            Problem(({"role": "user", "content": row["prompt"]},), row["problem"]["answer"], row["problem"])
            for row in rows
        ]
        table = analyse([row["completion"] for row in rows], problems)
        print(path)
        for name, value in table.items():
            print(f"  {name:24s} {value if isinstance(value, int) else round(value, 3)}")


if __name__ == "__main__":
    main(sys.argv[1:])
