"""RL stage: GRPO with rule rewards (R1-Zero, stage 1) and reward models (stage 2), in phases of N questions × G
outputs.

One phase (spec B.3): lend the sampler the weights, sample prompts, collect scored groups, add old and reference
log-probs, update; the reference is refreshed every R updates. Sampler and trainer hold the same arrays, unless
``rollout_mesh`` gives the sampler a layout or devices of its own (`r1jax.rollout.weight_sync`). Tasks and rewards may
join along the way (``from_update``, spec B.6.4): what takes part follows from the number of updates alone, so a resumed
run needs no other record of it. Held out are problems of the tasks that take part from the start.

Off-policy by choice: ``partial_rollouts`` carries what is not done over into the next phase (`questions`), ``overlap``
samples the next phase during the update (`ahead`).

Deviations from the paper, all in the config: sizes. Of the defaults: 1. a phase is one update of 32 questions, not 16
(R1 Sec. B.1 calls the 16 an acceleration); 2. responses have 1,024 tokens, not 32,768, which no laptop holds.
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import members
from r1jax.data.prompts import PromptIterator
from r1jax.evals.evaluate import MOST_PROBLEMS, heldout_problems
from r1jax.models.transformer import Model
from r1jax.objectives.grpo import grpo_loss
from r1jax.policies.preview import Previews
from r1jax.policies.reward_model import load_rewards, stand_in_rewards
from r1jax.processes import is_first, require_same
from r1jax.rewards.rubric import Rubric
from r1jax.rollout.weight_sync import WeightSync, make_rollout_mesh
from r1jax.sharding import constrain, make_mesh, place_batch
from r1jax.specs.reader import read
from r1jax.specs.stages import RlSpec
from r1jax.stages.open_run import open_run
from r1jax.stages.rl.ahead import Ahead, may_sample_ahead
from r1jax.stages.rl.doctor import Doctor, UnhealthyRunError
from r1jax.stages.rl.log import completion_rows, count_tokens, rollout_metrics, update_metrics
from r1jax.stages.rl.mismatch import mismatch_metrics, recorded_experts
from r1jax.stages.rl.phase import (
    at_update,
    check_scored,
    collect_groups,
    evaluate_heldout,
    evaluation_protocol,
    make_microbatches,
    skipped_metrics,
    split_by_question,
    start_sampling,
)
from r1jax.stages.rl.questions import Question, draw
from r1jax.stages.sampling import check_sampled, make_collector
from r1jax.stages.training import (
    auxiliary_losses,
    check_auxiliary,
    drafting_loss,
    finite_update,
    hidden_of,
    loss_weights,
    make_train_state,
    num_mtp_depths,
)
from r1jax.tasks.mixture import TaskSchedule
from r1jax.text.chat import check_template
from r1jax.training.learner import TrainState, Update, copy_tree
from r1jax.training.offload import REFERENCE, check_offload, to_device_memory, to_host_memory
from r1jax.workdir.metrics import CompletionsWriter


def check(spec: RlSpec, previews: Previews | None = None) -> None:
    """Raises ValueError, naming the key, for what cannot train; reads files of problems, makes a few others."""
    previews = previews or Previews()
    check_template(spec.template)
    mesh = make_mesh(spec.mesh.axes())
    if spec.rollout_mesh is not None:
        make_rollout_mesh(spec.rollout_mesh.axes(), mesh)
    check_offload(spec.offload, devices=mesh.local_devices)
    rubric = Rubric(stand_in_rewards(spec.rewards))
    schedule = TaskSchedule(spec.tasks, seed=spec.seed)
    rubric.check_tasks(schedule.starts)
    if spec.refill_reward is not None and spec.refill_reward not in rubric.names:
        names = ", ".join(rubric.names)
        raise ValueError(f"refill_reward: there is no reward {spec.refill_reward!r}; there are {names}")
    for index, (name, start) in enumerate(schedule.starts.items()):
        if not rubric.at(start).applies_to(name):
            raise ValueError(
                f"tasks[{index}]: no reward with a weight applies to {name!r} when it joins, at update {start}"
            )
    heldout = heldout_problems(schedule.at(0), spec.eval)
    preview = previews.policy(spec.init, seed=spec.seed)
    if preview is not None:
        check_auxiliary(preview.config, mtp_weight=spec.mtp_weight, balance_weight=spec.balance_weight)
    check_sampled(spec, previews, rubric, trained=schedule.everything, heldout=heldout)


def make_logprob_pass(model):
    """(params, buffers, microbatch) -> log π of the targets at the sampling temperature, [R, T]."""

    def score(params, buffers, batch):
        hidden_BTD, _, _ = hidden_of(model, params, buffers, batch)
        logp_BT, _ = model.token_logprob(params, hidden_BTD, batch["targets"], temperature=batch["temperature"])
        return constrain(logp_BT, ("batch", None))  # laid out as the batch is

    return members.jit(score)


def make_loss(model: Model, spec: RlSpec):
    """(params, buffers, microbatch) -> (GRPO loss, sums); the microbatch carries old and reference log-probs.

    Where its "is_on_policy" is not 0, the weights are those that the phase began with: the old log-probs are the policy's
    own, and those that it carries are not looked at.
    """

    def loss_function(params, buffers, batch):
        routing = {"balance": spec.balance_weight > 0, "record": recorded_experts(batch) is not None}
        hidden_BTD, _, aux = hidden_of(model, params, buffers, batch, **routing)
        weight_BT = loss_weights(batch, spec)
        logp_BT, entropy_BT = model.token_logprob(
            params, hidden_BTD, batch["targets"], temperature=batch["temperature"]
        )
        old_logp_BT = jnp.where(batch["is_on_policy"] != 0, logp_BT, batch["old_logp"])  # grpo_loss stops its gradient
        loss, metrics = grpo_loss(
            logp_BT,
            old_logp_BT=old_logp_BT,
            advantage_BT=batch["advantage"],
            weight_BT=weight_BT,
            segment_ids_BT=batch["segment_ids"],
            ref_logp_BT=batch.get("ref_logp"),
            sampler_logp_BT=batch["sampler_logp"],
            entropy_BT=entropy_BT,
            clip_low=members.setting("clip_low", spec.clip_low),
            clip_high=members.setting("clip_high", spec.clip_high),
            dual_clip=spec.dual_clip,
            kl_coef=members.setting("kl_coef", spec.kl_coef),
            kl_estimator=spec.kl_estimator,
            ratio_level=spec.ratio_level,
            importance_cap=spec.importance_cap,
        )
        mismatch = mismatch_metrics(batch, old_logp_BT, weight_BT != 0, aux, longest=spec.longest)
        mtp = functools.partial(drafting_loss, model, params, buffers, hidden_BTD, batch, weight_BT)
        extra, sums = auxiliary_losses(spec, buffers, batch, aux, mtp=mtp)
        return loss + extra, {**metrics, **mismatch, **sums, "max": metrics["max"] | mismatch["max"]}

    return loss_function


def build(spec: RlSpec, model: Model, params, buffers) -> tuple[TrainState, Update, Callable]:
    """Train state, update and log-prob pass from weights that are laid out on their mesh, or ShapeDtypeStructs of them."""
    state, update = make_train_state(spec, make_loss(model, spec), params, buffers, num_updates=spec.num_updates)
    if spec.kl_coef:
        state["reference"] = make_reference(state, spec)
    return state, update, make_logprob_pass(model)


def main(spec: RlSpec, workdir: Path) -> dict:
    """Trains by GRPO from the policy of ``spec.init``. Returns the summary with held-out scores before and after.

    Raises Stopped, when all is saved, if a signal asked it to end before it was done.
    """
    spec = read(RlSpec, spec)
    check(spec)
    with open_run(spec, workdir) as run:
        # Policy, problems, sampler, rewards
        policy, params, buffers = run.load_policy()
        axes = spec.rollout_mesh and spec.rollout_mesh.axes()
        sync = WeightSync(policy.model, mesh=run.mesh, axes=axes, dtype=spec.engine.dtype)
        schedule = TaskSchedule(spec.tasks, seed=spec.seed)
        rubric = Rubric(load_rewards(spec.rewards, mesh=run.mesh))
        collector = make_collector(spec, policy, task=schedule.everything, rubric=rubric)
        heldout = heldout_problems(schedule.at(0), spec.eval)
        prompts = PromptIterator(
            schedule.everything, batch_size=spec.questions_per_phase, seed=spec.seed, keep=collector.fits
        )
        compiled_before = collector.engine.num_compilations()

        # Train state
        run.state, update, score = build(spec, policy.model, params, buffers)
        del params, buffers
        cadence = {"total": spec.num_updates, "evaluate_every": spec.eval.every}
        protocol = evaluation_protocol(spec, heldout, is_full=True)
        kept = {"before": None, "protocol": protocol, "num_tokens": 0, "doctor": None, "carried": []}
        run.restore(**cadence, streams={"prompts": prompts}, **kept)
        if (first := run.kept["protocol"]) != protocol and is_first():
            print(f"the first evaluation was of {first}; now it is {protocol}: they are not compared", flush=True)
        completions = CompletionsWriter(run.path, resume_step=run.updates)
        logged = collector.tokenizer if spec.log_tokens else None
        few = heldout[: spec.eval.problems or MOST_PROBLEMS]
        along_the_way = dict.fromkeys(
            range(spec.eval.every, spec.num_updates, spec.eval.every), len(few) * spec.eval.samples
        )
        run.progress.expect_evaluations(along_the_way | {spec.num_updates: len(heldout) * spec.eval.final_samples})

        def evaluate_now(*, is_full: bool) -> dict[str, float]:
            mark = time.perf_counter()
            with sync.lend(run.state) as weights:
                collector_now = at_update(collector, run.updates)
                asked = heldout if is_full else few
                scores, groups = evaluate_heldout(collector_now, weights, asked, spec, run, is_full=is_full)
            completions.write(run.updates, completion_rows(groups, tokenizer=logged), split="heldout")
            row = {f"eval/{name}": value for name, value in scores.items()}
            run.metrics.write(run.updates, row if is_full else row | {"time/eval": time.perf_counter() - mark})
            if run.updates and not (is_full and run.checkpoints.has_best):
                run.save_best(scores, protocol=evaluation_protocol(spec, asked, is_full=is_full))
            return scores

        doctor = Doctor(spec.doctor, group_size=spec.group_size, memory=run.kept["doctor"])
        run.kept["doctor"] = doctor.memory

        # Loop
        if run.kept["before"] is None:
            run.kept["before"] = evaluate_now(is_full=True)
            run.save()

        def draw_now(updates: int) -> list[Question]:
            prompts.draw_from(schedule.at(updates))
            carried = [Question.from_json(row, schedule) for row in run.kept["carried"]]
            return carried + draw(prompts, spec.questions_in_flight - len(carried), updates=updates)

        with Ahead(sync, prompts) as ahead:
            for updates in run.loop(spec.updates_per_phase):
                if doctor.verdict:
                    ahead.give_up()
                    run.save()
                    raise UnhealthyRunError(doctor.verdict)
                if updates and updates % spec.eval.every == 0:
                    evaluate_now(is_full=False)
                    run.stop.check()
                begin, following = time.perf_counter(), updates + spec.updates_per_phase
                collector_now, of_overlap = at_update(collector, updates), {}
                run.progress.phase("sampling")
                if ahead.is_under_way:
                    started, waited = ahead.take()
                    phase = collect_groups(collector_now, {}, prompts, spec, updates=updates, started=started)
                    of_overlap = {"generate_hidden": max(phase.seconds["generate"] - waited, 0.0)}
                else:
                    questions = draw_now(updates)
                    with sync.lend(run.state) as weights:
                        phase = collect_groups(
                            collector_now, weights, prompts, spec, updates=updates, questions=questions
                        )
                skipped = skipped_metrics(prompts)
                run.kept["carried"] = [question.to_json() for question in phase.carried]
                rows = completion_rows(phase.groups, phase.advantages_PG, tokenizer=logged)
                rows += completion_rows(phase.dropped, is_dropped=True, tokenizer=logged)
                completions.write(following, rows)
                check_scored(phase, collector_now.rubric.weights)
                if may_sample_ahead(spec, run, following):
                    next_one = {"spec": spec, "updates": following, "policy_version": updates}
                    sample = functools.partial(start_sampling, at_update(collector, following), **next_one)
                    of_overlap["copy"] = ahead.begin(run.state, functools.partial(draw_now, following), sample)
                run.progress.phase("updating")
                run.state, row, seconds = update_on_groups(
                    phase.groups, phase.advantages_PG, run.state, update, score, spec, updates=updates
                )
                run.kept["num_tokens"] += count_tokens(phase.groups + phase.dropped)
                seconds |= phase.seconds | of_overlap | {"step": time.perf_counter() - begin}
                row |= phase.metrics | rollout_metrics(phase.groups, phase.dropped, seconds=seconds)
                row |= {"num_tokens": run.kept["num_tokens"]} | skipped
                run.metrics.write(following, row)
                doctor.examine(following, row)
        after = evaluate_now(is_full=True)
        is_comparable = run.kept["protocol"] == protocol
        summary = {"before": run.kept["before"] if is_comparable else None, "after": after, "updates": run.updates}
        summary["compilations"] = collector.engine.num_compilations() - compiled_before
        return run.mark_done(summary)


def update_on_groups(
    groups, advantages_PG, state, update: Update, score, spec: RlSpec, *, updates: int
) -> tuple[TrainState, dict[str, float], dict[str, float]]:
    """The updates of one phase: (state, metrics row, {"logprobs", "update"} seconds).

    Old and reference log-probs of all of them come first, from the weights before the phase; the first update needs no old
    ones, since it computes them itself (`make_loss`). An update without a token in its loss counts as one and changes
    nothing: neither moments nor weight decay move the weights. Raises NonFiniteError.
    """
    mark = time.perf_counter()
    rng = np.random.default_rng([spec.seed, updates])
    reference, minibatches = to_device_memory(state.get("reference")), []
    num_ahead = 1 + num_mtp_depths(state["params"])
    for questions in split_by_question(len(groups), spec.updates_per_phase, rng):
        chosen = [groups[question] for question in questions]
        microbatches = make_microbatches(chosen, advantages_PG[questions], spec, num_ahead=num_ahead)
        require_same(microbatches, f"update {updates + 1 + len(minibatches)}: its batch")
        is_on_policy = np.float32(not minibatches)
        placed = [place_batch(batch | {"is_on_policy": is_on_policy}) for batch in microbatches]
        policy = None if is_on_policy else state
        minibatches.append([with_logps(score, policy, reference, batch) for batch in placed])
    jax.block_until_ready(minibatches)
    del reference  # if it was fetched, it is freed before the updates
    seconds = {"logprobs": time.perf_counter() - mark}

    mark = time.perf_counter()
    totals, infos = [], []
    for microbatches in minibatches:
        if float(microbatches[0]["num_tokens"]):
            state, sums, info = finite_update(state, update, microbatches)
            totals, infos = [*totals, members.on_host(sums)], [*infos, members.on_host(info)]
        else:
            state = {**state, "step": state["step"] + 1}
        updates += 1
        if spec.kl_coef and updates % spec.reference_every == 0:
            state["reference"] = make_reference(state, spec)
    row = update_metrics(totals, infos) if totals else {"num_loss_tokens": 0.0}
    return state, row, seconds | {"update": time.perf_counter() - mark}


def with_logps(score, policy, reference, batch: dict) -> dict:
    """The micro-batch with the policy's and the reference's log-probs of its targets, each if it is given.

    Where the policy's are not needed (`make_loss`) the sampler's stand for them, so that the loss has one program.
    The policy takes the sampler's experts where they are replayed, the reference its own: those are part of what it is.
    """
    by_itself = {name: array for name, array in batch.items() if name != "replayed"}
    logps = {
        name: score(weights["params"], weights["buffers"], seen)
        for name, weights, seen in (("old_logp", policy, batch), ("ref_logp", reference, by_itself))
        if weights is not None
    }
    return batch | {"old_logp": batch["sampler_logp"]} | logps


def make_reference(state: TrainState, spec: RlSpec) -> dict[str, Any]:
    """A copy of the policy as it is now, in the host's memory where "offload" says so."""
    policy = {"params": state["params"], "buffers": state["buffers"]}
    return to_host_memory(policy) if REFERENCE in spec.offload else copy_tree(policy)
