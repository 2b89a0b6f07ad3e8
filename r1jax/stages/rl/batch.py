"""From scored groups to packed micro-batches: the step between rollout and loss of the RL stage."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.data.packing import pack
from r1jax.objectives.advantages import decoupled_advantages, group_advantages, is_zero_variance
from r1jax.rollout.records import Group, Rollout
from r1jax.specs.stages import RlSpec

Microbatch = dict[str, Any]


def is_learned_from(rollout: Rollout, *, mask_truncated: bool) -> bool:
    """Whether a rollout's tokens are in the loss: it has a reward, and if cut-off ones are masked it is none (DAPO Sec. 3.4)."""
    return not (np.isnan(rollout.reward) or (mask_truncated and rollout.completion.stop_reason == "length"))


def advantages_of(
    groups: Sequence[Group],
    *,
    normalization: str,
    weights: Mapping[str, float] | None = None,
    without_truncated: bool = False,
) -> np.ndarray:
    """[P, G] float32 advantages of every rollout (R1 Eq. 3), 0 for one whose reward is NaN.

    With ``weights`` by reward's name each reward is normalised in its group by itself (GDPO), else their sum is.
    ``without_truncated``: those that were cut off are not in the mean and the deviation of their group, and get 0.
    """
    if weights is None:
        rewards_PG = _rewards(groups, mask_truncated=without_truncated)
        return np.asarray(group_advantages(rewards_PG, normalization=normalization))
    weights = {name: weight for name, weight in weights.items() if weight != 0.0}
    rewards = [_rewards(groups, name, mask_truncated=without_truncated) for name in weights]
    return np.asarray(decoupled_advantages(rewards, list(weights.values()), normalization=normalization))


def teaching(
    groups: Sequence[Group], weights: Mapping[str, float] | None = None, *, mask_truncated: bool = False
) -> np.ndarray:
    """[P] bool: whether the rewards of those that are learned from differ in a group; one where they do not teaches nothing.

    Of the sum of the rewards, or of any that has a weight in ``weights``.
    """
    names = [None] if weights is None else [name for name, weight in weights.items() if weight != 0.0]
    equal = [is_zero_variance(_rewards(groups, name, mask_truncated=mask_truncated)) for name in names]
    return ~np.all(equal, axis=0)


def _rewards(groups: Sequence[Group], name: str | None = None, *, mask_truncated: bool) -> np.ndarray:
    """[P, G] float64: the summed rewards, or those of one name; NaN where the rollout is not to be learned from."""

    def reward(rollout: Rollout) -> float:
        if not is_learned_from(rollout, mask_truncated=mask_truncated):
            return np.nan
        return rollout.reward if name is None else rollout.rewards[name]

    return np.array([[reward(rollout) for rollout in group.rollouts] for group in groups], np.float64)


def split_by_question(num_questions: int, num_updates: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Indices of the questions of each update: a shuffle cut into equal parts, groups kept whole (spec G.3)."""
    return np.split(rng.permutation(num_questions), num_updates)


def make_microbatches(groups: Sequence[Group], advantages_PG: np.ndarray, spec: RlSpec) -> list[Microbatch]:
    """The rollouts of one update, packed: dicts of [R, T] arrays with the counts of the whole update in each.

    Fields: tokens, targets, mask (1 where the target was sampled), advantage, sampler_logp, segment_ids, positions; scalars
    temperature, num_sequences (those with a target), num_segments (all), num_tokens. A zero-variance group without KL would
    teach nothing, but it is kept: the mean is over all. A rollout that is not learned from (`is_learned_from`) has no
    targets, so no token of it is in the loss, the KL or the mean.
    """
    sequences = [
        _sequence(
            rollout,
            advantage,
            is_masked=not is_learned_from(rollout, mask_truncated=spec.mask_truncated),
        )
        for group, advantages in zip(groups, advantages_PG, strict=True)
        for rollout, advantage in zip(group.rollouts, advantages, strict=True)
    ]
    arrays, _ = pack(sequences, length=spec.tokens_per_row, rows_multiple=spec.rows_per_microbatch)
    counts = {
        "temperature": np.float32(spec.temperature),
        "num_sequences": np.float32(sum(sequence["mask"].any() for sequence in sequences)),
        "num_segments": np.float32(len(sequences)),
        "num_tokens": np.float32(sum(sequence["mask"].sum() for sequence in sequences)),
    }
    return [
        {name: array[start : start + spec.rows_per_microbatch] for name, array in arrays.items()} | counts
        for start in range(0, len(arrays["tokens"]), spec.rows_per_microbatch)
    ]


def _sequence(rollout: Rollout, advantage: float, *, is_masked: bool) -> dict[str, np.ndarray]:
    """Fields of one rollout, each [n − 1] for n tokens: position t holds token t and what belongs to target t + 1."""
    num_prompt, num_new = len(rollout.prompt_ids), len(rollout.completion.token_ids)
    ids = np.concatenate([rollout.prompt_ids, rollout.completion.token_ids]).astype(np.int32)
    mask = np.zeros(len(ids) - 1, np.float32)
    mask[num_prompt - 1 :] = 0.0 if is_masked else 1.0
    sampler_logp = np.zeros(len(ids) - 1, np.float32)
    sampler_logp[num_prompt - 1 :] = rollout.completion.logps
    return {
        "tokens": ids[:-1],
        "targets": ids[1:],
        "mask": mask,
        "advantage": np.full(num_prompt - 1 + num_new, advantage, np.float32),
        "sampler_logp": sampler_logp,
    }
