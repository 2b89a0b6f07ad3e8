import re

import pytest

from r1jax.rewards.format import r1_zero
from r1jax.specs.tasks import ReasoningGymSpec
from r1jax.tasks.mini.sum_traces import steps, sum_trace
from r1jax.tasks.problem import split_of
from r1jax.tasks.reasoning_gym import ReasoningGymTask
from r1jax.text.response import final_answer

CONFIG = {"min_terms": 3, "max_terms": 3, "min_digits": 2, "max_digits": 2}


def test_running_totals():
    assert steps("12 + 34 - 9") == "12 + 34 = 46, 46 - 9 = 37"
    assert steps("5 - 11 + 7 - 1") == "5 - 11 = -6, -6 + 7 = 1, 1 - 1 = 0"
    assert steps("7") == "7"


def test_every_example_is_right_and_well_formed():
    for index in range(100):
        question, completion = sum_trace(index, seed=3, config=CONFIG, steps_share=0.5)
        expression = question.removeprefix("State the final answer to the following arithmetic problem: ")
        numbers = [int(n) for n in re.findall(r"[+-]?\d+", expression.replace(" ", ""))]
        assert len(numbers) == 3 and final_answer(completion) == str(sum(numbers))
        assert r1_zero([""], [completion]) == [1.0]
        assert split_of(question, heldout_fraction=0.2) == "train"


def test_the_share_of_authors():
    def num_steps(share):
        examples = (sum_trace(i, seed=0, config=CONFIG, steps_share=share)[1] for i in range(400))
        return sum("=" in completion for completion in examples)

    assert (num_steps(0.0), num_steps(1.0)) == (0, 400)
    assert 80 <= num_steps(0.25) <= 120


def test_deterministic_and_other_problems_than_the_rl_stage():
    ours = [sum_trace(i, seed=0, config=CONFIG, steps_share=0.5) for i in range(50)]
    assert ours == [sum_trace(i, seed=0, config=CONFIG, steps_share=0.5) for i in range(50)]
    assert ours != [sum_trace(i, seed=1, config=CONFIG, steps_share=0.5) for i in range(50)]
    rl = {
        ReasoningGymTask(ReasoningGymSpec(dataset="chain_sum", config=CONFIG))
        .problem(i, split="train")
        .messages[0]["content"]
        for i in range(50)
    }
    assert len(rl & {question for question, _ in ours}) <= 1


def test_a_bad_share():
    with pytest.raises(ValueError, match="steps_share 1.5"):
        sum_trace(0, seed=0, config=CONFIG, steps_share=1.5)
