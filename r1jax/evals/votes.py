r"""Which of a problem's answers are one answer: the classes of a majority vote (cons@k, R1 App. D.1).

Answers are equal where the task's canonical form is. Answers that the math verifier grades are equal also where it
takes each for the other: of "1/2", "\frac12", "0.5" and "50%" all four vote together. The reference plays no part: a
vote that looks at it could not be held without it.
"""

import functools
import time
from collections import Counter
from collections.abc import Sequence

from r1jax.rewards.math import same_answers
from r1jax.tasks.mixture import Mixture
from r1jax.tasks.problem import Problem, Task

SECONDS = 30.0
"""For the votes of one problem; pairs that are left then count as different answers."""
_COMPARED = ("math", "answer")  # the graders whose answers may be written in many ways


def vote_classes(
    answers: Sequence[str | None], task: Task, problem: Problem, *, seconds: float = SECONDS
) -> tuple[tuple[str | None, ...], int]:
    """(for each answer one text that all equal answers share, how many comparisons failed or came too late).

    None stays None. The classes do not depend on the order of the answers.
    """
    task = task.task_of(problem) if isinstance(task, Mixture) else task
    forms = [None if answer is None else task.canonical(answer) for answer in answers]
    if getattr(task, "grader", None) not in _COMPARED:
        return tuple(forms), 0
    counts = Counter(form for form in forms if form is not None)
    # The most frequent answer is the first of its class, and of equally frequent ones the first in order of text.
    distinct = tuple(sorted(counts, key=lambda form: (-counts[form], form)))
    class_of, undecided = _classes(distinct, seconds)
    return tuple(None if form is None else class_of[form] for form in forms), undecided


@functools.lru_cache(maxsize=4096)  # the stage asks again for votes of other sizes
def _classes(distinct: tuple[str, ...], seconds: float) -> tuple[dict[str, str], int]:
    """Of each answer the first answer of its class; equality is not transitive, so the first alone is compared with."""
    end = time.monotonic() + seconds
    firsts: list[str] = []
    class_of: dict[str, str] = {}
    undecided = 0
    for answer in distinct:
        found = answer
        if firsts and time.monotonic() > end:
            undecided += len(firsts)
        elif firsts:
            verdicts = same_answers([(first, answer) for first in firsts])
            undecided += sum(isinstance(verdict, Exception) for verdict in verdicts)
            found = next((first for first, verdict in zip(firsts, verdicts, strict=True) if verdict is True), answer)
        class_of[answer] = found
        if found is answer:
            firsts.append(answer)
    return class_of, undecided
