"""The model that a judge or a rewriter asks: behind an address, or a policy that is loaded next to the one that samples."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from r1jax.policies.policy import load_policy
from r1jax.processes import on_first
from r1jax.rollout.engine import Engine, make_engine
from r1jax.rollout.weight_sync import for_sampling
from r1jax.specs.rewards import AnyChat, EndpointSpec, PolicyChatSpec
from r1jax.text.chat import encode_prompt, render, stop_ids
from r1jax.text.endpoint import EndpointChat
from r1jax.text.sample import Chat, ChatError
from r1jax.text.tokenizer import Tokenizer

_FEWEST = 2
"""Questions from which on no answer at all means that no server is there; one alone may be at fault itself."""


def make_chat(spec: AnyChat | None, *, mesh: Mesh) -> Chat | None:
    """The model of a spec; None for None. A policy is loaded onto the mesh."""
    if spec is None:
        return None
    if isinstance(spec, EndpointSpec):
        return AskedByFirst(EndpointChat(spec))
    policy, params, buffers = load_policy(spec.init, mesh=mesh, seed=0)
    return PolicyChat(
        spec,
        engine=make_engine(policy.model, spec.engine, pad_id=policy.tokenizer.pad_id),
        weights=for_sampling(policy.model, params, buffers, mesh=mesh),
        tokenizer=policy.tokenizer,
    )


def check_answered(failures: Sequence[object], *, num_asked: int, who: str, what: str) -> None:
    """Raises ChatError, with the first of the failures, where all that was asked failed: the model is not there.

    Args:
        failures: why there was no answer; what an answer says is no matter.
        num_asked: how many questions there were.
        who, what: names of the asked and of the questions, for the message.
    """
    if len(failures) == num_asked >= _FEWEST:
        raise ChatError(
            f"{who} failed on all {num_asked} {what}: {failures[0]}; what was done is kept, and the same command goes on "
            "from there"
        )


@dataclasses.dataclass(frozen=True)
class AskedByFirst:
    """A ``Chat`` that of several processes the first one asks; all hear its answers."""

    chat: Chat

    def __call__(self, conversations: Sequence[Sequence[Mapping[str, str]]], *, seed: int) -> list[str | ChatError]:
        """As the chat itself, in what it returns and in the ChatError that it raises."""
        answers, failure = on_first(lambda: self._ask(conversations, seed))
        if failure is not None:
            raise ChatError(failure)
        return [text if is_answer else ChatError(text) for is_answer, text in answers]

    def _ask(self, conversations: Sequence[Sequence[Mapping[str, str]]], seed: int) -> tuple[list, str | None]:
        """JSON-able."""
        try:
            answers = self.chat(conversations, seed=seed)
        except ChatError as error:
            return [], str(error)
        return [(isinstance(answer, str), str(answer)) for answer in answers], None


@dataclasses.dataclass(frozen=True)
class PolicyChat:
    """A ``Chat`` by a policy's own weights; its thoughts are part of the answer, with the tag that the prompt may have opened."""

    spec: PolicyChatSpec
    engine: Engine
    weights: tuple[Any, Any]
    tokenizer: Tokenizer

    def __call__(self, conversations: Sequence[Sequence[Mapping[str, str]]], *, seed: int) -> list[str | ChatError]:
        """The answers; a ChatError in the place of one that was cut off or whose prompt is too long."""
        prompts = [encode_prompt(messages, self.tokenizer, template=self.spec.template) for messages in conversations]
        answers: list[str | ChatError] = [
            ChatError(f"a prompt of {len(prompt)} tokens, more than max_prompt_tokens={self.spec.max_prompt_tokens}")
            for prompt in prompts
        ]
        fitting = [place for place, prompt in enumerate(prompts) if len(prompt) <= self.spec.max_prompt_tokens]
        if not fitting:
            return answers
        completions = self.engine.generate(
            *self.weights,
            [prompts[place] for place in fitting],
            num_samples=1,
            max_new_tokens=self.spec.max_new_tokens,
            temperature=self.spec.temperature,
            top_p=self.spec.top_p,
            stop_ids=stop_ids(self.tokenizer, self.spec.template),
            key=jax.random.key(seed),
        )
        for place, (completion,) in zip(fitting, completions, strict=True):
            if completion.stop_reason == "length":
                answers[place] = ChatError(f"cut off after {self.spec.max_new_tokens} tokens")
            else:
                prompt = render(conversations[place], template=self.spec.template, tokenizer=self.tokenizer)
                opened = "<think>\n" if prompt.rstrip().endswith("<think>") else ""
                answers[place] = opened + self.tokenizer.decode(completion.token_ids[:-1])
        return answers
