"""Modelled times with literal numbers."""

import dataclasses

import pytest

from r1jax.plan.hardware import parse_topology
from r1jax.plan.program import Exchange, ProgramPlan
from r1jax.plan.roofline import exchange_seconds, modelled_time

V5P = parse_topology("v5p:8x8x8")
GATHER = Exchange("all-gather", 180e9, 8, is_hidden=True)  # 7/8 s over the two links of a ring
PLAN = ProgramPlan(
    name="update", calls=2.0, argument_bytes=0, output_bytes=0, alias_bytes=0, temp_bytes=0, peak_bytes=None, resident_bytes=0,
    flops=459e12, hardware_flops=2 * 459e12, hbm_bytes=2460e9, collectives={}, exchanges=(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("exchange", "seconds"),
    [
        (GATHER, 7 / 8),
        (Exchange("reduce-scatter", 180e9, 8, False), 7 / 8),
        (Exchange("all-reduce", 180e9, 8, False), 7 / 4),
        (Exchange("all-to-all", 180e9, 8, False), 2.0),  # 8/4 of what both links would take
        (Exchange("all-gather", 180e9, 1, False), 0.0),
    ],
)
def test_time_of_a_collective(exchange, seconds):
    assert exchange_seconds(exchange, V5P) == pytest.approx(seconds)


def test_a_program_takes_the_longest_of_three_and_what_is_exposed():
    time = modelled_time(PLAN, V5P, efficiency=1.0)
    assert (time.compute, time.memory, time.total, time.mfu, time.bound) == (2.0, 1.0, 2.0, 0.5, "FLOPs")
    hidden = dataclasses.replace(PLAN, exchanges=(GATHER, GATHER))
    assert modelled_time(hidden, V5P, efficiency=1.0).total == 2.0
    more = dataclasses.replace(PLAN, exchanges=(GATHER,) * 4)
    assert modelled_time(more, V5P, efficiency=1.0).total == pytest.approx(3.5)
    assert modelled_time(more, V5P, efficiency=1.0).bound == "weights"
    exposed = dataclasses.replace(PLAN, exchanges=(dataclasses.replace(GATHER, is_hidden=False),))
    assert modelled_time(exposed, V5P, efficiency=1.0).total == pytest.approx(2.875)
    assert modelled_time(exposed, V5P, efficiency=1.0).mfu == pytest.approx(1 / 2.875)


def test_efficiency_is_of_matmuls_alone():
    time = modelled_time(PLAN, V5P, efficiency=0.5)
    assert (time.compute, time.memory, time.mfu) == (4.0, 1.0, 0.25)


def test_every_collective_takes_a_latency():
    """Along a ring of 8 four hops, of 64 in two rings eight, along a part of one as many as it has; a sum goes twice."""
    assert V5P.latency(8) == pytest.approx(4e-6) and V5P.latency(64) == pytest.approx(8e-6)
    assert V5P.latency(4) == pytest.approx(3e-6) and V5P.latency(1) == 0
    assert exchange_seconds(Exchange("all-to-all", 0.0, 8, False, calls=100), V5P) == pytest.approx(4e-4)
    assert exchange_seconds(Exchange("all-reduce", 0.0, 8, False, calls=100), V5P) == pytest.approx(8e-4)
    assert exchange_seconds(Exchange("all-reduce", 0.0, 1, False, calls=100), V5P) == 0
