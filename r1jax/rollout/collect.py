"""From problems to scored groups: the one place where token ids meet text, tasks and rewards."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np

from r1jax.processes import gather
from r1jax.rewards.rubric import Rubric, Scores
from r1jax.rollout.background import or_give_up, run_beside
from r1jax.rollout.engine import Engine
from r1jax.rollout.records import Completion, Group, Rollout
from r1jax.tasks.file_task import check_problems
from r1jax.tasks.mixture import Mixture
from r1jax.tasks.problem import GradingError, Problem, Task
from r1jax.text.chat import encode_prompt, render, response_form, stop_ids
from r1jax.text.response import final_answer
from r1jax.text.tokenizer import Tokenizer


class PromptTooLongError(ValueError):
    """A prompt has more tokens than the budget allows."""


@dataclasses.dataclass(frozen=True)
class Collected:
    """Groups in the order of the problems, and what they cost."""

    groups: list[Group]
    seconds: dict[str, float]
    """"generate"; "rewards": what scoring took after the last token, the rest of it went on meanwhile."""
    reward_errors: dict[str, int]
    """Completions that each reward function failed on; "task_metric" where the task itself could not grade some."""
    reward_timeouts: dict[str, int]
    """Those of them that ran out of time."""
    reward_seconds: dict[str, float]
    """What each reward function took, wherever it ran."""

    @property
    def error_messages(self) -> dict[str, str]:
        """The first failure of each function that failed."""
        messages: dict[str, str] = {}
        for group in self.groups:
            for rollout in group.rollouts:
                messages = {**rollout.errors, **messages}
        return messages


@dataclasses.dataclass(frozen=True)
class Collector:
    """Samples and scores under one task, template and rubric.

    A group is scored, in a thread beside the sampler, as soon as its last sample is done: one call of each reward
    function a group, in any order of the groups. So scores do not depend on what else was sampled, or when.

    Of n processes each scores every n-th group, and they exchange the scores. A deferred reward, which is a model on the
    devices of all, is asked by all of them about every group.
    """

    engine: Engine
    tokenizer: Tokenizer
    task: Task
    rubric: Rubric
    template: str
    max_prompt_tokens: int

    def encode(self, problem: Problem) -> list[int]:
        """Token ids of a problem's prompt. Raises PromptTooLongError, quoting the question, if it exceeds the budget."""
        ids = encode_prompt(problem.messages, self.tokenizer, template=self.template)
        if len(ids) > self.max_prompt_tokens:
            question = problem.messages[-1]["content"]
            raise PromptTooLongError(
                f"a prompt has {len(ids)} tokens, more than max_prompt_tokens={self.max_prompt_tokens}: {question[:120]!r}"
            )
        return ids

    def fits(self, problem: Problem) -> bool:
        """Whether a problem's prompt is within the budget."""
        try:
            self.encode(problem)
        except PromptTooLongError:
            return False
        return True

    def collect(self, params, buffers, problems: Sequence[Problem], **settings) -> Collected:
        """``num_samples`` scored rollouts of each problem; the settings are those of ``start``."""
        return self.start(params, buffers, problems, **settings)()

    def start(
        self,
        params,
        buffers,
        problems: Sequence[Problem],
        *,
        num_samples: int,
        max_new_tokens: int,
        temperature: float,
        key: jax.Array,
        policy_version: int,
        top_p: float | None = None,
    ) -> Callable[[], Collected]:
        """``collect`` in two steps: all is sampled when this returns; what it returns waits for the scores.

        Prompts are checked before anything is generated. The second step raises what ``Rubric.score`` raises.
        """
        prompts = [self.encode(problem) for problem in problems]
        scoring: dict[int, Future] = {}

        def score(place: int, completions: list[Completion]) -> None:
            is_own = place % jax.process_count() == jax.process_index()
            scoring[place] = run_beside(self._start_scoring, problems[place], completions, is_own)

        begin = time.perf_counter()
        with or_give_up():
            completions = self.engine.generate(
                params,
                buffers,
                prompts,
                num_samples=num_samples,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                stop_ids=stop_ids(self.tokenizer, self.template),
                key=key,
                on_done=score,
            )
        for place, group in enumerate(completions):
            if place not in scoring:
                score(place, group)
        generate_seconds = time.perf_counter() - begin

        @or_give_up()
        def finish() -> Collected:
            begin = time.perf_counter()
            own = range(jax.process_index(), len(problems), jax.process_count())
            told = gather(lambda: [[place, _finished(scoring[place], problems[place])] for place in own])
            judged = {place: verdict for of_process in told for place, verdict in of_process}
            groups, scores = zip(
                *(
                    self._group(
                        problem,
                        prompts[place],
                        completions[place],
                        scoring[place].result(),
                        judged[place],
                        policy_version,
                    )
                    for place, problem in enumerate(problems)
                ),
                strict=True,
            )
            num_ungraded = sum("task_metric" in rollout.errors for group in groups for rollout in group.rollouts)
            return Collected(
                list(groups),
                seconds={"generate": generate_seconds, "rewards": time.perf_counter() - begin},
                reward_errors=_summed(s.errors for s in scores)
                | ({"task_metric": num_ungraded} if num_ungraded else {}),
                reward_timeouts=_summed(s.timeouts for s in scores),
                reward_seconds=_summed(s.seconds for s in scores),
            )

        return finish

    def _start_scoring(
        self, problem: Problem, completions: list[Completion], is_own: bool
    ) -> tuple[list[str], list[str | None], Callable[[], dict[str, Any]] | None]:
        """(texts, answers, plain rewards and grades) of one group; the latter wait for async rewards, and are for own ones.

        They are JSON-able, for the other processes: see ``_group``.
        """
        texts = [self._text(completion) for completion in completions]
        scores_of = self._start_rewards(problem, completions, texts, deferred=False) if is_own else None
        style, where = response_form(self.template, self.tokenizer)
        where = problem.answer_in or where
        answers = [
            None if completion.stop_reason == "length" else final_answer(text, style=style, answer=where)
            for completion, text in zip(completions, texts, strict=True)
        ]
        if scores_of is None:
            return texts, answers, None
        by_answer = {answer: self._grade(answer, problem) for answer in dict.fromkeys(answers)}
        grades = [by_answer[answer] for answer in answers]
        return texts, answers, lambda: {"scores": scores_of().to_json(), "grades": grades}

    def _start_rewards(
        self, problem: Problem, completions: list[Completion], texts: list[str], *, deferred: bool
    ) -> Callable[[], Scores]:
        prompt = render(problem.messages, template=self.template, tokenizer=self.tokenizer)
        columns = reward_columns(problem, completions, task=self.task)
        return self.rubric.part(deferred=deferred).start([prompt] * len(texts), texts, columns)

    def _group(
        self,
        problem: Problem,
        prompt_ids: list[int],
        completions: list[Completion],
        read: tuple[list[str], list[str | None], Any],
        judged: Mapping[str, Any],
        policy_version: int,
    ) -> tuple[Group, Scores]:
        """A group of what ``_start_scoring`` gave, here or in another process, and of its deferred rewards."""
        texts, answers, _ = read
        parts = [judged["scores"]]
        if self.rubric.part(deferred=True).names:
            with _naming(problem):
                parts.append(self._start_rewards(problem, completions, texts, deferred=True)().to_json())
        scores = self.rubric.join(parts, count=len(texts))
        rollouts = []
        for index, (completion, text, answer) in enumerate(zip(completions, texts, answers, strict=True)):
            (grade, failure), errors = judged["grades"][index], scores.messages[index]
            rollouts.append(
                Rollout(
                    prompt_ids=np.asarray(prompt_ids, np.int32),
                    completion=completion,
                    text=text,
                    policy_version=policy_version,
                    rewards={name: float(values[index]) for name, values in scores.by_name.items()},
                    reward=float(scores.total[index]),
                    is_correct=grade >= 1.0,
                    answer=answer,
                    errors=errors if failure is None else errors | {"task_metric": failure},
                )
            )
        return Group(problem, tuple(rollouts)), scores

    def _grade(self, answer: str | None, problem: Problem) -> tuple[float, str | None]:
        """The task metric of an answer, and where it could not be had why."""
        try:
            return 0.0 if answer is None else self.task.grade(answer, problem), None
        except GradingError as error:
            return 0.0, str(error)

    def _text(self, completion: Completion) -> str:
        ids = completion.token_ids
        return self.tokenizer.decode(ids[:-1] if completion.stop_reason == "stop" else ids)


_MADE_COLUMNS = frozenset({"problem", "task", "task_name", "completion_ids", "stop_reason"})
"""Those of ``reward_columns`` that no problem brings."""


def reward_columns(problem: Problem, completions: Sequence[Completion], *, task: Task) -> dict[str, list]:
    """What reward functions are given of a problem's completions, besides prompts and texts: [N] lists by name."""
    shared = problem.columns | {
        "problem": problem,
        "answer": problem.answer,
        "task": task,
        "task_name": problem.columns["task"],
    }
    return {name: [value] * len(completions) for name, value in shared.items()} | {
        "completion_ids": [completion.token_ids.tolist() for completion in completions],
        "stop_reason": [completion.stop_reason for completion in completions],
    }


def check_problems_of(task: Task, rubric: Rubric) -> None:
    """Looks through every problem of a task's files for what its rewards and its own verifier need.

    Raises:
        ValueError: a column that is not there or empty, or a problem that the verifier cannot use, here or at all; names
            the data set and the row.
    """
    names = task.tasks if isinstance(task, Mixture) else [task.name]
    check_problems(task, {name: rubric.required(name) - _MADE_COLUMNS for name in names})


def _finished(scoring: Future, problem: Problem) -> dict[str, Any]:
    """The rewards and grades of a group whose scoring began here."""
    with _naming(problem):
        *_, judge = scoring.result()
        return judge()


@contextlib.contextmanager
def _naming(problem: Problem) -> Iterator[None]:
    """What is wrong with a reward is said with the problem that it happened on."""
    try:
        yield
    except ValueError as error:
        question = problem.messages[-1]["content"]
        raise ValueError(f"task {problem.columns['task']!r}, problem {question[:80]!r}: {error}") from error


def _summed(counts: Iterable[Mapping[str, float]]) -> dict[str, Any]:
    """The sums by name."""
    total: dict[str, Any] = {}
    for count in counts:
        total = {name: total.get(name, 0) + value for name, value in count.items()}
    return total
