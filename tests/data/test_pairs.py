import pytest

from r1jax.data.preferences import judge_pairs, parse_candidate, select_pairs

ASK = [{"role": "user", "content": "Hello"}]


class Judge:
    """Says how good the first is by the number in it less that in the second; keeps what it was asked."""

    def __init__(self, marks=None):
        self.asked, self.marks = [], marks

    def __call__(self, questions, first, second, *, seed):
        self.asked.append((list(first), list(second), seed))
        if self.marks is not None:
            return [self.marks.pop(0) for _ in questions]
        signs = [(int(a.split()[0]) - int(b.split()[0])) for a, b in zip(first, second, strict=True)]
        return [f"[[{'A>>B' if sign > 0 else 'B>>A' if sign < 0 else 'A=B'}]]" for sign in signs]


def candidates(*pairs):
    return [([{"role": "user", "content": f"q{place}"}], pair) for place, pair in enumerate(pairs)]


def test_the_better_one_is_chosen_in_whatever_order_it_was_shown():
    judge = Judge()
    pairs = candidates(*[("9 yes", "1 not"), ("1 not", "9 yes")] * 10)
    judged = judge_pairs(pairs, judge)
    assert [pair.verdicts for pair in judged] == [(2,) * 4, (-2,) * 4] * 10
    shown_first = [first[0] for first, _, _ in judge.asked] + [first for a, _, _ in judge.asked for first in a]
    assert 20 < sum(text.startswith("9") for text in shown_first) < 64  # both orders came
    assert len({seed for _, _, seed in judge.asked}) == 4
    records, _ = select_pairs(judged)
    assert {record["chosen"] for record in records} == {"9 yes"} and records[0]["delta"] == 2


def test_orders_and_verdicts_do_not_depend_on_the_batch():
    pairs = candidates(*[(f"{n} a", f"{m} b") for n in range(3) for m in range(3)])
    whole, judge = Judge(), Judge()
    together = judge_pairs(pairs, whole, seed=5)
    assert judge_pairs(pairs[:4], judge, seed=5) + judge_pairs(pairs[4:], judge, seed=5) == together
    assert judge.asked[0][0] + judge.asked[4][0] == whole.asked[0][0]


def test_the_judge_sees_summaries_alone():
    judge = Judge()
    judge_pairs(candidates(("<think>1 it is</think>9 yes", "8 yes")), judge, queries=1)
    assert {judge.asked[0][0][0], judge.asked[0][1][0]} == {"9 yes", "8 yes"}


def test_a_mean_of_one_is_not_enough():
    def fixed(value):
        """Verdicts for the first response, whatever the order: 4 queries whose mean is value."""
        marks = {1.0: [1, 1, 1, 1], 1.25: [1, 1, 1, 2], -1.5: [-2, -2, -1, -1]}[value]

        def judge(questions, first, second, *, seed):
            mark = marks.pop(0) * (1 if first[0] == "a" else -1)
            return [{2: "[[A>>B]]", 1: "[[A>B]]", -1: "[[B>A]]", -2: "[[B>>A]]"}[mark]]

        return select_pairs(judge_pairs(candidates(("a", "b")), judge))

    records, counts = fixed(1.0)
    assert records == [] and counts["unclear"] == 1
    (record,), _ = fixed(1.25)
    assert (record["chosen"], record["rejected"], record["delta"]) == ("a", "b", 1.25)
    (record,), _ = fixed(-1.5)
    assert (record["chosen"], record["delta"]) == ("b", 1.5)


def test_failures_are_counted_by_kind_and_never_guessed():
    marks = [
        "[[A>>B]]",
        TimeoutError("30 s"),
        "A, surely",
        RuntimeError("gone"),
        "[[A>>B]]",
        None,
        "[[A=B]]",
        "[[A=B]]",
    ]
    judge = Judge(marks)
    records, counts = select_pairs(judge_pairs(candidates(("a", "b"), ("c", "d")), judge, queries=4))
    assert records == []
    assert (counts["malformed"], counts["error"]) == (2, 2) and "timeout" not in counts
    assert counts["candidates"] == counts["judge_failed"] == 2 and counts["kept"] == 0


def test_a_judge_that_raises_has_failed_on_all_of_that_query():
    def judge(questions, first, second, *, seed):
        raise TimeoutError("nobody there")

    judged = judge_pairs(candidates(("a", "b")), judge, queries=2)
    assert judged[0].verdicts == (None, None) and judged[0].failures == (("error", "TimeoutError: nobody there"),) * 2
    with pytest.raises(ValueError, match="gave 0 replies to 1 comparisons"):
        judge_pairs(candidates(("a", "b")), lambda *_, seed: [])


def test_lengths_are_balanced_over_the_set():
    """Three pairs whose chosen summary is longer, one whose rejected is, one alike: the two most unequal go."""
    pairs = candidates(("9 ....", "1"), ("9 ..", "1"), ("9 .", "1"), ("1 .", "9"), ("9", "1"))
    records, counts = select_pairs(judge_pairs(pairs, Judge()))
    assert [record["chosen"] for record in records] == ["9 .", "9", "9"]
    assert counts == {
        "candidates": 5, "malformed": 0, "error": 0, "judge_failed": 0, "unclear": 0, "unbalanced": 2, "kept": 3,
    }  # fmt: skip


@pytest.mark.parametrize("responses", [None, ["a"], ["a", 1], "ab"])
def test_a_candidate_needs_two_texts(responses):
    assert parse_candidate({"messages": ASK, "responses": ["a", "b"]}) == (ASK, ("a", "b"))
    with pytest.raises(ValueError, match="line 3: 'responses' must be two texts"):
        parse_candidate({"messages": ASK, "responses": responses}, where="line 3")
