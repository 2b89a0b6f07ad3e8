"""Recorded completions have the scores that lm-evaluation-harness 0.4.13 gave them (``recorded/record.py``).

Where they differ, the reason is listed: its faults are not copied.
"""

import collections
import json
from pathlib import Path

import pytest

from r1jax.evals.suites.table import suite
from r1jax.rewards.drop import drop_scores
from r1jax.tasks.problem import Problem

CASES = [
    json.loads(line)
    for line in Path(__file__).with_name("recorded").joinpath("lm_eval.jsonl").read_text(encoding="utf-8").splitlines()
]
OTHERWISE = {
    "a.b axb": "the keyword is a regular expression there, a text here",
    "Let me see.\n\nThe answer is (C), no.\nThe answer is (B)": "the first answer counts there, the last here",
    "Let me see.\n\nThe answer is (C), no.\nThe answer is (J)": "the first answer counts there, the last here",
    "The answer is: (B)": "only 'answer is B' and 'answer is (B)' are read there",
    "The answer is: (J)": "",
    "The answer is **(B)**": "",
    "The answer is **(J)**": "",
    "The answer is (\\text{B})": "",
    "The answer is (\\text{J})": "",
    "Answer: B": "the paper's own rule, which is not read there",
    "Answer: J": "",
}


def ours(case):
    columns = {"task": "t"}
    if case["suite"] == "drop":
        exact, f1 = drop_scores([case["completion"]], case["references"])
        return [f1, exact]
    if case["suite"] == "ifeval":
        columns |= case["row"]
    else:
        columns["choices"] = [str(number) for number in range(10)]
    problem = Problem((), case.get("answer", ""), columns)
    return list(suite(case["suite"]).judge(case["completion"], problem).values())


@pytest.mark.parametrize("name", ["ifeval", "drop", "mmlu_pro"])
def test_scores_are_lm_evals(name):
    cases = [case for case in CASES if case["suite"] == name]
    assert len(cases) >= 50 and len({tuple(case["scores"]) for case in cases}) >= 2
    differ = [case["completion"] for case in cases if ours(case) != case["scores"]]
    listed = collections.Counter(differ)
    assert set(listed) <= set(OTHERWISE), [text for text in listed if text not in OTHERWISE]
    assert listed.total() == {"ifeval": 1, "drop": 0, "mmlu_pro": 10}[name]
