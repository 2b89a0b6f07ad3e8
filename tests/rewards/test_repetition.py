import pytest

from r1jax.rewards.repetition import ngrams


def score(*completions, **options):
    return ngrams([""] * len(completions), [""] * len(completions), list(completions), **options)


def test_share_of_ngrams_that_occurred_before():
    assert score([1, 2, 3, 4], [5, 5, 5, 5, 5], [1, 2, 1, 2], [1], [], size=2) == [
        0.0,
        -0.75,
        pytest.approx(-1 / 3),
        0.0,
        0.0,
    ]
    assert score([5] * 5, size=2, max_penalty=-0.1) == [pytest.approx(-0.075)]


def test_a_repeated_word_is_no_repetition_but_a_repeated_sentence_is():
    sentence = list(range(30))
    assert score([1, 2, 3] * 3 + sentence)[0] == 0.0
    assert -1.0 <= score(sentence * 20)[0] < -0.9


@pytest.mark.parametrize("options", [{"size": 0}, {"max_penalty": 0.5}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="ngrams: "):
        score([1], **options)
