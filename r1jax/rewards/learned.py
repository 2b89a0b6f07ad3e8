"""The reward of a reward model inside RL (R1 Eqs. 8-10): what it reads of a response, and how its logit becomes a
reward.

The model itself is a function from conversations to logits that the RL stage brings along
(`r1jax.policies.reward_model`): no jax here. The reward is sigmoid(logit - center), in (0, 1) as the rule rewards are.

Deviation 1: R1 gives no scale (spec G.14). A pairwise loss leaves the logits' origin open, so the mean over held-out
responses is taken as the center; the sigmoid keeps a hacked logit from outweighing all other rewards.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from r1jax.text.response import PARTS, part_of
from r1jax.text.templates import Messages

Score = Callable[[Sequence[tuple[Messages, str]]], Sequence[float]]
"""(conversation, response) of many -> the model's logit of each."""


class LearnedReward:
    """A reward function of a rubric; to be ``deferred``, since its model runs on the accelerator.

    Args:
        score: the reward model.
        part: what it reads: the "summary" (helpfulness) or the "whole" response (safety).
        center: the logit that becomes 0.5.
    """

    def __init__(self, score: Score, *, part: str, center: float = 0.0):
        if part not in PARTS:
            raise ValueError(f"reward model: part={part!r} must be one of {', '.join(PARTS)}")
        self._score, self._part, self._center = score, part, center

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], problem: Sequence[Any], **columns: Any
    ) -> list[float]:
        """[N] rewards in (0, 1); 0.0 where there is nothing to read: an empty response, or a thought without end."""
        texts = [
            part_of(completion, self._part, prompt=prompt)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        asked = [index for index, text in enumerate(texts) if text and text.strip()]
        logits = self._score([(problem[index].messages, str(texts[index])) for index in asked]) if asked else []
        rewards = [0.0] * len(completions)
        for index, logit in zip(asked, logits, strict=True):
            rewards[index] = 0.5 + 0.5 * math.tanh(0.5 * (float(logit) - self._center))
        return rewards
