"""The mini corpus: deterministic, train split only, and each author does what its row says."""

import re

import pytest

from experiments.mini_base.measure import analyse
from r1jax.tasks.mini.corpus import AUTHORS, MIXTURE, corpus_text
from r1jax.tasks.problem import Problem, split_of


def problem_of(prompt):
    *numbers, target = map(int, re.findall(r"\d+", prompt))
    pair = next((a, b) for a in numbers for b in numbers if a < b and a + b == target)
    return Problem(
        messages=({"role": "user", "content": prompt},),
        answer="{}+{}".format(*pair),
        columns={"task": "pair_sum", "numbers": numbers, "target": target},
    )


def table(author, count=300):
    documents = [corpus_text(index, seed=3, mixture={author: 1.0}) for index in range(count)]
    return analyse([text for _, text in documents], [problem_of(prompt) for prompt, _ in documents])


def test_random_access_and_seed():
    assert corpus_text(5, seed=0) == corpus_text(5, seed=0)
    assert corpus_text(5, seed=0) != corpus_text(5, seed=1)
    assert corpus_text(5, seed=0) != corpus_text(6, seed=0)


def test_only_problems_of_the_train_split():
    for index in range(1000):
        numbers = problem_of(corpus_text(index, seed=0)[0]).columns["numbers"]
        assert split_of(" ".join(map(str, sorted(numbers))), heldout_fraction=0.1) == "train"


def test_careful_is_always_right_and_honest():
    result = table("careful")
    assert result["pass@1"] == 1.0 and result["well_formed"] == 1.0
    assert result["yes_given_hit"] == 1.0 and result["yes_given_miss"] == 0.0
    assert result["notice_given_slip"] == 1.0 and result["notice_given_right"] == 0.0
    assert result["operands_right"] == 1.0 and result["target_right"] == 1.0 and result["go_on_given_miss"] == 1.0
    assert result["repeats"] == 0.0 and result["attempts"] > 3 and 0.85 < result["sum_right"] < 0.95
    assert result["reflections"] > 2


def test_careless_authors_fail_in_their_own_way():
    assert table("plain")["share/untagged"] == 1.0
    direct = table("direct")
    assert direct["share/direct"] == 1.0 and 0.1 < direct["pass@1"] < 0.25
    once = table("once")
    assert once["attempts"] == 1.0 and once["go_on_given_miss"] == 0.0 and 0.1 < once["pass@1"] < 0.25
    few = table("few")
    assert 0.4 < few["go_on_given_miss"] < 0.6 and few["notice_given_slip"] == 1.0 and 0.2 < few["pass@1"] < 0.45


def test_default_mixture_is_a_weak_base_in_two_languages():
    documents = [corpus_text(index, seed=0) for index in range(2000)]
    result = analyse([text for _, text in documents], [problem_of(prompt) for prompt, _ in documents])
    assert set(MIXTURE) <= set(AUTHORS)
    assert 0.15 < result["pass@1"] < 0.30
    assert all(result[f"language/{name}"] > 0.1 for name in ("en", "zh", "mixed"))


def test_another_task_may_be_the_source():
    prompt, text = corpus_text(0, seed=0, mixture={"careful": 1.0}, config={"count": 5})
    assert len(re.findall(r"\d+", prompt)) == 6 and "<think>" in text


def test_warmup_documents_are_all_careful():
    documents = [corpus_text(index, seed=0, mixture={"direct": 1.0}, warmup_documents=20) for index in range(40)]
    assert all("<think>" in text for _, text in documents[:20])
    assert not any("<think>" in text for _, text in documents[20:])


def test_unknown_author_is_named():
    with pytest.raises(ValueError, match="no author lazybones; known are plain"):
        corpus_text(0, seed=0, mixture={"lazybones": 1.0})
