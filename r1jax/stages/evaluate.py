"""Evaluate stage: a policy on held-out problems of several tasks, with intervals over problems (R1 v2 App. D.1).

Of each task the first ``problems`` distinct held-out problems, ``samples`` of each: pass@1, majority votes of several sizes,
lengths, language, reflection and every reward. Rewards are logged only: their "weight" and "from_update" may stand there,
so that a list is shared with an RL stage, and play no part.

What it leaves, besides what every work directory has: metrics.jsonl with a row a task (step 1 the first, ...), and
completions/heldout_000001.jsonl, ... with every sample. A run that was stopped goes on with the first task that has no row.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from r1jax.evals.evaluate import distinct_problems, evaluate, samples_of
from r1jax.evals.statistics import bootstrap_interval, vote_gains, vote_metrics
from r1jax.policies.policy import check_init, load_policy
from r1jax.policies.reward_model import load_rewards, stand_in_rewards
from r1jax.processes import is_first, on_first
from r1jax.rewards.rubric import Rubric
from r1jax.rollout.collect import Collector, reward_columns
from r1jax.rollout.engine import make_engine
from r1jax.rollout.records import Completion, Group
from r1jax.rollout.weight_sync import for_sampling
from r1jax.sharding import make_mesh
from r1jax.stages.keys import check_counts, check_engine, check_finite, check_keys, check_sampling
from r1jax.stages.rl.log import completion_rows, text_metrics
from r1jax.stages.splits import check_same_split
from r1jax.tasks.mixture import make_tasks, mix
from r1jax.tasks.problem import Problem, Task
from r1jax.text.chat import check_template, response_form
from r1jax.workdir.directory import open_workdir, read_lines
from r1jax.workdir.lineage import record_lineage
from r1jax.workdir.metrics import CompletionsWriter, MetricsWriter
from r1jax.workdir.stop import graceful_stop

COUNTS = ("problems", "samples", "problems_per_batch", "max_prompt_tokens", "max_new_tokens")
KEYS = (*COUNTS, "stage", "seed", "mesh", "init", "tasks", "template", "rewards", "cons_at", "temperature", "top_p")


def check(config: ConfigDict) -> None:
    """Raises ValueError, naming the key, for a config that cannot run; draws the held-out problems."""
    check_keys(config, required=(*KEYS, "engine"), where="evaluate")
    check_counts(config, COUNTS, where="evaluate")
    check_counts(config, ("seed",), where="evaluate", least=0)
    check_engine(config.engine, where="evaluate: engine", samples={"samples": config.samples})
    check_finite(config.to_dict(), where="evaluate")
    check_sampling(config, where="evaluate")
    if config.problems % config.problems_per_batch:
        raise ValueError(
            f"evaluate: problems={config.problems} is no multiple of problems_per_batch={config.problems_per_batch}"
        )
    for size in config.cons_at:
        if type(size) is not int or not 1 <= size <= config.samples:
            raise ValueError(f"evaluate: cons_at: {size!r} must be a whole number in 1..{config.samples} (samples)")
    make_mesh(config.mesh)
    values = config.to_dict()
    check_init(values["init"])
    if not values["tasks"]:
        raise ValueError("evaluate: tasks: needs at least one")
    mix(*make_tasks(values["tasks"]), seed=0)  # which refuses a name used twice
    rubric = Rubric(_logged_only(stand_in_rewards(values["rewards"])))
    problems = heldout_problems(config)
    rubric.check_tasks(task.name for task, _ in problems)
    dummies = [Completion(np.zeros(1, np.int32), np.zeros(1, np.float32), "stop")]
    for task, (first, *_) in problems:
        try:
            check_template(config.template, first.messages)
            columns = reward_columns(first, dummies, task=task)
            rubric.check_columns(columns, task_name=task.name)
            rubric.score([first.messages[-1]["content"]], ["1"], columns)
        except ValueError as error:
            raise ValueError(f"evaluate: task {task.name!r}: {error}") from error
    check_same_split(values["init"], values["tasks"])


def heldout_problems(config: ConfigDict) -> list[tuple[Task, list[Problem]]]:
    """Each task with its first distinct held-out problems. Raises ValueError for a task that has not as many."""
    tasks, _ = make_tasks(config.to_dict()["tasks"])
    found = []
    for task in tasks:
        try:
            found.append((task, distinct_problems(task, config.problems, split="heldout")))
        except ValueError as error:
            raise ValueError(f"evaluate: problems={config.problems}: {error}") from error
    return found


def main(config: ConfigDict, workdir: Path) -> dict:
    """Samples and scores. Returns the summary: {"tasks": {name: metrics}, "wall_seconds", "seed"}.

    Raises Stopped if a signal asked it to end; the tasks that were finished are kept.
    """
    check(config)
    mesh, workdir = make_mesh(config.mesh), Path(workdir)
    problems = heldout_problems(config)
    with open_workdir(workdir, config.to_dict()) as run, jax.set_mesh(mesh), graceful_stop() as stop:
        record_lineage(workdir, config.to_dict())

        # Policy, sampler, rewards
        policy, params, buffers = load_policy(config.init.to_dict(), mesh=mesh, seed=config.seed)
        params, buffers = for_sampling(policy.model, params, buffers, mesh=mesh)
        engine = make_engine(policy.model, pad_id=policy.tokenizer.pad_id, **config.engine)
        rubric = Rubric(_logged_only(load_rewards(config.to_dict()["rewards"], mesh=mesh, rows=config.samples)))
        collectors = [
            Collector(engine, policy.tokenizer, task, rubric, config.template, config.max_prompt_tokens)
            for task, _ in problems
        ]
        for collector, (_, asked) in zip(collectors, problems, strict=True):
            for problem in asked:
                collector.encode(problem)

        # Loop
        done = len(on_first(lambda: _rows_of(workdir)))
        with MetricsWriter(workdir, total=len(problems), resume_step=done) as metrics:
            completions = CompletionsWriter(workdir, resume_step=done)
            for place in range(done, len(problems)):
                begin = time.perf_counter()
                task, asked = problems[place]
                scores, groups = evaluate(
                    collectors[place],
                    params,
                    buffers,
                    asked,
                    num_samples=config.samples,
                    max_new_tokens=config.max_new_tokens,
                    temperature=config.temperature,
                    top_p=config.top_p,
                    key=jax.random.fold_in(jax.random.key(config.seed), place),
                    policy_version=0,
                    problems_per_batch=config.problems_per_batch,
                    before_batch=stop.check,
                )
                style, _ = response_form(config.template, policy.tokenizer)
                samples = [samples_of(group, task, style=style) for group in groups]
                row = scores | vote_metrics(samples, config.cons_at) | vote_gains(samples, config.cons_at)
                row |= group_metrics(groups)
                _say_failures(groups, task)
                completions.write(place + 1, completion_rows(groups), split="heldout")
                metrics.write(
                    place + 1,
                    {f"{task.name}/{name}": value for name, value in row.items()}
                    | {"time/step": time.perf_counter() - begin},
                )

        # Summary
        rows = on_first(lambda: _rows_of(workdir))
        tasks = {task.name: _of_task(task.name, row) for (task, _), row in zip(problems, rows, strict=True)}
        summary = {"tasks": tasks, "wall_seconds": sum(row["time/step"] for row in rows), "seed": config.seed}
        run.mark_done(summary)
    return summary


def _rows_of(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_lines(workdir / "metrics.jsonl")]


def group_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Reflection and language (as the RL stage logs them), and the mean of each reward with its 95 % interval over problems.

    A reward is left out where it applies to none of the problems.
    """
    metrics = text_metrics([rollout for group in groups for rollout in group.rollouts])
    for name in groups[0].rollouts[0].rewards:
        rewards_PG = [[rollout.rewards[name] for rollout in group.rollouts] for group in groups]
        of_problems = [float(np.nanmean(rewards)) for rewards in rewards_PG if not np.isnan(rewards).all()]
        if of_problems:
            low, high = bootstrap_interval(of_problems, seed=0)
            key = f"rewards/{name}/mean"
            metrics |= {key: float(np.mean(of_problems)), f"{key}_low": low, f"{key}_high": high}
    return metrics


def _logged_only(specs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Reward specs that apply from the start and weigh nothing."""
    return [{key: value for key, value in spec.items() if key != "from_update"} | {"weight": 0.0} for spec in specs]


def _of_task(name: str, row: Mapping[str, Any]) -> dict[str, float]:
    prefix = f"{name}/"
    return {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}


def _say_failures(groups: Sequence[Group], task: Task) -> None:
    """On stderr the first message of every reward that failed on some samples of a task."""
    messages: dict[str, str] = {}
    for rollout in (rollout for group in groups for rollout in group.rollouts):
        messages = {**rollout.errors, **messages}
    for name, message in messages.items() if is_first() else ():
        print(f"warning: task {task.name}: reward {name} failed: {message}", file=sys.stderr, flush=True)
