"""The record of a mapping: what ``fields`` and ``code_fields`` say of each published data set."""

import dataclasses
from collections.abc import Callable
from typing import Any

from r1jax.tasks.sources.rows import Row


@dataclasses.dataclass(frozen=True)
class Fields:
    """How a row of a data set becomes a problem.

    Attributes:
        grader: the verifier of its answers: "math", "choice", "code", "instructions", or "none".
        prompt: the default wording; ``{question}`` is replaced.
        question: the text of the question, options and examples included.
        target: the reference answer ("" where the verifier needs none), and the columns that the verifier needs.
        reads: the fields that ``question`` and ``skip`` read, so that columnar files need not give the others.
        solution: the worked solution, for decontamination; "" where there is none.
        skip: why a row cannot be a problem ("no tests"), or None.
        csv_header: names of the columns of its CSV files, where these have no header line.
    """

    grader: str
    prompt: str
    question: Callable[[Row], str]
    target: Callable[[Row], tuple[str, dict[str, Any]]]
    reads: tuple[str, ...]
    solution: Callable[[Row], str] = lambda row: ""
    skip: Callable[[Row], str | None] = lambda row: None
    csv_header: tuple[str, ...] | None = None
