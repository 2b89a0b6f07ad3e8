"""No input of any kind makes a reward raise, run past its limit, or leave its range."""

import contextlib
import math
import re
import time

import pytest

from r1jax.rewards import choice, countdown, language, length, reflection, repetition
from r1jax.rewards import math as math_reward
from r1jax.rewards.equivalence.answer import equivalent
from r1jax.rewards.equivalence.value import UndecidedError

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

WORDS = r"""
\boxed{ { } ( ) [ ] \{ \} , ; . = < > \le \ne \approx + - * / ^ _ ! | % ° $ \$ & \\ # ~ ' : … ± ∪ ∩ ∈ ∞ π √ ½ ² « » ⟦ ⟧ ⦃ ⦄
0 1 2 7 10 12 100 0.5 1,000 999999999 1e9 e i x y n C pi nan inf oo None True and or is the answer cm m kg apples dollars
\frac \frac{1}{2} \frac12 \sqrt \sqrt{2} \sqrt[3] \binom \pm \mp \cup \in \infty \pi \text{ \text{and} \text{cm} \mathbf{
\left( \right) \begin{pmatrix} \end{pmatrix} \sin \cos \tan \log \ln \exp \lfloor \rfloor \sum_{k=1}^{n} \int_0^1 \lim \to
\overline{ \pmod{ 9^{9^9} 9**9 (B) A B <think> </think> <answer> </answer> 二 等 wait ``` ١ 🙂
"""
PIECES = [*re.findall(r"\S+", WORDS), " ", "\n", "\x00", "\ud800", "\u202e"]
TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(st.sampled_from(PIECES), max_size=30).map(" ".join),
    st.lists(st.sampled_from(PIECES), max_size=30).map("".join),
    st.tuples(st.sampled_from(PIECES), st.integers(1, 3000)).map(lambda pair: pair[0] * pair[1]),
)
ANSWERS = st.one_of(
    TEXTS, TEXTS.map(lambda text: rf"\boxed{{{text}}}"), TEXTS.map(lambda text: f"<answer>{text}</answer>")
)
GOLDS = [
    "7",
    r"\frac{1}{2}",
    r"2\sqrt{3}",
    "x^2+1",
    "(1,2)",
    "1,2",
    r"\{1,2\}",
    "[1,2)",
    "x=5",
    "y=2x+1",
    "x>1",
    "Yes",
    "5\\text{ cm}",
]
EVERY = settings(max_examples=150, deadline=None, database=None, derandomize=True)


def in_range(scores, low, high):
    return all(isinstance(score, float) and math.isfinite(score) and low <= score <= high for score in scores)


@EVERY
@given(TEXTS, st.sampled_from(GOLDS))
def test_equivalence_never_raises_on_an_answer_nor_takes_long(answer, gold):
    start = time.process_time()
    with contextlib.suppress(UndecidedError):
        assert equivalent(gold, answer) in (True, False)
    assert time.process_time() - start < 2.0


@EVERY
@given(TEXTS)
def test_a_reference_is_equal_to_itself_or_refused(text):
    with contextlib.suppress(ValueError, UndecidedError):
        assert equivalent(text, text)


@settings(EVERY, max_examples=60)
@given(st.lists(ANSWERS, min_size=1, max_size=4), st.sampled_from(GOLDS))
def test_math_accuracy(texts, gold):
    assert set(math_reward.accuracy([""] * len(texts), texts, [gold] * len(texts))) <= {0.0, 1.0}


@EVERY
@given(ANSWERS, st.one_of(st.none(), TEXTS, st.integers(), st.floats(), st.booleans(), st.lists(st.integers())))
def test_a_reference_of_any_kind_gives_a_score_or_an_error_of_its_row(text, gold):
    score = math_reward.accuracy([""], [text[:200]], [gold])[0]
    assert score in (0.0, 1.0) or isinstance(score, Exception)


@EVERY
@given(ANSWERS)
def test_choice_and_countdown(text):
    assert in_range(choice.accuracy([""], [text], ["B"], [["1", "2"]]), 0, 1)
    assert in_range(countdown.accuracy([""], [text], [[1, 2]], [3]), 0, 1)


@EVERY
@given(TEXTS, TEXTS)
def test_language_and_reflection(question, text):
    assert in_range(language.consistency([question], [text]), 0, 1)
    assert in_range(reflection.reflection_reward([""], [text]), 0, math.inf)


@EVERY
@given(st.lists(st.integers(), max_size=60), st.integers(1, 60), st.integers(1, 10))
def test_length_and_repetition(ids, limit, size):
    assert in_range(length.overlong([""], [""], [ids], limit), -1, 0)
    assert in_range(length.cosine([""], [r"\boxed{1}"], [ids], ["1"], limit), 0.5, 1)
    assert in_range(repetition.ngrams([""], [""], [ids], size), -1, 0)
