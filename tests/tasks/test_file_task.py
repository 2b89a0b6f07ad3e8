import json
import pathlib

import pytest

from r1jax.rewards import sandbox
from r1jax.tasks.file_task import FileTask, check_problems, make_file_task
from r1jax.tasks.mixture import make_mixture, make_task
from r1jax.tasks.problem import GradingError, Problem
from r1jax.tasks.sources.rows import Rows
from tests.tasks.sources.code_rows import CODEFORCES, FUNCTIONAL
from tests.tasks.specs import spec, specs

LONG = "Ada has {} red apples and gives five of them to Bo who is hungry. How many are left?"


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def file_task(dataset, **fields):
    return FileTask(spec({"kind": "files", "dataset": dataset, **fields}))


def gsm8k(*numbers, text="A crate holds {} nails. How many nails is that?"):
    return [{"question": text.format(number), "answer": f"So many.\n#### {number}"} for number in numbers]


@pytest.fixture
def files(tmp_path):
    return {
        "train": write(tmp_path / "train.jsonl", *gsm8k(*range(20))),
        "heldout": write(tmp_path / "test.jsonl", *gsm8k(100, 101, 102)),
    }


@pytest.fixture
def confined():
    try:
        sandbox.require()
    except sandbox.SandboxUnavailable as error:
        pytest.skip(str(error))


def questions(task, split, count):
    return [task.problem(index, split=split).messages[0]["content"] for index in range(count)]


def test_a_problem_has_prompt_answer_and_columns(files):
    problem = file_task("gsm8k", **files).problem(0, split="heldout")
    assert problem == Problem(
        messages=(
            {
                "role": "user",
                "content": "A crate holds 100 nails. How many nails is that?\n\n"
                "Reason step by step, and put the final answer within \\boxed{}.",
            },
        ),
        answer="100",
        columns={"task": "gsm8k", "row": f"data set 'gsm8k': {files['heldout']}, row 1"},
        question="A crate holds 100 nails. How many nails is that?",
    )


def test_the_wording_is_the_configs(files):
    task = file_task("gsm8k", prompt="{question} {x}", name="own", **files)
    problem = task.problem(1, split="heldout")
    assert problem.messages[0]["content"] == "A crate holds 101 nails. How many nails is that? {x}"
    assert problem.columns["task"] == task.name == "own"
    with pytest.raises(ValueError, match="task.prompt='none' must have {question} in it"):
        file_task("gsm8k", prompt="none", **files)


def test_every_epoch_has_every_training_problem_in_an_order_of_its_own(files):
    task = file_task("gsm8k", seed=3, **files)
    epochs = [[task.problem(20 * epoch + i, split="train").answer for i in range(20)] for epoch in range(3)]
    assert all(sorted(epoch, key=int) == [str(number) for number in range(20)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert questions(task, "train", 60) == questions(file_task("gsm8k", seed=3, **files), "train", 60)
    assert questions(task, "train", 60) != questions(file_task("gsm8k", seed=4, **files), "train", 60)
    assert task.problem(2**40, split="train").answer in epochs[0]


def test_heldout_problems_come_in_the_order_of_the_file(files):
    task = file_task("gsm8k", **files)
    assert [task.problem(index, split="heldout").answer for index in range(4)] == ["100", "101", "102", "100"]
    assert (task.num_problems("train"), task.num_problems("heldout")) == (20, 3)
    assert [problem.answer for problem in task.problems("heldout")] == ["100", "101", "102"]


def test_a_split_without_files_is_an_error_when_it_is_asked_for(files):
    task = file_task("gsm8k", heldout=files["heldout"])
    assert task.problem(0, split="heldout").answer == "100"
    with pytest.raises(ValueError, match="task 'gsm8k' has only heldout problems: give its 'train' files"):
        task.problem(0, split="train")
    assert list(task.problems("train")) == []
    with pytest.raises(ValueError, match="split 'test'"):
        task.problem(0, split="test")
    with pytest.raises(ValueError, match="index -1"):
        task.problem(-1, split="train")


def test_a_question_that_is_held_out_is_not_trained_on(tmp_path, capsys):
    train = write(
        tmp_path / "train.jsonl", *gsm8k(1, 2), *gsm8k(3, text="A crate  holds {} nails.\nHow many nails is that?")
    )
    task = file_task("gsm8k", train=train, heldout=write(tmp_path / "test.jsonl", *gsm8k(3, 4)))
    assert sorted(problem.answer for problem in task.problems("train")) == ["1", "2"]
    assert task.counts == {"train": {"kept": 2, "held out too": 1}, "heldout": {"kept": 2}}
    assert "task 'gsm8k', train: 2 kept, 1 held out too of 3 rows" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"no train problem is left of .*train.jsonl: 0 kept, 3 held out too"):
        file_task("gsm8k", train=train, heldout=train)


def test_making_a_task_of_two_splits_reads_every_row_once(files, monkeypatch):
    read, row = [], Rows.row
    monkeypatch.setattr(Rows, "row", lambda rows, place, **options: read.append(place) or row(rows, place, **options))
    file_task("gsm8k", **files)
    assert sorted(read) == sorted([*range(20), *range(3)])


def test_decontamination_drops_what_shares_ten_words_with_a_test_set(tmp_path, capsys):
    train = write(tmp_path / "train.jsonl", *gsm8k(1, 2), *gsm8k(7, text="Yesterday: " + LONG), *gsm8k(9))
    solution = "A crate holds 9 nails. How many nails is that? That is easily found."
    row = {"problem": LONG.format(12), "answer": "7", "solution": solution, "subject": "Algebra", "level": 1}
    test = write(tmp_path / "test.jsonl", row)
    values = {"kind": "files", "dataset": "gsm8k", "train": train}
    compared = {**values, "decontaminate": [{"dataset": "math500", "path": test}]}
    task = make_task(spec(compared))
    assert sorted(problem.answer for problem in task.problems("train")) == ["1", "2"]
    label = f"math500 {test}"
    shared = "red apples and gives five of them to bo who", "a crate holds 9 nails how many nails is that"
    assert task.dropped == {2: (label, shared[0]), 3: (label, shared[1])}
    err = capsys.readouterr().err
    assert "2 kept, 2 sharing 10 words with a test set of 4 rows" in err
    assert f"row 3 and {label} share: {shared[0]}" in err
    assert make_task(spec({**compared, "ngram": 17})).num_problems("train") == 4
    assert make_task(spec(values)).dropped == {}


def test_the_wording_of_the_prompt_is_not_compared(tmp_path):
    prompt = "Here is a question of more than ten words in all, to be answered: {question}"
    train = write(tmp_path / "train.jsonl", *gsm8k(1))
    test = write(tmp_path / "test.jsonl", *gsm8k(5, text=prompt.replace("{question}", "which is {}")))
    task = file_task("gsm8k", train=train, prompt=prompt, decontaminate=[{"dataset": "gsm8k", "path": test}])
    assert task.num_problems("train") == 1


def test_the_same_spec_is_read_once_and_again_when_the_file_changes(files):
    values = {"kind": "files", "dataset": "gsm8k", "weight": 2.0, **files}
    task = make_file_task(spec(values))
    assert make_file_task(spec({**values, "weight": 1.0, "from_update": 3})) is task
    assert make_file_task(spec({**values, "seed": 1})) is not task
    write(pathlib.Path(files["heldout"]), *gsm8k(7))
    assert make_file_task(spec(values)).num_problems("heldout") == 1


def test_folders_and_their_splits(tmp_path):
    write(tmp_path / "train.jsonl", *gsm8k(1, 2))
    write(tmp_path / "test.jsonl", *gsm8k(3))
    source = {
        split: {"path": str(tmp_path), "split": name} for split, name in (("train", "train"), ("heldout", "test"))
    }
    task = make_task(spec({"kind": "files", "dataset": "gsm8k", **source}))
    assert (task.num_problems("train"), task.num_problems("heldout")) == (2, 1)


def test_a_mixture_of_files_and_made_problems(files):
    task = make_mixture(specs([{"kind": "files", "dataset": "gsm8k", **files}, {"kind": "mini", "name": "pair_sum"}]))
    assert {task.problem(index, split="train").columns["task"] for index in range(40)} == {"gsm8k", "pair_sum"}
    check_problems(task, {"gsm8k": ["answer"], "pair_sum": ["numbers"]})
    with pytest.raises(
        ValueError, match="task 'pair_sum': a reward needs tests; there are task, numbers, target, answer"
    ):
        check_problems(task, {"pair_sum": ["tests", "numbers"]})


def test_a_missing_column_is_named_with_data_set_and_row(files):
    task = file_task("gsm8k", **files)
    with pytest.raises(
        ValueError, match=r"data set 'gsm8k': .*train.jsonl, row 1: a reward needs tests; there are task"
    ):
        check_problems(task, {"gsm8k": ["tests"]})


def test_a_bad_row_is_found_before_training(tmp_path):
    path = write(tmp_path / "train.jsonl", *gsm8k(1, 2), {"question": "And?", "answer": "None."})
    with pytest.raises(ValueError, match=r"data set 'gsm8k': .*train.jsonl, row 3: field 'answer' must end in '#### '"):
        file_task("gsm8k", train=path, bad_rows="refuse")
    path = write(tmp_path / "train.jsonl", *gsm8k(1), {"answer": "#### 1"})
    with pytest.raises(ValueError, match=r"data set 'gsm8k': .*train.jsonl, row 2: field 'question' is missing"):
        file_task("gsm8k", train=path, bad_rows="refuse")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "gsm8", "train": "x"}, "data set 'gsm8': known are gsm8k"),
        ({"dataset": "gsm8k"}, "task.path, or train and heldout, must say where the files are"),
        ({"dataset": "gsm8k", "test": "x"}, "there is no key 'task.test'"),
        ({"dataset": "gsm8k", "train": "/nowhere"}, "^train: data set 'gsm8k': /nowhere: no such file or folder"),
        ({"dataset": "gsm8k", "train": {"file": "x"}}, "there is no key 'task.train.file'"),
        ({"dataset": "gsm8k", "train": {"split": "x"}}, "the key 'task.train.path' is missing"),
        (
            {"dataset": "gsm8k", "heldout": "/nowhere", "decontaminate": [{"dataset": "aime", "path": "/no"}]},
            "^heldout: data set 'gsm8k': /nowhere",
        ),
    ],
)
def test_bad_specs_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        make_task(spec({"kind": "files", **values}))


def test_a_problem_of_another_task_is_not_graded(files):
    with pytest.raises(GradingError, match="task 'gsm8k' was given a problem of task 'other'"):
        file_task("gsm8k", **files).grade("1", Problem((), "1", {"task": "other"}))


def one(tmp_path, dataset, row, **fields):
    return file_task(dataset, heldout=write(tmp_path / f"{dataset}.jsonl", row), **fields)


def test_answers_to_questions_are_graded(tmp_path):
    task = one(tmp_path, "math", {"problem": "Half of a third?", "solution": r"\boxed{\frac16}"})
    problem = task.problem(0, split="heldout")
    grades = [
        task.grade(answer, problem) for answer in (r"\frac{1}{6}", r"\boxed{1/6}", "1/3", "", None, "</answer>1/3")
    ]
    assert grades == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert [task.canonical(text) for text in ("0.50", " 7. ", "1,000")] == ["0.5", "7", "1000"]


def test_choices_are_graded(tmp_path):
    task = one(
        tmp_path, "mmlu", {"question": "Which is even?", "choices": ["one", "two", "three", "five"], "answer": 1}
    )
    problem = task.problem(0, split="heldout")
    answers = ("B", "(b)", r"\boxed{B}", "two", "A", "A or B", "one")
    assert [task.grade(answer, problem) for answer in answers] == [1.0] * 4 + [0.0] * 3
    assert [task.canonical(text) for text in ("(b)", r"\text{B}", " two ")] == ["B", "B", "two"]
    check_problems(task, {"mmlu": ["answer", "choices"]})


def test_instructions_are_graded(tmp_path):
    row = {"prompt": "No commas, please.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    task = one(tmp_path, "ifeval", row)
    problem = task.problem(0, split="heldout")
    assert [task.grade(answer, problem) for answer in ("well", "well, no", "")] == [1.0, 0.0, 0.0]
    check_problems(task, {"ifeval": ["instruction_id_list", "kwargs"]})


def test_what_no_rule_can_grade_is_a_problem_whose_answers_are_never_right(tmp_path):
    task = one(tmp_path, "prompts", {"prompt": "Write a poem.", "answer": "Roses."})
    problem = task.problem(0, split="heldout")
    assert (problem.messages[-1]["content"], problem.answer) == ("Write a poem.", "Roses.")
    assert [task.grade(answer, problem) for answer in ("Roses.", None)] == [0.0, 0.0]
    check_problems(task)
    assert one(tmp_path, "prompts", {"question": "Why?"}).problem(0, split="heldout").answer == ""


def test_programs_are_graded(tmp_path, confined):
    task = one(tmp_path, "codeforces", CODEFORCES)
    problem = task.problem(0, split="heldout")
    check_problems(task, {"codeforces": ["tests"]})
    programs = ("print(int(input()) + 5)", "```python\nprint(input())\n```", "print(1")
    assert [task.grade(program, problem) for program in programs] == [1.0, 0.0, 0.0]
    task = one(tmp_path, "livecodebench", FUNCTIONAL)
    problem = task.problem(0, split="heldout")
    right = "class Solution:\n    def add(self, a, b):\n        return tuple(b + x for x in a)"
    assert [task.grade(program, problem) for program in (right, right.replace("b +", "1 +"))] == [1.0, 0.0]


def test_a_verifier_that_fails_is_an_error_and_no_grade(tmp_path, confined):
    task = one(tmp_path, "codeforces", {**CODEFORCES, "generated_checker": "raise ValueError"})
    with pytest.raises(GradingError, match="row 1: .*checker failed"):
        task.grade("print(1)", task.problem(0, split="heldout"))


def test_a_reference_that_no_verifier_can_read_is_found_before_training(tmp_path):
    with pytest.raises(ValueError, match="data set 'math500': .*row 1: "):
        one(tmp_path, "math500", {"problem": "p", "answer": "9" * 100_000}, bad_rows="refuse")
    with pytest.raises(ValueError, match="data set 'codeforces': .*row 1: tests.cpu_seconds=0 must be at least 1"):
        one(tmp_path, "codeforces", {**CODEFORCES, "time_limit": 0.0}, bad_rows="refuse")
