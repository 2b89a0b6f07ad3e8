"""From problems to scored groups: the one place where token ids meet text, tasks and rewards."""

import dataclasses
import time
from collections.abc import Sequence

import jax
import numpy as np

from r1jax.rewards.rubric import Rubric
from r1jax.rollout.engine import Engine
from r1jax.rollout.types import Completion, Group, Rollout
from r1jax.tasks.types import GradingError, Problem, Task
from r1jax.text.chat import render
from r1jax.text.response import final_answer
from r1jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Collected:
    """Groups in the order of the problems, and what they cost."""

    groups: list[Group]
    seconds: dict[str, float]
    """"generate", "rewards"."""
    reward_errors: dict[str, int]
    """Completions that each reward function failed on; "task_metric" where the task itself could not grade some."""
    error_messages: dict[str, str]
    """The first failure of each function that failed."""


@dataclasses.dataclass(frozen=True)
class Collector:
    """Samples and scores under one task, template and rubric."""

    engine: Engine
    tokenizer: Tokenizer
    task: Task
    rubric: Rubric
    template: str
    max_prompt_tokens: int

    def encode(self, problem: Problem) -> list[int]:
        """Token ids of a problem's prompt. Raises ValueError, quoting the question, if it is longer than the budget."""
        text = render(problem.messages, template=self.template)
        ids = self.tokenizer.encode(text)
        if self.tokenizer.bos_id is not None and self.template == "r1_zero":
            ids = [self.tokenizer.bos_id, *ids]
        if len(ids) > self.max_prompt_tokens:
            question = problem.messages[-1]["content"]
            raise ValueError(
                f"a prompt has {len(ids)} tokens, more than max_prompt_tokens={self.max_prompt_tokens}: {question[:120]!r}"
            )
        return ids

    def collect(
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
    ) -> Collected:
        """``num_samples`` scored rollouts of each problem. Prompts are checked before anything is generated."""
        prompts = [self.encode(problem) for problem in problems]
        start = time.perf_counter()
        completions = self.engine.generate(
            params,
            buffers,
            prompts,
            num_samples=num_samples,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            stop_ids=(self.tokenizer.eos_id,),
            key=key,
        )
        generated = time.perf_counter()
        groups, scores, num_ungraded = self._score(problems, prompts, completions, policy_version)
        seconds = {"generate": generated - start, "rewards": time.perf_counter() - generated}
        errors = scores.errors | ({"task_metric": num_ungraded} if num_ungraded else {})
        return Collected(groups, seconds, errors, scores.messages)

    def _score(self, problems, prompts, completions: list[list[Completion]], policy_version: int):
        num_samples = len(completions[0])
        flat = [completion for group in completions for completion in group]
        texts = [self._text(completion) for completion in flat]
        columns: dict[str, list] = {
            "problem": [problem for problem in problems for _ in range(num_samples)],
            "completion_ids": [completion.token_ids.tolist() for completion in flat],
            "stop_reason": [completion.stop_reason for completion in flat],
        }
        columns["answer"] = [problem.answer for problem in columns["problem"]]
        for name in dict.fromkeys(name for problem in problems for name in problem.columns):
            columns[name] = [problem.columns.get(name) for problem in columns["problem"]]
        columns["task"] = [self.task] * len(flat)
        prompt_texts = [render(problem.messages, template=self.template) for problem in columns["problem"]]
        scores = self.rubric.score(prompt_texts, texts, columns)

        rollouts, num_ungraded = [], 0
        for index, (completion, text) in enumerate(zip(flat, texts, strict=True)):
            problem = columns["problem"][index]
            answer = None if completion.stop_reason == "length" else final_answer(text)
            try:
                is_correct = answer is not None and self.task.grade(answer, problem) >= 1.0
            except GradingError:
                is_correct, num_ungraded = False, num_ungraded + 1
            rollouts.append(
                Rollout(
                    prompt_ids=np.asarray(prompts[index // num_samples], np.int32),
                    completion=completion,
                    text=text,
                    policy_version=policy_version,
                    rewards={name: float(values[index]) for name, values in scores.by_name.items()},
                    reward=float(scores.total[index]),
                    is_correct=is_correct,
                    answer=answer,
                )
            )
        groups = [
            Group(problem, tuple(rollouts[i * num_samples : (i + 1) * num_samples]))
            for i, problem in enumerate(problems)
        ]
        return groups, scores, num_ungraded

    def _text(self, completion: Completion) -> str:
        ids = completion.token_ids
        return self.tokenizer.decode(ids[:-1] if completion.stop_reason == "stop" else ids)
