"""Rows that cannot be judged: left out, counted and named, or refused; never the whole set for one row, never in silence."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1jax.tasks.file_task import FileTask, check_problems
from r1jax.tasks.grading import check_problem
from r1jax.tasks.problem import Problem
from tests.tasks.sources.code_rows import CODEFORCES
from tests.tasks.specs import spec

PROSE = "First we see that the triangle is isosceles, so that the two angles must be equal, which was to be shown."
GOOD = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(6)]


def lines(path, *rows):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def task_of(path, dataset=None, **fields):
    return FileTask(spec({"kind": "files", "dataset": dataset, "heldout": str(path), **fields}))


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"question": "?", "answer": ""}, "field 'answer' must be a text that is not blank"),
        ({"question": "?", "answer": None}, "needs a field 'answer' or 'expected'"),
        ({"question": "?"}, "needs a field 'answer' or 'expected'"),
        ({"question": "?", "answer": float("nan")}, "needs a field 'answer' or 'expected'"),
        ({"question": "?", "answer": "NaN"}, "reference answer 'NaN' is no mathematics"),
        ({"question": "?", "answer": "null"}, "reference answer 'null' is no mathematics"),
        ({"question": "?", "answer": PROSE}, "reference answer 'First we see .* is no mathematics"),
        ({"question": "?", "answer": "7" * 5000}, "reference answer '7777.*5000 characters"),
        ({"question": "?", "answer": "$$"}, "reference answer .* is empty"),
        ({"question": " ", "answer": "7"}, "field 'question' must be a text that is not blank"),
        ({"question": ["?"], "answer": "7"}, "field 'question' must be a text"),
        ({"question": "?", "answer": {"value": 7}}, "field 'answer' must be a text"),
        (r'{"question": "a \ud800 b", "answer": "7"}', r"field 'question' holds \\ud800, half of a character"),
        ('{"question": "?", "answer": ', "no JSON"),
        ("[1, 2]", "must be a JSON object; it is a list"),
    ],
)
def test_one_bad_row_is_left_out_counted_and_named(tmp_path, capsys, row, what):
    path = lines(tmp_path / "a.jsonl", *GOOD[:3], row, *GOOD[3:])
    task = task_of(path, "math_answers")
    assert [problem.answer for problem in task.problems("heldout")] == ["0", "2", "4", "6", "8", "10"]
    assert task.counts["heldout"] == {"kept": 6, "that cannot be judged": 1}
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "task 'math_answers', heldout: 6 kept, 1 that cannot be judged of 7 rows"
    assert said[1].startswith(f"task 'math_answers', left out: data set 'math_answers': {path}, ") and len(said) == 2
    with pytest.raises(ValueError, match=rf"^data set 'math_answers': {path}, (row|line) 4.*{what}"):
        task_of(path, "math_answers", bad_rows="refuse")


def test_what_can_be_judged_is_kept(tmp_path):
    answers = [
        r"336^\circ",
        "7",
        r"\text{October}",
        r"\text{There are no real solutions}",
        r"\{1, 2\}",
        "x = 3",
        "None",
    ]
    path = lines(tmp_path / "a.jsonl", *({"question": f"{a}?", "answer": a} for a in answers))
    task = task_of(path, "math_answers", bad_rows="refuse")
    assert [task.grade(problem.answer, problem) for problem in task.problems("heldout")] == [1.0] * len(answers)


def test_at_most_three_are_named_and_all_are_counted(tmp_path, capsys):
    path = lines(tmp_path / "a.jsonl", *({"question": "?", "answer": ""} for _ in range(50)), *GOOD)
    task = task_of(path, "math_answers")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4 and "6 kept, 50 that cannot be judged of 56 rows" in said[0] and ", row 3: " in said[3]
    assert len(task.bad_rows) == 3 and task.num_problems("heldout") == 6


def test_a_set_without_any_good_row_says_why(tmp_path):
    path = lines(tmp_path / "a.jsonl", *({"text": "?", "answer": "1"} for _ in range(5)))
    with pytest.raises(ValueError) as error:
        task_of(path, "math_answers")
    assert str(error.value) == (
        f"task 'math_answers': no heldout problem is left of {path}: 0 kept, 5 that cannot be judged of 5 rows; "
        f"data set 'math_answers': {path}, row 1: needs a field 'question', 'problem' or 'prompt'; there are answer, text"
    )


def test_a_reference_that_its_verifier_calls_wrong_is_bad(monkeypatch):
    problem = Problem(({"role": "user", "content": "?"},), "7", {"task": "own", "row": "F, row 2"})
    monkeypatch.setattr("r1jax.tasks.grading.math.grade_math", lambda answers, references: [0.0] * len(answers))
    for grader in ("math", "answer"):
        with pytest.raises(ValueError, match=r"^F, row 2: reference answer '7' does not score 1.0 by its verifier$"):
            check_problem(grader, problem)


def test_a_choice_without_its_letter_is_bad(tmp_path):
    good = {"question": "Which is even?", "choices": ["1", "2"], "answer": "B"}
    rows = [good, {**good, "question": "?", "answer": "E"}, {**good, "question": "??", "answer": 5}]
    assert task_of(lines(tmp_path / "a.jsonl", *rows), "mmlu").counts["heldout"]["that cannot be judged"] == 2


def test_programs_without_usable_tests_are_bad(tmp_path):
    rows = [
        CODEFORCES,
        {**CODEFORCES, "title": "b", "time_limit": "soon"},
        {**CODEFORCES, "title": "c", "examples": [{}]},
    ]
    task = task_of(lines(tmp_path / "a.jsonl", *rows), "codeforces")
    assert task.counts["heldout"] == {"kept": 1, "that cannot be judged": 2}
    assert "row 3: is not as published: KeyError('input')" in task.bad_rows[1]


def test_rows_of_csv_and_parquet_are_left_out_too(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'question,answer\n1?,1\n2?,2,3\n"5" 6?,1\n\xff?,5\n3?,3\n4?,\n')
    task = task_of(tmp_path / "a.csv", "math_answers")
    assert [problem.answer for problem in task.problems("heldout")] == ["1", "3"]
    assert task.counts["heldout"] == {"kept": 2, "that cannot be judged": 4}
    assert "row 2: has 3 values for 2 columns (question, answer)" in task.bad_rows[0]
    assert "row 3: line 4: " in task.bad_rows[1] and "row 4: field 'question' holds" in task.bad_rows[2]
    pq.write_table(pa.Table.from_pylist([*GOOD, {"question": None, "answer": "1"}]), tmp_path / "a.parquet")
    assert task_of(tmp_path / "a.parquet", "math_answers").num_problems("heldout") == 6


def test_of_any_columns_a_row_without_an_answer_is_bad_where_others_have_one(tmp_path):
    rows = [
        {"prompt": f"{n}?", "answer": answer} for n, answer in enumerate(["1", None, "", float("nan"), "Paris", " "])
    ]
    task = task_of(lines(tmp_path / "a.jsonl", *rows))
    assert [problem.answer for problem in task.problems("heldout")] == ["1", "Paris"]
    assert task.bad_rows[0].endswith("a.jsonl, row 2: has no answer, and other rows have one")
    everything = task_of(lines(tmp_path / "b.jsonl", *({"prompt": f"{n}?"} for n in range(4))), bad_rows="refuse")
    assert everything.num_problems("heldout") == 4  # a reward function judges them
    check_problems(everything)


def test_the_split_and_decontamination_count_bad_rows(tmp_path, capsys):
    path = lines(tmp_path / "a.jsonl", *({"prompt": f"Is it {n}?", "answer": str(n)} for n in range(60)), "{", "[")
    task = FileTask(spec({"kind": "files", "path": path}))
    held = task.num_problems("heldout")
    assert (
        f"task 'a': {60 - held} train, 2 that cannot be judged, {held} held out of 62 rows" in capsys.readouterr().err
    )
    assert len(list(task.problems("train"))) == 60 - held
