import pytest

from r1jax.rewards import math as math_reward
from r1jax.rewards.math import accuracy, check_answer, extract, grade_math
from r1jax.rewards.workers import WorkerPool


def score(texts, golds, **columns):
    return accuracy([""] * len(texts), texts, golds, **columns)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{3} then \boxed{4}", "4"),
        (r"\boxed{3} and \boxed{4}", "3, 4"),
        (r"$\boxed{3}$, $\boxed{4}$", "3, 4"),
        (r"\boxed{3}. \boxed{4}", "4"),
        (r"\boxed{\boxed{4}}", "4"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{4", None),
        ("4", None),
        ("", None),
        (r"<think>\boxed{3}</think> \boxed{4}", "4"),
        (r"<think>\boxed{3}</think> 4 ", "4"),
        (r"<think>\boxed{3}</think>", None),
        (r"<think>\boxed{3}", None),
        ("</think>" + "x" * 201, None),
        (r"\boxed{3} <answer>4</answer>", "4"),
        (r"<answer>so \boxed{4}</answer> \boxed{3}", "4"),
        (r"<answer>4", None),
        (r"<answer></answer> \boxed{4}", None),
        (r"<think>perhaps <answer>4</answer> no.</think> \boxed{5}", "5"),
        (r"<think>inside <answer> it goes.</think> \boxed{5}", "5"),
        (r"<think>a</think> <think>b</think> <answer>4</answer>", "4"),
        (r"<think>a</think> \boxed{3} <think>b", None),
        (r"<answer>4</answer> <think>or", None),
        (r"so $\boxed 4$", "4"),
        (r"so \fbox{4} it is", "4"),
        (r"\framebox[2cm]{4}", "4"),
        (r"\boxed{4}, \boxed{4}", "4"),
        (r"$x=\boxed{3}$, $y=\boxed{4}$", "x=3, y=4"),
        ("It is 4.\n**Answer:** 4", "4"),
        ("Answer: 3\nAnswer: 4\n", "4"),
        (r"Answer: 3, or rather \boxed{4}", "4"),
        ("<think>a</think>\nFinal answer: **4**", "4"),
        ("所以 4\n答案：4", "4"),
        ("#### 4", "4"),
        ("### Final Answer\n\n4\n", "4"),
        ("**Answer:**\n4", "4"),
        (r"$(x,y)=(\boxed{3},\boxed{4})$", "(3, 4)"),
        ("The answer\n4", None),
    ],
)
def test_extract(text, expected):
    assert extract(text) == expected


def test_only_the_end_of_a_long_response_is_read():
    assert extract(r"\boxed{3}" + "x" * 70_000) is None
    assert extract("x" * 70_000 + r"\boxed{3}") == "3"


def test_scores_references_of_several_types_and_cut_off_responses():
    texts = [r"\boxed{0.5}"] * 5
    assert score(texts, [r"\frac12", 0.5, "0.5", r"so \boxed{1/2}", 1]) == [1.0, 1.0, 1.0, 1.0, 0.0]
    assert score(texts, ["0.5"] * 5, stop_reason=["length", "stop", "eos", "length", "stop"]) == [
        0.0,
        1.0,
        1.0,
        0.0,
        1.0,
    ]


def test_a_bad_reference_is_an_error_that_names_its_row():
    scores = score([r"\boxed{4}"] * 6, ["4", "", "  ", "$$", None, "{" * 5])
    assert scores[0] == 1.0
    for row, error in enumerate(scores[1:], start=1):
        assert isinstance(error, ValueError) and f"row {row}: reference answer" in str(error), error
    assert "is empty" in str(scores[1])
    with pytest.raises(ValueError, match="'' is empty"):
        check_answer("")
    with pytest.raises(ValueError, match="2000 characters"):
        check_answer("1" * 2000)
    check_answer(r"2\sqrt{3}")


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{3} and \boxed{4}",
        r"$x=\boxed{3}$, $y=\boxed{4}$",
        r"\boxed 5",
        r"\fbox{5}",
        r"\framebox{5}",
        "Answer: 5",
        "#### 5",
        "5",
    ],
)
def test_a_reference_is_read_as_a_response_is(text):
    boxed = text if extract(text) else rf"\boxed{{{text}}}"
    assert score([boxed, r"\boxed{4}", r"\boxed{6}"], [text] * 3) == [1.0, 0.0, 0.0]
    assert grade_math([text], [text]) == [1.0]


def test_equal_pairs_are_verified_once_and_most_never_reach_a_worker(monkeypatch):
    asked = []

    class Pool:
        def map(self, pairs):
            asked.extend(pairs)
            return [True] * len(pairs)

    monkeypatch.setattr(math_reward, "_pool", Pool)
    assert score([r"\boxed{\sqrt{12}}"] * 8 + [r"\boxed{7}"] * 8, [r"2\sqrt3"] * 8 + ["7"] * 8) == [1.0] * 16
    assert asked == [[r"2\sqrt3", r"\sqrt{12}"]]


def test_what_the_task_has_graded_is_not_verified_again(monkeypatch):
    asked = []

    class Pool:
        def map(self, pairs):
            asked.extend(pairs)
            return [True] * len(pairs)

    monkeypatch.setattr(math_reward, "_pool", Pool)
    texts = [rf"\boxed{{\sqrt{{{number}}}}}" for number in (12, 12, 48, 75)]
    columns = {
        "answer_grader": ["math"] * 4,
        "extracted_answer": [r"\sqrt{12}", r"\sqrt{12}", r"\sqrt{49}", r"\sqrt{75}"],
        "answer_grade": [0.0, 0.0, 1.0, None],
    }
    assert accuracy([""] * 4, texts, [r"2\sqrt3"] * 4, **columns) == [0.0, 0.0, 1.0, 1.0]
    assert asked == [[r"2\sqrt3", r"\sqrt{48}"], [r"2\sqrt3", r"\sqrt{75}"]]


def test_a_failing_worker_gives_its_exception_and_spares_the_others(monkeypatch):
    monkeypatch.setattr(math_reward, "_pool", lambda: WorkerPool("math:sqrt", num_workers=1))
    scores = score([r"\boxed{\sqrt{12}}", r"\boxed{7}"], [r"2\sqrt3", "7"])
    assert isinstance(scores[0], Exception) and "TypeError" in str(scores[0]) and scores[1] == 1.0


def test_a_prompt_may_have_opened_the_thought():
    texts = [r"\boxed{4}", r"\boxed{4}", r"\boxed{3}</think>\boxed{4}", r"\boxed{3}</think>4"]
    assert accuracy(["2+2?", "2+2? <think>\n", "<think>", "<think>"], texts, ["4"] * 4) == [1.0, 0.0, 1.0, 1.0]
    assert accuracy(["<think>"] * 2, ["<answer>4</answer>", "a</think><answer>4</answer>"], ["4"] * 2) == [0.0, 1.0]
