"""Small files in the published schemas, with sentences of our own."""

import csv

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1jax.tasks.sources.fields import DATASETS, fields_of
from r1jax.tasks.sources.rows import Row, open_rows

GSM8K = {
    "question": "Ann packs 3 boxes of 400 pens. How many pens is that?",
    "answer": "3 boxes hold 3*400=<<3*400=1200>>1200 pens.\n#### 1,200",
}
MATH = {
    "problem": "What is half of a third?",
    "level": "Level 1",
    "type": "Algebra",
    "solution": r"Not \boxed{2}: multiply. $\frac12\cdot\frac13=\boxed{\frac{1}{6}}.$",
}
MATH500 = {
    "problem": "Solve $2x=7$.",
    "solution": r"\boxed{3.5}",
    "answer": r"\frac{7}{2}",
    "subject": "Algebra",
    "level": 1,
    "unique_id": "test/algebra/1.json",
}
GPQA = {
    "Record ID": "rec1",
    "Question": "Which of these is\nheavier than lead?",
    "Correct Answer": "Gold, by density",
    "Incorrect Answer 1": "Iron",
    "Incorrect Answer 2": "Tin\n",
    "Incorrect Answer 3": "Cork",
    "Explanation": "Densities.",
    "High-level domain": "Chemistry",
    "Subdomain": "Inorganic",
}
MMLU_PRO = {
    "question_id": 70,
    "question": "Which letter comes tenth?",
    "options": list("abcdefghij"),
    "answer": "J",
    "answer_index": 9,
    "cot_content": "",
    "category": "other",
    "src": "own",
}
IFEVAL = {
    "key": 1000,
    "prompt": "Write without commas, and end with the word done.",
    "instruction_id_list": ["punctuation:no_comma", "startend:end_checker"],
    "kwargs": [{"end_phrase": None, "num_words": None}, {"end_phrase": "done.", "num_words": None}],
}


def mapped(dataset, values):
    fields, row = fields_of(dataset), Row(values, where="F, row 1")
    return fields.question(row), *fields.target(row)


@pytest.mark.parametrize(
    ("dataset", "values", "answer", "columns"),
    [
        ("gsm8k", GSM8K, "1200", {}),
        ("math", MATH, r"\frac{1}{6}", {"level": "Level 1", "subject": "Algebra"}),
        ("math500", MATH500, r"\frac{7}{2}", {"level": 1, "subject": "Algebra"}),
        ("aime", {"ID": "2024-I-1", "Problem": "Find it.", "Solution": "Easy.", "Answer": 73}, "73", {}),
        (
            "aime",
            {"id": 60, "problem": "Find it.", "solution": "Easy.", "answer": "073", "url": "", "year": 2024},
            "73",
            {},
        ),
        ("aime", {"question": "Find it.", "answer": "809"}, "809", {}),
        ("math_answers", {"prompt": "One and one?", "expected": "2"}, "2", {}),
    ],
)
def test_math_sets_give_question_and_answer(dataset, values, answer, columns):
    question, found, extra = mapped(dataset, values)
    assert (found, extra) == (answer, columns)
    assert question == next(values[name] for name in ("question", "problem", "Problem", "prompt") if name in values)
    assert DATASETS[dataset].grader == "math"


def test_boxes_of_every_form_are_found_and_others_left_out():
    cases = {
        r"\fbox{7}": "7",
        r"so $\boxed 7.$": "7",
        r"\boxed{a_{1}} and \boxed{b}": "a_{1}, b",  # an answer in two boxes
        r"\boxed{a_{1}} is too small, so \boxed{b}": "b",
        "none": None,
        r"\boxed{": None,
    }
    fields = fields_of("math")
    for solution, answer in cases.items():
        row = Row({**MATH, "solution": solution}, where="F")
        if answer is not None:
            assert fields.target(row)[0] == answer
            continue
        with pytest.raises(ValueError, match=r"field 'solution' must hold the answer in \\boxed"):
            fields.target(row)


def test_gpqa_shuffles_the_options_the_same_way_always(tmp_path):
    path = tmp_path / "gpqa_diamond.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, GPQA)
        writer.writeheader()
        writer.writerows([GPQA, *({**GPQA, "Question": f"Question {number}"} for number in range(200))])
    rows = open_rows(path)
    question, letter, columns = mapped("gpqa", rows.row(0).values)
    assert question == "Which of these is\nheavier than lead?\n\nA) Tin\nB) Iron\nC) Cork\nD) Gold, by density"
    assert (letter, columns) == (
        "D",
        {"choices": ["Tin", "Iron", "Cork", "Gold, by density"], "subject": "Chemistry"},
    )
    letters = [mapped("gpqa", rows.row(place).values)[1] for place in range(1, 201)]
    assert all(30 <= letters.count(each) <= 70 for each in "ABCD")
    for place in range(1, 9):
        text, letter, _ = mapped("gpqa", rows.row(place).values)
        assert f"{letter}) Gold, by density" in text


def test_mmlu_as_on_the_hub_and_as_the_original_csv(tmp_path):
    hub = {"question": "1 + 1?", "subject": "arithmetic", "choices": ["1", "2", "3", "4"], "answer": 1}
    pq.write_table(pa.Table.from_pylist([hub]), tmp_path / "test.parquet")
    (tmp_path / "arithmetic_test.csv").write_text("1 + 1?,1,2,3,4,B\n")
    header = DATASETS["mmlu"].csv_header
    expected = "1 + 1?\n\nA) 1\nB) 2\nC) 3\nD) 4", "B"
    for name, subject in (("test.parquet", {"subject": "arithmetic"}), ("arithmetic_test.csv", {})):
        question, answer, columns = mapped("mmlu", open_rows(tmp_path / name, csv_header=header).row(0).values)
        assert ((question, answer), columns) == (expected, {"choices": ["1", "2", "3", "4"], **subject})


def test_mmlu_pro_has_up_to_ten_options():
    question, answer, columns = mapped("mmlu_pro", MMLU_PRO)
    assert question.endswith("\nJ) j")
    assert (answer, columns) == ("J", {"choices": list("abcdefghij"), "subject": "other"})


def test_ifeval_keeps_the_instructions_and_drops_nulls():
    assert mapped("ifeval", IFEVAL) == (
        IFEVAL["prompt"],
        "",
        {"instruction_id_list": IFEVAL["instruction_id_list"], "kwargs": [{}, {"end_phrase": "done."}]},
    )
    skip = DATASETS["ifeval"].skip
    assert skip(Row(IFEVAL, where="F")) is None
    other = {**IFEVAL, "instruction_id_list": ["language:new", "punctuation:no_comma"]}
    assert skip(Row(other, where="F")) == "with an instruction that has no checker"


@pytest.mark.parametrize(
    ("dataset", "values", "message"),
    [
        ("gsm8k", {**GSM8K, "answer": "It is 7."}, "F, row 1: field 'answer' must end in '#### '"),
        ("gsm8k", {"answer": "#### 1"}, "field 'question' is missing; there are answer"),
        ("math", {**MATH, "solution": "none"}, r"field 'solution' must hold the answer in \\boxed"),
        ("math500", {**MATH500, "answer": " "}, "field 'answer' must be a text that is not blank"),
        ("aime", {"problem": "p", "answer": "many"}, "field 'answer' must be a whole number; it is 'many'"),
        ("gpqa", {**GPQA, "Incorrect Answer 3": ""}, "field 'Incorrect Answer 3' must be a text"),
        ("mmlu", {"question": "q", "choices": ["1", "2"], "answer": 2}, "field 'answer' is 2: no letter or index of 2"),
        ("mmlu", {"question": "q", "choices": ["1", "2"], "answer": "C"}, "field 'answer' is 'C': no letter"),
        ("mmlu", {"question": "q", "choices": "1 2", "answer": 0}, "field 'choices' must be JSON"),
        ("mmlu_pro", {**MMLU_PRO, "answer_index": 8}, "field 'answer_index' is 8 and 'answer' is 'J'"),
        ("ifeval", {**IFEVAL, "kwargs": [{}]}, "field 'kwargs' has 1 entries for 2 instructions"),
    ],
)
def test_rows_not_as_published_are_refused(dataset, values, message):
    with pytest.raises(ValueError, match=message):
        mapped(dataset, values)


def test_every_prompt_has_the_question_in_it_and_a_grader():
    for fields in DATASETS.values():
        assert fields.prompt.count("{question}") == 1
        assert fields.grader in ("math", "choice", "code", "drop", "instructions", "none")


def test_an_unknown_data_set_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="data set 'gsm8': known are gsm8k, math, math500, aime, math_answers, gpqa"):
        fields_of("gsm8")


def test_solutions_are_given_for_decontamination():
    assert GSM8K[DATASETS["gsm8k"].solution] == GSM8K["answer"]
    assert GPQA[DATASETS["gpqa"].solution] == "Densities."
    assert MATH500[DATASETS["math500"].solution] == r"\boxed{3.5}"
