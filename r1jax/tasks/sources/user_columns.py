"""Problem files of any columns: a prompt, an answer if there is one, and whatever else the rewards need.

    prompt   prompt | question | problem | messages: a text, or a chat as [{"role", "content"}, ...] that the user ends
    answer   answer | reward_model["ground_truth"] (verl) | ground_truth | solution (TRL); a text, a number or
             a date. A list or a dict counts as its JSON text. Without one (null, or pandas' NaN) no answer is right by
             itself: a reward function must say.

The answer is compared as mathematics where it is some, else as text (``tasks.grading``, kind "answer").

Every column reaches the rewards under its name, and ``ground_truth`` too where it came in ``reward_model``. Names in
``MADE`` are
taken: a column "task" is "data_task", in all rows of a task alike. The task says so when it is made.
"""

import json
from collections.abc import Mapping
from typing import Any

from r1jax.tasks.sources.rows import Fields, Row, is_missing

MADE = frozenset(
    {
        *("prompt", "prompts", "completions", "completion_ids", "stop_reason"),
        *("problem", "answer", "task", "task_name", "row"),
        *("extracted_answer", "answer_grade", "grading_error", "answer_grader"),
        *("trainer_state", "log_extra", "log_metric"),
    }
)
"""Names under which rewards and logs get something else than the row's column."""
_PROMPT = ("prompt", "question", "problem", "messages")


def taken(row: Row) -> set[str]:
    """The columns of a row that reach the rewards, and whose names are made here."""
    read = {row.first(*_PROMPT)[0], *([] if isinstance(row.get("answer"), list | dict) else ["answer"])}
    return set(row.values) & (MADE - read)


def _conversation(row: Row) -> list[dict[str, str]]:
    field, value = row.first(*_PROMPT)
    if field == "messages":
        value = row.parsed(field)
    if not isinstance(value, list):
        return [{"role": "user", "content": row.text(field)}]
    messages = [_message(row, field, message) for message in value]
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        roles = ", ".join(message["role"] for message in messages) or "none"
        raise row.error(field, f"must end with a message of the user that is not blank; its roles are {roles}")
    return messages


def _message(row: Row, field: str, message: Any) -> dict[str, str]:
    given = {key: value for key, value in message.items() if value is not None} if isinstance(message, Mapping) else {}
    if given.get("role") not in ("system", "user", "assistant") or not isinstance(given.get("content"), str):
        what = f"a message without a role (system, user or assistant) and a text as content: {message!r:.80}"
        raise row.error(field, f"has {what}")
    if more := sorted(set(given) - {"role", "content"}):
        raise row.error(field, f"has a message with {more[0]!r}; a prompt's messages have a role and a content only")
    return given


def _target(row: Row) -> tuple[str, dict[str, Any]]:
    """The answer as a text, "" without one, and the columns."""
    kept = taken(row)
    columns = {name: value for name, value in row.values.items() if name in kept or name not in MADE}
    answer, packed = row.get("answer"), row.get("reward_model")
    if isinstance(packed, str) and packed.startswith("{"):
        packed = row.parsed("reward_model")
    if answer is None and isinstance(packed, Mapping) and not is_missing(packed.get("ground_truth")):
        answer = packed["ground_truth"]
        columns = {"ground_truth": answer} | columns
    elif answer is None:
        answer = row.get("ground_truth", "solution", default="")
    answer = _plain(row, "answer", answer)
    columns = {name: _plain(row, name, value) for name, value in columns.items()}
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False), columns


def _plain(row: Row, name: str, value: Any) -> Any:
    """A value as JSON's types: rewards may run in other processes. A date or a decimal number is written out."""

    def written(value: Any) -> str:
        if isinstance(value, bytes):
            raise row.error(name, "holds bytes, which rewards cannot be given: leave the column out of the file")
        return str(value)

    return json.loads(json.dumps(value, default=written))


USER_COLUMNS = Fields(
    grader="answer",
    prompt="{question}",
    question=lambda row: _conversation(row)[-1]["content"],
    target=_target,
    history=lambda row: _conversation(row)[:-1],
    taken=taken,
)
