"""What the RL stage writes down: metrics of a phase under TRL's names, and a row for every completion.

Names that TRL has too mean what they mean there (TRL 1.16, trainer/grpo_trainer.py): `reward`, `reward_std` and
`rewards/<name>/std` are over all completions of the phase, deviations with ddof 1; `num_tokens` counts prompts and
completions sampled for training since the run began. Differences, all intended:

1. A deviation of fewer than two values, and the mean of none, are left out, where TRL writes NaN or (lengths of
   terminated completions) 0.
2. `frac_reward_zero_std` is a share of groups under either aggregation; so is what refills drop counted in it.
3. With refills all other figures are of the groups that are trained on, but for `frac_groups_all_right` and `_wrong`.
4. What is summed over tokens of the loss (`num_loss_tokens`, `kl`, `entropy`, ratios) leaves out completions without a
   reward, since a verifier failed on them; lengths and `num_tokens` count them, as they were sampled.
"""

import functools
import sys
from collections.abc import Iterable, Sequence

import numpy as np

from r1jax.objectives.sums import add_metrics, mean_metrics
from r1jax.processes import is_first
from r1jax.rewards.language import chinese_share, is_mixed
from r1jax.rewards.reflection import count_reflections
from r1jax.rollout.records import Completion, Group, Rollout, error_messages
from r1jax.stages.rl.mismatch import divided_by_shares
from r1jax.text.tokenizer import Tokenizer


def rollout_metrics(
    groups: Sequence[Group], dropped: Sequence[Group] = (), *, seconds: dict[str, float]
) -> dict[str, float]:
    """Rewards, lengths, language and reflection of one phase's rollouts; ``seconds`` become time/... and rates.

    Rates of "generate" and "step" count the tokens of the dropped groups too: they were sampled. Tokens that were carried
    over count in the phase that trains on them.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    lengths = np.array([len(r.completion.token_ids) for r in rollouts])
    is_clipped = np.array([r.completion.stop_reason == "length" for r in rollouts])
    row = _mean_and_std([r.reward for r in rollouts], mean="reward", std="reward_std")
    for name in rollouts[0].rewards:
        values = [r.rewards[name] for r in rollouts]
        row |= _mean_and_std(values, mean=f"rewards/{name}/mean", std=f"rewards/{name}/std")
    spreads = [values.std() for group in groups if (values := _known(r.reward for r in group.rollouts)).size > 1]
    if spreads:
        row["reward_std_in_groups"] = float(np.mean(spreads))
    right_PG = np.array([[r.is_correct for r in group.rollouts] for group in [*groups, *dropped]])
    row |= {
        "correct": float(np.mean([r.is_correct for r in rollouts])),
        "frac_groups_all_right": float(right_PG.all(axis=1).mean()),
        "frac_groups_all_wrong": float((~right_PG).all(axis=1).mean()),
        "completions/mean_length": float(lengths.mean()),
        "completions/median_length": float(np.median(lengths)),
        "completions/min_length": int(lengths.min()),
        "completions/max_length": int(lengths.max()),
        "completions/clipped_ratio": float(is_clipped.mean()),
        **text_metrics(rollouts),
    }
    if not is_clipped.all():
        row["completions/mean_terminated_length"] = float(lengths[~is_clipped].mean())
    row |= {f"time/{name}": value for name, value in seconds.items()}
    num_trained = int(lengths.sum())
    num_sampled = num_trained + sum(len(r.completion.token_ids) for group in dropped for r in group.rollouts)
    row["tokens_per_second/generate"] = num_sampled / seconds["generate"]
    row["tokens_per_second/train"] = num_trained / (seconds["logprobs"] + seconds["update"])
    row["tokens_per_second/step"] = num_sampled / seconds["step"]
    return row


def text_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Reflection words, and the languages that the texts are in: what tells of a response besides its rewards."""
    num_tokens = sum(len(r.completion.token_ids) for r in rollouts)
    reflections = [sum(count_reflections(r.text).values()) for r in rollouts]
    shares = [share for r in rollouts if (share := chinese_share(r.text)) is not None]
    return {
        "reflection/per_1k_tokens": 1000 * sum(reflections) / num_tokens,
        "reflection/per_completion": float(np.mean(reflections)),
        "language/chinese_share": float(np.mean(shares)) if shares else 0.0,
        "language/mixed_share": float(np.mean([is_mixed(r.text) for r in rollouts])),
    }


def count_tokens(groups: Sequence[Group]) -> int:
    """Tokens of prompts and completions, a prompt once for each completion (TRL's ``num_tokens``)."""
    return sum(len(r.prompt_ids) + len(r.completion.token_ids) for group in groups for r in group.rollouts)


def _mean_and_std(values: Iterable[float], *, mean: str, std: str) -> dict[str, float]:
    """Mean and deviation (ddof 1) of what is not NaN, as far as there is enough of it."""
    known = _known(values)
    row = {mean: float(known.mean())} if known.size else {}
    return row | ({std: float(known.std(ddof=1))} if known.size > 1 else {})


def _known(values: Iterable[float]) -> np.ndarray:
    array = np.array(list(values), np.float64)
    return array[~np.isnan(array)]


def update_metrics(totals: Sequence[dict], infos: Sequence[dict]) -> dict[str, float]:
    """Means over the tokens of a phase's updates, and over its updates of what ``apply`` reports."""
    row = {name: float(value) for name, value in mean_metrics(functools.reduce(add_metrics, totals)).items()}
    row["loss"] /= len(totals)
    row["num_loss_tokens"] = row.pop("num_tokens")
    row |= {name: float(np.mean([float(info[name]) for info in infos])) for name in infos[0]}
    return divided_by_shares(row)


def completion_rows(
    groups: Sequence[Group], advantages_PG=None, *, is_dropped: bool = False, tokenizer: Tokenizer | None = None
) -> list[dict]:
    """One JSON-able dict a completion; NaN (a reward that does not apply, or failed) becomes None.

    "errors" holds the messages of the rewards that failed on it, "extra" what rewards logged of it. Groups that were
    sampled but not trained on are marked as "dropped". With a tokenizer there are "tokens", the text of each token, and
    "logps", its log-probability under temperature alone when it was sampled (nats).
    """
    return [
        {
            "problem": group.problem.columns | {"answer": group.problem.answer},
            "prompt": group.problem.messages[-1]["content"],
            "completion": rollout.text,
            "num_tokens": len(rollout.completion.token_ids),
            "stop_reason": rollout.completion.stop_reason,
            "rewards": {name: _or_none(value) for name, value in rollout.rewards.items()},
            "reward": _or_none(rollout.reward),
            "advantage": None if advantages_PG is None else float(advantages_PG[index, sample]),
            "errors": dict(rollout.errors),
            **({"extra": dict(rollout.extra)} if rollout.extra else {}),
            **({} if tokenizer is None else _tokens(rollout.completion, tokenizer)),
            "dropped": is_dropped,
            "answer": rollout.answer,
            "correct": bool(rollout.is_correct),
            "policy_version": rollout.policy_version,
        }
        for index, group in enumerate(groups)
        for sample, rollout in enumerate(group.rollouts)
    ]


def _tokens(completion: Completion, tokenizer: Tokenizer) -> dict[str, list]:
    logps = [round(float(logp), 4) for logp in completion.logps]
    return {"tokens": tokenizer.pieces(completion.token_ids), "logps": logps}


def say_failures(groups: Sequence[Group], *, where: str) -> None:
    """On stderr the first message of every reward that failed on some completions."""
    for name, message in error_messages(groups).items() if is_first() else ():
        print(f"{where}: reward {name} failed: {message}", file=sys.stderr, flush=True)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
