"""Records that travel from the sampler to the trainer."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from r1jax.tasks.problem import Problem


@dataclasses.dataclass(frozen=True)
class Completion:
    """What the engine returns for one sequence: token ids only, no text."""

    token_ids: np.ndarray  # [n] int32, the stop token included where one was produced
    logps: np.ndarray
    """[n] float32, log-probability of each token under temperature alone, over the whole vocabulary."""
    stop_reason: Literal["stop", "length", "failed", "unfinished"]
    """"stop": a stop token was produced; "length": the budget ran out. Only of a session: "failed", the model's logits were
    not finite; "unfinished", it is not done."""
    sampled_logps: np.ndarray | None = None
    """[n] float32, log-probability of each token under the distribution that it was drawn from; None where that is ``logps``."""
    versions: np.ndarray | None = None
    """[n] int32, updates that the weights had seen which sampled each token; None where those of all are the same."""
    experts: np.ndarray | None = None
    """[p + n − 1, L, K] uint8 or uint16: the experts of each MoE layer that the sampler took for each token of prompt and
    completion but the last, which it never ran; None where ``engine.record_routing`` is not set."""


@dataclasses.dataclass(frozen=True)
class GradedAnswer:
    """The answer of one completion and what its task says of it, once for rewards, metric and evaluation."""

    text: str | None  # as extracted from the completion; None where there is none
    grade: float | None  # in [0, 1], 0.0 without an answer; None where grading failed
    error: str | None = None  # why grading failed


@dataclasses.dataclass(frozen=True)
class Rollout:
    """One scored sample of one problem."""

    prompt_ids: np.ndarray  # [p] int32, the rendered prompt
    completion: Completion
    text: str  # the completion decoded, without its stop token
    policy_version: int  # number of updates that the weights had seen which sampled it, the last of them if several
    rewards: Mapping[str, float]  # each raw reward by name; NaN where it does not apply or its verifier failed
    reward: float
    """The weighted sum; NaN where no weighted reward applies or one failed: nothing is learned from this rollout."""
    is_correct: bool  # the task's own metric, apart from any reward
    answer: str | None  # the extracted answer
    errors: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The message of each reward that failed on it; under "task_metric" the task's own."""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What rewards logged of it, as "reward/column"; JSON's types."""


@dataclasses.dataclass(frozen=True)
class Group:
    """The G samples of one problem."""

    problem: Problem
    rollouts: tuple[Rollout, ...]


def error_messages(groups: Sequence[Group]) -> dict[str, str]:
    """The first message of each reward that failed on some rollouts."""
    messages: dict[str, str] = {}
    for rollout in (rollout for group in groups for rollout in group.rollouts):
        messages = {**rollout.errors, **messages}
    return messages
