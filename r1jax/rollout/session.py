"""Requests, and the slots that they are sampled in.

A sequence that ends frees its slot, and the next request takes it while the others go on. Between two segments of decode
steps (``programs``) the host reads what was sampled, gives out slots (``slots``) and prefills prompts.
"""

import dataclasses
import itertools
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np

from r1jax import members
from r1jax.models.transformer import Model
from r1jax.processes import to_host
from r1jax.rollout.programs import Programs
from r1jax.rollout.records import Completion
from r1jax.rollout.sampling import MAX_STOP_IDS, SAMPLING_FIELDS, Sampling, key_of
from r1jax.rollout.slots import DenseSlots, PagedSlots, session_sizes
from r1jax.specs.rollout import EngineSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One answer that is asked for.

    Tokens follow from the prompt, the weights, ``sampling`` and ``key`` alone, up to the rounding of programs of
    different sizes.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    stop_ids: Sequence[int] = ()
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    key: np.ndarray = dataclasses.field(default_factory=lambda: key_of(0))  # [2] uint32, ``sampling.key_of`` a seed
    group: Hashable = None
    """Requests with the same prompt and group are prefilled once; None: by itself."""
    is_finished: Callable[[Sequence[int]], int | None] | None = None
    """Of the tokens so far: how many of them to keep where they end the answer, else None (``text.chat.stops_at``)."""
    allowed: Callable[[Sequence[int]], np.ndarray] | None = None
    """Of the tokens so far: [V] bool, which tokens may come next. It is asked for every token, which is slow."""
    so_far: Completion | None = None
    """What was sampled already, perhaps under other weights: the answer goes on from there."""


@dataclasses.dataclass
class _Running:
    """A request in a slot, and its tokens."""

    number: int
    request: Request
    arrival: int
    tokens: list[int]
    logps: list[float]
    sampled_logps: list[float]
    experts: list[np.ndarray]  # pieces of [p + n − 1, L, K], those of the prompt first; [] where they are not recorded

    def completion(self, stop_reason) -> Completion:
        sampled = (
            np.array(self.sampled_logps, np.float32) if self.request.sampling.features or self.request.allowed else None
        )
        logps = np.array(self.logps, np.float32)
        experts = np.concatenate(self.experts) if self.experts else None
        tokens = np.array(self.tokens, np.int32)
        return Completion(tokens, logps, stop_reason, sampled_logps=sampled, experts=experts)


class Session:
    """Requests and their slots, under the same weights; see ``Engine.open``.

    ``counts`` so far: decode "steps"; "slot_steps", slots × steps, and of these "row_steps", those of slots in use;
    "tokens"; all but the first also as "busy_...", while requests waited for a slot; "evictions".
    """

    def __init__(
        self, model: Model, spec: EngineSpec, programs: Programs, weights: tuple[Any, Any], *, num_slots, num_tokens
    ):
        self.spec, self.weights = spec, weights
        self.counts: Counter[str] = Counter()
        self._programs, self._config = programs, model.config
        self._of_steps = programs.weights_of_steps(weights[0])
        self._num_drafts = self.spec.drafts_per_step
        self._most_tokens = num_tokens
        sizes = session_sizes(model, spec, num_slots=num_slots, num_tokens=num_tokens)
        self._sizes = sizes.slots
        room = {"num_slots": sizes.slots[0], "num_tokens": sizes.num_tokens}
        if sizes.is_paged:
            self._slots = PagedSlots(programs, spec, num_pages=sizes.num_pages, **room)
        else:
            self._slots = DenseSlots(programs, spec, **room)
        self._running: list[_Running | None] = [None] * self._slots.num_slots
        self._waiting: deque[_Running] = deque()
        self._waiting_of_group: Counter[Hashable] = Counter()
        self._numbers, self._arrivals = itertools.count(), itertools.count()
        self._draft_BK = np.full((self._slots.num_slots, self._num_drafts), -1, np.int32)

    # Requests

    def submit(self, request: Request) -> int:
        """Queues a request; returns its number. Raises ValueError for one that can never be sampled."""
        prompt, vocab_size = request.prompt, self._config.vocab_size
        longest = len(prompt) + request.max_new_tokens
        wrong = {
            "a prompt needs at least one token": not len(prompt),
            f"max_new_tokens must be at least 1, got {request.max_new_tokens}": request.max_new_tokens < 1,
            f"at most {MAX_STOP_IDS} stop ids, got {len(request.stop_ids)}": len(request.stop_ids) > MAX_STOP_IDS,
            f"a prompt of {len(prompt)} tokens and {request.max_new_tokens} new ones are more than {self._most_tokens}": (
                longest > self._most_tokens
            ),
        }
        if message := next((message for message, is_wrong in wrong.items() if is_wrong), None):
            raise ValueError(message)
        if (ids := np.asarray(prompt)).min() < 0 or ids.max() >= vocab_size:
            bad = ids[(ids < 0) | (ids >= vocab_size)][0]
            raise ValueError(f"token id {bad} of a prompt is not in the vocabulary of {vocab_size}")
        number, before = next(self._numbers), request.so_far
        tokens = [] if before is None else before.token_ids.tolist()
        logps = [] if before is None else before.logps.tolist()
        sampled = [] if before is None or before.sampled_logps is None else before.sampled_logps.tolist()
        experts = [] if before is None or before.experts is None else [before.experts]
        self._queue(_Running(number, request, 0, tokens, logps, sampled, experts))
        return number

    def _queue(self, entry: _Running, *, first: bool = False) -> None:
        (self._waiting.appendleft if first else self._waiting.append)(entry)
        self._waiting_of_group[self._group(entry)] += 1

    @staticmethod
    def _group(entry: _Running) -> Hashable:
        """What entries with the same tokens share; those that have some of their own are by themselves."""
        is_alone = entry.request.group is None or entry.tokens
        return ("alone", entry.number, len(entry.tokens)) if is_alone else ("group", entry.request.group)

    @property
    def is_busy(self) -> bool:
        """Whether a request is not done."""
        return bool(self._waiting) or any(self._running)

    def cancel(self, number: int) -> None:
        """Gives up a request, if it is not done."""
        for entry in [entry for entry in self._waiting if entry.number == number]:
            self._waiting.remove(entry)
            self._waiting_of_group[self._group(entry)] -= 1
        for slot, entry in enumerate(self._running):
            if entry is not None and entry.number == number:
                self._release(slot)

    def unfinished(self) -> dict[int, Completion]:
        """What each request that is not done has so far, by its number; ``Request.so_far`` takes it."""
        entries = [entry for entry in (*self._running, *self._waiting) if entry is not None]
        return {entry.number: entry.completion("unfinished") for entry in entries}

    def tokens_of(self, number: int) -> Sequence[int]:
        """The tokens so far of a request that has a slot, for who streams them; else none."""
        return next((entry.tokens for entry in self._running if entry is not None and entry.number == number), ())

    # Segments

    def step(self) -> list[tuple[int, Completion]]:
        """Samples a segment of tokens; returns the requests that are done now, by their numbers."""
        self._resize()
        self._admit()
        self._make_room()
        is_full = bool(self._waiting)
        rows, features = self._rows()
        steps = 1 if "mask" in features else self.spec.segment
        layers, out = self._programs.decode(
            self._of_steps, self.weights[1], self._slots.layers, rows, steps=steps, features=features, batch_axes=self._slots.batch_axes,
        )  # fmt: skip
        self._slots.layers = layers
        out = jax.tree.map(to_host, out)
        made = {"tokens": int(out["num_new_B"].sum()), "row_steps": int(out["num_steps_B"].sum())}
        made["slot_steps"] = int(out["num_steps"]) * self._slots.num_slots
        self.counts.update(made, steps=int(out["num_steps"]))
        if is_full:
            self.counts.update({f"busy_{name}": count for name, count in made.items()})
        if out["draft_BK"].shape == self._draft_BK.shape:
            self._draft_BK = np.array(out["draft_BK"])
        return self._finished(out)

    def _resize(self) -> None:
        """As many slots as are needed, of the sizes that there are."""
        num_parts = self._slots.num_parts
        of_parts = np.array([entry is not None for entry in self._running]).reshape(num_parts, -1)
        needed = max(int(of_parts.sum(1).max()) * num_parts, int(of_parts.sum()) + len(self._waiting))
        needed = members.most(needed)
        size = min((size for size in self._sizes if size >= needed), default=self._sizes[0])
        if size == self._slots.num_slots:
            return
        taken = []
        for part, is_used in enumerate(of_parts):
            used = (np.flatnonzero(is_used) + part * of_parts.shape[1]).tolist()
            taken += used + [-1] * (size // num_parts - len(used))
        self._slots.take(taken)
        self._running = [None if slot < 0 else self._running[slot] for slot in taken]
        self._draft_BK = np.array(
            [[-1] * self._num_drafts if slot < 0 else self._draft_BK[slot] for slot in taken], np.int32
        )
        self._draft_BK = self._draft_BK.reshape(size, self._num_drafts)

    def _admit(self) -> None:
        """Gives free slots to those that wait, in their order; a group stays in a part as long as there is one."""
        per_part = self._slots.num_slots // self._slots.num_parts
        free = [
            [s for s in range(p * per_part, (p + 1) * per_part) if self._running[s] is None]
            for p in range(self._slots.num_parts)
        ]
        part_of_group: dict[Hashable, int] = {}
        while self._waiting and any(free):
            entry = self._waiting[0]
            group = self._group(entry)
            part = part_of_group.get(group, -1)
            if part < 0 or not free[part]:
                part = max(range(len(free)), key=lambda part: len(free[part]))
            part_of_group[group] = part
            slot, num_running = free[part][0], per_part - len(free[part])
            prompt = [*entry.request.prompt, *entry.tokens]
            if not self._slots.admit(slot, prompt, group=group, num_running=num_running):
                break
            free[part].pop(0)
            self._waiting.popleft()
            entry.arrival = next(self._arrivals)
            self._running[slot] = entry
            self._draft_BK[slot] = -1
            self._waiting_of_group[group] -= 1
        for slot, experts in self._slots.flush(self.weights).items():
            entry = self._running[slot]
            if entry is not None and not entry.experts:  # what was sampled before keeps the experts of that time
                entry.experts.append(experts)
        for group in [group for group, count in self._waiting_of_group.items() if count == 0]:
            del self._waiting_of_group[group]
            self._slots.forget(group)

    def _make_room(self) -> None:
        """Room for the next segment in every slot; where there is none, who came last waits again."""
        entries = {slot: entry for slot, entry in enumerate(self._running) if entry is not None}
        for slot, entry in sorted(entries.items(), key=lambda pair: pair[1].arrival):
            while slot in entries and not self._slots.grow(slot, self._length(entry) + self._most_new_tokens()):
                of_part = [other for other in entries if self._slots.part_of(other) == self._slots.part_of(slot)]
                last = max(of_part, key=lambda other: entries[other].arrival)
                self._release(last)
                self._queue(entries.pop(last), first=True)
                self.counts["evictions"] += 1

    def _most_new_tokens(self) -> int:
        return self.spec.segment * (1 + self._num_drafts) + self._num_drafts

    @staticmethod
    def _length(entry: _Running) -> int:
        """Tokens in the cache: all but the pending one."""
        return len(entry.request.prompt) + len(entry.tokens) - 1

    def _release(self, slot: int) -> None:
        self._slots.free(slot)
        self._running[slot] = None

    def _rows(self) -> tuple[dict[str, np.ndarray], frozenset[str]]:
        """(arrays of the slots for a decode program, its features)."""
        entries = self._running
        features = frozenset().union(*(entry.request.sampling.features for entry in entries if entry))
        features |= {"mask"} if any(entry and entry.request.allowed for entry in entries) else set()
        num_drafts = 0 if features & {"mask", "penalty"} else self._num_drafts

        def of_slots(function, *, empty, dtype) -> np.ndarray:
            return np.array([empty if entry is None else function(entry) for entry in entries], dtype)

        def pending(entry: _Running) -> int:
            return entry.tokens[-1] if entry.tokens else int(entry.request.prompt[-1])

        def stops(entry: _Running) -> list[int]:
            return [*entry.request.stop_ids, *[-1] * (MAX_STOP_IDS - len(entry.request.stop_ids))]

        rows = {
            "token_B": of_slots(pending, empty=0, dtype=np.int32),
            "lengths_B": of_slots(self._length, empty=0, dtype=np.int32),
            "count_B": of_slots(lambda entry: len(entry.tokens), empty=0, dtype=np.int32),
            "budget_B": of_slots(lambda entry: entry.request.max_new_tokens, empty=0, dtype=np.int32),
            "is_running_B": np.array([entry is not None for entry in entries]),
            "key_B2": of_slots(lambda entry: entry.request.key, empty=[0, 0], dtype=np.uint32),
            "stop_BK": of_slots(stops, empty=[-1] * MAX_STOP_IDS, dtype=np.int32),
            "draft_BK": self._draft_BK[:, :num_drafts],
            "max_idle": np.int32(self._max_idle()),
            **self._slots.rows(),
        }
        for name in SAMPLING_FIELDS if features else ["temperature"]:
            empty = getattr(Sampling(), name)
            rows[name] = of_slots(
                lambda entry, name=name: getattr(entry.request.sampling, name), empty=empty, dtype=np.float32
            )
        if self.spec.drafts == "ngram" and num_drafts:
            rows["text_BS"] = np.zeros((len(entries), self._slots.num_tokens + 1), np.int32)
            for slot, entry in enumerate(entries):
                if entry is not None:
                    rows["text_BS"][slot, : self._length(entry) + 1] = [*entry.request.prompt, *entry.tokens]
        vocab_size = self._config.vocab_size
        if "penalty" in features:
            counts = [np.bincount(entry.tokens if entry else [], minlength=vocab_size) for entry in entries]
            rows["num_in_answer_BV"] = np.array(counts, np.int32)
            prompts = [np.bincount(entry.request.prompt if entry else [], minlength=vocab_size) for entry in entries]
            rows["in_text_BV"] = (rows["num_in_answer_BV"] + np.array(prompts)) > 0
        if "mask" in features:
            everything = np.ones(vocab_size, bool)
            asked = [
                entry.request.allowed(entry.tokens) if entry and entry.request.allowed else everything
                for entry in entries
            ]
            rows["allowed_BV"] = np.array(asked, bool)
        return rows, features

    def _max_idle(self) -> int:
        """How many may end before the segment does: a few where others wait, else until fewer slots are enough."""
        if self._waiting:
            return max(1, len(self._running) // 16)
        num_running = sum(entry is not None for entry in self._running)
        fewer = max((size for size in self._sizes if size < num_running), default=-1)
        return num_running - fewer

    def _finished(self, out: dict[str, np.ndarray]) -> list[tuple[int, Completion]]:
        """Reads a segment's tokens; who is done gives up the slot."""
        done = []
        for slot, entry in enumerate(self._running):
            if entry is None:
                continue
            count = int(out["num_new_B"][slot])
            entry.tokens += out["tokens_BN"][slot, :count].tolist()
            entry.logps += out["logps_BN"][slot, :count].tolist()
            if entry.request.sampling.features or entry.request.allowed:
                entry.sampled_logps += out["sampled_logps_BN"][slot, :count].tolist()
            if self.spec.record_routing:
                entry.experts.append(out["experts_BNLK"][slot, :count])
            reason = None
            if out["is_failed_B"][slot]:
                reason = "failed"
            elif out["is_done_B"][slot]:
                reason = "stop" if entry.tokens[-1] in entry.request.stop_ids else "length"
            if entry.request.is_finished is not None and (kept := entry.request.is_finished(entry.tokens)) is not None:
                reason = "stop"
                del entry.tokens[kept:], entry.logps[kept:], entry.sampled_logps[kept:]
                if entry.experts:
                    entry.experts = [np.concatenate(entry.experts)[: self._length(entry)]]
            if reason is not None:
                done.append((entry.number, entry.completion(reason)))
                self._release(slot)
        return done
