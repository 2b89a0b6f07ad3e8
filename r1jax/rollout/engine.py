"""The sampler: token ids in, token ids and log-probabilities out.

``Engine.generate`` is one session (``session``) for all samples of some prompts. All sizes are one of few
(``slots.bucketed``) and settings are arrays, so few programs are compiled: ``num_compilations`` counts them.
"""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax

from r1jax import members
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import Model
from r1jax.rollout.programs import make_programs
from r1jax.rollout.records import Completion
from r1jax.rollout.sampling import Sampling, keys_of_rows
from r1jax.rollout.session import Request, Session
from r1jax.rollout.weight_sync import sampling_model
from r1jax.specs.rollout import EngineSpec


class Engine:
    """Samples completions under given weights.

    Weights of any type will do; those that ``weight_sync`` makes for ``model`` of the engine are not cast at every use.
    """

    def __init__(self, model: Model, spec: EngineSpec):
        model = sampling_model(model, spec.dtype)
        check_engine(spec, model.config)
        self.model, self.spec = model, spec
        self.programs = make_programs(model, spec.drafts, spec.record_routing)

    def num_compilations(self) -> int:
        """Programs compiled so far, for all engines of this model and kind of drafts."""
        return self.programs.num_compiled

    def open(self, params, buffers, *, num_slots: int, num_tokens: int) -> Session:
        """A session of up to ``num_slots`` sequences at a time, of up to ``num_tokens`` tokens each, prompts included.

        Both are bounded by the spec. Raises ValueError, naming the key, where its memory does not hold one sequence.
        """
        sizes = {"num_slots": num_slots, "num_tokens": num_tokens}
        return Session(self.model, self.spec, self.programs, (params, buffers), **sizes)

    def generate(
        self,
        params,
        buffers,
        prompts: Sequence[Sequence[int]],
        *,
        num_samples: int = 1,
        max_new_tokens: int | Sequence[int],
        temperature: float = 1.0,
        top_p: float | None = None,
        stop_ids: Sequence[int],
        key: jax.Array,
        so_far: Sequence[Sequence[Completion] | None] | None = None,
        enough: int | None = None,
        on_done: Callable[[int, list[Completion]], None] | None = None,
        before_segment: Callable[[], None] = lambda: None,
        counts: Counter | None = None,
    ) -> list[list[Completion]]:
        """``num_samples`` completions of each prompt, in order.

        max_new_tokens: of all, or of each prompt. ``on_done(prompt, completions)`` is called once for each prompt, as
        soon as all of its samples are done. ``counts`` gains what the session did (``Session.counts``).

        so_far: what the samples of each prompt have already (None: nothing). Those that are "unfinished" go on. enough:
        after so many prompts it stops; it says ``on_done`` of no more, those that are done in a segment taken in their
        order, and the samples of the others are returned as they are by then. ``before_segment`` is called before each
        segment; by raising it ends the call.

        Raises ValueError for an argument that is out of its range, and FloatingPointError where the weights give
        distributions that are none.
        """
        budgets = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
        if not prompts or num_samples < 1 or len(budgets) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts, {num_samples} samples of each, {len(budgets)} budgets")
        sampling = Sampling(temperature=temperature, top_p=1.0 if top_p is None else top_p)
        keys_N2 = keys_of_rows(key, len(prompts) * num_samples)
        groups: list[list[Any]] = [list(group or [None] * num_samples) for group in so_far or [None] * len(prompts)]
        requests = {
            (index, sample): Request(
                prompt=prompt,
                max_new_tokens=budget,
                stop_ids=stop_ids,
                sampling=sampling,
                key=keys_N2[index * num_samples + sample],
                group=index,
                so_far=groups[index][sample],
            )
            for index, (prompt, budget) in enumerate(zip(prompts, budgets, strict=True))
            for sample in range(num_samples)
            if groups[index][sample] is None or groups[index][sample].stop_reason == "unfinished"
        }
        longest = -(-max(map(len, prompts)) // self.spec.prompt_bucket) * self.spec.prompt_bucket
        room = {"num_slots": members.most(max(len(requests), 1)), "num_tokens": members.most(longest + max(budgets))}
        session = self.open(params, buffers, **room)
        whose = {session.submit(request): sample_of for sample_of, request in requests.items()}
        missing = Counter(index for index, _ in requests)
        coming, left = list(range(len(prompts))), len(prompts) if enough is None else enough
        num_failed = 0
        while True:
            for index in [index for index in coming if not missing[index]][:left]:
                coming.remove(index)
                left -= 1
                if on_done is not None:
                    on_done(index, groups[index])
            if not left or not session.is_busy:
                break
            before_segment()
            for number, completion in session.step():
                index, sample = whose[number]
                groups[index][sample] = completion
                missing[index] -= 1
                num_failed += completion.stop_reason == "failed"
        for number, completion in session.unfinished().items():
            index, sample = whose[number]
            groups[index][sample] = completion
        if counts is not None:
            counts.update(session.counts)
        if num_failed:
            raise FloatingPointError(
                f"the model's logits are not finite in {num_failed} of {len(requests)} completions"
            )
        return groups


def check_engine(spec: EngineSpec, config: ModelConfig) -> None:
    """Raises ValueError, naming the key, for what a model does not have: MTP to draft with, experts to record."""
    if spec.drafts == "mtp" and not config.num_mtp_layers:
        raise ValueError("engine.drafts='mtp', but the model has num_mtp_layers=0")
    if spec.record_routing and not config.num_experts:
        raise ValueError("engine.record_routing=True, but the model has num_experts=0")


make_engine = functools.cache(Engine)
"""The engine of these arguments, ``Engine``'s; calls with the same ones share it."""
