import math
from types import SimpleNamespace

import pytest

from r1jax.rewards.calls import make_entry
from r1jax.rewards.learned import LearnedReward
from r1jax.rewards.rubric import Rubric

PROBLEM = SimpleNamespace(messages=({"role": "user", "content": "Hello"},))


def score_by_length(asked):
    return [float(len(text)) for _, text in asked]


def rewards_of(reward, completions, prompt="User: Hello. Assistant:"):
    return reward([prompt] * len(completions), completions, [PROBLEM] * len(completions))


def test_helpfulness_reads_the_summary_and_safety_the_whole():
    seen = []

    def score(asked):
        seen.extend(asked)
        return [0.0] * len(asked)

    text = "<think>secret</think> Good day "
    rewards_of(LearnedReward(score, part="summary"), [text])
    rewards_of(LearnedReward(score, part="whole"), [text])
    assert [answer for _, answer in seen] == ["Good day", text] and seen[0][0] == PROBLEM.messages


def test_the_reward_is_the_sigmoid_of_the_centred_logit():
    reward = LearnedReward(score_by_length, part="whole", center=2.0)
    assert rewards_of(reward, ["xx", "xxx"]) == pytest.approx([0.5, 1 / (1 + math.exp(-1))])
    assert rewards_of(LearnedReward(lambda asked: [-1e9, 1e9], part="whole"), ["a", "b"]) == [0.0, 1.0]


def test_nothing_to_read_is_worth_nothing_and_is_not_asked():
    reward = LearnedReward(score_by_length, part="summary", center=-100.0)
    completions = ["<think>cut off", "<think>done</think>  ", "", "fine"]
    assert rewards_of(reward, completions)[:3] == [0.0, 0.0, 0.0] and rewards_of(reward, completions)[3] > 0.99
    assert rewards_of(reward, ["cut off", "a</think>b"], prompt="<｜Assistant｜><think>\n")[0] == 0.0
    assert LearnedReward(None, part="summary")([""], [""], [PROBLEM]) == [0.0]


def test_in_a_rubric_a_logit_that_is_not_finite_is_an_error_of_that_completion():
    reward = LearnedReward(lambda asked: [math.nan, 0.0], part="whole")
    scores = Rubric([make_entry(reward, name="safe", deferred=True)]).score(
        ["", ""], ["a", "b"], {"problem": [PROBLEM] * 2}
    )
    assert scores.failed["safe"].tolist() == [True, False] and scores.total[1] == 0.5


def test_an_unknown_part_is_named():
    with pytest.raises(ValueError, match="part='thought' must be one of summary, whole"):
        LearnedReward(score_by_length, part="thought")
