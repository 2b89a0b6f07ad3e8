"""Bytes of collectives, read from HLO: literal snippets, and a small program compiled for eight CPU devices."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.plan.collectives import collective_bytes
from r1jax.sharding import make_mesh

SCANNED = """
HloModule jit_step, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%all-reduce-scatter.1 (input.1: f32[64,8]) -> f32[8,8] {
  %input.1 = f32[64,8]{1,0:T(8,128)} parameter(0)
  %all-reduce.7 = f32[64,8]{1,0:T(8,128)} all-reduce(%input.1), channel_id=3, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %slice.1 = f32[8,8]{1,0} dynamic-slice(%all-reduce.7, %input.1), dynamic_slice_sizes={8,8}
}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%rounds (state: (s32[], s32[], bf16[16,2])) -> (s32[], s32[], bf16[16,2]) {
  %state = (s32[], s32[], bf16[16,2]) parameter(0)
  %sent = bf16[16,2]{1,0} get-tuple-element(%state), index=2
  %exchanged = bf16[16,2]{1,0} all-to-all(%sent), channel_id=4, dimensions={0}
  ROOT %next = (s32[], s32[], bf16[16,2]) tuple(%state)
}

%fewer (state.1: (s32[], s32[], bf16[16,2])) -> pred[] {
  %state.1 = (s32[], s32[], bf16[16,2]) parameter(0)
  %round = s32[] get-tuple-element(%state.1), index=0
  %last = s32[] get-tuple-element(%state.1), index=1
  ROOT %lt = pred[] compare(%round, %last), direction=LT
}

%layer (carry: (s32[], bf16[2,4])) -> (s32[], bf16[2,4]) {
  %carry = (s32[], bf16[2,4]) parameter(0)
  %w = bf16[2,4]{1,0} get-tuple-element(%carry), index=1
  %gathered = bf16[16,4]{1,0:T(8,128)(2,1)} all-gather(%w), channel_id=1, dimensions={0}, use_global_device_ids=true
  %big = f32[64,8]{1,0} broadcast(%w), dimensions={}
  %reduced = f32[8,8]{1,0} fusion(%big), kind=kCustom, calls=%all-reduce-scatter.1
  %further = (s32[], s32[], bf16[16,2]) while(%w), condition=%fewer, body=%rounds
  ROOT %out = (s32[], bf16[2,4]) tuple(%carry)
}

%is_layer (carry.1: (s32[], bf16[2,4])) -> pred[] {
  %carry.1 = (s32[], bf16[2,4]) parameter(0)
  %index = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  %constant.2 = s32[]{:T(128)} constant(58), backend_config={"flag_configs":[]}
  ROOT %lt.1 = pred[]{:T(512)} compare(%index, %constant.2), direction=LT
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %loop = (s32[], bf16[2,4]) while(%a), condition=%is_layer, body=%layer, backend_config={"x":"y"}
  %start = (f32[4]{0}, f32[32]{0}) all-gather-start(%a), channel_id=9, dimensions={0}
  %done = f32[32]{0} all-gather-done(%start)
  ROOT %r = f32[4]{0} slice(%done), slice={[0:4]}
}
"""


def test_bytes_are_multiplied_by_the_iterations_of_their_loops():
    """58 layers: gathered 16 x 4 bf16, added up 64 x 8 f32; once, 32 f32; further rounds are not taken."""
    assert collective_bytes(SCANNED) == {"all-gather": 58 * 128 + 128, "reduce-scatter": 58 * 2048}


def test_iterations_that_only_the_run_knows_are_the_callers():
    assert collective_bytes(SCANNED, dynamic_trips=(3,))["all-to-all"] == 58 * 3 * 64
    known = SCANNED.replace(
        "condition=%fewer, body=%rounds",
        'condition=%fewer, body=%rounds, backend_config={"known_trip_count":{"n":"5"}}',
    )
    assert collective_bytes(known)["all-to-all"] == 58 * 5 * 64


def test_a_loop_within_a_loop_that_the_run_decides_counts_for_itself():
    nested = SCANNED.replace("constant(58)", "parameter(1)")  # now the number of layers is not in the text either
    assert collective_bytes(nested) == {"all-gather": 128}
    counts = collective_bytes(nested, dynamic_trips=(7,))
    assert counts == {"all-gather": 7 * 128 + 128, "reduce-scatter": 7 * 2048}
    assert collective_bytes(nested, dynamic_trips=(7, 2))["all-to-all"] == 7 * 2 * 64


def test_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        collective_bytes("%f (x: f32[]) -> f32[] {\n}")


def test_a_scan_compiled_for_eight_devices():
    """Five layers [64, 32] float32, split eight ways and put together in each turn: 5 x 8,192 bytes."""
    mesh = make_mesh({"fsdp": 8})
    split, whole = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((None, "fsdp", None), (None,)))
    w_LDF = jax.ShapeDtypeStruct((5, 64, 32), jnp.float32, sharding=split)
    x_BD = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp", None)))

    @functools.partial(jax.jit, out_shardings=whole)
    def run(w_LDF, x_BD):
        def layer(x_BD, w_DF):
            w_DF = jax.lax.with_sharding_constraint(w_DF, NamedSharding(mesh, PartitionSpec()))
            return jnp.tanh(x_BD @ w_DF @ w_DF.T), None

        return jax.lax.scan(layer, x_BD, w_LDF)[0].sum()[None]

    found = collective_bytes(run.lower(w_LDF, x_BD).compile().as_text())
    assert found["all-gather"] == 5 * 64 * 32 * 4
