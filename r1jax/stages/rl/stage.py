"""RL stage: GRPO with rule rewards (R1-Zero, stage 1) and reward models (stage 2), in phases of N questions × G outputs.

One phase (spec B.3): lend the sampler the weights, sample prompts, collect scored groups, add old and reference log-probs,
update; the reference is refreshed every R updates. Sampler and trainer hold the same arrays, unless ``rollout_mesh`` gives the
sampler a layout or devices of its own (`r1jax.rollout.weight_sync`). Tasks and rewards may join along the way
(``from_update``, spec B.6.4): what takes part follows from the number of updates alone, so a resumed run needs no other
record of it. Held out are problems of the tasks that take part from the start.

Deviations from the paper, all in the config: sizes. Of the defaults: 1. a phase is one update of 32 questions, not 16 (R1 Sec.
B.1 calls the 16 an acceleration); 2. responses have 1,024 tokens, not 32,768, which no laptop holds.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax.data.prompts import PromptIterator
from r1jax.evals.evaluate import heldout_problems
from r1jax.models.transformer import Model
from r1jax.objectives.grpo import grpo_loss
from r1jax.objectives.sums import add_metrics
from r1jax.objectives.weights import token_weights
from r1jax.policies.policy import load_policy
from r1jax.policies.reward_model import load_rewards
from r1jax.processes import is_first, require_same
from r1jax.rewards.rubric import Rubric
from r1jax.rollout.weight_sync import WeightSync
from r1jax.sharding import make_mesh, place_batch
from r1jax.specs.reader import read
from r1jax.specs.stages import RlSpec
from r1jax.stages.auxiliary import balance_loss, expert_counts, hidden_of
from r1jax.stages.open_run import open_run
from r1jax.stages.rl.batch import advantages_of, make_microbatches, split_by_question
from r1jax.stages.rl.check import check
from r1jax.stages.rl.collect import (
    aggregated_weights,
    at_update,
    check_scored,
    collect_groups,
    count_samples,
    evaluate_heldout,
    evaluation_protocol,
    skipped_metrics,
)
from r1jax.stages.rl.log import completion_rows, count_tokens, rollout_metrics, update_metrics
from r1jax.stages.sampling import make_collector
from r1jax.stages.training import finite_update, make_train_state
from r1jax.tasks.mixture import TaskSchedule
from r1jax.training.learner import TrainState, Update, copy_tree
from r1jax.training.offload import REFERENCE, to_device_memory, to_host_memory
from r1jax.workdir.metrics import CompletionsWriter
from r1jax.workdir.stop import Stopped


def make_logprob_pass(model):
    """(params, buffers, microbatch) -> log π of the targets at the sampling temperature, [R, T]."""

    def score(params, buffers, batch):
        hidden_BTD, _, _ = hidden_of(model, params, buffers, batch)
        return model.token_logprob(params, hidden_BTD, batch["targets"], temperature=batch["temperature"])[0]

    return jax.jit(score)


def make_loss(model: Model, spec: RlSpec):
    """(params, buffers, microbatch) -> (GRPO loss, sums); the microbatch carries old and reference log-probs."""

    def loss_function(params, buffers, batch):
        hidden_BTD, _, aux = hidden_of(model, params, buffers, batch, balance=spec.balance_weight > 0)
        logp_BT, entropy_BT = model.token_logprob(
            params, hidden_BTD, batch["targets"], temperature=batch["temperature"]
        )
        weight_BT = token_weights(
            batch["mask"],
            batch["segment_ids"],
            aggregation=spec.aggregation,
            num_sequences=batch["num_sequences"],
            num_tokens=batch["num_tokens"],
            constant=spec.aggregation_constant,
        )
        loss, metrics = grpo_loss(
            logp_BT,
            old_logp_BT=batch["old_logp"],
            advantage_BT=batch["advantage"],
            weight_BT=weight_BT,
            segment_ids_BT=batch["segment_ids"],
            ref_logp_BT=batch.get("ref_logp"),
            sampler_logp_BT=batch["sampler_logp"],
            entropy_BT=entropy_BT,
            clip_low=spec.clip_low,
            clip_high=spec.clip_high,
            dual_clip=spec.dual_clip,
            kl_coef=spec.kl_coef,
            kl_estimator=spec.kl_estimator,
            ratio_level=spec.ratio_level,
            importance_cap=spec.importance_cap,
        )
        if spec.balance_weight:
            balance = balance_loss(aux, None, num_sequences=batch["num_segments"])
            loss += spec.balance_weight * balance
            metrics["moe/balance_loss"] = jax.lax.stop_gradient(balance) * batch["num_tokens"]
        return loss, {**metrics, "expert_counts": expert_counts(buffers, aux)}

    return loss_function


class Build(NamedTuple):
    """The step functions of the stage, jitted, and the state that they start from."""

    state: TrainState
    update: Update
    score: Callable


def build(spec: RlSpec, model: Model, params, buffers) -> Build:
    """Train state, update and log-prob pass from weights that are laid out on their mesh, or ShapeDtypeStructs of them."""
    state, update = make_train_state(
        spec, make_loss(model, spec), params, buffers, num_updates=spec.num_updates, add_metrics=add_metrics
    )
    if spec.kl_coef:
        state["reference"] = make_reference(state, spec)
    return Build(state, update, make_logprob_pass(model))


def main(spec: RlSpec, workdir: Path) -> dict:
    """Trains by GRPO from the policy of ``spec.init``. Returns the summary with held-out scores before and after.

    Raises Stopped, when all is saved, if a signal asked it to end before it was done.
    """
    spec = read(RlSpec, spec)
    check(spec)
    mesh = make_mesh(spec.mesh.axes())
    with open_run(spec, workdir, mesh) as run:
        # Policy, problems, sampler, rewards
        policy, params, buffers = load_policy(spec.init, mesh=mesh, seed=spec.seed)
        policy.save(run.path)
        sync = WeightSync(policy.model, mesh=mesh, axes=spec.rollout_mesh and spec.rollout_mesh.axes())
        schedule = TaskSchedule(spec.tasks, seed=spec.seed)
        rubric = Rubric(load_rewards(spec.rewards, mesh=mesh))
        collector = make_collector(spec, policy, task=schedule.everything, rubric=rubric)
        heldout = heldout_problems(schedule.at(0), spec.eval)
        prompts = PromptIterator(
            schedule.everything, batch_size=spec.questions_per_phase, seed=spec.seed, keep=collector.fits
        )
        compiled_before = collector.engine.num_compilations()

        # Train state
        state, update, score = build(spec, policy.model, params, buffers)
        del params, buffers
        protocol = evaluation_protocol(spec, heldout, is_full=True)
        state, extra = run.restore(state, before=None, protocol=protocol, num_tokens=0)
        if "prompts" in extra:
            prompts.set_state(extra["prompts"])
        updates, before, num_tokens = int(state["step"]), extra["before"], extra["num_tokens"]
        first_protocol = extra.get("protocol", protocol)
        if first_protocol != protocol and is_first():
            print(
                f"the first evaluation was of {first_protocol}; now it is {protocol}: they are not compared", flush=True
            )

        def save():
            run.save(updates, state, extra_now())

        def extra_now() -> dict[str, Any]:
            return {
                "prompts": prompts.get_state(),
                "before": before,
                "protocol": first_protocol,
                "num_tokens": num_tokens,
            }

        num_few, num_many = (count_samples(spec, heldout, is_full=is_full) for is_full in (False, True))

        # Loop
        with run.metrics(total=spec.num_updates, done=updates) as metrics:
            completions = CompletionsWriter(run.path, resume_step=updates)
            along_the_way = range(spec.eval.every, spec.num_updates, spec.eval.every)
            run.progress.expect_evaluations(dict.fromkeys(along_the_way, num_few) | {spec.num_updates: num_many})

            def evaluate_now(*, is_full: bool) -> dict[str, float]:
                mark = time.perf_counter()
                with sync.lend(state) as weights:
                    scores, groups = evaluate_heldout(
                        at_update(collector, updates), weights, heldout, spec, run, updates=updates, is_full=is_full
                    )
                completions.write(updates, completion_rows(groups), split="heldout")
                row = {f"eval/{name}": value for name, value in scores.items()}
                metrics.write(updates, row if is_full else row | {"time/eval": time.perf_counter() - mark})
                return scores

            def keep_best(scores: dict[str, float], *, is_full: bool = False):
                metric = "pass@1" if "pass@1" in scores else "reward"
                if metric in scores:
                    named = f"{metric} of {evaluation_protocol(spec, heldout, is_full=is_full)}"
                    run.save_best(updates, state, extra_now(), metric=named, value=scores[metric])

            try:
                if before is None:
                    before = evaluate_now(is_full=True)
                    save()
                while updates < spec.num_updates:
                    if updates and updates % spec.eval.every == 0:
                        keep_best(evaluate_now(is_full=False))
                    run.stop.check()
                    begin = time.perf_counter()
                    prompts.draw_from(schedule.at(updates))
                    collector_now = at_update(collector, updates)
                    run.progress.phase("sampling")
                    with sync.lend(state) as weights:
                        phase = collect_groups(collector_now, weights, prompts, spec, updates=updates)
                    of_rewards = aggregated_weights(collector_now, spec)
                    advantages_PG = advantages_of(phase.groups, normalization=spec.advantage, weights=of_rewards)
                    rows = completion_rows(phase.groups, advantages_PG)
                    rows += completion_rows(phase.dropped, is_dropped=True)
                    completions.write(updates + spec.updates_per_phase, rows)
                    check_scored(phase, collector_now.rubric.weights)
                    run.progress.phase("updating")
                    state, row, seconds = update_on_groups(
                        phase.groups, advantages_PG, state, update, score, spec, updates=updates
                    )
                    updates += spec.updates_per_phase
                    num_tokens += count_tokens(phase.groups + phase.dropped)
                    seconds |= phase.seconds | {"step": time.perf_counter() - begin}
                    row |= phase.metrics | rollout_metrics(phase.groups, phase.dropped, seconds=seconds)
                    metrics.write(updates, row | {"num_tokens": num_tokens} | skipped_metrics(prompts))
                    if run.is_due(updates):
                        save()
                save()
                after = evaluate_now(is_full=True)
                if not run.checkpoints.has_best:  # no evaluation along the way
                    keep_best(after, is_full=True)
            except Stopped:
                if before is not None:  # else there is nothing yet that a new start would not have
                    save()
                raise
        summary = {"before": before if first_protocol == protocol else None, "after": after, "updates": updates}
        summary["compilations"] = collector.engine.num_compilations() - compiled_before
        return run.mark_done(summary)


def update_on_groups(
    groups, advantages_PG, state, update: Update, score, spec: RlSpec, *, updates: int
) -> tuple[TrainState, dict[str, float], dict[str, float]]:
    """The updates of one phase: (state, metrics row, {"logprobs", "update"} seconds).

    Old and reference log-probs of all of them come first, from the weights that sampled. Raises NonFiniteError.
    """
    mark = time.perf_counter()
    rng = np.random.default_rng([spec.seed, updates])
    reference, minibatches = to_device_memory(state.get("reference")), []
    for questions in split_by_question(len(groups), spec.updates_per_phase, rng):
        microbatches = make_microbatches([groups[question] for question in questions], advantages_PG[questions], spec)
        require_same(microbatches, f"update {updates + 1 + len(minibatches)}: its batch")
        minibatches.append([with_logps(score, state, reference, place_batch(batch)) for batch in microbatches])
    jax.block_until_ready(minibatches)
    del reference  # if it was fetched, it is freed before the updates
    seconds = {"logprobs": time.perf_counter() - mark}

    mark = time.perf_counter()
    totals, infos = [], []
    for microbatches in minibatches:
        state, sums, info = finite_update(state, update, microbatches)
        updates += 1
        totals, infos = [*totals, sums], [*infos, info]
        if spec.kl_coef and updates % spec.reference_every == 0:
            state["reference"] = make_reference(state, spec)
    row = update_metrics(totals, infos)
    return state, row, seconds | {"update": time.perf_counter() - mark}


def with_logps(score, state, reference, batch: dict) -> dict:
    """The micro-batch with the old policy's and, if there is one, the reference's log-probs of its targets."""
    logps = {"old_logp": score(state["params"], state["buffers"], batch)}
    if reference is not None:
        logps["ref_logp"] = score(reference["params"], reference["buffers"], batch)
    return batch | logps


def make_reference(state: TrainState, spec: RlSpec) -> dict[str, Any]:
    """A copy of the policy as it is now, in the host's memory where "offload" says so."""
    policy = {"params": state["params"], "buffers": state["buffers"]}
    return to_host_memory(policy) if REFERENCE in spec.offload else copy_tree(policy)
