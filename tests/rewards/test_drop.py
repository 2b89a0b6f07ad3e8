import pytest

from r1jax.rewards.drop import drop_scores, normalised

# (answer, reference, exact match, F1), derived from the published rules.
CASES = [
    (["Paris"], ["paris"], 1, 1.0),
    (["the Bears."], ["Bears"], 1, 1.0),
    (["7"], ["7.0"], 1, 1.0),
    (["1,000 yards"], ["1000 yards"], 1, 1.0),
    (["seven"], ["7"], 0, 0.0),  # words are no numbers
    (["8 yards"], ["7 yards"], 0, 0.0),  # the number is wrong: the shared word does not count
    (["7"], ["7 yards"], 0, 0.67),  # precision 1, recall 1/2
    (["7 yards"], ["yards"], 0, 0.67),  # the reference has no number: any may stand there
    (["touch-down pass"], ["touch down pass"], 1, 1.0),  # hyphens split
    (["3-yard"], ["3 yard"], 1, 1.0),
    (["-5"], ["5"], 1, 1.0),  # and so a sign is lost, as in the script
    (["John Kasay kicks"], ["John Kasay"], 0, 0.8),  # 2/3, 1
    (["a b b c"], ["b c"], 0, 1.0),  # the bags are equal, the texts are not
    (["one", "two"], ["two", "one"], 1, 1.0),
    (["two"], ["two", "one"], 0, 0.5),
    (["two", "one", "three"], ["two", "one"], 0, 0.67),
    (["red car", "blue"], ["blue car", "red"], 0, 0.67),  # crossed or not: 2/3 + 2/3 beats 1/2 + 0
    (["the"], ["Paris"], 0, 0.0),
    ([], ["Paris"], 0, 0.0),
    (["$5.50"], ["5.5"], 0, 0.0),  # without its sign and its point it is 550
    (["5.50"], ["5.5"], 1, 1.0),
    (["50%"], ["50"], 1, 1.0),
    (["Chargers, Raiders"], ["Chargers", "Raiders"], 0, 0.33),  # one span of two words against the best of two
    (["Émile"], ["Emile"], 0, 0.0),
    (["12 March 1998"], ["March 1998"], 0, 0.8),
]


@pytest.mark.parametrize(("answer", "reference", "exact", "f1"), CASES)
def test_cases_of_the_rules(answer, reference, exact, f1):
    assert drop_scores(answer, [reference]) == (exact, f1)


def test_the_best_reference_counts_for_each_figure_and_blank_ones_not():
    assert drop_scores(["seven"], [["7"], ["seven"]]) == (1.0, 1.0)
    assert drop_scores([""], [[""], ["x"]]) == (0.0, 0.0)
    with pytest.raises(ValueError, match="no reference"):
        drop_scores(["x"], [[" "], []])


def test_normal_form():
    assert normalised("The  quick-brown (fox), A.D. 1,998.50!") == "quick brown fox ad 199850.0"
    assert normalised("an") == "" and normalised("") == ""
