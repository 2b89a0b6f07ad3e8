"""Which pages the slots have, and slots on a mesh."""

import jax
import numpy as np
import pytest

from r1jax.models.transformer import make_model
from r1jax.rollout.engine import make_engine
from r1jax.rollout.programs import make_programs
from r1jax.rollout.slots import DenseSlots, PagedSlots, bucketed, session_sizes
from r1jax.sharding import make_mesh, tree_shardings
from r1jax.specs.rollout import EngineSpec
from tests.models.test_cache import MLA
from tests.rollout.test_engine import Policy, SmallPages, assert_same
from tests.tiny import GQA, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")


def make_slots(*, num_pages, num_slots=4, num_tokens=24):
    model = make_model(GQA)
    sizes = {"num_pages": num_pages, "num_slots": num_slots, "num_tokens": num_tokens}
    return PagedSlots(make_programs(model, "none"), SmallPages(cache="paged"), **sizes)


PROMPT = [5, 40, 17, 3, 29, 11, 2]
"""Of its six tokens in the cache four fill a page; the rest is in another, which each slot copies."""


def test_the_last_page_of_a_prompt_is_copied_and_no_other():
    slots, weights = make_slots(num_pages=9), shaken(make_model(GQA))
    assert all(slots.admit(slot, PROMPT, group="a", num_running=0) for slot in (0, 2))
    slots.flush(weights)
    table = slots.rows()["page_table_BI"]
    assert table[0, 0] == table[2, 0] and table[0, 1] != table[2, 1]
    pool = np.asarray(slots.layers[0]["kv_WJSA"])
    used = np.flatnonzero(np.abs(pool).max((1, 2, 3)))
    assert len(used) == 4 and {table[0, 0], table[0, 1], table[2, 1]} < set(used)  # the fourth is the prompt's
    np.testing.assert_array_equal(pool[table[0, 1]], pool[table[2, 1]])
    slots.forget("a")
    assert all(slots.grow(slot, 10) for slot in (0, 2))  # a third page each
    assert sorted(slots.rows()["page_table_BI"][[0, 2]][:, :3].reshape(-1).tolist()).count(table[0, 0]) == 2


def test_pages_come_back_when_the_last_that_uses_them_is_done():
    slots, weights = make_slots(num_pages=9), shaken(make_model(GQA))
    for _ in range(3):  # all pages again and again
        for slot in range(3):
            assert slots.admit(slot, PROMPT, group="a", num_running=0)
        slots.flush(weights)
        slots.forget("a")
        assert [slots.grow(slot, 12) for slot in range(3)] == [True] * 3
        pages = slots.rows()["page_table_BI"][:3, :3]
        assert len(set(pages.reshape(-1).tolist())) == 7  # one that is shared, two each
        assert [slots.grow(0, 24), slots.grow(1, 24)] == [False, False]  # two pages are left
        for slot in range(3):
            slots.free(slot)
    assert slots.admit(3, [1] * 24, group="b", num_running=0)


def test_admission_keeps_a_reserve_for_those_that_run():
    slots = make_slots(num_pages=9)
    assert slots.admit(0, [1] * 13, group="a", num_running=0)  # three pages, and the copy of none
    assert not slots.admit(1, [2] * 13, group="b", num_running=1)  # six are left: three, two each for who runs, two
    assert slots.admit(1, [2] * 5, group="c", num_running=1)


def test_a_waiting_prompt_gives_way_to_what_runs():
    slots, weights = make_slots(num_pages=7), shaken(make_model(GQA))
    for slot, group in enumerate("ab"):
        assert slots.admit(slot, [slot + 1] * 9, group=group, num_running=0)
        slots.flush(weights)
    slots.forget("a")
    slots.free(1)  # group b still waits, with two pages; three are free
    assert slots.grow(0, 24)  # four more
    slots.free(0)
    assert slots.admit(2, [2] * 9, group="b", num_running=0)  # prefilled again
    assert [len(prompt.tokens) for prompt in slots._new] == [9]


def test_sizes_are_few():
    assert [bucketed(n, 32) for n in (0, 1, 32, 33, 65, 97, 129, 200, 385)] == [32, 32, 32, 64, 96, 128, 192, 256, 512]


MESHES = [
    pytest.param(GQA, {"data": 2, "fsdp": 2, "tensor": 2}, "paged", marks=pytest.mark.slow),
    (MLA, {"fsdp": 4, "expert": 2}, "paged"),
    (GQA, {"data": 2, "tensor": 2, "sequence": 2}, "dense"),
]


@pytest.mark.parametrize(("config", "axes", "cache"), MESHES, ids=str)
def test_same_tokens_on_a_mesh(config, axes, cache):
    policy, mesh = Policy(config), make_mesh(axes)
    want = policy.generate()
    with jax.set_mesh(mesh):
        trees = policy.params, policy.buffers
        shardings = (
            tree_shardings(axes, tree, mesh, role="rollout")
            for axes, tree in zip(policy.model.logical_axes(), trees, strict=True)
        )
        trees = jax.device_put(trees, tuple(shardings))
        engine = policy.engine(cache=cache, slots=8, segment=4)
        assert_same(policy.generate(trees=trees, engine=engine), want, atol=2e-5)


def test_slots_use_the_pages_of_their_part():
    with jax.set_mesh(make_mesh({"fsdp": 4, "tensor": 2})):
        slots, weights = make_slots(num_pages=8, num_slots=8), shaken(make_model(GQA))
        assert slots.num_parts == 4
        for slot in range(8):
            assert slots.admit(slot, PROMPT, group="a", num_running=slot % 2)
        slots.flush(weights)
        slots.forget("a")
        assert all(slots.grow(slot, 12) for slot in range(8))
        table = slots.rows()["page_table_BI"]
        np.testing.assert_array_equal(table // 8, np.repeat(np.arange(4), 2)[:, None] + 0 * table)
        pool = slots.layers[0]["kv_WJSA"]
        assert pool.sharding.shard_shape(pool.shape)[:2] == (8, 1)


def test_slots_change_their_number_by_the_table_alone():
    slots, weights = make_slots(num_pages=9), shaken(make_model(GQA))
    for slot in (1, 3):
        assert slots.admit(slot, PROMPT, group=slot, num_running=0)
    slots.flush(weights)
    table, pools = slots.rows()["page_table_BI"], slots.layers
    slots.take([3, 1])
    assert slots.layers is pools and slots.num_slots == 2  # not copied
    np.testing.assert_array_equal(slots.rows()["page_table_BI"], table[[3, 1]])


def test_auto_is_dense_where_there_is_no_tpu_and_paged_for_one():
    engine = make_engine(make_model(GQA), EngineSpec())
    assert type(engine.open(*shaken(engine.model), num_slots=2, num_tokens=32)._slots) is DenseSlots
    device = jax.sharding.AbstractDevice("TPU v6 lite", 1, "tpu")
    auto = (jax.sharding.AxisType.Auto,)
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("x",), auto, abstract_device=device)):
        sizes = session_sizes(engine.model, EngineSpec(), num_slots=8, num_tokens=300)
    assert sizes.is_paged and (sizes.num_pages, sizes.page_size) == (8 * 4, 128)
