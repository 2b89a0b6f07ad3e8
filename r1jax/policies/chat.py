"""The model that a judge or a rewriter asks: behind an address, or a policy that is loaded next to the one that samples."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from r1jax.policies.policy import load_init
from r1jax.processes import on_first
from r1jax.rollout.engine import Engine, make_engine
from r1jax.rollout.weight_sync import for_sampling
from r1jax.specs.rewards import AnyChat, EndpointSpec, PolicyChatSpec
from r1jax.text.chat import encode_prompt, render, stop_ids
from r1jax.text.endpoint import ask_endpoint
from r1jax.text.sample import Chat, ChatError
from r1jax.text.templates import Messages
from r1jax.text.tokenizer import Tokenizer

_FEWEST = 2  # questions from which on no answer means that no server is there; one alone may be at fault itself


def make_chat(spec: AnyChat | None, *, mesh: Mesh) -> Chat | None:
    """The model of a spec; None for None. A policy is loaded onto the mesh."""
    if spec is None:
        return None
    if isinstance(spec, EndpointSpec):
        return asked_by_first(functools.partial(ask_endpoint, spec))
    policy, params, buffers = load_init(spec.init, mesh=mesh, seed=0)
    engine = make_engine(policy.model, spec.engine)
    weights = for_sampling(policy.model, params, buffers, mesh=mesh, dtype=spec.engine.dtype)
    return functools.partial(ask_policy, spec, engine, weights, policy.tokenizer)


def check_answered(failures: Sequence[object], *, num_asked: int, who: str, what: str) -> None:
    """Raises ChatError, with the first of the failures, where all that was asked failed: the model is not there.

    who, what: names of the asked and of the questions, for the message.
    """
    if len(failures) == num_asked >= _FEWEST:
        raise ChatError(
            f"{who} failed on all {num_asked} {what}: {failures[0]}; what was done is kept, and the same command goes on "
            "from there"
        )


def asked_by_first(chat: Chat) -> Chat:
    """The chat, which of several processes the first one asks; all hear its answers, and the ChatError that it raises."""

    def ask(conversations: Sequence[Messages], *, seed: int) -> list[str | ChatError]:
        def first() -> tuple[list[tuple[bool, str]], str | None]:  # as JSON can say it
            try:
                answers = chat(conversations, seed=seed)
            except ChatError as error:
                return [], str(error)
            return [(isinstance(answer, str), str(answer)) for answer in answers], None

        answers, failure = on_first(first)
        if failure is not None:
            raise ChatError(failure)
        return [text if is_answer else ChatError(text) for is_answer, text in answers]

    return ask


def ask_policy(
    spec: PolicyChatSpec,
    engine: Engine,
    weights: tuple[Any, Any],
    tokenizer: Tokenizer,
    conversations: Sequence[Messages],
    *,
    seed: int,
) -> list[str | ChatError]:
    """The answers by a policy's weights; a ChatError in the place of one that was cut off or whose prompt is too long.

    A thought is part of the answer, with the tag that the prompt may have opened.
    """
    prompts = [encode_prompt(messages, tokenizer, template=spec.template) for messages in conversations]
    answers: list[str | ChatError] = [
        ChatError(f"a prompt of {len(prompt)} tokens, more than max_prompt_tokens={spec.max_prompt_tokens}")
        for prompt in prompts
    ]
    fitting = [index for index, prompt in enumerate(prompts) if len(prompt) <= spec.max_prompt_tokens]
    if not fitting:
        return answers
    completions = engine.generate(
        *weights,
        [prompts[index] for index in fitting],
        num_samples=1,
        max_new_tokens=spec.max_new_tokens,
        temperature=spec.temperature,
        top_p=spec.top_p,
        stop_ids=stop_ids(tokenizer, spec.template),
        key=jax.random.key(seed),
    )
    for index, (completion,) in zip(fitting, completions, strict=True):
        if completion.stop_reason == "length":
            answers[index] = ChatError(f"cut off after {spec.max_new_tokens} tokens")
        else:
            prompt = render(conversations[index], template=spec.template, tokenizer=tokenizer)
            opened = "<think>\n" if prompt.rstrip().endswith("<think>") else ""
            answers[index] = opened + tokenizer.decode(completion.token_ids[:-1])
    return answers
