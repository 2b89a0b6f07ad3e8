"""A sampled answer as filters, judges and rewriters see it, and the answer of a model that one of them asks.

Judges and rewriters are functions ``f(samples, *, chat, seed, **options)`` that return a result for each sample, or an
exception in its place: that sample failed, and is counted. A ``Rejection`` among them says why in a few words.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from r1jax.text.response import Response, parse


class Rejection(ValueError):
    """A sample is not kept. The message is the reason under which it is counted: few words, no figures."""


class ChatError(RuntimeError):
    """A model that was asked gave no answer: unreachable, out of time, cut off, or nonsense in place of a reply."""


class Chat(Protocol):
    """A model that answers conversations, wherever it runs."""

    def __call__(self, conversations: Sequence[Sequence[Mapping[str, str]]], *, seed: int) -> list[str | ChatError]:
        """The assistant's next message of each conversation, whose last message is the user's; or why there is none."""
        ...


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sampled answer to one problem.

    rewards: score of each reward by name; nan where it does not apply or failed.
    errors: message of each verifier that failed; under "task_metric" the task's own.
    columns: the problem's further columns; "task" is the name of its task.
    """

    messages: Sequence[Mapping[str, str]]  # that were answered; the last one is the user's
    text: str  # the answer, without its stop token
    style: str = "r1_zero"  # of the text, see `text.response`
    token_ids: Sequence[int] = ()  # of the text, with the stop token where there is one
    stop_reason: str = "stop"  # or "length": it was cut off
    answer: str | None = None  # the final answer in the text
    is_correct: bool = False  # the task's verdict on that
    reference: str = ""  # the task's own answer; empty where it has none
    rewards: Mapping[str, float] = dataclasses.field(default_factory=dict)
    errors: Mapping[str, str] = dataclasses.field(default_factory=dict)
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    problem_text: str = ""  # the problem's, without the wording of a prompt; "" is the question

    @property
    def question(self) -> str:
        """The last message, which the sample answers."""
        return self.messages[-1]["content"]

    @property
    def parts(self) -> Response:
        """Thought and answer or summary."""
        return parse(self.text, style=self.style)


def r1_text(think: str, summary: str) -> str:
    """A thought and a summary in the form of R1: what the assistant's message of a training conversation holds."""
    return f"<think>\n{think.strip()}\n</think>\n\n{summary.strip()}"
