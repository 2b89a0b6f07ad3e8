"""The record of a mapping: what ``fields`` and ``code_fields`` say of each published data set."""

import dataclasses
from collections.abc import Callable
from typing import Any

from r1jax.tasks.sources.rows import Row


@dataclasses.dataclass(frozen=True)
class Fields:
    """How a row of a data set becomes a problem.

    Attributes:
        grader: the verifier of its answers: a name in ``tasks.grading.GRADERS``.
        prompt: the default wording; ``{question}`` is replaced.
        question: the text of the question, options and examples included.
        history: the messages before the question; the first one may be the system's.
        target: the reference answer ("" where the verifier needs none), and the columns that the verifier needs.
        reads: the fields that ``question`` and ``skip`` read, so that columnar files need not give the others; None: all.
        solution: the worked solution, for decontamination; "" where there is none.
        skip: why a row cannot be a problem ("no tests"), or None.
        renamed: columns that have another name in ``target`` than in the row.
        csv_header: names of the columns of its CSV files, where these have no header line.
    """

    grader: str
    prompt: str
    question: Callable[[Row], str]
    target: Callable[[Row], tuple[str, dict[str, Any]]]
    reads: tuple[str, ...] | None
    solution: Callable[[Row], str] = lambda row: ""
    skip: Callable[[Row], str | None] = lambda row: None
    history: Callable[[Row], list[dict[str, str]]] = lambda row: []
    renamed: Callable[[Row], dict[str, str]] = lambda row: {}
    csv_header: tuple[str, ...] | None = None
