"""One phase of RL: its rollouts, refilled until enough groups teach something (DAPO Sec. 3.2), and their micro-batches.

And the rollouts of the held-out problems.
"""

import collections
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax.data.packing import Group as Alike
from r1jax.data.packing import pack_groups
from r1jax.data.prompts import PromptIterator
from r1jax.evals.evaluate import evaluate
from r1jax.objectives.advantages import decoupled_advantages, group_advantages, is_zero_variance
from r1jax.processes import is_first
from r1jax.rollout.collect import Collected, Collector
from r1jax.rollout.records import Group, Rollout
from r1jax.specs.stages import RlSpec
from r1jax.stages.open_run import OpenRun
from r1jax.stages.rl.log import say_failures
from r1jax.stages.rl.questions import Question, draw
from r1jax.tasks.problem import Problem


class RewardsFailedError(RuntimeError):
    """A reward that is trained on failed on every completion of a phase: there is nothing to learn from."""


class Phase(NamedTuple):
    """What a phase is trained on, and what it took."""

    groups: list[Group]  # ``questions_per_phase`` of them
    dropped: list[Group]  # sampled as well, but replaced since they teach nothing
    advantages_PG: np.ndarray  # of ``groups``
    seconds: dict[str, float]  # "generate", "rewards"
    metrics: dict[str, float]
    carried: list[Question]  # sampled from as well, for the next phase


def at_update(collector: Collector, updates: int) -> Collector:
    """The collector with the rewards that apply after ``updates`` ("from_update" of a reward's spec)."""
    return dataclasses.replace(collector, rubric=collector.rubric.at(updates))


def start_sampling(
    collector: Collector,
    weights,
    questions: Sequence[Question],
    spec: RlSpec,
    *,
    updates: int,
    attempt: int = 0,
    policy_version: int | None = None,
    before_segment: Callable[[], None] = lambda: None,
) -> Callable[[], tuple[Collected, list[Question]]]:
    """Samples the questions of a phase; what it returns waits for the scores of those that are done, and has the others.

    weights: what the sampler is lent (``WeightSync.lend``): "params" and "buffers". policy_version: updates that they
    have seen; None: ``updates``, those before the phase. ``before_segment`` may raise.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(spec.seed), updates), attempt)
    partial = {"so_far": [question.so_far for question in questions], "enough": spec.questions_per_phase}
    finish = collector.start(
        weights["params"],
        weights["buffers"],
        [question.problem for question in questions],
        num_samples=spec.group_size,
        max_new_tokens=[spec.cap_at(question.updates) for question in questions],
        temperature=spec.temperature,
        key=key,
        policy_version=updates if policy_version is None else policy_version,
        before_segment=before_segment,
        **(partial if spec.partial_rollouts else {}),
    )

    def finished() -> tuple[Collected, list[Question]]:
        collected = finish()
        left = collected.left.items()
        return collected, [dataclasses.replace(questions[index], so_far=so_far) for index, so_far in left]

    return finished


def collect_groups(
    collector: Collector,
    weights,
    prompts: PromptIterator,
    spec: RlSpec,
    *,
    updates: int,
    questions: Sequence[Question] | None = None,
    started: Callable[[], tuple[Collected, list[Question]]] | None = None,
) -> Phase:
    """One phase's groups; with refills, those that teach nothing are replaced by others as long as attempts are left.

    A refill asks for as many questions as are missing; what teaches stays. ``refill_reward`` may decide what that is.

    weights: as of ``start_sampling``. questions: the first ones that are asked, else they are drawn. started: what
    ``start_sampling`` returned, where the phase was sampled already.
    """
    is_decoupled = spec.multi_objective_aggregation == "normalize_then_sum"
    of_rewards = collector.rubric.weights if is_decoupled else None
    decides = spec.refill_reward in collector.rubric.weights  # not before it applies
    deciding = {str(spec.refill_reward): 1.0} if decides else of_rewards
    wanted = spec.questions_per_phase
    seconds = {"generate": 0.0, "rewards": 0.0}
    counts: collections.Counter[str] = collections.Counter()
    logged: dict[str, list[float]] = collections.defaultdict(list)
    sampling: collections.Counter[str] = collections.Counter()
    useful: list[Group] = []
    idle: list[Group] = []
    for attempt in range(1 + spec.max_refills):
        if started is None:
            if questions is None:
                questions = draw(prompts, spec.questions_in_flight - len(useful), updates=updates)
            started = start_sampling(collector, weights, questions, spec, updates=updates, attempt=attempt)
        (collected, left), started, questions = started(), None, None
        seconds = {name: seconds[name] + collected.seconds[name] for name in seconds}
        counts.update(collected.counts)
        sampling.update(collected.sampling)
        for name, values in collected.logged.items():
            logged[name] += values
        say_failures(collected.groups, where=f"update {updates + 1}")
        decisions = teaching(collected.groups, deciding, mask_truncated=spec.mask_truncated)
        useful += [group for group, is_useful in zip(collected.groups, decisions, strict=True) if is_useful]
        idle = [group for group, is_useful in zip(collected.groups, decisions, strict=True) if not is_useful] + idle
        if len(useful) >= wanted:
            break
    every = useful + idle
    teaches = teaching(every, of_rewards, mask_truncated=spec.mask_truncated)
    shares = {"frac_reward_zero_std": float(np.mean(~teaches)), "num_questions_sampled": len(every)}
    without_truncated = spec.mask_truncated and not spec.truncated_in_baseline
    means = {name: float(np.mean(values)) for name, values in logged.items()}
    off_policy = (
        staleness_metrics(every[:wanted], spec, updates=updates) if spec.partial_rollouts or spec.overlap else {}
    )
    if spec.partial_rollouts:
        off_policy["sampling/carried"] = len(left)
    advantages_PG = advantages_of(
        every[:wanted], normalization=spec.advantage, weights=of_rewards, without_truncated=without_truncated
    )
    return Phase(
        every[:wanted],
        every[wanted:],
        advantages_PG,
        seconds,
        shares | counts | means | sampler_metrics(sampling) | off_policy,
        left,
    )


def sampler_metrics(counts: Mapping[str, int]) -> dict[str, float]:
    """How well the slots were used, of ``Session.counts``: "sampling/occupancy", the share of them that was in use while
    requests waited; "sampling/tokens_per_step" of a slot in use, more than 1 with drafts; "sampling/evictions".
    """
    row = {"sampling/evictions": float(counts.get("evictions", 0))}
    if counts.get("busy_slot_steps"):
        row["sampling/occupancy"] = counts["busy_row_steps"] / counts["busy_slot_steps"]
    if counts.get("row_steps"):
        row["sampling/tokens_per_step"] = counts["tokens"] / counts["row_steps"]
    return row


def staleness_metrics(groups: Sequence[Group], spec: RlSpec, *, updates: int) -> dict[str, float]:
    """How many updates the weights that a phase begins to train have seen more than those that sampled a token.

    "sampling/staleness/mean" and "/max", over the tokens of the loss; 0 where there are none.
    """
    ages = [np.zeros(0, np.int32)]
    for rollout in (rollout for group in groups for rollout in group.rollouts):
        if is_learned_from(rollout, mask_truncated=spec.mask_truncated):
            of_all = np.full(len(rollout.completion.token_ids), rollout.policy_version)
            versions = rollout.completion.versions
            ages.append(updates - (of_all if versions is None else versions))
    every = np.concatenate(ages)
    mean, most = (every.mean(), every.max()) if every.size else (0.0, 0)
    return {"sampling/staleness/mean": float(mean), "sampling/staleness/max": int(most)}


def is_learned_from(rollout: Rollout, *, mask_truncated: bool) -> bool:
    """Whether a rollout's tokens are in the loss: it has a reward, and is not cut off where those are masked (DAPO Sec. 3.4)."""
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
    """[P] bool: whether the rewards of those that are learned from differ in a group; one where they do not teaches
    nothing.

    Of the sum of the rewards, or of any that has a weight in ``weights``.
    """
    names = [None] if weights is None else [name for name, weight in weights.items() if weight != 0.0]
    equal = [is_zero_variance(_rewards(groups, name, mask_truncated=mask_truncated)) for name in names]
    return ~np.all(equal, axis=0)


def _rewards(groups: Sequence[Group], name: str | None = None, *, mask_truncated: bool) -> np.ndarray:
    """[P, G] float64: the summed rewards, or those of one name; NaN where the rollout is not to be learned from."""

    def reward_of(rollout: Rollout) -> float:
        if not is_learned_from(rollout, mask_truncated=mask_truncated):
            return np.nan
        return rollout.reward if name is None else rollout.rewards[name]

    return np.array([[reward_of(rollout) for rollout in group.rollouts] for group in groups], np.float64)


def split_by_question(num_questions: int, num_updates: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Indices of the questions of each update: a shuffle cut into equal parts, groups kept whole (spec G.3)."""
    return np.split(rng.permutation(num_questions), num_updates)


def make_microbatches(
    groups: Sequence[Group], advantages_PG: np.ndarray, spec: RlSpec, *, num_ahead: int = 1
) -> list[dict[str, Any]]:
    """The rollouts of one update, packed: dicts of [R, T] arrays with the counts of the whole update in each.

    Fields: tokens, targets, mask (1 where the target was sampled), advantage, sampler_logp, segment_ids, prefix_ids,
    positions; where the sampler recorded its experts "recorded" [R, T, L, K], or "replayed" if they are to be; scalars
    temperature, num_sequences (those with a target), num_segments (all), num_tokens. A zero-variance group is kept: the
    mean is over all. A rollout that is not learned from (`is_learned_from`) has no targets, so no token of it is in the
    loss, the KL or the mean.

    A row holds a prompt once, as the prefix of its outputs there; rows of several times the longest sequence make most
    of that. What predicts an output's tokens is not shared: the prompt's last num_ahead tokens, 1 and another for each
    depth of multi-token prediction. Loss and gradient are those of outputs that are packed one by one; expert counts are
    not: a prompt's tokens are counted once a row.
    """
    alike = [
        _alike(group, advantages, spec, num_ahead=num_ahead)
        for group, advantages in zip(groups, advantages_PG, strict=True)
    ]
    sequences = [sequence for group in alike for sequence in group.sequences]
    arrays, _ = pack_groups(alike, length=spec.tokens_per_row, rows_multiple=spec.rows_per_microbatch)
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


def _alike(group: Group, advantages: np.ndarray, spec: RlSpec, *, num_ahead: int) -> Alike:
    sequences = [
        _sequence(rollout, advantage, spec) for rollout, advantage in zip(group.rollouts, advantages, strict=True)
    ]
    shortest = min(len(sequence["tokens"]) for sequence in sequences)
    return Alike(sequences, max(min(len(group.rollouts[0].prompt_ids) - num_ahead, shortest - 1), 0))


def _sequence(rollout: Rollout, advantage: float, spec: RlSpec) -> dict[str, np.ndarray]:
    """Fields of one rollout, each [n − 1] for n tokens: position t holds token t and what belongs to target t + 1."""
    num_prompt, num_new = len(rollout.prompt_ids), len(rollout.completion.token_ids)
    ids = np.concatenate([rollout.prompt_ids, rollout.completion.token_ids]).astype(np.int32)
    mask = np.zeros(len(ids) - 1, np.float32)
    mask[num_prompt - 1 :] = 1.0 if is_learned_from(rollout, mask_truncated=spec.mask_truncated) else 0.0
    sampler_logp = np.zeros(len(ids) - 1, np.float32)
    sampler_logp[num_prompt - 1 :] = rollout.completion.logps
    experts, name = rollout.completion.experts, "replayed" if spec.replay_routing else "recorded"
    return {
        "tokens": ids[:-1],
        "targets": ids[1:],
        "mask": mask,
        "advantage": np.full(num_prompt - 1 + num_new, advantage, np.float32),
        "sampler_logp": sampler_logp,
        **({} if experts is None else {name: experts}),
    }


def evaluate_heldout(
    collector: Collector, weights, problems: Sequence[Problem], spec: RlSpec, run: OpenRun, *, is_full: bool
) -> tuple[dict[str, float], list[Group]]:
    """(metrics, groups) on held-out problems: few samples along the way, many at the two ends.

    weights: what the sampler is lent (``WeightSync.lend``). Raises Stopped between batches.
    """
    num_samples = spec.eval.final_samples if is_full else spec.eval.samples
    name = "final evaluation" if is_full and run.updates == spec.num_updates else "evaluating"
    total = num_samples * len(problems)

    def before_batch(problems_done: int):
        run.stop.check()
        run.progress.phase(name, problems_done * num_samples, total)

    return evaluate(
        collector,
        weights["params"],
        weights["buffers"],
        problems,
        num_samples=num_samples,
        max_new_tokens=spec.cap_at(run.updates),
        temperature=spec.eval.temperature,
        top_p=spec.eval.top_p,
        key=jax.random.key(spec.eval.seed),
        policy_version=run.updates,
        problems_per_batch=spec.eval.problems_per_batch,
        before_batch=before_batch,
    )


def evaluation_protocol(spec: RlSpec, problems: Sequence[Problem], *, is_full: bool) -> str:
    """How an evaluation on these problems is sampled: figures of different protocols cannot be compared."""
    samples = spec.eval.final_samples if is_full else spec.eval.samples
    tokens = "all tokens" if spec.eval.top_p is None else f"top-p {spec.eval.top_p}"
    how = f"temperature {spec.eval.temperature}, {tokens}, seed {spec.eval.seed}"
    return f"{len(problems)} problems, {samples} samples of each, {how}"


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
        words = f"warning: {len(skipped)} training prompt(s) longer than max_prompt_tokens skipped, the first: "
        print(words + repr(skipped[0].messages[-1]["content"][:120]), file=sys.stderr, flush=True)
    return {"prompts/too_long": len(skipped)}
