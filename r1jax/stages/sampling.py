"""What the stages that sample share: their collector, and what they have to try before anything is computed.

One split holds for a whole pipeline: what a stage holds out, no stage before it may have trained on. Which side a
problem is on follows from its content and from ``heldout_fraction`` alone. So two stages that agree on the fraction
agree on the split, and two that do not would let held-out problems into training without a word.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from r1jax.data.records import records_of
from r1jax.policies.policy import Policy, make_source
from r1jax.policies.preview import Previews
from r1jax.rewards.rubric import Rubric
from r1jax.rollout.collect import Collector, reward_columns, score_in_background
from r1jax.rollout.engine import check_engine, make_engine
from r1jax.specs.fields import paths_of
from r1jax.specs.policy import SourceSpec
from r1jax.specs.stages import StageSpec, SupervisedSpec
from r1jax.specs.tasks import AnyTask
from r1jax.tasks.file_task import check_problems
from r1jax.tasks.mixture import Mixture, make_task
from r1jax.tasks.problem import Problem, Task, recorded_splits
from r1jax.tasks.sources.user_columns import MADE
from r1jax.text.chat import check_template, encode_prompt

_NUM_CHECKED = 16
"""Training problems of each task that must have what its rewards need; documents that are made to see their split."""
_NUM_LOOKED_AT = 64  # training problems of each task, of which one must have a prompt that fits


def make_collector(spec: Any, policy: Policy, *, task: Task, rubric: Rubric) -> Collector:
    """The sampler of a stage with ``engine``, ``template`` and ``max_prompt_tokens``, and what scores its answers."""
    return Collector(
        engine=make_engine(policy.model, spec.engine),
        tokenizer=policy.tokenizer,
        task=task,
        rubric=rubric,
        template=spec.template,
        max_prompt_tokens=spec.max_prompt_tokens,
        num_updates=getattr(spec, "num_updates", 0),
    )


def tasks_of(task: Task) -> list[Task]:
    """The tasks of a mixture, or the one."""
    return list(task.tasks.values()) if isinstance(task, Mixture) else [task]


def check_sampled(
    spec: Any, previews: Previews, rubric: Rubric, *, trained: Task | None = None, heldout: Sequence[Problem] = ()
) -> None:
    """Tries what a stage samples: rewards and columns of the training problems, prompts against their cap, the split.

    spec: of a stage with ``init``, ``tasks``, ``template`` and ``max_prompt_tokens``. Every problem of a file is looked
    at, of other tasks a few.

    Raises ValueError naming the key, or the data set and the row: a column that is not there or empty, a problem that
    its verifier cannot use, a task without an answer in any row where a reward scores by its grade.
    """
    tasks = [] if trained is None else tasks_of(trained)
    for task in tasks:
        _check_rewards(rubric, task, template=spec.template)
    if trained is not None:
        names = [task.name for task in tasks]
        needed = {name: rubric.required(name) - (MADE - {"answer"}) for name in names}
        graded = {name: rubric.that_need("answer_grade", task_name=name) for name in names}
        check_problems(trained, needed, template=spec.template, graded=graded)
    _check_prompts(spec, previews, trained=tasks, heldout=heldout)
    check_same_split(spec, previews)


def _check_rewards(rubric: Rubric, task: Task, *, template: str) -> None:
    """Lets the rewards score a training problem of a task, and asks for the columns of more.

    Raises ValueError, naming the problem's row, for a missing column, a reward that fails on every answer, or a
    template that its messages do not fit.
    """
    for index in range(_NUM_CHECKED):
        problem = task.problem(index, split="train")
        try:
            rubric.check_columns(reward_columns(problem, [], [], task=task), task_name=task.name)
            if index == 0:
                check_template(template, problem.messages)
        except ValueError as error:
            where = problem.columns.get("row", f"task {task.name!r}, training problem {index}")
            raise ValueError(f"{where}: {error}") from error
    problem = task.problem(0, split="train")
    scores = score_in_background(rubric, problem, ["", "1"], task=task, template=template)
    if failing := [name for name, failed in scores.failed.items() if failed.all()]:
        raise ValueError(f"reward {failing[0]!r} fails on every answer: {scores.messages[0][failing[0]]}")


def _check_prompts(spec: Any, previews: Previews, *, trained: Sequence[Task], heldout: Sequence[Problem]) -> None:
    """Raises ValueError where no training prompt of a task is within ``max_prompt_tokens``, or a held-out one is not.

    spec: of a stage with ``init``, ``template``, ``max_prompt_tokens``. Where its tokenizer cannot be known yet,
    nothing is tried.
    """
    preview = previews.policy(spec.init, seed=spec.seed)
    if preview is None:
        return
    preview.tokenizer.check_fits(preview.config.vocab_size)
    check_engine(spec.engine, preview.config)

    def length(problem: Problem) -> int:
        return len(encode_prompt(problem.messages, preview.tokenizer, template=spec.template))

    for task in trained:
        lengths = (length(task.problem(index, split="train")) for index in range(_NUM_LOOKED_AT))
        too_long = list(itertools.takewhile(lambda count: count > spec.max_prompt_tokens, lengths))
        if len(too_long) == _NUM_LOOKED_AT:
            raise ValueError(
                f"max_prompt_tokens={spec.max_prompt_tokens}: the first {_NUM_LOOKED_AT} training prompts of task "
                f"{task.name!r} have {min(too_long)} tokens and more"
            )
    for problem in heldout:
        if (count := length(problem)) > spec.max_prompt_tokens:
            raise ValueError(
                f"max_prompt_tokens={spec.max_prompt_tokens}: a held-out prompt of task {problem.columns['task']!r} has "
                f"{count} tokens: {problem.messages[-1]['content'][:80]!r}"
            )


def check_same_split(spec: Any, previews: Previews) -> None:
    """Raises ValueError, naming both fractions, where a stage that the policy comes from splits a task in another way.

    A few problems or documents of each are made, and what they ask of ``split_of`` is compared. A stage whose data
    cannot be made here is named on stderr and left out.
    """
    here = _fractions(lambda: _make_problems(spec.tasks))
    for path, before in _stages_before(spec.init, previews):
        try:
            if path not in previews.splits:
                previews.splits[path] = _fractions(lambda before=before: _make_data(before))
            there = previews.splits[path]
        except Exception as error:
            print(f"warning: cannot tell which problems {path} was trained on: {error}", file=sys.stderr, flush=True)
            continue
        for space in sorted(here.keys() & there.keys()):
            if len(here[space] | there[space]) > 1:
                ours, theirs = (" and ".join(map(str, sorted(side[space]))) for side in (here, there))
                raise ValueError(
                    f"tasks: heldout_fraction of {space} is {ours} here and {theirs} in "
                    f"{path}, which the policy comes from: problems held out here would have been trained on there"
                )


def _stages_before(init: Any, previews: Previews) -> Iterator[tuple[str, StageSpec]]:
    """(work directory, spec) of the stage that a policy is taken from, of those that a path of its spec names, ..."""
    seen, coming = set(), list(paths_of(init).values())
    while coming:
        path = coming.pop(0)
        if path in seen:
            continue
        seen.add(path)
        spec = previews.stage_at(path)
        if spec is not None:
            yield path, spec
            coming += paths_of(spec).values()


def _fractions(make: Callable[[], None]) -> dict[str, set[float]]:
    with recorded_splits() as fractions:
        make()
    return fractions


def _make_problems(tasks: Sequence[AnyTask]) -> None:
    for spec in tasks:
        make_task(spec).problem(0, split="train")


def _make_data(spec: Any) -> None:
    """A few documents of a supervised stage, records that a function makes, or problems of the tasks that a stage has.

    Records of a path are those of a stage before.
    """
    if isinstance(spec, SupervisedSpec):
        if spec.data.function is not None:
            source = make_source(spec.data, seed=spec.seed)
            for index in range(_NUM_CHECKED):
                source(index)
    else:
        sources: list[SourceSpec] = [getattr(spec, name) for name in ("data", "candidates") if hasattr(spec, name)]
        for source in (*sources, *getattr(spec, "others", ())):
            if source.function is not None:
                list(itertools.islice(records_of(source, seed=spec.seed), _NUM_CHECKED))
    _make_problems(getattr(spec, "tasks", ()))
