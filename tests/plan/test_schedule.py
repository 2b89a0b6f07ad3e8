"""The schedule of a phase: by hand, and against the engine itself."""

import jax
import numpy as np
import pytest

from r1jax.models.transformer import make_model
from r1jax.plan.schedule import joined, lengths, simulate
from r1jax.rollout.engine import Engine
from r1jax.rollout.session import Request
from r1jax.rollout.slots import session_sizes
from r1jax.specs.rollout import EngineSpec
from tests.tiny import GQA

ONE_PART = {"num_parts": 1, "page_size": 128, "prompt_tokens": 0.0}


def test_lengths_have_the_mean_after_the_cut():
    tokens = lengths(4096, mean=500, longest=2000, sigma=1.0)
    assert tokens.mean() == pytest.approx(500, rel=1e-3)
    assert (tokens.min() >= 1, tokens.max()) == (True, 2000)
    assert 0.02 < (tokens == 2000).mean() < 0.06
    assert np.log(tokens[tokens < 2000]).std() == pytest.approx(1.0, abs=0.15)
    np.testing.assert_array_equal(tokens, lengths(4096, mean=500, longest=2000, sigma=1.0))
    assert set(lengths(8, mean=30, longest=30, sigma=1.0)) == {30}
    assert set(lengths(8, mean=7, longest=30, sigma=0.0)) == {7}


def test_slots_are_refilled_and_shrink_at_the_end():
    """Two slots, segments of 10: 5 steps until the first is done, 7 more until one slot is enough, then the last 8."""
    schedule = simulate(np.array([5, 12, 15]), sizes=[2, 1], segment=10, **ONE_PART)
    assert [(s.slots, s.steps) for s in schedule.stretches] == [(2, 12), (1, 8)]
    both, last = schedule.stretches
    assert (both.running, last.running) == (2.0, 1.0)
    assert (schedule.steps, schedule.occupancy, schedule.num_admissions) == (20, 1.0, 2)
    assert both.cached == pytest.approx((sum(range(5)) + sum(range(12)) + sum(range(7))) / 12)
    assert last.cached == pytest.approx(sum(range(7, 15)) / 8)


def test_who_is_done_is_read_until_the_segment_ends():
    schedule = simulate(np.array([2, 6]), sizes=[2], segment=10, **ONE_PART)
    (stretch,) = schedule.stretches
    assert (stretch.steps, stretch.running) == (6, 8 / 6)
    assert stretch.cached == pytest.approx((0 + 1 + 4 * 2 + sum(range(6))) / 6)


def test_drafts_make_several_tokens_a_step():
    schedule = simulate(np.array([10, 10]), sizes=[2], segment=10, tokens_per_step=2.0, **ONE_PART)
    assert schedule.steps == 5
    assert schedule.stretches[0].cached == pytest.approx(2 * (0 + 2 + 4 + 6 + 8) / 5)


def test_a_part_keeps_its_slots():
    """One of two parts still has two sequences when the other has none: two slots a part stay."""
    lengths_R = np.array([20, 5, 20, 5])  # slot 0 of both parts, then slot 1 of both
    options = {"segment": 5, "page_size": 128, "prompt_tokens": 0.0}
    apart = simulate(lengths_R, sizes=[4, 2], num_parts=2, **options)
    assert [(s.slots, s.steps) for s in apart.stretches] == [(4, 20)]
    together = simulate(lengths_R, sizes=[4, 2], num_parts=1, **options)
    assert [(s.slots, s.steps) for s in together.stretches] == [(4, 5), (2, 15)]


def test_a_phase_that_leaves_its_longest_for_the_next_has_no_tail():
    lengths_R = lengths(512, mean=100, longest=800, sigma=1.0)
    whole = simulate(lengths_R, sizes=[128, 64, 32, 16, 8, 4], segment=8, **ONE_PART)
    partial = simulate(lengths_R, sizes=[128, 64, 32, 16, 8, 4], segment=8, share=0.75, **ONE_PART)
    assert whole.num_carried == 0 and 0 < partial.num_carried <= 128
    assert partial.num_new + partial.num_carried == 512 and partial.carried_tokens > 0
    assert partial.steps < whole.steps / 2 and partial.occupancy > whole.occupancy + 0.05


def test_pages_that_a_part_wants():
    """Both slots want room for the segment to come: 100 + 90 prompt tokens are two pages each."""
    options = {"num_parts": 1, "page_size": 128, "prompt_tokens": 100.0}
    assert simulate(np.array([90, 90]), sizes=[2], segment=90, **options).most_pages == 4


def test_the_mean_of_two_schedules():
    short = simulate(np.array([4, 4]), sizes=[2, 1], segment=4, **ONE_PART)
    long = simulate(np.array([4, 8]), sizes=[2, 1], segment=4, **ONE_PART)
    mean = joined([(0.75, short), (0.25, long)])
    assert [(s.slots, s.steps, s.running) for s in mean.stretches] == [(2, 4, 2), (1, 1, 1)]
    assert mean.stretches[1].cached == long.stretches[1].cached and mean.num_admissions == 1


@pytest.mark.usefixtures("quick_compilation")
def test_the_engine_takes_the_steps_that_the_schedule_says():
    """Budgets decide on lengths. The engine's counts are of slots and steps, whatever is in them."""
    model = make_model(GQA)
    spec = EngineSpec(prompt_bucket=4, segment=3, slots=32, cache="dense")
    budgets = np.random.default_rng(1).integers(1, 24, 120)
    session = Engine(model, spec).open(*model.init(jax.random.key(0)), num_slots=120, num_tokens=28)
    for budget in budgets:
        session.submit(Request(prompt=[1, 2], max_new_tokens=int(budget)))
    while session.is_busy:
        session.step()
    sizes = session_sizes(model, spec, num_slots=120, num_tokens=28)
    schedule = simulate(budgets, sizes=sizes.slots, segment=3, **ONE_PART)
    assert session.counts["steps"] == schedule.steps
    assert session.counts["slot_steps"] == sum(s.slots * s.steps for s in schedule.stretches)
    assert (
        session.counts["tokens"] == budgets.sum() == pytest.approx(sum(s.running * s.steps for s in schedule.stretches))
    )
