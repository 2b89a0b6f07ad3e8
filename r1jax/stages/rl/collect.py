"""The rollouts of one phase: sampled, scored, and with refills until enough groups teach something (DAPO Sec. 3.2).

And those of the held-out problems.
"""

import collections
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from r1jax.data.prompts import PromptIterator
from r1jax.evals.evaluate import MOST_PROBLEMS, evaluate
from r1jax.processes import is_first
from r1jax.rollout.collect import Collector
from r1jax.rollout.records import Group
from r1jax.specs.stages import RlSpec
from r1jax.stages.open_run import OpenRun
from r1jax.stages.rl.batch import teaching
from r1jax.tasks.problem import Problem


class RewardsFailedError(RuntimeError):
    """A reward that is trained on failed on every completion of a phase: there is nothing to learn from."""


class Phase(NamedTuple):
    """What a phase is trained on, and what it took."""

    groups: list[Group]
    """``questions_per_phase`` of them."""
    dropped: list[Group]
    """Sampled as well, but replaced since they teach nothing."""
    seconds: dict[str, float]
    """"generate", "rewards"."""
    metrics: dict[str, float]


def at_update(collector: Collector, updates: int) -> Collector:
    """The collector with the rewards that apply after ``updates`` ("from_update" of a reward's spec)."""
    return dataclasses.replace(collector, rubric=collector.rubric.at(updates))


def aggregated_weights(collector: Collector, spec: RlSpec) -> dict[str, float] | None:
    """The rewards' weights where each is normalised by itself; None where they are summed first."""
    return collector.rubric.weights if spec.multi_objective_aggregation == "normalize_then_sum" else None


def collect_groups(collector: Collector, weights, prompts, spec: RlSpec, *, updates: int) -> Phase:
    """One phase's groups; with refills, zero-variance ones are replaced by others as long as attempts are left.

    weights: what the sampler is lent (``WeightSync.lend``): "params" and "buffers".
    """
    key = jax.random.fold_in(jax.random.key(spec.seed), updates)
    of_rewards = aggregated_weights(collector, spec)
    seconds = {"generate": 0.0, "rewards": 0.0}
    counts: dict[str, float] = collections.defaultdict(int)
    useful: list[Group] = []
    idle: list[Group] = []
    for attempt in range(1 + spec.max_refills):
        collected = collector.collect(
            weights["params"],
            weights["buffers"],
            next(prompts),
            num_samples=spec.group_size,
            max_new_tokens=spec.cap_at(updates),
            temperature=spec.temperature,
            key=jax.random.fold_in(key, attempt),
            policy_version=updates,
        )
        seconds = {name: seconds[name] + collected.seconds[name] for name in seconds}
        for kind, of_kind in (
            ("errors", collected.reward_errors),
            ("timeouts", collected.reward_timeouts),
            ("seconds", collected.reward_seconds),
        ):
            for name, count in of_kind.items():
                counts[f"rewards/{name}/{kind}"] += count
        for name, message in collected.error_messages.items() if is_first() else ():
            print(f"update {updates + 1}: reward {name} failed: {message}", file=sys.stderr, flush=True)
        teaches = teaching(collected.groups, of_rewards)
        useful += [group for group, is_useful in zip(collected.groups, teaches, strict=True) if is_useful]
        idle = [group for group, is_useful in zip(collected.groups, teaches, strict=True) if not is_useful] + idle
        if len(useful) >= spec.questions_per_phase:
            break
    every = useful + idle
    metrics = {"frac_reward_zero_std": len(idle) / len(every), "num_questions_sampled": len(every)} | counts
    kept = spec.questions_per_phase
    return Phase(every[:kept], every[kept:], seconds, metrics)


def evaluate_heldout(
    collector: Collector,
    weights,
    heldout: Sequence[Problem],
    spec: RlSpec,
    run: OpenRun,
    *,
    updates: int,
    is_full: bool,
) -> tuple[dict[str, float], list[Group]]:
    """(metrics, groups) on the first of the held-out problems: few samples along the way, many at the two ends.

    weights: what the sampler is lent (``WeightSync.lend``). Raises Stopped between batches.
    """
    num_samples = spec.eval.final_samples if is_full else spec.eval.samples
    name = "final evaluation" if is_full and updates == spec.num_updates else "evaluating"
    total = count_samples(spec, heldout, is_full=is_full)

    def before_batch(problems_done: int):
        run.stop.check()
        run.progress.phase(name, problems_done * num_samples, total)

    return evaluate(
        collector,
        weights["params"],
        weights["buffers"],
        heldout[: total // num_samples],
        num_samples=num_samples,
        max_new_tokens=spec.cap_at(updates),
        temperature=spec.eval.temperature,
        top_p=spec.eval.top_p,
        key=jax.random.key(spec.eval.seed),
        policy_version=updates,
        problems_per_batch=spec.eval.problems_per_batch,
        before_batch=before_batch,
    )


def count_samples(spec: RlSpec, heldout: Sequence[Problem], *, is_full: bool) -> int:
    """Samples of an evaluation."""
    if is_full:
        return len(heldout) * spec.eval.final_samples
    return min(len(heldout), spec.eval.problems or MOST_PROBLEMS) * spec.eval.samples


def evaluation_protocol(spec: RlSpec, heldout: Sequence[Problem], *, is_full: bool) -> str:
    """How an evaluation is sampled: figures of different protocols cannot be compared."""
    samples = spec.eval.final_samples if is_full else spec.eval.samples
    problems = count_samples(spec, heldout, is_full=is_full) // samples
    tokens = "all tokens" if spec.eval.top_p is None else f"top-p {spec.eval.top_p}"
    how = f"temperature {spec.eval.temperature}, {tokens}, seed {spec.eval.seed}"
    return f"{problems} problems, {samples} samples of each, {how}"


def check_scored(phase: Phase, weights: Mapping[str, float]) -> None:
    """Raises RewardsFailedError naming a reward that is trained on and failed on all completions that it applies to.

    A single group out of many is no reason to stop: its problem may be at fault.
    """
    groups = phase.groups + phase.dropped
    for name in (name for name, weight in weights.items() if weight != 0.0):
        failed = [[r.errors[name] for r in group.rollouts if name in r.errors] for group in groups]
        has_scores = any(not np.isnan(r.rewards[name]) for group in groups for r in group.rollouts)
        of_groups = [messages for messages in failed if messages]
        if not has_scores and len(of_groups) >= min(2, len(groups)):
            raise RewardsFailedError(
                f"reward {name!r} failed on all {sum(map(len, of_groups))} completions of a phase that it applies to, "
                f"the first time with: {of_groups[0][0]}"
            )


def skipped_metrics(prompts: PromptIterator) -> dict[str, int]:
    """How many training problems were passed over, since their prompts are too long; the first is said on stderr."""
    skipped: list[Problem] = prompts.take_skipped()
    if skipped and is_first():
        question = skipped[0].messages[-1]["content"]
        print(
            f"warning: {len(skipped)} training prompt(s) longer than max_prompt_tokens skipped, the first: "
            f"{question[:120]!r}",
            file=sys.stderr,
            flush=True,
        )
    return {"prompts/too_long": len(skipped)}
