"""Documents, conversations, candidates and labels of the mini world, and its scripted judge."""

from collections import Counter

import pytest

from r1jax.data.preferences import judge_pairs, parse_candidate, parse_preference, select_pairs
from r1jax.tasks.mini.general import Helpful, Safety, facts_of, is_safe
from r1jax.tasks.mini.general_texts import (
    BASE,
    candidates,
    compare_replies,
    conversations,
    labels,
    tokenizer_text,
    world_text,
)
from r1jax.text.comparison import parse_comparison
from r1jax.text.response import parse

CORPUS = {"seed": 3, "general_share": 0.4, "prose_share": 0.2}
TRAINING = {
    task.problem(index, split="train").messages[-1]["content"]
    for task in (Helpful(), Safety())
    for index in range(8000)
}


def ask(question, first, second):
    (reply,) = compare_replies([[{"role": "user", "content": question}]], [first], [second], chat=None, seed=0)
    return parse_comparison(reply)


def test_the_corpus_is_of_both_worlds_and_of_the_train_split():
    documents = [world_text(index, **CORPUS) for index in range(2000)]
    general = [question for question, _ in documents if not question.startswith("Which two of")]
    assert 0.36 < len(general) / 2000 < 0.44
    assert set(general) <= TRAINING
    prose = sum("The two numbers are" in text for _, text in documents)
    assert 0.17 < prose / 2000 < 0.23
    assert documents[17] == world_text(17, **CORPUS)
    assert all(text.startswith(" ") for _, text in documents)
    told = [text for question, text in documents if "fact" not in question and "Which" not in question]
    refused = sum("help with that" in text for text in told) / len(told)
    assert refused == pytest.approx(BASE["refuses"], abs=0.07)


def test_the_warm_up_is_by_careful_authors():
    texts = [world_text(index, seed=0, general_share=0.0, prose_share=0.0, warmup_documents=50) for index in range(50)]
    assert all(text.count("<think>") == 1 for _, text in texts)


def test_the_tokenizer_sees_every_form():
    texts = [tokenizer_text(index, seed=0, general_share=0.4)[1] for index in range(60)]
    assert any("help with that" in text for text in texts)
    assert any("\\boxed{" in text for text in texts)
    assert any("</answer>" in text for text in texts)


def test_conversations_are_in_the_form_of_r1_and_alternate():
    records = conversations(seed=1, count=40)
    for number, record in enumerate(records):
        question, answer = (message["content"] for message in record["messages"])
        assert parse(answer, style="r1").well_formed
        assert question in TRAINING
        assert ("fact" in question) == (number % 2 == 0)
    assert records == conversations(seed=1, count=40) != conversations(seed=2, count=40)


def test_the_judge_follows_the_true_scores():
    a, b, c, _ = facts_of("owl")
    question = "Name two facts on the owl"
    assert ask(question, f"{a} {b}", a) == 2  # 1.0 against 0.5
    assert ask(question, a, f"{a} {b}") == -2
    assert ask(question, f"{a} {b}", f"{a} {b} {c}") == 1  # against 0.75
    assert ask(question, f"{a} {b}", f"{b} {c}") == 0
    with pytest.raises(ValueError, match="helpful questions only"):
        ask("How do I burn a boat", a, b)


def test_candidates_give_pairs_of_balanced_length():
    parsed = [parse_candidate(record) for record in candidates(seed=0, count=300)]
    judged = judge_pairs(parsed, lambda *asked, seed: compare_replies(*asked, chat=None, seed=seed), queries=2, seed=0)
    pairs, counts = select_pairs(judged)
    assert counts["candidates"] == 300
    assert counts["malformed"] == counts["error"] == 0
    longer = Counter(
        len(pair["chosen"]) > len(pair["rejected"]) for pair in pairs if len(pair["chosen"]) != len(pair["rejected"])
    )
    assert len(pairs) > 100
    assert abs(longer[True] - longer[False]) <= 1


def test_labels_are_what_the_rule_says():
    records = labels(seed=0, count=400)
    assert all(record["is_safe"] == is_safe(record["response"]) for record in records)
    assert 0.4 < sum(record["is_safe"] for record in records) / 400 < 0.6
    planned = [r for r in records if not r["is_safe"] and "help with that" in r["response"]]
    assert planned  # plans in the thought, declines in the summary
    assert parse_preference(records[0], "safety").is_safe is not None
