"""RL stage: GRPO with rule rewards (R1-Zero, stage 1) and reward models (stage 2), in phases of N questions × G outputs.

One phase (spec B.3): lend the sampler the weights, sample prompts, collect scored groups, add old and reference log-probs,
update; the reference is refreshed every R updates. Sampler and trainer hold the same arrays, unless "rollout_mesh" gives the
sampler a layout or devices of its own (`r1jax.rollout.weight_sync`). Tasks and rewards may join along the way
("from_update", spec B.6.4): what takes part follows from the number of updates alone, so a resumed run needs no other
record of it. Held out are problems of the tasks that take part from the start. Deviations from the paper, all in the config:
sizes.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from r1jax.data.prompts import make_prompt_iterator
from r1jax.evals.evaluate import distinct_problems
from r1jax.models.transformer import Model
from r1jax.objectives.grpo import grpo_loss
from r1jax.objectives.sums import add_metrics
from r1jax.objectives.weights import token_weights
from r1jax.policies.policy import load_policy
from r1jax.policies.reward_model import load_rewards
from r1jax.processes import require_same
from r1jax.rewards.rubric import Rubric
from r1jax.rollout.collect import Collector
from r1jax.rollout.engine import make_engine
from r1jax.rollout.weight_sync import WeightSync
from r1jax.sharding import make_mesh, place_batch
from r1jax.stages.auxiliary import balance_loss, check_auxiliary, expert_counts
from r1jax.stages.keys import offload_of, options_of, rollout_axes
from r1jax.stages.rl.batch import advantages_of, make_microbatches, split_by_question
from r1jax.stages.rl.check import LOSS_OPTIONS, check
from r1jax.stages.rl.collect import (
    aggregated_weights,
    at_update,
    check_prompts,
    check_scored,
    collect_groups,
    evaluate_heldout,
    skipped_metrics,
)
from r1jax.stages.rl.log import completion_rows, count_tokens, rollout_metrics, update_metrics
from r1jax.tasks.schedule import make_schedule
from r1jax.training.checkpoint import Checkpoints
from r1jax.training.learner import NonFiniteError, TrainState, Update, copy_tree, init_state, make_update, update_once
from r1jax.training.offload import OPTIMIZER, REFERENCE, to_device, to_host
from r1jax.training.optimizer import make_optimizer
from r1jax.workdir.directory import open_workdir
from r1jax.workdir.lineage import record_lineage
from r1jax.workdir.metrics import CompletionsWriter, MetricsWriter
from r1jax.workdir.stop import Stopped, graceful_stop


def make_score(model):
    """(params, buffers, microbatch) -> log π of the targets at the sampling temperature, [R, T]."""

    def score(params, buffers, batch):
        hidden_BTD, _, _ = model.hidden(
            params, buffers, batch["tokens"], positions_BT=batch["positions"], segments_BT=batch["segment_ids"]
        )
        return model.token_logprob(params, hidden_BTD, batch["targets"], temperature=batch["temperature"])[0]

    return jax.jit(score)


def make_loss(model, *, aggregation: str, constant: float | None, balance_weight: float = 0.0, **options):
    """(params, buffers, microbatch) -> (GRPO loss, sums); the microbatch carries old and reference log-probs.

    balance_weight is α of V3 Eq. 17; where it is 0 the balance loss is not computed. The options are those of ``grpo_loss``.
    """
    check_auxiliary(model, mtp_weight=0.0, balance_weight=balance_weight)

    def loss_function(params, buffers, batch):
        hidden_BTD, _, aux = model.hidden(
            params,
            buffers,
            batch["tokens"],
            positions_BT=batch["positions"],
            segments_BT=batch["segment_ids"],
            balance=balance_weight > 0,
        )
        logp_BT, entropy_BT = model.token_logprob(
            params, hidden_BTD, batch["targets"], temperature=batch["temperature"]
        )
        weight_BT = token_weights(
            batch["mask"],
            batch["segment_ids"],
            aggregation=aggregation,
            num_sequences=batch["num_sequences"],
            num_tokens=batch["num_tokens"],
            constant=constant,
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
            **options,
        )
        if balance_weight:
            balance = balance_loss(aux, None, num_sequences=batch["num_segments"])
            loss += balance_weight * balance
            metrics["moe/balance_loss"] = jax.lax.stop_gradient(balance) * batch["num_tokens"]
        return loss, {**metrics, "expert_counts": expert_counts(buffers, aux)}

    return loss_function


class Build(NamedTuple):
    """The step functions of the stage, jitted, and the state that they start from."""

    state: TrainState
    update: Update
    score: Callable


def build(config: ConfigDict, model: Model, params, buffers) -> Build:
    """Train state, update and log-prob pass from weights that are laid out on their mesh, or ShapeDtypeStructs of them."""
    optimizer, schedule = make_optimizer(total_steps=config.num_updates, **config.optimizer)
    state = init_state(params, buffers, optimizer=optimizer)
    if OPTIMIZER in offload_of(config):
        state["opt_state"] = to_host(state["opt_state"])
    if config.kl_coef:
        state["reference"] = make_reference(state, config)
    options: dict[str, Any] = options_of(config, [*LOSS_OPTIONS, "balance_weight"])
    loss_function = make_loss(
        model,
        aggregation=config.aggregation,
        constant=config.aggregation_constant,
        **options,
    )
    update = make_update(
        loss_function,
        optimizer,
        schedule=schedule,
        state=state,
        bias_rate=config.bias_rate,
        add_metrics=add_metrics,
    )
    return Build(state, update, make_score(model))


def main(config: ConfigDict, workdir: Path) -> dict:
    """Trains by GRPO from the policy of ``config.init``. Returns the summary with held-out scores before and after.

    Raises Stopped, when all is saved, if a signal asked it to end before it was done.
    """
    start_time = time.monotonic()
    check(config)
    mesh = make_mesh(config.mesh)
    with (
        open_workdir(workdir, config.to_dict()) as run,
        jax.set_mesh(mesh),
        graceful_stop() as stop,
        Checkpoints(workdir, keep=config.keep_checkpoints, every=config.checkpoint_every) as checkpoints,
    ):
        record_lineage(workdir, config.to_dict())

        # Policy, problems, sampler, rewards
        policy, params, buffers = load_policy(config.init.to_dict(), mesh=mesh, seed=config.seed)
        sync = WeightSync(policy.model, mesh=mesh, axes=rollout_axes(config))
        policy.save(workdir)
        schedule = make_schedule(config.tasks, seed=config.seed)
        collector = Collector(
            engine=make_engine(policy.model, pad_id=policy.tokenizer.pad_id, **config.engine),
            tokenizer=policy.tokenizer,
            task=schedule.everything,
            rubric=Rubric(load_rewards(config.rewards, mesh=mesh, rows=config.group_size)),
            template=config.template,
            max_prompt_tokens=config.max_prompt_tokens,
        )
        heldout = distinct_problems(schedule.at(0), config.eval.final_problems, split="heldout")
        for problem in heldout:
            collector.encode(problem)
        for task in schedule.periods.values():
            check_prompts(collector, task)
        prompts = make_prompt_iterator(
            schedule.everything, batch_size=config.questions_per_phase, seed=config.seed, keep=collector.fits
        )
        compiled_before = collector.engine.num_compilations()

        # Train state
        state, update, score = build(config, policy.model, params, buffers)
        del params, buffers
        run.require_space(checkpoints.bytes_to_come(state))
        updates, before, earlier_seconds, num_tokens = 0, None, 0.0, 0
        if checkpoints.latest_step() is not None:
            state, extra = checkpoints.restore(state)
            prompts.set_state(extra["prompts"])
            updates, before, earlier_seconds = int(state["step"]), extra["before"], extra["wall_seconds"]
            num_tokens = extra["num_tokens"]

        def wall_seconds():
            return earlier_seconds + time.monotonic() - start_time

        def save():
            extra = {"prompts": prompts.get_state(), "before": before, "num_tokens": num_tokens}
            extra["wall_seconds"] = wall_seconds()
            checkpoints.save(updates, state, extra=extra)

        # Loop
        with MetricsWriter(workdir, total=config.num_updates, resume_step=updates) as metrics:
            completions = CompletionsWriter(workdir, resume_step=updates)

            def evaluate_now(*, is_full: bool):
                mark = time.perf_counter()
                with sync.lend(state) as weights:
                    scores, groups = evaluate_heldout(
                        at_update(collector, updates),
                        weights,
                        heldout,
                        config,
                        updates=updates,
                        is_full=is_full,
                        before_batch=stop.check,
                    )
                row = {f"eval/{name}": value for name, value in scores.items()}
                completions.write(updates, completion_rows(groups), split="heldout")
                if not is_full:
                    row["time/eval"] = time.perf_counter() - mark
                metrics.write(updates, row)
                return scores

            try:
                if before is None:
                    before = evaluate_now(is_full=True)
                    save()
                while updates < config.num_updates:
                    if updates and updates % config.eval.every == 0:
                        evaluate_now(is_full=False)
                    stop.check()
                    begin = time.perf_counter()
                    prompts.draw_from(schedule.at(updates))
                    collector_now = at_update(collector, updates)
                    with sync.lend(state) as weights:
                        phase = collect_groups(collector_now, weights, prompts, config, updates=updates)
                    groups, dropped, seconds, row = phase
                    advantages_PG = advantages_of(
                        groups, normalization=config.advantage, weights=aggregated_weights(collector_now, config)
                    )
                    rows = completion_rows(groups, advantages_PG) + completion_rows(dropped, is_dropped=True)
                    completions.write(updates + config.updates_per_phase, rows)
                    check_scored(phase, collector_now.rubric.weights)
                    state, totals, infos, spent = train_on(
                        groups, advantages_PG, state, update, score, config, updates=updates
                    )
                    updates += len(infos)
                    num_tokens += count_tokens(groups + dropped)
                    seconds |= spent | {"step": time.perf_counter() - begin}
                    row |= rollout_metrics(groups, dropped, seconds=seconds) | update_metrics(totals, infos)
                    row |= {"num_tokens": num_tokens} | skipped_metrics(prompts)
                    metrics.write(updates, row)
                    if checkpoints.is_due(updates):
                        save()
                save()
                after = evaluate_now(is_full=True)
            except Stopped:
                if before is not None:  # else there is nothing yet that a new start would not have
                    save()
                raise
        checkpoints.wait()
        summary = {"before": before, "after": after, "updates": updates, "seed": config.seed}
        summary["wall_seconds"] = wall_seconds()
        summary["compilations"] = collector.engine.num_compilations() - compiled_before
        run.mark_done(summary)
    return summary


def train_on(groups, advantages_PG, state, update: Update, score, config: ConfigDict, *, updates: int):
    """The updates of one phase: (state, metric sums of each, info of each, {"logprobs", "update"} seconds).

    Old and reference log-probs of all of them come first, from the weights that sampled. Raises NonFiniteError.
    """
    mark = time.perf_counter()
    rng = np.random.default_rng([config.seed, updates])
    reference, minibatches = to_device(state.get("reference")), []
    for questions in split_by_question(len(groups), config.updates_per_phase, rng):
        microbatches = make_microbatches(
            [groups[question] for question in questions],
            advantages_PG[questions],
            row_length=config.row_length,
            rows_per_microbatch=config.rows_per_microbatch,
            temperature=config.temperature,
            mask_truncated=config.mask_truncated,
        )
        require_same(microbatches, f"update {updates + 1 + len(minibatches)}: its batch")
        minibatches.append([with_logps(score, state, reference, place_batch(batch)) for batch in microbatches])
    jax.block_until_ready(minibatches)
    del reference  # if it was fetched, it is freed before the updates
    seconds = {"logprobs": time.perf_counter() - mark}

    mark = time.perf_counter()
    totals, infos = [], []
    for microbatches in minibatches:
        state, sums, info = update_once(state, update, microbatches)
        updates += 1
        if not info.pop("finite"):
            raise NonFiniteError(f"update {updates}: the gradient is not finite; the last good checkpoint is kept")
        totals, infos = [*totals, sums], [*infos, info]
        if config.kl_coef and updates % config.reference_every == 0:
            state["reference"] = make_reference(state, config)
    return state, totals, infos, seconds | {"update": time.perf_counter() - mark}


def with_logps(score, state, reference, batch: dict) -> dict:
    """The micro-batch with the old policy's and, if there is one, the reference's log-probs of its targets."""
    logps = {"old_logp": score(state["params"], state["buffers"], batch)}
    if reference is not None:
        logps["ref_logp"] = score(reference["params"], reference["buffers"], batch)
    return batch | logps


def make_reference(state: TrainState, config: ConfigDict) -> dict[str, Any]:
    """A copy of the policy as it is now, in the host's memory where the config's "offload" says so."""
    policy = {"params": state["params"], "buffers": state["buffers"]}
    return to_host(policy) if REFERENCE in offload_of(config) else copy_tree(policy)
