import json

import pytest

from r1jax.bench import verifiers

ROWS = [
    {"gold": "4", "response": r"\boxed{4}", "expected": 1, "why": "w", "source": "own"},
    {"gold": "4", "response": r"\boxed{5}", "expected": 0, "why": "w", "source": "own"},
    {"gold": "5 cm", "response": r"\boxed{5}", "expected": 1, "why": "w", "source": "own", "convention": True},
    {"gold": "1", "response": r"\boxed{{{REPEAT 9^ 5}}9}", "expected": 0, "why": "w", "source": "own"},
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_load_writes_repetitions_out_and_names_a_bad_line(tmp_path):
    assert verifiers.load_corpus(write(tmp_path / "a.jsonl", ROWS))[3]["response"] == r"\boxed{9^9^9^9^9^9}"
    with pytest.raises(ValueError, match=r"b.jsonl, line 2: needs gold"):
        verifiers.load_corpus(write(tmp_path / "b.jsonl", [ROWS[0], {**ROWS[1], "expected": 0.5}]))


def test_a_response_may_hold_any_line_end(tmp_path):
    row = ROWS[0] | {"response": "one\u2028two\x85three\r\n\\boxed{4}"}
    (tmp_path / "c.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert verifiers.load_corpus(tmp_path / "c.jsonl") == [row]


def test_counts():
    scores = [None, 1.0, 0.0, "timeout"]
    assert verifiers.count_errors(ROWS, scores) == {
        "false_negatives": 2, "of_right": 2, "false_positives": 1, "of_wrong": 2, "timeouts": 1, "no_score": 1,
    }  # fmt: skip


@pytest.mark.slow
def test_run_compares_with_others(tmp_path):
    table = verifiers.run(write(tmp_path / "a.jsonl", ROWS[:3]))
    assert table["pairs"] == 3 and set(table["verifiers"]) == {"ours", "math-verify"}
    for found in table["verifiers"].values():
        assert found["all"]["false_positives"] == found["without conventions"]["false_negatives"] == 0


@pytest.mark.slow
@pytest.mark.oracle
def test_peers_with_the_signature_of_trl(tmp_path):
    pytest.importorskip("trl")
    table = verifiers.run(write(tmp_path / "a.jsonl", ROWS[:2]), peers=["trl.rewards:accuracy_reward"])
    assert table["verifiers"]["trl.rewards:accuracy_reward"]["all"]["false_negatives"] == 0
