"""Metrics under TRL's names mean what they mean there; rows of completions tell what failed."""

import dataclasses
import math

import numpy as np
import pytest

from r1jax.rollout.records import Completion, Group, Rollout
from r1jax.stages.rl.log import completion_rows, count_tokens, rollout_metrics
from r1jax.stages.rl.phase import advantages_of, teaching
from r1jax.tasks.problem import Problem
from r1jax.text.tokenizer import Tokenizer
from tests.text.test_tokenizer import byte_level

NAN = math.nan
SECONDS = {"generate": 2.0, "rewards": 0.0, "logprobs": 1.0, "update": 3.0, "step": 8.0}
REWARDS = [[1.0, 0.0, NAN, 2.0], [0.5, 0.5, 0.5, 0.5]]
STYLE = [[NAN, NAN, 1.0, 1.0], [NAN, NAN, NAN, NAN]]


def group(rewards, style, length=10):
    rollouts = [
        Rollout(
            prompt_ids=np.arange(3),
            completion=Completion(np.zeros(length, np.int32), np.zeros(length, np.float32), "stop"),
            text="so",
            policy_version=0,
            rewards={"right": r, "style": s},
            reward=r,
            is_correct=False,
            answer=None,
            errors={"right": "gone"} if r != r else {},
        )
        for r, s in zip(rewards, style, strict=True)
    ]
    return Group(Problem(({"role": "user", "content": "?"},), "", {"task": "t"}), tuple(rollouts))


GROUPS = [group(r, s) for r, s in zip(REWARDS, STYLE, strict=True)]


def test_reward_statistics_are_trls():
    """Against TRL 1.16's own lines: torch.nanmean, and nanstd with Bessel's correction, over all completions."""
    torch = pytest.importorskip("torch")

    def nanstd(values):
        variance = torch.nanmean((values - torch.nanmean(values)) ** 2)
        count = torch.sum(~torch.isnan(values))
        return torch.sqrt(variance * count / (count - 1)).item()

    row = rollout_metrics(GROUPS, seconds=SECONDS)
    rewards = torch.tensor(REWARDS, dtype=torch.float64).flatten()
    assert row["reward"] == pytest.approx(torch.nanmean(rewards).item())
    assert row["reward_std"] == row["rewards/right/std"] == pytest.approx(nanstd(rewards))
    assert row["rewards/right/mean"] == row["reward"]


def test_reward_statistics_are_literal():
    row = rollout_metrics(GROUPS, seconds=SECONDS)
    assert row["reward"] == pytest.approx(5 / 7)
    assert row["reward_std"] == pytest.approx(np.std([1, 0, 2, 0.5, 0.5, 0.5, 0.5], ddof=1))
    assert row["reward_std_in_groups"] == pytest.approx(np.std([1, 0, 2]) / 2)
    assert row["rewards/style/mean"] == 1.0 and row["rewards/style/std"] == 0.0
    alone = rollout_metrics([group([NAN, NAN], [NAN, 1.0])], seconds=SECONDS)
    assert not {"reward", "reward_std", "rewards/right/mean", "rewards/style/std"} & alone.keys()
    assert alone["rewards/style/mean"] == 1.0


def test_rates_count_what_was_dropped_as_sampled_but_not_as_trained_on():
    row = rollout_metrics(GROUPS, [group([0.0] * 4, [1.0] * 4, length=20)], seconds=SECONDS)
    assert row["tokens_per_second/generate"] == (80 + 80) / 2.0
    assert row["tokens_per_second/step"] == (80 + 80) / 8.0
    assert row["tokens_per_second/train"] == 80 / 4.0
    assert row["completions/mean_length"] == 10.0
    assert count_tokens(GROUPS) == 8 * (3 + 10)


def test_rows_tell_what_failed_and_what_was_dropped():
    first, *_ = rows = completion_rows(GROUPS, np.zeros((2, 4)))
    assert first["errors"] == {} and not first["dropped"] and first["reward"] == 1.0
    assert rows[2]["errors"] == {"right": "gone"}
    assert rows[2]["reward"] is None and rows[2]["rewards"] == {"right": None, "style": 1.0}
    dropped = completion_rows(GROUPS[1:], is_dropped=True)
    assert len(dropped) == 4 and all(row["dropped"] and row["advantage"] is None for row in dropped)


def test_rows_tell_each_token_where_asked():
    tokenizer = Tokenizer.from_tokenizers(byte_level("<eos>"), eos="<eos>")
    ids = np.array(tokenizer.encode("3 + 4 = 7"), np.int32)
    completion = Completion(ids, np.linspace(-1, 0, len(ids), dtype=np.float32), "length")
    one = dataclasses.replace(GROUPS[0].rollouts[0], completion=completion)
    (row,) = completion_rows([Group(GROUPS[0].problem, (one,))], tokenizer=tokenizer)
    assert "".join(row["tokens"]) == tokenizer.decode(ids) and len(row["tokens"]) == len(ids) > 2
    assert row["logps"] == [round(float(logp), 4) for logp in completion.logps]
    assert "tokens" not in completion_rows(GROUPS)[0]


def test_what_failed_has_advantage_zero_and_does_not_count_in_its_group():
    advantages = advantages_of(GROUPS, normalization="mean")
    np.testing.assert_allclose(advantages, [[0, -1, 0, 1], [0, 0, 0, 0]], atol=1e-6)
    assert teaching([*GROUPS, group([NAN, 1.0, NAN, NAN], [1.0] * 4)]).tolist() == [True, False, False]


def test_decoupled_advantages_take_each_reward_by_itself_and_leave_out_what_failed():
    groups = [group([0.0, 1.0, NAN, 1.0], [5.0, 5.0, 100.0, NAN])]
    # "style" is equal wherever the summed reward is there; "right" is 0, 1, 1: centred -2/3, 1/3, 1/3 over sqrt(2)/3.
    got = advantages_of(groups, normalization="std", weights={"right": 1.0, "style": 1.0, "logged": 0.0})
    np.testing.assert_allclose(got, [[-math.sqrt(2), math.sqrt(0.5), 0, math.sqrt(0.5)]], atol=1e-5)
    assert [teaching(groups, {name: 1.0}).tolist() for name in ("style", "right")] == [[False], [True]]
    assert teaching(groups, {"style": 1.0, "right": 1.0}).tolist() == [True]
    assert teaching(groups, {"style": 1.0, "right": 0.0}).tolist() == [False]
