r"""One mapping for each published data set: from the fields of its rows to the question, the answer and the columns.

Every mapping says which verifier grades its answers (one of ``tasks.grading.GRADERS``) and has a default prompt in
which ``{question}`` stands for the question. Field names are those of the data sets as published:

    gsm8k          question, answer (the number after "####")
    math           problem, solution (the answer is its last \boxed{}), level, type
    math500        problem, answer, subject, level
    aime           problem | Problem | question, answer | Answer (2024 and 2025 as several authors publish them)
    math_answers   question | problem | prompt, answer | expected: any other set of questions with a final answer
    gpqa           Question, Correct Answer, Incorrect Answer 1 to 3 (CSV)
    mmlu           question, choices, answer (index); or CSV without header: question, A, B, C, D, letter
    mmlu_pro       question, options, answer (letter), answer_index
    humaneval, mbpp, livecodebench, codeforces: see ``code_fields``
    ifeval         prompt, instruction_id_list, kwargs
    prompts        prompt | question | instruction, and answer where a judge is to see one: what no rule can grade
    none named     any columns: see ``user_columns``
"""

import random
import string
from collections.abc import Callable, Mapping
from typing import Any

from r1jax.rewards.instructions import CHECKERS
from r1jax.tasks.problem import stable_hash
from r1jax.tasks.sources.code_fields import CODE_DATASETS
from r1jax.tasks.sources.rows import Fields, Row
from r1jax.tasks.sources.user_columns import USER_COLUMNS
from r1jax.text.response import boxed_answer

MATH_PROMPT = "{question}\n\nReason step by step, and put the final answer within \\boxed{}."
CHOICE_PROMPT = (
    "Answer this multiple choice question. Reason step by step, and put the letter of the right option within \\boxed{}.\n\n"
    "{question}"
)


def fields_of(dataset: str | None) -> Fields:
    """The mapping of a data set; of None that of files with any columns. ValueError lists the names that are known."""
    if dataset is None:
        return USER_COLUMNS
    if dataset not in DATASETS:
        raise ValueError(f"data set {dataset!r}: known are {', '.join(DATASETS)}")
    return DATASETS[dataset]


def _math(
    question: tuple[str, ...], answer: Callable[[Row], str], *, solution: str = "solution", keep: Mapping[str, str] = {}
) -> Fields:
    return Fields(
        grader="math",
        prompt=MATH_PROMPT,
        question=lambda row: row.text(*question),
        target=lambda row: (answer(row), _kept(row, keep)),
        solution=solution,
    )


def _choice(
    options: Callable[[Row], tuple[list[str], int]], question: str, *, keep: Mapping[str, str], **others: Any
) -> Fields:
    def with_options(row: Row) -> str:
        lines = [f"{letter}) {text}" for letter, text in zip(string.ascii_uppercase, options(row)[0], strict=False)]
        return "\n".join([row.text(question), "", *lines])

    def target(row: Row) -> tuple[str, dict[str, Any]]:
        texts, index = options(row)
        return string.ascii_uppercase[index], {"choices": texts, **_kept(row, keep)}

    return Fields(
        grader="choice",
        prompt=CHOICE_PROMPT,
        question=with_options,
        target=target,
        **others,
    )


def _kept(row: Row, keep: Mapping[str, str]) -> dict[str, Any]:
    return {column: row.get(field) for column, field in keep.items() if row.get(field) is not None}


def _gsm8k_answer(row: Row) -> str:
    _, mark, answer = row.text("answer").rpartition("####")
    if not mark or not answer.strip():
        raise row.error("answer", "must end in '#### ' and the number")
    return answer.strip().replace(",", "")


def _math_answer(row: Row) -> str:
    """The answer that a solution marks, with all of its boxes."""
    answer = boxed_answer(row.text("solution"))
    if answer is None:
        raise row.error("solution", r"must hold the answer in \boxed{}")
    return answer


def _gpqa_options(row: Row) -> tuple[list[str], int]:
    """The four options in an order that the question alone decides: the same in every run and process."""
    right = row.text("Correct Answer").strip()
    options = [right, *(row.text(f"Incorrect Answer {number}").strip() for number in (1, 2, 3))]
    order = list(range(4))
    random.Random(stable_hash("gpqa", row.text("Question"))).shuffle(order)
    return [options[index] for index in order], order.index(0)


def _mmlu_options(row: Row) -> tuple[list[str], int]:
    given = row.get("choices")
    options = [row.text(name) for name in "ABCD"] if given is None else row.items("choices")
    return options, _index_of(row, len(options))


def _mmlu_pro_options(row: Row) -> tuple[list[str], int]:
    options = row.items("options")
    index = _index_of(row, len(options))
    if row.get("answer_index", default=index) != index:
        raise row.error("answer_index", f"is {row.get('answer_index')} and 'answer' is {row.get('answer')!r}")
    return options, index


def _index_of(row: Row, count: int) -> int:
    """The index of the right option, from its letter or its index."""
    value = row.get("answer")
    is_letter = isinstance(value, str) and value.strip() in tuple(string.ascii_uppercase)
    index = string.ascii_uppercase.index(value.strip()) if is_letter else row.integer("answer")
    if not 0 <= index < count <= len(string.ascii_uppercase):
        raise row.error("answer", f"is {value!r}: no letter or index of {count} options")
    return index


def _instructions(row: Row) -> tuple[str, dict[str, Any]]:
    names = row.items("instruction_id_list")
    given = row.items("kwargs", of=dict)
    if len(given) != len(names):
        raise row.error("kwargs", f"has {len(given)} entries for {len(names)} instructions")
    # The hub's copy fills every possible argument of an instruction with null.
    kwargs = [{key: value for key, value in entry.items() if value is not None} for entry in given]
    return "", {"instruction_id_list": names, "kwargs": kwargs}


DATASETS: dict[str, Fields] = {
    "gsm8k": _math(("question",), _gsm8k_answer, solution="answer"),
    "math": _math(("problem",), _math_answer, keep={"level": "level", "subject": "type"}),
    "math500": _math(
        ("problem",), lambda row: row.text("answer").strip(), keep={"level": "level", "subject": "subject"}
    ),
    "aime": _math(("problem", "Problem", "question"), lambda row: str(row.integer("answer", "Answer"))),
    "math_answers": _math(("question", "problem", "prompt"), lambda row: row.text("answer", "expected").strip()),
    "gpqa": _choice(
        _gpqa_options,
        "Question",
        keep={"subject": "High-level domain"},
        solution="Explanation",
    ),
    "mmlu": _choice(
        _mmlu_options,
        "question",
        keep={"subject": "subject"},
        csv_header=("question", *"ABCD", "answer"),
    ),
    "mmlu_pro": _choice(_mmlu_pro_options, "question", keep={"subject": "category"}),
    **CODE_DATASETS,
    "ifeval": Fields(
        grader="instructions",
        prompt="{question}",
        question=lambda row: row.text("prompt"),
        target=_instructions,
        skip=lambda row: (
            None
            if set(row.items("instruction_id_list")) <= set(CHECKERS)
            else "with an instruction that has no checker"
        ),
    ),
    "prompts": Fields(
        grader="none",
        prompt="{question}",
        question=lambda row: row.text("prompt", "question", "instruction"),
        target=lambda row: (str(row.get("answer", default="")), {}),
    ),
}
