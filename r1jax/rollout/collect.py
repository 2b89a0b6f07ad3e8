"""From problems to scored groups: the only module in which token ids meet text, tasks and rewards."""

import contextlib
import dataclasses
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np

from r1jax import members
from r1jax.background import Background
from r1jax.processes import gather
from r1jax.rewards import sandbox
from r1jax.rewards.calls import CALLS, TrainerState
from r1jax.rewards.rubric import Rubric, Scores
from r1jax.rollout.engine import Engine
from r1jax.rollout.records import Completion, GradedAnswer, Group, Rollout
from r1jax.specs.functions import last_line
from r1jax.tasks.mixture import Mixture
from r1jax.tasks.problem import GradingError, Problem, Task
from r1jax.text.chat import TOKENIZERS_OWN, encode_prompt, render, response_form, stop_ids
from r1jax.text.response import final_answer
from r1jax.text.tokenizer import Tokenizer

SCORING = Background("scoring")
"""The thread that grades and scores while the device samples."""


@contextlib.contextmanager
def or_give_up() -> Iterator[None]:
    """Where what is done in it raises, what is being scored is given up: see ``Background.or_give_up``."""
    if members.here() is not None:  # the threads score for other members too
        yield
        return
    with SCORING.or_give_up(), CALLS.or_give_up():
        yield


@dataclasses.dataclass(frozen=True)
class Collected:
    """Groups in the order of the problems, and what they cost."""

    groups: list[Group]
    seconds: dict[str, float]
    """"generate"; "rewards": what scoring took after the last token, the rest of it went on meanwhile."""
    counts: Mapping[str, float]
    """"rewards/<name>/errors": completions that each reward failed on, "task_metric" where the task could not grade some;
    ".../timeouts": those of them that ran out of time; ".../seconds": what it took, wherever it ran."""
    logged: Mapping[str, list[float]] = dataclasses.field(default_factory=dict)
    """"rewards/<name>/<figure>": what the rewards logged, of each group that has it."""
    sampling: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """What the sampler did: ``Session.counts``."""
    left: Mapping[int, list[Completion]] = dataclasses.field(default_factory=dict)
    """Problem -> its completions, done or not, where it is not among the first "enough" that were done."""


@dataclasses.dataclass(frozen=True)
class Collector:
    """Samples and scores under one task, template and rubric.

    A group is scored, in a background thread, as soon as its last sample is done: each distinct answer is graded once,
    then each reward function is called once, in any order of the groups. So scores do not depend on what else was
    sampled, or when.

    Of n processes each scores every n-th group, and they exchange the scores. A deferred reward, which is a model on
    the devices of all, is asked by all of them about every group.
    """

    engine: Engine
    tokenizer: Tokenizer
    task: Task
    rubric: Rubric
    template: str
    max_prompt_tokens: int
    num_updates: int = 0
    """Of the whole run, for rewards that ask; 0 where nothing is trained."""

    def encode(self, problem: Problem) -> list[int]:
        """Token ids of a problem's prompt. Raises ValueError, quoting the question, if it exceeds the budget."""
        ids = self._prompt_ids(problem)
        if len(ids) > self.max_prompt_tokens:
            question = problem.messages[-1]["content"]
            raise ValueError(
                f"a prompt has {len(ids)} tokens, more than max_prompt_tokens={self.max_prompt_tokens}: {question[:120]!r}"
            )
        return ids

    def _prompt_ids(self, problem: Problem) -> list[int]:
        return encode_prompt(problem.messages, self.tokenizer, template=self.template)

    def fits(self, problem: Problem) -> bool:
        """Whether a problem's prompt is within the budget."""
        return len(self._prompt_ids(problem)) <= self.max_prompt_tokens

    def collect(self, params, buffers, problems: Sequence[Problem], **settings) -> Collected:
        """``num_samples`` scored rollouts of each problem; the settings are those of ``start``."""
        return self.start(params, buffers, problems, **settings)()

    def start(
        self,
        params,
        buffers,
        problems: Sequence[Problem],
        *,
        policy_version: int,
        so_far: Sequence[Sequence[Completion] | None] | None = None,
        **settings,
    ) -> Callable[[], Collected]:
        """``collect`` in two steps: all is sampled when this returns; what it returns waits for the scores.

        The settings are those of ``Engine.generate``. With ``so_far`` completions say under which version each of their
        tokens was sampled: this one, and as they say those that they had before.

        Prompts are checked before anything is generated. The second step raises what ``Rubric.score`` raises.
        """
        prompts = [self.encode(problem) for problem in problems]
        scoring: dict[int, Future] = {}
        state = TrainerState(policy_version, self.num_updates)

        def score(index: int, completions: list[Completion]) -> None:
            is_here = index % jax.process_count() == jax.process_index()
            grades = None
            if is_here and _grader_of(self.task, problems[index]) == "code":  # programs of all groups, one a core
                grades = sandbox.submit(self._start_grading, problems[index], completions)
            scoring[index] = SCORING.run(self._start_scoring, problems[index], completions, state, is_here, grades)

        begin, sampling = time.perf_counter(), Counter()
        with or_give_up():
            stops = stop_ids(self.tokenizer, self.template)
            completions = self.engine.generate(
                params, buffers, prompts, stop_ids=stops, on_done=score, counts=sampling, so_far=so_far, **settings
            )
            if so_far is not None:
                completions = [
                    _with_versions(group, before, policy_version)
                    for group, before in zip(completions, so_far, strict=True)
                ]
        generate_seconds = time.perf_counter() - begin

        @or_give_up()
        def finish() -> Collected:
            begin = time.perf_counter()
            here = [index for index in sorted(scoring) if index % jax.process_count() == jax.process_index()]
            scored = _exchanged(lambda: {index: _finished(scoring[index], problems[index]) for index in here})
            groups, counts, logged = [], Counter(), defaultdict(list)
            for index in sorted(scoring):
                problem, (texts, _) = problems[index], scoring[index].result()
                answers, scores = scored[index]
                scores = self._with_deferred(problem, completions[index], texts, answers, scores, state)
                rollouts = _rollouts(prompts[index], completions[index], texts, answers, scores, policy_version)
                groups.append(Group(problem, rollouts))
                for kind in ("errors", "timeouts", "seconds"):
                    counts.update({f"rewards/{name}/{kind}": n for name, n in getattr(scores, kind).items()})
                for name, value in scores.metrics.items():
                    logged[f"rewards/{name}"].append(value)
            if num_ungraded := sum("task_metric" in rollout.errors for group in groups for rollout in group.rollouts):
                counts["rewards/task_metric/errors"] = num_ungraded
            seconds = {"generate": generate_seconds, "rewards": time.perf_counter() - begin}
            left = {index: group for index, group in enumerate(completions) if index not in scoring}
            return Collected(groups, seconds, counts, logged, sampling, left)

        return finish

    def score(self, problem: Problem, completions: list[Completion]) -> Group:
        """The group of completions that were sampled elsewhere, graded and scored as in training."""
        state = TrainerState(0, self.num_updates)
        with or_give_up():
            scoring = SCORING.run(self._start_scoring, problem, completions, state, True, None)
            texts, (answers, scores) = scoring.result()[0], _finished(scoring, problem)
            scores = self._with_deferred(problem, completions, texts, answers, scores, state)
        return Group(problem, _rollouts(self._prompt_ids(problem), completions, texts, answers, scores, 0))

    def _with_deferred(self, problem: Problem, completions, texts, answers, scores: Scores, state) -> Scores:
        """The scores with those of the deferred rewards."""
        if not self.rubric.part(deferred=True).names:
            return scores
        with _naming(problem):
            deferred = self._start_rewards(problem, completions, texts, answers, state, deferred=True)()
        return self.rubric.join([scores, deferred])

    def _start_scoring(
        self, problem: Problem, completions, state: TrainerState, is_here: bool, grades: Future | None
    ) -> tuple[list[str], Callable[[], tuple[list[GradedAnswer], Scores]] | None]:
        """(texts, what waits for grades and plain rewards) of one group; the latter only where this process scores it."""
        texts = [self._text(completion) for completion in completions]
        if not is_here:
            return texts, None
        answers = (grades.result() if grades else self._start_grading(problem, completions))()
        scores_of = self._start_rewards(problem, completions, texts, answers, state, deferred=False)
        return texts, lambda: (answers, scores_of())

    def _start_grading(self, problem: Problem, completions: list[Completion]) -> Callable[[], list[GradedAnswer]]:
        """What waits for the grades of one group."""
        style, where = response_form(self.template, self.tokenizer)
        where = problem.answer_in or where
        extracted = [
            None
            if completion.stop_reason == "length"
            else final_answer(self._text(completion), style=style, answer=where)
            for completion in completions
        ]
        return start_grading(extracted, problem, task=self.task)

    def _start_rewards(
        self, problem: Problem, completions, texts, answers, state: TrainerState, *, deferred: bool
    ) -> Callable[[], Scores]:
        prompt = render(problem.messages, template=self.template, tokenizer=self.tokenizer)
        columns = reward_columns(problem, completions, answers, task=self.task)
        return self.rubric.part(deferred=deferred).start([prompt] * len(texts), texts, columns, state)

    def _text(self, completion: Completion) -> str:
        ids = completion.token_ids
        return self.tokenizer.decode(ids[:-1] if completion.stop_reason == "stop" else ids)


def start_grading(extracted: Sequence[str | None], problem: Problem, *, task: Task) -> Callable[[], list[GradedAnswer]]:
    """What waits for the grade of each answer to a problem; the task is asked once about each distinct one.

    Programs run meanwhile, one a core; other answers are graded here. A task that raises has failed on that answer.
    """

    def grade(text: str | None) -> GradedAnswer:
        if text is None:
            return GradedAnswer(None, 0.0)
        try:
            return GradedAnswer(text, task.grade(text, problem))
        except Exception as error:
            return GradedAnswer(text, None, str(error) if isinstance(error, GradingError) else last_line(error))

    is_code = _grader_of(task, problem) == "code"
    grades = {text: sandbox.submit(grade, text) if is_code else grade(text) for text in dict.fromkeys(extracted)}
    return lambda: [one.result() if isinstance(one, Future) else one for one in map(grades.__getitem__, extracted)]


def score_in_background(
    rubric: Rubric, problem: Problem, answers: Sequence[str], *, task: Task, template: str
) -> Scores:
    """Scores of texts that are answers to a problem, as training gets them: graded, then scored, in the same threads.

    For checks before anything is sampled, without a tokenizer: a text is its answer, "" is none, and under the template
    "tokenizer" the prompt is the question. Raises ValueError as ``Rubric.score``.
    """
    dummies = [Completion(np.zeros(1, np.int32), np.zeros(1, np.float32), "stop")] * len(answers)

    def start() -> Callable[[], Scores]:
        graded = start_grading([text or None for text in answers], problem, task=task)()
        columns = reward_columns(problem, dummies, graded, task=task)
        is_known = template != TOKENIZERS_OWN
        prompt = render(problem.messages, template=template) if is_known else problem.messages[-1]["content"]
        return rubric.start([prompt] * len(answers), answers, columns)

    with or_give_up():
        return SCORING.run(start).result()()


def reward_columns(
    problem: Problem, completions: Sequence[Completion], answers: Sequence[GradedAnswer], *, task: Task
) -> dict[str, list]:
    """What reward functions are given of a problem's completions, besides prompts and texts: [N] lists by name.

    The problem's columns and "answer", its reference; "problem", "task" (the object) and "task_name"; "completion_ids"
    and "stop_reason"; "extracted_answer", "answer_grade" and "grading_error" (see ``GradedAnswer``); "answer_grader",
    the kind of verifier that graded it ("code", "math", ...) or None for a task's own.
    """
    shared = problem.columns | {
        "problem": problem,
        "answer": problem.answer,
        "task": task,
        "task_name": problem.columns["task"],
        "answer_grader": _grader_of(task, problem),
    }
    return {name: [value] * len(completions) for name, value in shared.items()} | {
        "completion_ids": [completion.token_ids.tolist() for completion in completions],
        "stop_reason": [completion.stop_reason for completion in completions],
        "extracted_answer": [answer.text for answer in answers],
        "answer_grade": [answer.grade for answer in answers],
        "grading_error": [answer.error for answer in answers],
    }


def has_grader(task: Task, problem: Problem) -> bool:
    """Whether an answer to the problem can be right: not where the data give none and only rewards judge."""
    grader = _grader_of(task, problem)
    return grader != "none" and (grader != "answer" or bool(problem.answer))


def _grader_of(task: Task, problem: Problem) -> str | None:
    """The kind of verifier that grades a problem's answers, where its task has one of the rewards' kinds."""
    return getattr(task.task_of(problem) if isinstance(task, Mixture) else task, "grader", None)


_Scored = tuple[list[GradedAnswer], Scores]  # a group's answers and plain rewards


def _exchanged(function: Callable[[], dict[int, _Scored]]) -> dict[int, _Scored]:
    """What the function returns in all processes together, by index."""
    if jax.process_count() == 1:
        return function()

    def as_json() -> list[Any]:
        scored = function().items()
        return [
            [i, [dataclasses.astuple(answer) for answer in answers], scores.to_json()]
            for i, (answers, scores) in scored
        ]

    return {
        index: ([GradedAnswer(*answer) for answer in answers], Scores.from_json(scores))
        for of_process in gather(as_json)
        for index, answers, scores in of_process
    }


def _finished(scoring: Future, problem: Problem) -> _Scored:
    """Grades and plain rewards of a group whose scoring began here."""
    with _naming(problem):
        _, wait = scoring.result()
        return wait()


def _rollouts(
    prompt: Sequence[int], completions, texts, answers: list[GradedAnswer], scores: Scores, policy_version: int
) -> tuple[Rollout, ...]:
    prompt_ids, by_name, messages, extra = np.asarray(prompt, np.int32), scores.by_name, scores.messages, scores.extra
    return tuple(
        Rollout(
            prompt_ids=prompt_ids,
            completion=completion,
            text=text,
            policy_version=policy_version if completion.versions is None else int(completion.versions[-1]),
            rewards={name: float(values[index]) for name, values in by_name.items()},
            reward=float(scores.total[index]),
            is_correct=answer.grade is not None and answer.grade >= 1.0,
            answer=answer.text,
            errors=messages[index] | ({} if answer.error is None else {"task_metric": answer.error}),
            extra=extra[index],
        )
        for index, (completion, text, answer) in enumerate(zip(completions, texts, answers, strict=True))
    )


def _with_versions(
    completions: Sequence[Completion], so_far: Sequence[Completion] | None, policy_version: int
) -> list[Completion]:
    """The completions with the version of each token: the new ones are of this policy."""

    def of_one(completion: Completion, before: Completion | None) -> Completion:
        old = np.zeros(0, np.int32) if before is None or before.versions is None else before.versions
        new = np.full(len(completion.token_ids) - len(old), policy_version, np.int32)
        return dataclasses.replace(completion, versions=np.concatenate([old, new]))

    return [of_one(*pair) for pair in zip(completions, so_far or [None] * len(completions), strict=True)]


@contextlib.contextmanager
def _naming(problem: Problem) -> Iterator[None]:
    """What is wrong with a reward is said with the problem that it happened on."""
    try:
        yield
    except ValueError as error:
        question = problem.messages[-1]["content"]
        raise ValueError(f"task {problem.columns['task']!r}, problem {question[:80]!r}: {error}") from error
