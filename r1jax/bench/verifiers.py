"""How often do math verifiers err? Ours and others on the same pairs, in the same run: ``r1jax bench verifiers``.

The corpus is JSON lines: "gold", "response", "expected" (1 or 0), "why", "source", and "convention" where a stated rule
decides rather than mathematics (units, percent signs, rounding). ``{{REPEAT text n}}`` in a response stands for n times
the text. Pairs of "reference", "response" (without its box unless "is_whole_response"), "expected" and "kind" are read
too. Each verifier sees one pair at a time; the others in a worker process that is killed after 30 CPU seconds.

- ours: ``r1jax.rewards.math:accuracy``
- math-verify: ``verify(parse(gold), parse(response))`` with its own defaults
- others: a function with the signature of TRL's ``accuracy_reward``, named as ``--peer=trl.rewards:accuracy_reward``

The others get references without math delimiters inside ``$...$``, as they ask for.
"""

import contextlib
import json
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1jax.rewards import math as math_reward
from r1jax.rewards.calls import load_function
from r1jax.rewards.workers import WorkerPool

_REPEAT = re.compile(r"\{\{REPEAT (.+?) (\d+)\}\}", re.DOTALL)
_SECONDS = 30.0
Pair = dict[str, Any]
"""Reference, response and verdict: a line of the corpus."""


def load_corpus(path: str | Path) -> list[Pair]:
    """The rows of a corpus, with repetitions written out.

    Raises:
        ValueError: a row without one of the keys, or with another expected value than 0 or 1; names the line.
    """
    rows = []
    lines = Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")  # texts may hold other line ends
    for number, line in enumerate(lines, start=1):
        row = json.loads(line)
        if "reference" in row:
            response = row["response"] if row.get("is_whole_response") else f"\\boxed{{{row['response']}}}"
            row = {
                "gold": row["reference"],
                "response": response,
                "expected": row["expected"],
                "why": row["kind"],
                "source": "",
            }
        if not {"gold", "response", "expected", "why", "source"} <= set(row) or row["expected"] not in (0, 1):
            raise ValueError(f"{path}, line {number}: needs gold, response, expected (0 or 1), why and source")
        row["response"] = _REPEAT.sub(lambda match: match[1] * int(match[2]), row["response"])
        rows.append(row)
    return rows


def run(corpus: str | Path, *, peers: Sequence[str] = ()) -> dict[str, Any]:
    """Errors of each verifier: rates over the whole corpus, and over the pairs that no convention decides.

    Args:
        corpus: path of the JSON lines.
        peers: "module:function" of verifiers with TRL's signature.
    """
    rows = load_corpus(corpus)
    table = {}
    for name in ("ours", "math-verify", *peers):
        start = time.perf_counter()
        scores, seconds = _score(name, rows)
        undisputed = [index for index, row in enumerate(rows) if not row.get("convention")]
        table[name] = {
            "all": count_errors(rows, scores),
            "without conventions": count_errors([rows[i] for i in undisputed], [scores[i] for i in undisputed]),
            "seconds": round(time.perf_counter() - start, 1),
            "slowest": round(max(seconds), 2),
            "median": round(statistics.median(seconds), 5),
        }
    right = sum(row["expected"] for row in rows)
    return {"corpus": str(corpus), "right": right, "pairs": len(rows), "verifiers": table}


def count_errors(rows: Sequence[Pair], scores: Sequence[float | str | None]) -> dict[str, Any]:
    """False negatives and positives, and pairs without a score (a timeout, a crash, a reference not read)."""
    right = [score for row, score in zip(rows, scores, strict=True) if row["expected"]]
    wrong = [score for row, score in zip(rows, scores, strict=True) if not row["expected"]]
    return {
        "false_negatives": sum(score != 1.0 for score in right),
        "of_right": len(right),
        "false_positives": sum(score == 1.0 for score in wrong),
        "of_wrong": len(wrong),
        "timeouts": sum(score == "timeout" for score in scores),
        "no_score": sum(score is None or score == "error" for score in scores),
    }


def peer_score(item: Sequence[str]) -> float | None:
    """What another verifier says of [its name, reference, response]. Runs in a worker."""
    name, gold, response = item
    marked = gold if "$" in gold or "\\boxed" in gold else f"${gold}$"
    if name == "math-verify":
        from math_verify import parse, verify

        return float(verify(parse(marked), parse(response)))
    return load_function(name)(completions=[[{"role": "assistant", "content": response}]], solution=[marked])[0]


def _score(name: str, pairs: Sequence[Pair]) -> tuple[list[float | str | None], list[float]]:
    """(score, seconds) of each pair by one verifier: 1.0, 0.0, None, "timeout" or "error"."""
    pool = WorkerPool("r1jax.bench.verifiers:peer_score", num_workers=1, seconds=_SECONDS, memory_mb=8192)
    if name == "ours":
        math_reward.start()
    else:
        pool.start()
    scores, seconds = [], []
    with contextlib.closing(pool):
        for pair in pairs:
            start = time.perf_counter()
            if name == "ours":
                (score,) = math_reward.accuracy([""], [pair["response"]], [pair["gold"]])
            else:
                (score,) = pool.map([[name, pair["gold"], pair["response"]]])
            seconds.append(time.perf_counter() - start)
            if isinstance(score, Exception):
                score = "timeout" if isinstance(score, TimeoutError) else "error"
            scores.append(score)
    return scores, seconds
