"""Where the sequences that are sampled keep their keys and values: slots, filled and freed while others go on.

``DenseSlots`` and ``PagedSlots`` do the same for the two kinds of cache (``r1jax.models.cache``). The arrays are on the
devices. What belongs to whom is decided on the host, between two segments of decode steps, and then written in a few
programs of few sizes (``flush``).

A prompt is prefilled once, without its last token, and serves all of its samples: a dense slot begins as a copy of it,
paged slots share its full pages and copy the last one. Pages are given out as sequences grow, so a pool can run out
(``grow`` says so); whoever decodes then gives a slot back and samples its request on later.

On a mesh the slots are cut into parts of consecutive ones, one for each group of devices that the "batch" of the role
"rollout" is split over. A part has pages to itself, so reading them needs no other device, and a prompt is prefilled in
each part that samples it.
"""

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import numpy as np

from r1jax.models import cache as kv_cache
from r1jax.models.transformer import Model
from r1jax.processes import to_host
from r1jax.rollout.programs import Programs
from r1jax.sharding import MESH_AXES, RULES
from r1jax.specs.rollout import EngineSpec

_FEWEST_SLOTS = 4  # a session shrinks to no fewer


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a session has room for."""

    is_paged: bool
    slots: tuple[int, ...]
    """Numbers of slots, descending: the most that is needed, and each the half of the one before, for each part."""
    num_tokens: int  # of a slot
    num_pages: int  # of each part; 0 where there are none
    page_size: int

    @property
    def table_width(self) -> int:
        """Entries of a row of the page table."""
        return -(-self.num_tokens // self.page_size)


def session_sizes(model: Model, spec: EngineSpec, *, num_slots: int, num_tokens: int) -> Sizes:
    """Of up to ``num_slots`` sequences at a time of up to ``num_tokens`` tokens each, on the ambient mesh.

    Raises ValueError, naming the key, where the memory of the spec does not hold one sequence.
    """
    room = num_tokens + spec.drafts_per_step
    room = -(-room // spec.prompt_bucket) * spec.prompt_bucket
    num_parts = parts_here()[1]
    kind = kv_cache.best_kind() if spec.cache == "auto" else spec.cache
    most, num_pages = min(num_slots, spec.slots or num_slots), 0
    if kind == "dense":
        most = min(most, _dense_slots(model, spec, room) * num_parts)
    else:
        num_pages = _num_pages(model, spec, room, -(-most // num_parts))
    slots = [-(-most // num_parts)]
    while slots[-1] > 1 and (slots[-1] + 1) // 2 * num_parts >= _FEWEST_SLOTS:
        slots.append((slots[-1] + 1) // 2)
    return Sizes(kind == "paged", tuple(size * num_parts for size in slots), room, num_pages, spec.page_size)


def abstract_layers(model: Model, spec: EngineSpec, *, num_pages: int = 0, num_slots: int = 0, num_tokens: int = 0):
    """The shapes of a session's layers: of so many pages, or else of a dense cache."""
    table_11, with_mtp = np.zeros((1, 1), np.int32), {"num_mtp_layers": spec.num_mtp_layers}

    def init():
        if num_pages:
            sizes = {"num_pages": num_pages, "page_size": spec.page_size}
            return model.init_paged_cache(page_table_BI=table_11, **sizes, **with_mtp).layers
        return model.init_cache(batch=num_slots, length=num_tokens, **with_mtp).layers

    return jax.eval_shape(init)


def _bytes_of(layers) -> int:
    return sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(layers))


def _dense_slots(model: Model, spec: EngineSpec, room: int) -> int:
    """Slots of a part that are within the memory."""
    if spec.cache_gb is None:
        return 2**30
    size = _bytes_of(abstract_layers(model, spec, num_slots=1, num_tokens=room))
    if (most := int(spec.cache_gb * 1e9 // size)) < 1:
        raise ValueError(f"engine.cache_gb={spec.cache_gb} holds no sequence of {room} tokens: {size / 1e9:.3g} GB")
    return most


def _num_pages(model: Model, spec: EngineSpec, room: int, slots_of_part: int) -> int:
    """Pages of a part: within the memory, at most what all of its slots can use."""
    of_sequence = -(-room // spec.page_size) + 1
    if spec.cache_gb is None:
        return of_sequence * slots_of_part
    size = _bytes_of(abstract_layers(model, spec, num_pages=1))
    if (most := int(spec.cache_gb * 1e9 // size)) < of_sequence:
        raise ValueError(
            f"engine.cache_gb={spec.cache_gb} holds {most} pages of {spec.page_size} tokens; a sequence of "
            f"{room} tokens needs {of_sequence}: {of_sequence * size / 1e9:.3g} GB"
        )
    return min(most, of_sequence * slots_of_part)


@dataclasses.dataclass(eq=False)
class _Prompt:
    """A prompt, all but the last token of which is prefilled: in ``pages``, or in ``row`` of a batch's ``layers``."""

    tokens: Sequence[int]
    part: int
    pages: list[int] = dataclasses.field(default_factory=list)
    layers: Any = None
    row: int = 0
    experts: Any = None  # [length, L, K], where routes are recorded

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return len(self.tokens) - 1


class DenseSlots:
    """``num_slots`` rows of ``num_tokens`` slots each, all of which are there from the start.

    The base of ``PagedSlots`` too, which says where it differs. weights: (params, buffers).
    """

    def __init__(self, programs: Programs, spec: EngineSpec, *, num_slots: int, num_tokens: int):
        self.batch_axes, self.num_parts = parts_here()
        self.num_slots, self.num_tokens = num_slots, num_tokens
        self._programs, self._spec = programs, spec
        self._prompts: dict[tuple[Hashable, int], _Prompt] = {}
        self._new: list[_Prompt] = []
        self._beginning: dict[int, _Prompt] = {}
        self.layers = self._empty_layers()

    def _empty_layers(self):
        return self._programs.empty_dense(num_slots=self.num_slots, num_tokens=self.num_tokens)

    def part_of(self, slot: int) -> int:
        """The part that a slot is in."""
        return slot * self.num_parts // self.num_slots

    def admit(self, slot: int, prompt: Sequence[int], *, group: Hashable, num_running: int) -> bool:
        """The slot begins with the prompt at the next ``flush``; False where its part has no room now.

        Prompts of one ``group`` are the same. num_running: slots of the part that go on growing.
        """
        part = self.part_of(slot)
        if (group, part) not in self._prompts:
            shared = self._allocate(prompt, part, num_running)
            if shared is None:
                return False
            self._prompts[group, part] = shared
            if shared.length:
                self._new.append(shared)
        self._beginning[slot] = self._prompts[group, part]
        return True

    def _allocate(self, tokens: Sequence[int], part: int, num_running: int) -> _Prompt | None:
        return _Prompt(tokens, part)

    def forget(self, group: Hashable) -> None:
        """No other slot will begin with the prompt of this group."""
        for key in [key for key in self._prompts if key[0] == group]:
            del self._prompts[key]

    def flush(self, weights: tuple[Any, Any]) -> dict[int, np.ndarray]:
        """Prefills the new prompts and lets the admitted slots begin: the experts of each one's prompt, if recorded."""
        for batch in _batches(self._new, self._spec):
            rows = [prompt.tokens for prompt in batch]
            rows += [()] * (power_of_two(len(rows)) - len(rows))
            tokens_PT, lengths_P = _padded(rows, self._spec, longest=self.num_tokens)
            layers, experts_PTLK = self._programs.prefill_dense(*weights, tokens_PT, lengths_P)
            _keep_routes(batch, experts_PTLK)
            for row, prompt in enumerate(batch):
                prompt.layers, prompt.row = layers, row
        by_batch: dict[int, list[tuple[int, _Prompt]]] = defaultdict(list)
        for slot, prompt in self._beginning.items():
            if prompt.length:
                by_batch[id(prompt.layers)].append((slot, prompt))
        for pairs in by_batch.values():
            target_N, source_N = (
                np.full(power_of_two(len(pairs)), self.num_slots),
                np.zeros(power_of_two(len(pairs)), int),
            )
            target_N[: len(pairs)], source_N[: len(pairs)] = [s for s, _ in pairs], [p.row for _, p in pairs]
            rows = pairs[0][1].layers
            self.layers = self._programs.insert(self.layers, rows, np.int32(source_N), np.int32(target_N))
        return self._begun()

    def _begun(self) -> dict[int, np.ndarray]:
        begun = {slot: prompt.experts for slot, prompt in self._beginning.items() if prompt.experts is not None}
        self._new, self._beginning = [], {}
        return begun

    def grow(self, slot: int, num_tokens: int) -> bool:
        """Makes room for so many tokens in a slot; False where there is none."""
        return True

    def free(self, slot: int) -> None:
        """What the slot held is no longer needed."""

    def take(self, slots: Sequence[int]) -> None:
        """Slot i becomes what slot ``slots[i]`` was; −1: an empty one."""
        self.num_slots = len(slots)
        self.layers = self._programs.take(self.layers, np.asarray(slots, np.int32))

    def rows(self) -> dict[str, np.ndarray]:
        """What a decode program needs besides the layers."""
        return {}


class PagedSlots(DenseSlots):
    """Slots of up to ``num_tokens`` tokens in ``num_pages`` pages of each part."""

    def __init__(self, programs: Programs, spec: EngineSpec, *, num_pages: int, num_slots: int, num_tokens: int):
        self.num_pages = num_pages
        super().__init__(programs, spec, num_slots=num_slots, num_tokens=num_tokens)
        self._free = [
            list(range((part + 1) * num_pages - 1, part * num_pages - 1, -1)) for part in range(self.num_parts)
        ]
        self._uses: Counter[int] = Counter()
        self._pages: dict[int, list[int]] = defaultdict(list)  # of each slot

    def _empty_layers(self):
        return self._programs.empty_paged(
            num_pages=self.num_parts * self.num_pages, page_size=self._spec.page_size, batch_axes=self.batch_axes
        )

    @property
    def _table_width(self) -> int:
        return -(-self.num_tokens // self._spec.page_size)

    def _allocate(self, tokens, part, num_running):
        count = -(-(len(tokens) - 1) // self._spec.page_size)
        reserve = num_running * (1 + self._spec.segment // self._spec.page_size) + 2
        if num_running and len(self._free[part]) < count + reserve:
            return None
        if not num_running:
            self._forget_waiting(part)
        return _Prompt(tokens, part, [self._take_page(part) for _ in range(count)])

    def _forget_waiting(self, part: int) -> None:
        """Frees prompts that no slot is about to begin with; they are prefilled again when their turn comes."""
        needed = list(self._beginning.values())
        for (group, where), prompt in list(self._prompts.items()):
            if where == part and prompt not in needed:
                del self._prompts[group, where]
                self._new = [new for new in self._new if new is not prompt]
                for page in prompt.pages:
                    self._give_back(page)

    def _take_page(self, part: int) -> int:
        page = self._free[part].pop()
        self._uses[page] += 1
        return page

    def _give_back(self, page: int) -> None:
        self._uses[page] -= 1
        if not self._uses[page]:
            self._free[page // self.num_pages].append(page)

    def forget(self, group):
        for key in [key for key in self._prompts if key[0] == group]:
            for page in self._prompts.pop(key).pages:
                self._give_back(page)

    def admit(self, slot, prompt, *, group, num_running):
        if not super().admit(slot, prompt, group=group, num_running=num_running):
            return False
        shared = self._prompts[group, self.part_of(slot)]
        full = shared.length // self._spec.page_size
        for page in shared.pages[:full]:
            self._uses[page] += 1
        self._pages[slot] = shared.pages[:full]
        if full == len(shared.pages) or self._free[shared.part]:
            self._pages[slot] += [self._take_page(shared.part) for _ in shared.pages[full:]]
            return True
        self.free(slot)
        del self._beginning[slot]
        return False

    def flush(self, weights):
        for batch in _batches(self._new, self._spec):
            by_part = [[prompt for prompt in batch if prompt.part == part] for part in range(self.num_parts)]
            rows = power_of_two(max(map(len, by_part)))
            laid_out = [prompt for part in by_part for prompt in (*part, *[None] * (rows - len(part)))]
            tokens_PT, lengths_P = _padded(
                [p.tokens if p else () for p in laid_out], self._spec, longest=self.num_tokens
            )
            table_PI = np.stack([self._table_row(p.pages if p else [], i // rows) for i, p in enumerate(laid_out)])
            options = {"batch_axes": self.batch_axes}
            self.layers, experts_PTLK = self._programs.prefill_paged(
                *weights, self.layers, tokens_PT, lengths_P, table_PI, **options
            )
            _keep_routes(laid_out, experts_PTLK)
        copies: list[list[tuple[int, int]]] = [[] for _ in range(self.num_parts)]
        for slot, prompt in self._beginning.items():
            full = prompt.length // self._spec.page_size
            copies[prompt.part] += list(zip(prompt.pages[full:], self._pages[slot][full:], strict=True))
        if any(copies):
            rows = power_of_two(max(map(len, copies)))
            first = [part * self.num_pages for part in range(self.num_parts)]  # a page that is copied onto itself
            pages_N2 = [
                [*pairs, *[(pairs or [(first[part],) * 2])[-1]] * (rows - len(pairs))]
                for part, pairs in enumerate(copies)
            ]
            pages_N2 = np.array(pages_N2, np.int32).reshape(-1, 2)
            self.layers = self._programs.copy_pages(self.layers, pages_N2, batch_axes=self.batch_axes)
        return self._begun()

    def grow(self, slot, num_tokens):
        part = self.part_of(slot)
        while len(self._pages[slot]) * self._spec.page_size < min(num_tokens, self.num_tokens):
            if not self._free[part]:
                self._forget_waiting(part)
            if not self._free[part]:
                return False
            self._pages[slot].append(self._take_page(part))
        return True

    def free(self, slot):
        for page in self._pages.pop(slot, []):
            self._give_back(page)

    def take(self, slots):
        self.num_slots = len(slots)
        self._pages = defaultdict(list, {new: self._pages[old] for new, old in enumerate(slots) if old in self._pages})

    def _table_row(self, pages: Sequence[int], part: int) -> np.ndarray:
        rest = [pages[-1] if pages else part * self.num_pages] * (self._table_width - len(pages))
        return np.array([*pages, *rest], np.int32)

    def rows(self):
        rows = [self._table_row(self._pages.get(slot, []), self.part_of(slot)) for slot in range(self.num_slots)]
        return {"page_table_BI": np.stack(rows)}


def parts_here() -> tuple[tuple[str, ...], int]:
    """(axes of the ambient mesh that cut the slots, into how many parts): the rule of "batch" in the role "rollout"."""
    mesh = jax.sharding.get_abstract_mesh()
    sizes = mesh.shape if set(mesh.axis_names) == set(MESH_AXES) else {}
    axes = tuple(axis for axis in RULES["rollout"]["batch"] if sizes.get(axis, 1) > 1)
    return axes, math.prod(sizes[axis] for axis in axes)


def bucketed(number: int, multiple: int) -> int:
    """The number rounded up to 1, 2, 3, 4, 6, 8, 12, ... times ``multiple``, so that few programs are compiled."""
    units = max(1, -(-number // multiple))
    power = power_of_two(units)
    return multiple * (power * 3 // 4 if power >= 4 and units <= power * 3 // 4 else power)


def power_of_two(number: int) -> int:
    """The least one that is at least the number."""
    return 1 << max(number - 1, 0).bit_length()


def _batches(prompts: Sequence[_Prompt], spec: EngineSpec) -> list[list[_Prompt]]:
    """Prompts that are prefilled at a time: as many as padded to the longest are within ``spec.prefill_tokens``."""
    batches: list[list[_Prompt]] = []
    longest = 0
    for prompt in prompts:
        longest = max(longest, bucketed(len(prompt.tokens), spec.prompt_bucket))
        if batches and longest * (len(batches[-1]) + 1) <= spec.prefill_tokens:
            batches[-1].append(prompt)
        else:
            longest = bucketed(len(prompt.tokens), spec.prompt_bucket)
            batches.append([prompt])
    return batches


def _keep_routes(prompts: Sequence[_Prompt | None], experts_PTLK: jax.Array | None) -> None:
    if experts_PTLK is not None:
        routes_PTLK = to_host(experts_PTLK)
        for row, prompt in enumerate(prompts):
            if prompt is not None:
                prompt.experts = routes_PTLK[row, : prompt.length]


def _padded(prompts: Sequence[Sequence[int]], spec: EngineSpec, *, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [P, T], how many of each are prefilled [P]), padded on the right to one of few lengths."""
    length = min(bucketed(max(map(len, prompts)), spec.prompt_bucket), longest)
    tokens_PT = np.zeros((len(prompts), length), np.int32)
    for row, prompt in enumerate(prompts):
        tokens_PT[row, : len(prompt)] = prompt
    return tokens_PT, np.array([max(len(prompt) - 1, 0) for prompt in prompts], np.int32)
