"""Wrong answers that reasoning-gym's own scorers give full marks to (version 0.1.25), and its right ones."""

import pytest

from r1jax.specs.tasks import ReasoningGymSpec
from r1jax.tasks.answer_guard import confirms
from r1jax.tasks.reasoning_gym import ReasoningGymTask

# Data set -> what its scorer gives full marks to.
UNSAFE_SCORERS: dict[str, str] = {
    "coin_flip": "0 for any small probability",
    "complex_arithmetic": "nan",
    "countdown": "decimals: 1.5 counts as using 1 and 5",
    "fraction_simplification": "several fractions, if the first is right",
    "game_of_life_halting": "any text where the answer is True",
    "gsm_symbolic": "several numbers, if one is right",
    "kakurasu": "words around the right grid",
    "knights_knaves": "any words around the right claims, several claims about one person",
    "letter_jumble": "the right words followed by others",
    "puzzle24": "other numbers than the given ones; 24.9 counts as 24",
    "quantum_lock": "words around the right sequence",
    "sokoban": "words around the right moves",
    "spell_backward": "the right word followed by others",
    "survo": "words around the right grid",
    "time_intervals": "several durations, if one is right",
}


@pytest.mark.parametrize("dataset", [*sorted(UNSAFE_SCORERS), "zebra_puzzles"])
def test_reference_answers_stay_right_and_no_wrong_one_is(dataset):
    task = ReasoningGymTask(ReasoningGymSpec(dataset=dataset))
    problems = [task.problem(index, split="train") for index in range(6)]
    for problem, other in zip(problems, [*problems[1:], problems[0]], strict=True):
        answer = problem.answer
        assert task.grade(answer, problem) == 1.0
        assert task.grade(f" {answer} \n", problem) == 1.0
        wrong = [
            "0",
            "a",
            "nan",
            "inf",
            "None",
            f"not {answer}",
            f"{answer} or {other.answer}",
            f"{other.answer} {answer}",
        ]
        wrong += [f"{answer} 7", f"7 {answer}", problem.messages[-1]["content"]]
        wrong += [other.answer] if other.answer not in answer and dataset not in ("game_of_life_halting",) else []
        graded = {text: task.grade(text, problem) for text in wrong if text != answer}
        assert [text for text, grade in graded.items() if grade >= 1.0] == []


def test_puzzle24_must_use_the_given_numbers():
    assert confirms("puzzle24", "10*(8 - 5) - 6", "", {"numbers": [8, 5, 10, 6]})
    assert not confirms("puzzle24", "6*4*1*1", "", {"numbers": [8, 5, 10, 6]})
    assert not confirms("puzzle24", "(8+5+10+6)-46/10", "", {"numbers": [8, 5, 10, 6]})


def test_countdown_has_no_decimals():
    metadata = {"numbers": [1, 5, 4], "target": 6}
    assert confirms("countdown", "4*1.5", "", metadata) is False
    assert confirms("countdown", "5*1+1", "", metadata) is False
    assert confirms("countdown", "-4+5*2", "", {"numbers": [4, 5, 2], "target": 6})


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Ann is a knight, and Bob is a knave.", True),
        ("Bob is a knave and Ann is a knight", True),
        ("ann is a knight, bob is a knave", True),
        ("Ann is a knave, and Bob is a knight.", False),
        ("Ann is a knight.", False),
        ("Ann is a knight, and Ann is a knave, and Bob is a knave.", False),
        ("Ann is a knight, and Bob is a knave, and Bob is a knave.", False),
        ("It is not so that Ann is a knight, and Bob is a knave.", False),
        ("Ann is a knight, and Bob is a knave. Or the reverse.", False),
        ("", False),
        ("Ann is a knight, " * 500, False),
    ],
)
def test_knights_and_knaves(answer, expected):
    reference = "Ann is a knight, and Bob is a knave."
    assert confirms("knights_knaves", answer, reference, {}) is expected


@pytest.mark.parametrize(
    ("dataset", "answer", "reference", "expected"),
    [
        ("coin_flip", "0", "0.1171875", False),
        ("coin_flip", "0.117", "0.1171875", True),
        ("coin_flip", "15/128", "0.1171875", True),
        ("coin_flip", "1/1048576", "9.5367431640625e-07", True),
        ("coin_flip", "1e-999999999", "9.5367431640625e-07", False),
        ("complex_arithmetic", "nan", "-11.0 - 2.0i", False),
        ("complex_arithmetic", "-11 - 2i", "-11.0 - 2.0i", True),
        ("game_of_life_halting", "False", "True", False),
        ("game_of_life_halting", "true", "True", True),
        ("gsm_symbolic", "372 or 147", "372", False),
        ("gsm_symbolic", "372.0", "372", True),
        ("time_intervals", "27", "27 days", True),
        ("chain_sum", "anything that its scorer accepts", "3", True),
    ],
)
def test_single_cases(dataset, answer, reference, expected):
    assert confirms(dataset, answer, reference, {}) is expected
