"""Whether a claim of the paper held here: from what finished stages wrote, by a stated rule.

Each kind of claim is a function that takes its spec (``r1jax.specs.claims``) and gives a ``Verdict``; ``held`` follows from the
figures by ``rule``, and is None where there are too few runs to say. Intervals are of 95 %: over seeds from three runs on
(Student's t), else over problems. Nothing here knows a figure of the paper: a claim's config quotes it.
"""

from collections.abc import Callable
from typing import Any

from r1jax.evals.claim_pipeline import distils, exposure_hacks, stage_table
from r1jax.evals.claim_rl import language_repaired, lengthens, teaches, votes
from r1jax.evals.verdicts import Verdict
from r1jax.specs import claims as specs

KINDS: dict[type, Callable[[Any], Verdict]] = {
    specs.TeachesClaim: teaches,
    specs.LengthensClaim: lengthens,
    specs.LanguageRepairedClaim: language_repaired,
    specs.StageTableClaim: stage_table,
    specs.DistilsClaim: distils,
    specs.ExposureHacksClaim: exposure_hacks,
    specs.VotesClaim: votes,
}
"""The spec of a claim -> the function that decides it. It raises MissingFigureError where a stage lacks a figure."""


def judge_claim(claim: specs.Claim) -> Verdict:
    """Whether a claim held."""
    return KINDS[type(claim)](claim)
