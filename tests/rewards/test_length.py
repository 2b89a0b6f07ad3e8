import math

import pytest

from r1jax.rewards.length import cosine, overlong
from r1jax.rewards.rubric import Rubric
from r1jax.specs.reader import read
from r1jax.specs.rewards import AnyReward


def ids(*lengths):
    return [[0] * length for length in lengths]


def test_overlong_is_daposs_slope():
    scores = overlong([""] * 6, [""] * 6, ids(0, 80, 85, 90, 100, 500), max_tokens=100, cache_tokens=20)
    assert scores == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]
    assert overlong([""], [""], ids(18432), max_tokens=20480) == [-0.5]  # DAPO: 20480 with 4096


@pytest.mark.parametrize("options", [{"max_tokens": 10, "cache_tokens": 0}, {"max_tokens": 10, "cache_tokens": 11}])
def test_overlong_refuses_bad_options(options):
    with pytest.raises(ValueError, match="overlong: cache_tokens"):
        overlong([""], [""], ids(1), **options)


def test_overlong_takes_its_options_from_a_rubric():
    spec = {"function": "r1jax.rewards.length:overlong", "options": {"max_tokens": 10, "cache_tokens": 5}}
    assert Rubric([read(AnyReward, spec)]).score(
        [""], ["x"], {"completion_ids": ids(10), "answer": ["1"]}
    ).total.tolist() == [-1.0]
    with pytest.raises(
        ValueError, match=r"rewards\[0\].options.maximum: overlong has no such parameter; there are .*, max_tokens"
    ):
        Rubric([read(AnyReward, {**spec, "options": {"maximum": 10}})])
    with pytest.raises(ValueError, match="'overlong' needs max_tokens"):
        Rubric([read(AnyReward, {"function": spec["function"]})]).score([""], ["x"], {"completion_ids": ids(10)})


def test_cosine_prefers_short_right_and_long_wrong_answers():
    texts = [r"\boxed{4}"] * 4 + [r"\boxed{5}"] * 4 + [r"\boxed{4}"]
    scores = cosine([""] * 9, texts, ids(0, 50, 100, 900, 0, 50, 100, 900, 0), ["4"] * 8 + [""], max_tokens=100)
    assert [round(score, 6) for score in scores[:8]] == [1.0, 0.75, 0.5, 0.5, -1.0, -0.75, -0.5, -0.5]
    assert isinstance(scores[8], ValueError)
    quarter = cosine([""], [texts[0]], ids(25), ["4"], max_tokens=100)[0]
    assert quarter == pytest.approx(0.75 + 0.25 * math.cos(math.pi / 4))
    with pytest.raises(ValueError, match="max_tokens=0"):
        cosine([""], [""], ids(1), ["4"], max_tokens=0)
