"""The table of a plan: what it says of programs that fit and of one that does not."""

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.plan import budget, table
from r1jax.plan.assumed import Assumed
from r1jax.plan.hardware import parse_topology
from r1jax.plan.program import Exchange, Program, ProgramPlan
from r1jax.plan.programs import StagePrograms
from r1jax.plan.schedule import Schedule, Stretch
from tests.plan.meshes import abstract_mesh

GIB = 1 << 30
V5E = parse_topology("v5e:2x2")
UPDATE = ProgramPlan(
    name="update", calls=2.0, argument_bytes=4 * GIB, output_bytes=2 * GIB, alias_bytes=2 * GIB, temp_bytes=5 * GIB,
    peak_bytes=None, resident_bytes=3 * GIB, flops=197e12, hardware_flops=2 * 197e12, hbm_bytes=820e9,
    collectives={"all-gather": 6.0 * GIB}, exchanges=(Exchange("all-gather", 6.0 * GIB, 4, True),),
)  # fmt: skip
DECODE = dataclasses.replace(
    UPDATE, name="decode", calls=1.0, temp_bytes=0, peak_bytes=15 * GIB, flops=0.0, hardware_flops=0.0, collectives={},
    exchanges=(), compile_seconds=1.0,
)  # fmt: skip
RESHARD = dataclasses.replace(DECODE, name="reshard (moe/ffn/w_down_EFD)", calls=0.5)
PLANS = [UPDATE, DECODE, RESHARD]


def stage() -> StagePrograms:
    mesh = abstract_mesh({"fsdp": 4}, "v5e")
    weights = jax.ShapeDtypeStruct((4 * 1024, 1024), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))
    return StagePrograms("rl", None, cast(Mesh, mesh), {"params": {"w": weights}}, (), 1000.0, 86_400)


def cells(text: str, program: str) -> list[list[str]]:
    """Of each table the row of a program."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {program} ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_rows_of_a_program():
    text = table.plan_table(PLANS, V5E, title="mini", stage=stage(), assumed=Assumed(mean_new_tokens=77))
    memory, work, collectives = cells(text, "update")
    assert memory == ["update", "4.00", "2.00", "2.00", "5.00", "-", "3.00", "12.00", "76%"]
    assert work == ["update", "2", "197.00", "394.00", "820.0", "2.67", "0", "FLOPs", "37.5%", "50.0%"]
    assert collectives == ["update", "6.00"]
    memory, work = cells(text, "decode")
    assert memory[5:] == ["15.00", "3.00", "18.00", "**114%, does not fit**"]
    assert work[-3:] == ["HBM", "-", "-"]


def test_what_it_adds_up_to():
    """Two updates of 8/3 s, a decode and half a reshard of 1 s a step; 86,400 steps are as many days as a step has seconds."""
    text = table.plan_table(PLANS, V5E, title="mini", stage=stage(), assumed=Assumed(mean_new_tokens=77))
    assert text.startswith("# mini\n\n4 chips, 4 devices of 15.75 GiB; mesh {'fsdp': 4}; compiled, but for update.")
    assert "at 77 tokens a sequence on average (assumed), 1,000 tokens a step" in text
    assert "- 6.8 s a step, 1.5 of them sampling" in text
    assert "- 146 tokens/s, 36.6 a chip" in text
    assert "- 86,400 steps: 6.83 days, 656 chip-hours" in text
    assert "loading the weights: 0.0078 GiB" in text  # 4 MiB twice
    assert "modelled" in text


def test_compiled_plans_are_called_so():
    assert "; compiled." in table.plan_table([DECODE], V5E, title="mini", stage=stage(), assumed=Assumed())


def test_what_does_not_fit_and_by_how_much():
    assert table.misfits([UPDATE, DECODE], V5E) == ["decode needs 18.00 GiB a device of 15.75: 2.25 GiB too much"]


def test_host_memory_is_the_largest_shard_and_what_fills_it():
    assert table.host_bytes(stage().state["params"]) == pytest.approx(2 * 4 * 1024 * 1024)


def sampling_stage(**changes) -> StagePrograms:
    """Two sizes of slots, three tokens in two steps of each slot."""
    stretches = (Stretch(8, 32, 6.0, 600.0), Stretch(4, 16, 2.0, 400.0))
    schedule = Schedule(stretches, 1, 8, 0, 0.0, most_pages=9, num_pages=10)
    sizes = {"steps": 16, "tokens": 2}
    made = [sizes | {"made": 1.5 * stretch.running} for stretch in stretches]
    programs = tuple(
        Program(name, budget.plan_decode, None, (), 1, size)
        for name, size in zip(("decode", "decode (4 slots)"), made, strict=True)
    )
    return dataclasses.replace(stage(), programs=programs, schedule=dataclasses.replace(schedule, **changes))


def test_the_schedule_of_sampling_and_what_is_assumed():
    """A decode of 16 steps takes a second."""
    few = dataclasses.replace(DECODE, name="decode (4 slots)")
    text = table.plan_table([DECODE, few], V5E, title="mini", stage=sampling_stage(), assumed=Assumed())
    assert "a phase of sampling: 8 sequences, 70% of the slots in use on average. Assumed: log-normal lengths" in text
    assert "\n  - 8 slots: 32 steps, 62.50 ms each, 6 slots in use, 1.50 tokens a slot and step with drafts" in text
    assert "\n  - 4 slots: 16 steps, 62.50 ms each, 2 slots in use" in text
    assert "200 tokens read for each" in text
    assert "pages of a part: at most 9 are wanted, 10 are there" in text and "evicted" not in text
    crowded = sampling_stage(most_pages=11, num_carried=2, carried_tokens=50)
    text = table.plan_table([DECODE], V5E, title="mini", stage=crowded, assumed=Assumed())
    assert "would be evicted" in text
    assert "partial_rollouts: when a phase ends, 2 are carried over, whose 50 tokens" in text


def test_a_sampler_of_its_own_devices_works_at_the_same_time():
    """Sampling takes 1.5 s, two updates 16/3 s."""
    overlapped = dataclasses.replace(stage(), is_overlapped=True)
    text = table.plan_table(PLANS, V5E, title="mini", stage=overlapped, assumed=Assumed())
    assert "- 5.3 s a step: 5.3 learning, and at the same time 1.5 sampling, on devices of its own" in text
