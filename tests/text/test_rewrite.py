"""Two requests a sample, what goes into them, and what becomes of answers that are none."""

import pytest

from r1jax.text.rewrite import rewrite_by_model
from r1jax.text.sample import ChatError, Rejection, Sample, r1_text

RAW = "<think> 6*{7} hm 42 </think> <answer> 42 </answer>"


def sample(text=RAW, question="6*7?"):
    return Sample(messages=[{"role": "user", "content": question}], text=text)


def scripted(*replies):
    """A chat that gives the replies of each call, and the conversations that it was asked."""
    asked, left = [], list(replies)

    def chat(conversations, *, seed):
        asked.append((conversations, seed))
        return left.pop(0)

    return chat, asked


def test_the_thought_first_and_the_solution_out_of_the_new_thought():
    chat, asked = scripted(["<think>let me see</think>I think: {42}."], ["It is \\boxed{42}."])
    examples = [{"question": "1+1?", "thought": "2", "rewritten": "I see 2."}]
    assert rewrite_by_model([sample()], chat=chat, seed=5, examples=examples) == [
        r1_text("I think: {42}.", "It is \\boxed{42}.")
    ]
    (((first,), seed), ((second,), _)) = asked
    assert seed == 5 and [message["role"] for message in first] == ["user", "assistant", "user"]
    assert first[1]["content"] == "I see 2." and "6*7?" in first[2]["content"] and "6*{7} hm 42" in first[2]["content"]
    (message,) = second
    assert (
        "I think: {42}." in message["content"] and "\\boxed{}" in message["content"] and "hm" not in message["content"]
    )


def test_a_failure_is_that_sample_s_and_later_ones_go_on():
    error = ChatError("out of time")
    chat, asked = scripted([error, "a", "b", " "], ["A", error])
    samples = [sample("no tags"), *[sample() for _ in range(4)]]
    results = rewrite_by_model(samples, chat=chat, seed=0)
    assert isinstance(results[0], Rejection) and str(results[0]) == "rewrite: no thought to rewrite"
    assert results[1] is error and results[2] == r1_text("a", "A") and results[3] is error
    assert isinstance(results[4], Rejection) and str(results[4]) == "rewrite: empty answer"
    assert [len(conversations) for conversations, _ in asked] == [4, 2]


def test_a_model_and_both_places_are_needed():
    with pytest.raises(ValueError, match="needs a 'chat'"):
        rewrite_by_model([sample()], chat=None, seed=0)
    with pytest.raises(ValueError, match="must have {question} and {thought}"):
        rewrite_by_model([sample()], chat=scripted()[0], seed=0, summary_prompt="Solve {question}")


def test_an_unfinished_thought_of_the_rewriter_is_no_answer():
    chat, _ = scripted(["<think>how to put it", "how</think>\n b "], ["b</think>"])
    results = rewrite_by_model([sample(), sample()], chat=chat, seed=0)
    assert [str(result) for result in results] == ["rewrite: empty answer"] * 2
