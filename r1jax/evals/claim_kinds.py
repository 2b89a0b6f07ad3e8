"""Whether a claim of the paper held here: from what finished stages wrote, by a stated rule.

Each kind of claim is a function that takes work directories and gives a ``Verdict``; ``held`` follows from the figures by
``rule``, and is None where there are too few runs to say. Intervals are of 95 %: over seeds from three runs on (Student's t),
else over problems. Nothing here knows a figure of the paper: a claim's config quotes it.
"""

from collections.abc import Callable
from typing import Any

from r1jax.evals.claim_pipeline import check_exposure, check_stage_table, distils, exposure_hacks, stage_table
from r1jax.evals.claim_rl import language_repaired, lengthens, teaches, votes
from r1jax.evals.verdicts import Verdict


def check_pairs(first: str, second: str) -> Callable[..., None]:
    """A check that two lists of runs are as long as each other: they are compared in pairs of a seed."""

    def check(**arguments: Any) -> None:
        counts = [len(arguments[name]) for name in (first, second)]
        if counts[0] != counts[1]:
            raise ValueError(f"{first} and {second} are compared in pairs, but they are {counts[0]} and {counts[1]}")

    return check


KINDS: dict[str, Callable[..., Verdict]] = {
    "teaches": teaches,
    "lengthens": lengthens,
    "language_repaired": language_repaired,
    "stage_table": stage_table,
    "distils": distils,
    "exposure_hacks": exposure_hacks,
    "votes": votes,
}
"""A claim's "kind" -> the function; its parameters are the claim's other keys."""
CHECKS: dict[str, Callable[..., None]] = {
    "language_repaired": check_pairs("with_paths", "without_paths"),
    "stage_table": check_stage_table,
    "distils": check_pairs("distilled_paths", "rl_paths"),
    "exposure_hacks": check_exposure,
}
"""Of some kinds, what raises ValueError for parameters that do not fit each other; it reads no file."""
