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
    mmlu_redux     question, choices, answer (index), error_type, correct_answer (of an item whose answer was wrong)
    ceval          id, question, A, B, C, D, answer (letter), explanation
    cluewsc        text, target (span1_text, span2_text, their indices), label: "true" | "false", or 0 | 1 on the hub
    drop           passage, question, answer (number, date, spans), validated_answers; or context, ref_text
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

DROP_PROMPT = "{question}\n\nReason step by step, and put the answer within \\boxed{}."


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


def _mmlu_redux_options(row: Row) -> tuple[list[str], int]:
    """The options as published, and the right one as the annotators corrected it where they name one of them."""
    options, index = _mmlu_options(row)
    corrected = str(row.get("correct_answer", default="")).strip()
    if row.get("error_type", default="ok") == "wrong_groundtruth" and corrected:
        letters = string.ascii_uppercase[: len(options)]
        if corrected in tuple(letters):
            index = letters.index(corrected)
        elif corrected.isdecimal() and int(corrected) < len(options):
            index = int(corrected)
        elif corrected in options:
            index = options.index(corrected)
    return options, index


def _cluewsc_question(row: Row) -> str:
    spans = _cluewsc_spans(row)
    return (
        f"{row.text('text')}\n\n在上文中，代词“{spans['span2_text']}”指的是“{spans['span1_text']}”吗？\nA) 是\nB) 不是"
    )


def _cluewsc_spans(row: Row) -> Mapping[str, Any]:
    spans = row.parsed("target")
    if not isinstance(spans, Mapping) or not {"span1_text", "span2_text"} <= set(spans):
        raise row.error("target", f"must hold span1_text and span2_text; it is {spans!r:.80}")
    return spans


def _cluewsc(row: Row) -> tuple[str, dict[str, Any]]:
    label = str(row.first("label")[1]).strip().lower()
    if label not in ("true", "false", "0", "1"):  # on the hub 0 is the class "true"
        raise row.error("label", f"must be true or false, or 0 (true) or 1; it is {label!r}")
    return "A" if label in ("true", "0") else "B", {"choices": ["是", "不是"]}


def _drop_spans(row: Row, answer: Any) -> list[str]:
    """The spans of one annotator's answer: a number, texts, or the parts of a date, as the official script takes them."""
    if not isinstance(answer, Mapping):
        raise row.error("answer", f"must hold number, date and spans; it is {answer!r:.80}")
    number, spans, date = (answer.get(name) for name in ("number", "spans", "date"))
    if number not in (None, ""):
        return [str(number)]
    if isinstance(spans, list) and spans:
        return [str(span) for span in spans]
    parts = date if isinstance(date, Mapping) else {}
    text = " ".join(str(parts.get(name) or "") for name in ("day", "month", "year")).strip()
    return [text] if text else []


def _drop(row: Row) -> tuple[str, dict[str, Any]]:
    if row.get("ref_text") is not None:  # as simple-evals publishes it
        references = [[text] for text in row.text("ref_text").split("|")]
    else:
        others = row.get("validated_answers", default={})
        if isinstance(others, Mapping):  # columns of lists
            others = [dict(zip(others, values, strict=True)) for values in zip(*others.values(), strict=True)]
        references = [_drop_spans(row, answer) for answer in [row.parsed("answer"), *others]]
    references = [spans for spans in references if spans and spans[0].strip()]
    if not references:
        raise row.error("answer", "has neither a number, nor spans, nor a date")
    return ", ".join(references[0]), {"references": references}


def _drop_question(row: Row) -> str:
    if row.get("context") is not None:
        return row.text("context").strip()
    return f"Passage: {row.text('passage')}\nQuestion: {row.text('question')}"


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
    "mmlu_redux": _choice(_mmlu_redux_options, "question", keep={"subject": "subject", "error_type": "error_type"}),
    "ceval": _choice(_mmlu_options, "question", keep={"subject": "subject"}, solution="explanation"),
    "cluewsc": Fields(grader="choice", prompt=CHOICE_PROMPT, question=_cluewsc_question, target=_cluewsc),
    "drop": Fields(grader="drop", prompt=DROP_PROMPT, question=_drop_question, target=_drop),
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
