import pytest

from r1jax.text.comparison import MARKS, compare_by_model, comparison_prompt, parse_comparison
from r1jax.text.sample import ChatError, Rejection

QUESTION = [{"role": "user", "content": "Name a river"}]


@pytest.mark.parametrize(
    ("mark", "value"), [("A>>B", 2), ("A>B", 1), ("A=B", 0), ("B>A", -1), ("B>>A", -2), (" A > B ", 1)]
)
def test_the_five_marks(mark, value):
    assert parse_comparison(f"My answer: the Nile.\n\n[[{mark}]]") == value


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "A is better",
        "[A>B]",
        "[[A<B]]",
        "[[A>>>B]]",
        "[[a>b]]",
        "[[A>B]] or rather [[B>A]]",
        "<think>surely [[A>B]]",
    ],
)
def test_anything_else_is_no_verdict(reply):
    with pytest.raises(Rejection, match="judge: not one mark"):
        parse_comparison(reply)


def test_a_repeated_mark_a_matrix_and_a_thought_do_not_confuse_it():
    assert parse_comparison("[[A>B]] ... so [[A>B]]") == 1
    assert parse_comparison("The matrix is [[1, 2], [3, 4]] and [[5]]. [[B>>A]]") == -2
    assert parse_comparison("<think>maybe [[A>>B]]</think>No: [[B>A]]") == -1


def test_the_prompt_shows_all_and_names_every_mark():
    system, user = comparison_prompt([*QUESTION], "The Nile", "Rome")
    assert all(f"[[{mark}]]" in system["content"] for mark in MARKS)
    positions = [
        user["content"].index(text) for text in ("Name a river", "response A", "The Nile", "response B", "Rome")
    ]
    assert positions == sorted(positions) and user["role"] == "user"


def test_a_model_is_asked_all_comparisons_at_once():
    asked = []

    def chat(conversations, *, seed):
        asked.append((len(conversations), seed))
        return ["[[A>B]]", ChatError("out of time")]

    replies = compare_by_model([QUESTION] * 2, ["a", "c"], ["b", "d"], chat=chat, seed=3)
    assert asked == [(2, 3)] and replies[0] == "[[A>B]]" and isinstance(replies[1], ChatError)
    with pytest.raises(ValueError, match="needs a 'chat'"):
        compare_by_model([QUESTION], ["a"], ["b"], chat=None, seed=0)
