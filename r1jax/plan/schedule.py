"""The decode steps of a phase: the engine's own schedule (``r1jax.rollout.engine.Session``), run with lengths instead
of tokens.

Slots are refilled between segments. A segment ends early once a sixteenth of the slots is idle and requests wait, or
none wait and half as many slots are enough for what is left: then they shrink. Lengths are assumed: quantiles of a
log-normal distribution that is cut at the longest response, in a fixed random order.

Left out: evictions. ``Schedule.most_pages`` says how many pages a part wants at once; where the pool has fewer,
sequences would be evicted and sampled on later, which takes longer than what is modelled.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Decode steps with one number of slots."""

    slots: int
    steps: float
    running: float  # slots that sample, on average
    cached: float  # tokens that attention reads in a step, of all slots, on average


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A phase."""

    stretches: tuple[Stretch, ...]  # from the most slots to the fewest
    num_admissions: float  # how often prompts are prefilled
    num_new: float  # sequences that are begun
    num_carried: float  # begun in the phase before
    carried_tokens: float  # tokens that those have already, which are prefilled again
    most_pages: int  # that a part wants at once; pages of prompts that samples share count for each
    num_pages: int = 0  # that a part has; 0 where the cache is dense

    @property
    def steps(self) -> float:
        return sum(stretch.steps for stretch in self.stretches)

    @property
    def occupancy(self) -> float:
        """Share of the slots that sample, over all steps."""
        return sum(s.steps * s.running for s in self.stretches) / sum(s.steps * s.slots for s in self.stretches)


def lengths(number: int, *, mean: float, longest: int, sigma: float) -> np.ndarray:
    """[R] tokens of responses, at least 1 and at most ``longest``, in a fixed random order.

    mean: after the cut. sigma: standard deviation of the logarithm before it.
    """
    normal = NormalDist()
    factors = np.exp([sigma * normal.inv_cdf((i + 0.5) / number) for i in range(number)])
    low, high = 0.0, float(longest) / factors[0]
    for _ in range(60):  # the median, by bisection: the mean rises with it, up to the longest
        middle = (low + high) / 2
        low, high = (low, middle) if np.minimum(middle * factors, longest).mean() > mean else (middle, high)
    tokens = np.clip(np.rint(high * factors), 1, longest)
    return np.random.default_rng(0).permutation(tokens)


def simulate(
    lengths_R: np.ndarray,
    *,
    sizes: Sequence[int],
    num_parts: int,
    segment: int,
    page_size: int,
    prompt_tokens: float,
    tokens_per_step: float = 1.0,
    share: float = 1.0,
) -> Schedule:
    """A phase of sequences of these lengths.

    sizes: the numbers of slots, descending, each a multiple of ``num_parts``. tokens_per_step: of a slot, more than 1
    with drafts. share: of the sequences after which a phase ends; what is not done then is carried over, and the phase
    is a later one of many, each of which begins with what the one before left.
    """
    need_R = np.ceil(lengths_R / tokens_per_step)
    left_R = made_R = np.zeros(0)
    for _ in range(1 if share >= 1 else 6):
        carried = len(made_R)
        # Those that are carried over come first; then new ones, of the lengths in order, as many as were done before.
        need_Q = np.concatenate([left_R, need_R[: len(need_R) - carried]])
        made_Q = np.concatenate([made_R, np.zeros(len(need_Q) - carried)])
        phase, left_R, made_R = _phase(
            need_Q,
            made_Q,
            sizes=sizes,
            num_parts=num_parts,
            segment=segment,
            page_size=page_size,
            prompt_tokens=prompt_tokens,
            tokens_per_step=tokens_per_step,
            num_wanted=int(np.ceil(share * len(need_R))),
        )
    return dataclasses.replace(
        phase,
        num_carried=carried,
        num_new=len(need_R) - carried,
        carried_tokens=float(made_Q[:carried].sum() * tokens_per_step),
    )


def _phase(
    need_Q, made_Q, *, sizes, num_parts, segment, page_size, prompt_tokens, tokens_per_step, num_wanted
) -> tuple[Schedule, np.ndarray, np.ndarray]:
    """(the phase, steps left and steps made of the sequences that were begun and are not done).

    need_Q: steps that each sequence takes from here on; made_Q: those that it had before.
    """
    waiting, num_done, num_admissions, most_pages = 0, 0, 0, 0
    left_PS = np.zeros((num_parts, sizes[0] // num_parts))
    made_PS = np.zeros_like(left_PS)
    sums = {size: np.zeros(3) for size in sizes}
    while num_done < num_wanted:
        num_waiting, running_PS = len(need_Q) - waiting, left_PS > 0
        needed = max(running_PS.sum(1).max() * num_parts, running_PS.sum() + num_waiting)
        size = min((size for size in sizes if size >= needed), default=sizes[0])
        if size < left_PS.size:
            kept_PS = np.argsort(~running_PS, axis=1, kind="stable")[:, : size // num_parts]
            left_PS, made_PS = (np.take_along_axis(array, kept_PS, axis=1) for array in (left_PS, made_PS))
        slot, part = np.nonzero(left_PS.T == 0)  # a slot of every part, then the next
        count = min(len(slot), num_waiting)
        if count:
            where, taken = (part[:count], slot[:count]), slice(waiting, waiting + count)
            left_PS[where], made_PS[where] = need_Q[taken], made_Q[taken]
            waiting, num_waiting, num_admissions = waiting + count, num_waiting - count, num_admissions + 1
        running_PS = left_PS > 0
        in_order = np.sort(left_PS[running_PS])
        fewer = max((smaller for smaller in sizes if smaller < len(in_order)), default=-1)
        num_idle = min(max(1, size // 16) if num_waiting else len(in_order) - fewer, len(in_order))
        steps = min(segment, in_order[num_idle - 1])
        sampled_PS = np.minimum(left_PS, steps)
        # A slot that is done within a segment is read until it ends.
        before_PS = np.where(running_PS, prompt_tokens + tokens_per_step * made_PS, 0)
        grown_PS = tokens_per_step * sampled_PS * (sampled_PS - 1) / 2 + tokens_per_step * sampled_PS * (
            steps - sampled_PS
        )
        sums[size] += steps, sampled_PS.sum(), (before_PS * steps + grown_PS).sum()
        wanted_PS = np.where(running_PS, np.ceil((before_PS + tokens_per_step * segment) / page_size), 0)
        most_pages = max(most_pages, int(wanted_PS.sum(1).max()))
        num_done += int((running_PS & (left_PS <= steps)).sum())
        left_PS, made_PS = left_PS - sampled_PS, made_PS + sampled_PS
    stretches = _stretches(sums)
    is_left = left_PS > 0
    left_Q, made_before = np.concatenate([left_PS[is_left], need_Q[waiting:]]), made_Q[waiting:]
    begun = np.concatenate([made_PS[is_left], made_before])
    return Schedule(stretches, num_admissions, len(need_Q), 0, 0.0, most_pages), left_Q, begun


def _stretches(sums: Mapping[int, np.ndarray]) -> tuple[Stretch, ...]:
    """Of the sums over steps, by slots, of 1, of the slots that sample, and of the tokens that are read."""
    by_slots = [(slots, *sums[slots].tolist()) for slots in sorted(sums, reverse=True)]
    return tuple(Stretch(slots, steps, run / steps, cached / steps) for slots, steps, run, cached in by_slots if steps)


def joined(schedules: Sequence[tuple[float, Schedule]]) -> Schedule:
    """The mean of schedules, each with its share; of pages the most."""
    sums: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(3))
    for share, schedule in schedules:
        for s in schedule.stretches:
            sums[s.slots] += share * s.steps * np.array([1.0, s.running, s.cached])

    def mean(name: str) -> float:
        return sum(share * getattr(schedule, name) for share, schedule in schedules)

    return Schedule(
        _stretches(sums),
        num_admissions=mean("num_admissions"),
        num_new=mean("num_new"),
        num_carried=mean("num_carried"),
        carried_tokens=mean("carried_tokens"),
        most_pages=max(schedule.most_pages for _, schedule in schedules),
    )
