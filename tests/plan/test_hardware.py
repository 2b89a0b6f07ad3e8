"""Topologies: figures of the generations as literals, links by hand."""

import math

import pytest

from r1jax.plan.hardware import parse_topology

GIB = 1 << 30


@pytest.mark.parametrize(
    ("name", "chips", "devices", "hbm_gib", "teraflops", "hbm_gb_s"),
    [
        ("v5e:2x2", 4, 4, 15.75, 197, 820),
        ("v5p:8x8x16", 1024, 1024, 95.74, 459, 2460),
        ("v6e:16x16", 256, 256, 31.25, 920, 1640),
        ("tpu7x:8x8x16", 1024, 2048, 94.75, 1155, 3700),
        ("v5p:8x8x8*4", 2048, 2048, 95.74, 459, 2460),
    ],
)
def test_figures_of_one_device(name, chips, devices, hbm_gib, teraflops, hbm_gb_s):
    topology = parse_topology(name)
    assert (topology.name, topology.num_chips, topology.num_devices) == (name, chips, devices)
    assert topology.hbm_bytes == int(hbm_gib * GIB)
    assert topology.peak_flops == teraflops * 1e12
    assert topology.hbm_bandwidth == hbm_gb_s * 1e9


@pytest.mark.parametrize(
    ("name", "group", "links"),
    [
        ("v5p:8x8x16", 1, math.inf),
        ("v5p:8x8x16", 8, 2),  # a ring
        ("v5p:8x8x16", 4, 1),  # a part of one
        ("v5p:8x8x16", 128, 4),
        ("v5p:8x8x16", 1024, 6),
        ("v5p:2x2x1", 4, 2),  # no torus: two lines
        ("v6e:16x16", 16, 2),
        ("v6e:8x8", 8, 1),
    ],
)
def test_links_that_serve_a_gather(name, group, links):
    topology = parse_topology(name)
    assert topology.gather_bandwidth(group) == links * 90e9


def test_two_devices_share_the_links_of_a_chip_of_tpu7x():
    assert parse_topology("tpu7x:8x8x16").gather_bandwidth(2048) == 6 * 45e9


def test_an_exchange_takes_an_eighth_of_ring_and_bandwidth():
    """All-to-all over a ring of n: n/4 of what its bytes take over both links."""
    assert parse_topology("v5p:8x8x16").exchange_bandwidth(8) == pytest.approx(4 * 2 * 90e9 / 8)
    assert parse_topology("v5p:8x8x16").exchange_bandwidth(16) == pytest.approx(4 * 2 * 90e9 / 16)


def test_more_devices_than_a_slice_has_meet_over_the_slower_network():
    topology = parse_topology("v5p:4x4x4*2")
    assert topology.gather_bandwidth(64) == 6 * 90e9
    assert topology.gather_bandwidth(128) == pytest.approx(6.25e9)
    assert topology.exchange_bandwidth(128) == pytest.approx(6.25e9)


@pytest.mark.parametrize(
    "name", ["v4:2x2x1", "v5p", "v5p:8x8", "v6e:4x4x4", "v5p:0x8x8", "v5e:2x2*0", "8x8x8", "v5p:8x8x8*"]
)
def test_unknown_topologies_are_told_what_is_known(name):
    with pytest.raises(ValueError, match=r"known are v5e \(NxN\), v5p \(NxNxN\)"):
        parse_topology(name)
