"""Records and protocol of the tasks: what a problem is and what a source of problems must do.

No jax here: tasks and rewards also run in worker processes.
"""

import contextlib
import contextvars
import dataclasses
import hashlib
import re
from collections.abc import Iterator
from typing import Any, Protocol

SPLITS = ("train", "heldout")


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem as a task gives it."""

    messages: tuple[dict[str, str], ...]
    """The conversation to answer, each {"role", "content"}; the last one is the user's, the first may be the system's."""
    answer: str
    """The reference answer; empty where the task's verifier needs none."""
    columns: dict[str, Any]
    """JSON-able extras that rewards receive by name; "task" (the task's name) is always there."""
    answer_in: str | None = None
    """Where the answer that is graded stands, one of ``text.response.ANSWERS``; None leaves it to the chat template."""
    question: str = ""
    """The problem's text without the wording of a prompt, an instruction or earlier messages; "" is the last message."""

    def __post_init__(self):
        if not self.question and self.messages:
            object.__setattr__(self, "question", self.messages[-1]["content"])


class GradingError(Exception):
    """The verifier itself failed (not the answer): to be counted as an error, never scored as a wrong answer."""


class Task(Protocol):
    """A source of problems: random access by index, infinite, deterministic, with its metric."""

    name: str
    """Unique within a mixture; it stands in ``problem.columns["task"]``."""

    def problem(self, index: int, *, split: str) -> Problem:
        """The problem at ``index``. No question of split "train" occurs in "heldout". ValueError as ``check_index``."""
        ...

    def grade(self, answer: str | None, problem: Problem) -> float:
        """The task metric in [0, 1]; only 1.0 counts as right. None (nothing extracted) and any bad text give 0.0.

        Raises GradingError for a problem of another task, or where the verifier fails whatever the answer.
        """
        ...

    def canonical(self, answer: str) -> str:
        """A normal form: answers that mean the same give the same string (for voting, cons@k)."""
        ...


def check_index(index: int, split: str) -> None:
    """Raises ValueError for a negative index or a split other than "train" or "heldout"."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: must be one of {', '.join(SPLITS)}")
    if index < 0:
        raise ValueError(f"index {index}: must be >= 0")


def check_task(name: str, problem: Problem) -> None:
    """Raises GradingError for a problem of another task than the one of this name."""
    if problem.columns.get("task") != name:
        raise GradingError(f"task {name!r} was given a problem of task {problem.columns.get('task')!r}")


def stable_hash(*parts: object) -> int:
    """A 64-bit hash of the parts' texts, the same in every process and Python version (unlike ``hash``)."""
    text = "\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


_RECORD: contextvars.ContextVar[dict[str, set[float]] | None] = contextvars.ContextVar("splits", default=None)


@contextlib.contextmanager
def recorded_splits() -> Iterator[dict[str, set[float]]]:
    """Notes, by space, the held-out fractions that ``split_of`` is called with inside the block."""
    fractions: dict[str, set[float]] = {}
    token = _RECORD.set(fractions)
    try:
        yield fractions
    finally:
        _RECORD.reset(token)


def split_of(content: str, *, heldout_fraction: float, space: str = "problems") -> str:
    """The split of a problem's content (the question, or its numbers in order), by hash: never the same on both sides.

    Args:
        heldout_fraction: share of the hash space that is held out, in (0, 1). Another fraction is another split.
        space: the kind of problem; two sources whose contents can be equal give the same. Only ``recorded_splits``
            looks at it, by which stages of a pipeline find out that their fractions differ.
    """
    record = _RECORD.get()
    if record is not None:
        record.setdefault(space, set()).add(heldout_fraction)
    return "heldout" if stable_hash("split", content) < heldout_fraction * 2**64 else "train"


_GROUPED_NUMBER = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)")


def canonical_answer(answer: str) -> str:
    """The default normal form: trimmed, inner white space single, and a plain number in its shortest form.

    "$1,200.50$" and "1200.5" both give "1200.5"; "+07", "7.0" and "7." give "7"; "-0" gives "0". Other text keeps its
    case.
    """
    text = " ".join(answer.strip().strip("$").split()).removesuffix(".")
    number = text.replace(",", "") if _GROUPED_NUMBER.fullmatch(text) else text
    if not _NUMBER.fullmatch(number):
        return text
    whole, _, fraction = number.lstrip("+-").partition(".")
    value = f"{whole.lstrip('0') or '0'}.{fraction.rstrip('0')}".removesuffix(".")
    return f"-{value}" if number[0] == "-" and value != "0" else value
