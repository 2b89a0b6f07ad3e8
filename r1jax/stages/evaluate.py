"""Evaluate stage: a policy on held-out problems of several tasks, with intervals over problems (R1 v2 App. D.1).

Of each task the first ``problems`` distinct held-out problems, ``samples`` of each: pass@1, majority votes of several
sizes, lengths, language, reflection and every reward; their weight and from_update play no part.

It leaves metrics.jsonl with a row a task (step 1 the first, ...), and completions/heldout_000001.jsonl, ... with every
sample. A run that was stopped goes on with the first task that has no row.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from r1jax.evals.evaluate import distinct_problems, evaluate, samples_of
from r1jax.evals.statistics import vote_metrics
from r1jax.policies.preview import Previews
from r1jax.policies.reward_model import load_rewards, stand_in_rewards
from r1jax.processes import on_first
from r1jax.rewards.calls import Entry
from r1jax.rewards.rubric import Rubric
from r1jax.rollout.collect import score_in_background
from r1jax.rollout.weight_sync import for_sampling
from r1jax.sharding import make_mesh
from r1jax.specs.reader import read
from r1jax.specs.rewards import FunctionReward
from r1jax.specs.stages import EvaluateSpec
from r1jax.stages.open_run import open_run
from r1jax.stages.rl.log import completion_rows, say_failures, text_metrics
from r1jax.stages.sampling import check_sampled, make_collector
from r1jax.tasks.mixture import make_mixture, make_tasks
from r1jax.tasks.problem import Problem, Task
from r1jax.text.chat import check_template, response_form
from r1jax.workdir.metrics import CompletionsWriter
from r1jax.workdir.read import read_rows


def check(spec: EvaluateSpec, previews: Previews | None = None) -> None:
    """Raises ValueError, naming the key, for what cannot run; draws the held-out problems."""
    previews = previews or Previews()
    check_template(spec.template)
    make_mesh(spec.mesh.axes())
    make_mixture(spec.tasks)  # which refuses a name used twice
    problems = problems_of(spec)
    rubric = make_rubric(stand_in_rewards(spec.rewards))
    rubric.check_tasks(task.name for task, _ in problems)
    for task, (first, *_) in problems:
        try:
            check_template(spec.template, first.messages)
            score_in_background(rubric, first, ["1"], task=task, template=spec.template)
        except ValueError as error:
            raise ValueError(f"task {task.name!r}: {error}") from error
    check_sampled(spec, previews, rubric, heldout=[problem for _, asked in problems for problem in asked])


def problems_of(spec: EvaluateSpec) -> list[tuple[Task, list[Problem]]]:
    """Each task with its first distinct held-out problems. Raises ValueError for a task that has not as many."""
    tasks = make_tasks(spec.tasks)
    try:
        return [(task, distinct_problems(task, spec.problems, split="heldout")) for task in tasks]
    except ValueError as error:
        raise ValueError(f"problems={spec.problems}: {error}") from error


def make_rubric(rewards: Sequence[FunctionReward | Entry]) -> Rubric:
    """The rewards, all from the start and with no weight: they are logged only."""
    return Rubric([dataclasses.replace(reward, weight=0.0, from_update=0) for reward in rewards])


def main(spec: EvaluateSpec, workdir: Path) -> dict:
    """Samples and scores. Returns the summary: {"tasks": {name: metrics}, "wall_seconds", "seed"}.

    Raises Stopped if a signal asked it to end; the tasks that were finished are kept.
    """
    spec = read(EvaluateSpec, spec)
    check(spec)
    problems = problems_of(spec)
    with open_run(spec, workdir) as run:
        # Policy, sampler, rewards
        policy, params, buffers = run.load_policy()
        params, buffers = for_sampling(policy.model, params, buffers, mesh=run.mesh, dtype=spec.engine.dtype)
        rubric = make_rubric(load_rewards(spec.rewards, mesh=run.mesh))
        collector = make_collector(spec, policy, task=problems[0][0], rubric=rubric)
        style, _ = response_form(spec.template, policy.tokenizer)

        # Loop
        done = len(on_first(lambda: read_rows(run.path / "metrics.jsonl", [])))
        metrics = run.open_metrics(total=len(problems), done=done)
        completions = CompletionsWriter(run.path, resume_step=done)
        for number, (task, asked) in list(enumerate(problems))[done:]:
            begin = time.perf_counter()

            def before_batch(problems_done: int, name=task.name):
                run.stop.check()
                run.progress.phase(f"evaluating {name}", problems_done * spec.samples, spec.problems * spec.samples)

            scores, groups = evaluate(
                dataclasses.replace(collector, task=task),
                params,
                buffers,
                asked,
                num_samples=spec.samples,
                max_new_tokens=spec.max_new_tokens,
                temperature=spec.temperature,
                top_p=spec.top_p,
                key=jax.random.fold_in(jax.random.key(spec.seed), number),
                policy_version=0,
                problems_per_batch=spec.problems_per_batch,
                before_batch=before_batch,
            )
            samples = [samples_of(group, task, style=style) for group in groups]
            row = scores | vote_metrics(samples, spec.cons_at, with_gains=True)
            row |= text_metrics([rollout for group in groups for rollout in group.rollouts])
            say_failures(groups, where=f"warning: task {task.name}")
            completions.write(number + 1, completion_rows(groups), split="heldout")
            row = {f"{task.name}/{name}": value for name, value in row.items()}
            metrics.write(number + 1, row | {"time/step": time.perf_counter() - begin})

        # Summary
        rows = on_first(lambda: read_rows(run.path / "metrics.jsonl", []))
        tasks = {}
        for (task, _), row in zip(problems, rows, strict=True):
            prefix = f"{task.name}/"
            tasks[task.name] = {key.removeprefix(prefix): row[key] for key in row if key.startswith(prefix)}
        return run.mark_done({"tasks": tasks, "wall_seconds": sum(row["time/step"] for row in rows)})
