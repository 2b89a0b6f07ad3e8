"""Problem files of any columns: what is read, which side a problem is on, what reaches the rewards."""

import datetime
import decimal
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1jax.tasks.file_task import check_problems
from r1jax.tasks.mixture import make_mixture, make_task
from r1jax.tasks.problem import recorded_splits, split_of
from tests.tasks.specs import spec, specs

SYSTEM = {"role": "system", "content": "You are terse."}
ASK = {"role": "user", "content": "How many legs?"}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def numbered(count):
    return [{"prompt": f"How many are {n} cats?", "answer": str(n), "animals": [n, n + 1]} for n in range(count)]


def heldout(path, **fields):
    """A task of which every row is held out."""
    return make_task(spec({"kind": "files", "heldout": str(path), **fields}))


def one(tmp_path, **row):
    """The task and the problem of one row."""
    path = tmp_path / "my_problems.jsonl"
    write(path, row)
    task = heldout(path)
    return task, task.problem(0, split="heldout")


def test_ten_lines_of_a_config_are_enough(tmp_path, capsys):
    path = write(tmp_path / "my_problems.jsonl", *numbered(100))
    task = make_task(spec({"kind": "files", "path": path}))
    problem = task.problem(0, split="train")
    number = int(problem.answer)
    assert problem.messages == ({"role": "user", "content": f"How many are {number} cats?"},)
    row = f"{path}, row {number + 1}"
    assert problem.columns == {"task": "my_problems", "row": row, "animals": [number, number + 1]}
    assert task.name == "my_problems"
    check_problems(task, {"my_problems": ["answer", "animals"]}, template="r1_zero")
    held = task.num_problems("heldout")
    assert capsys.readouterr().err == (
        f"task 'my_problems': {100 - held} train, {held} held out of 100 rows, split by a hash of their text with "
        "heldout_fraction=0.1\n"
    )


def test_the_split_goes_by_the_text_alone(tmp_path):
    path = write(tmp_path / "a.jsonl", *numbered(200))
    task = make_task(spec({"kind": "files", "path": path, "heldout_fraction": 0.3}))
    sides = {s: {p.messages[-1]["content"] for p in task.problems(s)} for s in ("train", "heldout")}
    assert len(sides["train"]) + len(sides["heldout"]) == 200 and not sides["train"] & sides["heldout"]
    assert 35 < len(sides["heldout"]) < 85
    assert all(split_of(text, heldout_fraction=0.3) == s for s, texts in sides.items() for text in texts)
    # In another order, with other columns, white space and a system message, every problem stays on its side.
    rows = [
        {"messages": [SYSTEM, {"role": "user", "content": row["prompt"].replace(" ", "  ")}], "answer": "?"}
        for row in reversed(numbered(200))
    ]
    other = make_task(spec({"kind": "files", "path": write(tmp_path / "b.jsonl", *rows), "heldout_fraction": 0.3}))
    for side, texts in sides.items():
        assert {" ".join(p.messages[-1]["content"].split()) for p in other.problems(side)} == texts


def test_a_published_set_in_one_file_is_split_too(tmp_path):
    rows = [{"question": f"What is {n}?", "answer": f"#### {n}"} for n in range(80)]
    path = write(tmp_path / "all.jsonl", *rows)
    task = make_task(spec({"kind": "files", "dataset": "gsm8k", "path": path}))
    assert task.name == "gsm8k" and task.num_problems("train") + task.num_problems("heldout") == 80
    assert 0 < task.num_problems("heldout") < 20


def test_stages_can_compare_their_fractions_also_where_the_task_is_made_already(tmp_path):
    values = {"kind": "files", "path": write(tmp_path / "a.jsonl", *numbered(100))}
    for fraction in (0.1, 0.2, 0.1):
        with recorded_splits() as noted:
            make_task(spec({**values, "heldout_fraction": fraction})).problem(0, split="train")
        assert noted == {values["path"]: {fraction}}
    with recorded_splits() as noted:
        make_task(spec({"kind": "files", "train": values["path"]})).problem(0, split="train")
    assert noted == {}


def test_a_side_without_a_problem_is_an_error_that_says_what_to_change(tmp_path):
    path = write(tmp_path / "few.jsonl", *numbered(3))
    with pytest.raises(ValueError) as error:
        make_task(spec({"kind": "files", "path": path, "heldout_fraction": 0.001}))
    assert str(error.value) == (
        f"task 'few': no heldout problem is left of {path}: 0 held out of 3 rows, split by a hash of their text with "
        "heldout_fraction=0.001: change it, add problems, or give two files as 'train' and 'heldout'"
    )
    with pytest.raises(ValueError, match="no train problem is left of .*few.jsonl: 0 train of 3 rows, split by"):
        make_task(spec({"kind": "files", "path": path, "heldout_fraction": 0.999}))


def test_two_files_are_a_split_and_share_no_problem(tmp_path, capsys):
    train, test = write(tmp_path / "train.jsonl", *numbered(6)), write(tmp_path / "test.jsonl", *numbered(2))
    task = make_task(spec({"kind": "files", "train": train, "heldout": test, "name": "cats"}))
    assert (task.name, task.num_problems("train"), task.num_problems("heldout")) == ("cats", 4, 2)
    assert "task 'cats', train: 4 kept, 2 held out too of 6 rows" in capsys.readouterr().err


def test_decontamination_drops_from_the_training_side(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", *numbered(100))
    test = write(tmp_path / "test.jsonl", *({"question": row["prompt"], "answer": "#### 1"} for row in numbered(100)))
    values = {"kind": "files", "path": path, "ngram": 5}
    fourth = write(tmp_path / "some.jsonl", {"question": "How many are 4 cats?", "answer": "#### 1"})
    sides = {p.answer for p in make_task(spec(values)).problems("train")}
    task = make_task(spec({**values, "decontaminate": [{"dataset": "gsm8k", "path": fourth}]}))
    assert {p.answer for p in task.problems("train")} == sides - {"4"} != sides
    assert (
        f"{len(sides) - 1} train, 1 sharing 5 words with a test set, {100 - len(sides)} held out of 100 rows"
        in capsys.readouterr().err
    )
    with pytest.raises(ValueError, match="no train problem .* sharing 5 words with a test set"):
        make_task(spec({**values, "decontaminate": [{"dataset": "gsm8k", "path": test}]}))


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"question": "Why?"}, [("user", "Why?")]),
        ({"problem": "Why?", "messages": [SYSTEM]}, [("user", "Why?")]),
        ({"prompt": "Why?", "question": "What?"}, [("user", "Why?")]),
        ({"prompt": [ASK]}, [("user", "How many legs?")]),
        ({"prompt": [SYSTEM, ASK]}, [("system", "You are terse."), ("user", "How many legs?")]),
        ({"messages": json.dumps([SYSTEM, ASK])}, [("system", "You are terse."), ("user", "How many legs?")]),
        (
            {"messages": [ASK, {"role": "assistant", "content": "Four."}, {"role": "user", "content": "Sure?", "name": None}]},
            [("user", "How many legs?"), ("assistant", "Four."), ("user", "Sure?")],
        ),
    ],
)  # fmt: skip
def test_prompts_are_texts_or_chats(tmp_path, row, messages):
    _, problem = one(tmp_path, **row)
    assert [(message["role"], message["content"]) for message in problem.messages] == messages
    assert all(set(message) == {"role", "content"} for message in problem.messages)


def test_the_wording_is_put_around_the_last_message(tmp_path):
    path = write(tmp_path / "a.jsonl", {"prompt": [SYSTEM, ASK]})
    problem = heldout(path, prompt="{question} Think.").problem(0, split="heldout")
    assert [message["content"] for message in problem.messages] == ["You are terse.", "How many legs? Think."]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "1"}, "needs a field 'prompt', 'question', 'problem' or 'messages'; there are answer$"),
        ({"question": " "}, "field 'question' must be a text that is not blank; it is ' '"),
        ({"prompt": {"a": 1}}, "field 'prompt' must be a text that is not blank; it is {'a': 1}"),
        ({"prompt": []}, "field 'prompt' must end with a message of the user .* its roles are none"),
        ({"prompt": [ASK, {"role": "assistant", "content": "4"}]}, ".* must end with a message of the user .* user, assistant"),
        ({"prompt": [{"role": "user", "content": " "}]}, ".* must end with a message of the user that is not blank"),
        ({"prompt": ["Why?"]}, "field 'prompt' has a message without a role \\(system, user or assistant\\) .*'Why"),
        ({"messages": [{"role": "tool", "content": "x"}, ASK]}, "field 'messages' has a message without a role"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, ".* and a text as content: {.role"),
        ({"prompt": [{"role": "assistant", "content": "4", "reasoning_content": "Hm."}, ASK]}, ".* a message with 'reasoning_content'"),
        ({"messages": "[{"}, "field 'messages' must be JSON"),
    ],
)  # fmt: skip
def test_bad_rows_are_named_by_file_and_row(tmp_path, row, message):
    path = write(tmp_path / "my_problems.jsonl", *numbered(6), row)
    with pytest.raises(ValueError, match=rf"^{path}, row 7: {message}"):
        make_task(spec({"kind": "files", "path": path, "bad_rows": "refuse"}))


def test_a_broken_line_is_named_by_its_line_and_column(tmp_path):
    path = tmp_path / "my_problems.jsonl"
    write(path, *numbered(4))
    path.write_text(path.read_text() + '\n{"prompt": "And?" "answer": "1"}\n')
    with pytest.raises(ValueError) as error:
        make_task(spec({"kind": "files", "path": str(path), "bad_rows": "refuse"}))
    assert str(error.value) == f"{path}, line 6, column 19: no JSON: Expecting ',' delimiter"


def test_a_missing_file_is_named_with_its_key():
    with pytest.raises(ValueError, match="^path: /nowhere/a.jsonl: no such file or folder$"):
        make_task(spec({"kind": "files", "path": "/nowhere/a.jsonl"}))


@pytest.mark.parametrize(
    ("row", "answer", "columns"),
    [
        ({"answer": 42}, "42", {}),
        ({"answer": True}, "true", {}),
        ({"answer": None, "solution": "So 4."}, "So 4.", {"solution": "So 4."}),
        ({"ground_truth": "4", "solution": "5"}, "4", {"ground_truth": "4", "solution": "5"}),
        ({"answer": [1, "a"]}, '[1, "a"]', {"data_answer": [1, "a"]}),
        ({"note": "no answer"}, "", {"note": "no answer"}),
        (
            {"reward_model": {"ground_truth": "4", "style": "rule"}, "data_source": "x", "extra_info": {"index": 1}},
            "4",
            {
                "reward_model": {"ground_truth": "4", "style": "rule"},
                "ground_truth": "4",
                "data_source": "x",
                "extra_info": {"index": 1},
            },
        ),
        ({"reward_model": "large", "solution": "5"}, "5", {"reward_model": "large", "solution": "5"}),
        (
            {"reward_model": '{"ground_truth": 4}'},
            "4",
            {"reward_model": '{"ground_truth": 4}', "ground_truth": 4},
        ),
        ({"reward_model": {"style": "model"}, "solution": "5"}, "5", {"reward_model": {"style": "model"}, "solution": "5"}),
    ],
)  # fmt: skip
def test_answers_and_columns(tmp_path, row, answer, columns):
    _, problem = one(tmp_path, prompt="Why?", **row)
    made = {"task": "my_problems", "row": f"{tmp_path / 'my_problems.jsonl'}, row 1"}
    expected = columns | ({"answer": None} if "answer" in row and row["answer"] is None else {})
    assert problem.answer == answer
    assert problem.columns == made | {name: value for name, value in expected.items() if name != "answer"}


@pytest.mark.parametrize("missing", [float("nan"), None])
def test_an_answer_that_pandas_says_is_missing_is_none(tmp_path, missing):
    task, problem = one(tmp_path, prompt="Why?", answer=missing, reward_model={"ground_truth": missing})
    assert problem.answer == "" and task.grade("nan", problem) == task.grade("NaN", problem) == 0.0
    assert one(tmp_path, prompt="Why?", answer=missing, solution="5")[1].answer == "5"
    with pytest.raises(ValueError, match="needs a field 'prompt', "):
        one(tmp_path, prompt=float("nan"), answer="1")


def test_decimal_numbers_and_dates_are_answers_as_texts(tmp_path):
    for answer, text in ((decimal.Decimal("1.50"), "1.50"), (datetime.date(2025, 1, 22), "2025-01-22")):
        pq.write_table(pa.Table.from_pylist([{"prompt": "Why?", "answer": answer}]), tmp_path / "a.parquet")
        problem = heldout(tmp_path / "a.parquet").problem(0, split="heldout")
        assert problem.answer == text and set(problem.columns) == {"task", "row"}
    pq.write_table(pa.Table.from_pylist([{"prompt": "Why?", "answer": b"1"}]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet, row 1: field 'answer' holds bytes"):
        heldout(tmp_path / "a.parquet")


def test_columns_are_renamed_alike_in_all_rows(tmp_path, capsys):
    rows = [{"prompt": "1?", "task": "a"}, {"prompt": "2?", "task": "b", "data_task": "c"}]
    first, second = heldout(write(tmp_path / "a.jsonl", *rows)).problems("heldout")
    assert (first.columns["data_data_task"], second.columns["data_data_task"]) == ("a", "b")
    assert "data_task" not in first.columns and second.columns["data_task"] == "c"
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_columns_with_names_that_are_taken_get_others_and_it_is_said(tmp_path, capsys):
    task, problem = one(tmp_path, prompt="Why?", problem="p", task="t", data_task="d", stop_reason=None, row=3)
    columns = problem.columns
    assert (columns["task"], columns["data_data_task"], columns["data_task"]) == ("my_problems", "t", "d")
    assert (columns["data_problem"], columns["data_row"], columns["data_stop_reason"]) == ("p", 3, None)
    assert not {"problem", "stop_reason"} & set(columns) and columns["row"].endswith("row 1")
    err = capsys.readouterr().err.splitlines()
    assert "task 'my_problems': the column 'task' reaches rewards as 'data_data_task', since the name is taken" in err
    assert len(err) == 5
    check_problems(task, {"my_problems": ["data_stop_reason"]})
    with pytest.raises(
        ValueError, match=r"my_problems.jsonl, row 1: a reward needs animals; there are task, row, data"
    ):
        check_problems(task, {"my_problems": ["animals"]})


def test_a_column_that_one_row_lacks_is_named_with_the_row(tmp_path):
    path = write(tmp_path / "a.jsonl", *numbered(4), {"prompt": "And?", "answer": "1"})
    with pytest.raises(ValueError, match=r"a.jsonl, row 5: a reward needs animals"):
        check_problems(make_mixture(specs([{"kind": "files", "train": path}])), {"a": ["animals"]})
    with pytest.raises(ValueError, match=r"a.jsonl, row 1: a reward needs answer"):
        check_problems(heldout(write(tmp_path / "a.jsonl", {"prompt": "?"})), {"a": ["answer"]})


def test_rewards_by_the_grade_need_an_answer_in_some_row(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", {"prompt": "1?"}, {"prompt": "2?", "answer": float("nan")}, {"prompt": "3?"})
    check_problems(heldout(path), graded={"a": []})
    with pytest.raises(ValueError) as error:
        check_problems(heldout(path), graded={"a": ["accuracy_reward"]})
    assert str(error.value) == (
        f"rewards: 'accuracy_reward' scores by the grade of the answer, and no row of {path} has an answer "
        "('answer', 'ground_truth' or 'solution'): its score would be 0.0 always"
    )
    path = write(tmp_path / "b.jsonl", *numbered(2), {"prompt": "?"}, {"prompt": "??", "answer": " "})
    capsys.readouterr()
    task = heldout(path)
    check_problems(task, graded={"b": ["accuracy_reward", "other"]})
    assert task.num_problems("heldout") == 2
    assert capsys.readouterr().err.splitlines() == [
        "task 'b', heldout: 2 kept, 2 that cannot be judged of 4 rows",
        f"task 'b', left out: {path}, row 3: has no answer, and other rows have one",
        f"task 'b', left out: {path}, row 4: has no answer, and other rows have one",
    ]
    with pytest.raises(ValueError, match=r"b.jsonl, row 3: has no answer, and other rows have one$"):
        heldout(path, bad_rows="refuse")


def test_a_chat_that_the_template_cannot_write_is_named_with_its_row(tmp_path):
    task = heldout(write(tmp_path / "a.jsonl", *numbered(2), {"prompt": [SYSTEM, ASK], "answer": "4"}))
    for template in (None, "r1", "chatml", "llama3", "tokenizer"):
        check_problems(task, template=template)
    with pytest.raises(
        ValueError, match=r"a.jsonl, row 3: chat template 'r1_zero': takes one user message and got system"
    ):
        check_problems(task, template="r1_zero")


def test_columnar_files_give_all_their_columns_as_json(tmp_path):
    rows = [{"prompt": [ASK], "answer": "4", "price": decimal.Decimal("1.50"), "info": {"n": [1]}, "note": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    problem = heldout(tmp_path / "a.parquet").problem(0, split="heldout")
    assert {name: problem.columns[name] for name in ("price", "info", "note")} == {
        "price": "1.50",
        "info": {"n": [1]},
        "note": None,
    }
    assert json.loads(json.dumps(problem.columns)) == problem.columns
    pq.write_table(pa.Table.from_pylist([{"prompt": "Why?", "image": b"x"}]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet, row 1: field 'image' holds bytes, which rewards cannot be given"):
        check_problems(heldout(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("reference", "right", "wrong"),
    [
        ("0.5", [r"\frac12", "1/2", r"\boxed{0.50}"], ["2", r"\boxed{0.5"]),
        (r"So it is \boxed{7}.", ["7"], ["8", "So"]),
        ("Six and one.\n#### 7", ["7", "7.0"], ["6"]),
        ("x + y", ["y+x"], ["x - y"]),
        ("B", ["B", "(B)"], ["A", "b c"]),
        ("Paris", ["paris", " Paris. ", r"\boxed{Paris}"], ["Lyon", "Pairs"]),
        ("was", ["Was"], ["saw"]),
        ("New  York", ["new york"], ["York New"]),
        ("{1", ["{1"], ["1"]),
        ("a" * 1001, ["a" * 1001], ["a"]),
        ("", [], ["", "anything", "0"]),
    ],
)
def test_answers_are_graded_as_mathematics_or_as_text(tmp_path, reference, right, wrong):
    task, problem = one(tmp_path, prompt="Why?", answer=reference)
    check_problems(task)
    assert [task.grade(answer, problem) for answer in right] == [1.0] * len(right)
    assert [task.grade(answer, problem) for answer in [*wrong, None]] == [0.0] * (len(wrong) + 1)
    assert task.canonical("7.0") == "7"


def test_names_of_tasks_come_from_their_files(tmp_path):
    write(tmp_path / "cats.train.jsonl", *numbered(2))
    (tmp_path / "dogs").mkdir()
    write(tmp_path / "dogs/data.jsonl", *numbered(2))
    paths = ("cats.train.jsonl", "dogs", "dogs/*.jsonl")
    assert [heldout(tmp_path / path).name for path in paths] == ["cats.train", "dogs", "dogs"]
    assert heldout(tmp_path / "dogs", name="puppies").name == "puppies"
