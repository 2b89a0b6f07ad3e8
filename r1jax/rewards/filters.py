"""Filters of sampled answers: each says in a few words why an answer is not kept, or None (R1 v2 Sec. B.3.2, B.3.3).

A config names them "module:function", with options; a function of one's own is as good as these. The papers name what
is dropped (wrong answers, repetition, mixed languages, long paragraphs, code blocks in the thought) and give no
thresholds: the defaults here are ours.
"""

import math
import re

from r1jax.rewards.language import count_languages, language_of
from r1jax.rewards.repetition import ngrams
from r1jax.text.sample import Sample

_PARAGRAPH = re.compile(r"\n\s*\n")


def finished(sample: Sample) -> str | None:
    """Drops what was cut off at the length limit."""
    return "cut off" if sample.stop_reason == "length" else None


def correct(sample: Sample) -> str | None:
    """Keeps what the task's own verifier grades as right; a verifier that failed is no verdict and counted apart."""
    if "task_metric" in sample.errors:
        return "verifier failed"
    if sample.answer is None:
        return "no answer"
    return None if sample.is_correct else "wrong answer"


def well_formed(sample: Sample) -> str | None:
    """Keeps the asked form: a thought, an answer or summary, neither empty, and no stray tags."""
    return None if sample.parts.well_formed else "ill-formed"


def not_repetitive(sample: Sample, *, size: int = 20, maximum: float = 0.2) -> str | None:
    """Drops an answer of whose token n-grams of ``size`` more than the share ``maximum`` occurred before in it."""
    (penalty,) = ngrams([""], [sample.text], completion_ids=[sample.token_ids], size=size)
    return "repetition" if -penalty > maximum else None


def one_language(sample: Sample, *, minimum_share: float = 0.05) -> str | None:
    """Drops an answer in which a second language has at least ``minimum_share`` of the words (told apart by script)."""
    counts = sorted(count_languages(sample.text).values())
    return "mixed languages" if len(counts) > 1 and sum(counts[:-1]) >= minimum_share * sum(counts) else None


def language_of_question(sample: Sample) -> str | None:
    """Drops an answer whose words are mostly of another language than the problem's; a column "language" wins."""
    counts = count_languages(sample.text)
    column = sample.columns.get("language")
    asked = language_of(sample.problem_text or sample.question, column=column and str(column))
    is_other = counts and asked is not None and counts.most_common(1)[0][0] != asked
    return "other language" if is_other else None


def short_paragraphs(sample: Sample, *, max_characters: int = 2000) -> str | None:
    """Drops a thought with a paragraph (ended by an empty line) of more than ``max_characters``."""
    paragraphs = _PARAGRAPH.split(sample.parts.think or "")
    return "long paragraph" if max(map(len, paragraphs)) > max_characters else None


def no_code_in_thought(sample: Sample) -> str | None:
    """Drops a thought with a fenced code block. Code belongs into the summary."""
    return "code in the thought" if "```" in (sample.parts.think or "") else None


def at_least(sample: Sample, *, reward: str, minimum: float) -> str | None:
    """Drops an answer whose score of a reward is below ``minimum``; one that the reward failed on too, counted apart.

    Raises:
        ValueError: no reward of that name.
    """
    if reward not in sample.rewards:
        raise ValueError(f"filter at_least: there is no reward {reward!r}; there are {', '.join(sample.rewards)}")
    if reward in sample.errors:
        return f"{reward} failed"
    value = sample.rewards[reward]
    return None if math.isnan(value) or value >= minimum else f"low {reward}"
