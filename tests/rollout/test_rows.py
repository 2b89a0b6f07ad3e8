"""The paged engine beside the dense one: the same tokens and log-probs, from pages that the host gave out."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from r1jax.models.transformer import make_model
from r1jax.rollout import engine as engine_module
from r1jax.rollout.engine import Engine
from r1jax.rollout.rows import PagedRows, make_paged_rows, split_rows
from r1jax.sharding import make_mesh, tree_shardings
from r1jax.specs.rollout import EngineSpec
from tests.models.test_paged_cache import MLA
from tests.rollout.test_engine import PROMPTS, STOP, assert_same
from tests.tiny import GQA, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

MORE = [*PROMPTS, [4] * 8]
"""Prompts of 3, 1, 6 and 8 tokens: with pages of 4 they share none, none, one, and two without a rest."""


@dataclass(frozen=True, kw_only=True)
class SmallPages(EngineSpec):
    """Pages of 4 tokens, as no kernel takes them."""

    page_size: int = 4

    def __post_init__(self):
        pass


class Sampler:
    """A tiny model with a dense and a paged engine: segments of 6, prompts of 8, pages of 4."""

    def __init__(self, config):
        self.model = make_model(config)
        self.trees = shaken(self.model)
        self.dense, self.paged = self.engine("dense"), self.engine("paged")

    def engine(self, cache, **options):
        return Engine(self.model, SmallPages(prompt_bucket=8, segment=6, cache=cache, **options), pad_id=0)

    def generate(self, engine, prompts=MORE, *, trees=None, **options):
        options = {"num_samples": 4, "max_new_tokens": 10, "stop_ids": STOP, "temperature": 0.9} | options
        return engine.generate(*(trees or self.trees), prompts, key=jax.random.key(0), **options)


@pytest.fixture(scope="module")
def gqa():
    return Sampler(GQA)


@pytest.fixture(scope="module")
def mla():
    return Sampler(MLA)


@pytest.fixture(params=["gqa", "mla"])
def sampler(request):
    return request.getfixturevalue(request.param)


def test_same_tokens_and_log_probs_as_the_dense_engine(sampler):
    dense = sampler.generate(sampler.dense)
    assert_same(sampler.generate(sampler.paged), dense, atol=1e-5)
    lengths = {len(completion.token_ids) for group in dense for completion in group}
    assert 10 in lengths and min(lengths) < 4


def test_finished_rows_leave_by_the_table_alone(gqa, monkeypatch):
    stop_ids = tuple(range(8))
    want = gqa.generate(gqa.dense, stop_ids=stop_ids)
    monkeypatch.setattr(engine_module, "MIN_ROWS", 1)
    pools, gather = [], gqa.paged._gather

    def watch(state, rows):
        after = gather(state, rows)
        places = [[a.unsafe_buffer_pointer() for a in jax.tree.leaves(s["cache"].layers)] for s in (state, after)]
        pools.append((places, after["cache"].page_table_BI.shape[0]))
        return after

    monkeypatch.setattr(gqa.paged, "_gather", watch)
    assert_same(gqa.generate(gqa.paged, stop_ids=stop_ids), want, atol=1e-5)
    assert pools and all(before == after for (before, after), _ in pools)  # not copied
    assert pools[-1][1] < 16


def test_rows_at_a_time_change_no_token(gqa):
    reported = []
    engine = gqa.engine("paged", max_rows=11)  # two prompts of four samples
    got = gqa.generate(engine, on_done=lambda prompt, samples: reported.append((prompt, samples)))
    assert_same(got, gqa.generate(gqa.dense), atol=1e-5)
    assert sorted(prompt for prompt, _ in reported) == [0, 1, 2, 3]
    assert {prompt for prompt, _ in reported[:2]} == {0, 1}
    assert all(samples is got[prompt] for prompt, samples in reported)
    assert engine.num_compilations() == 2
    with pytest.raises(ValueError, match="num_samples=4 rows of one prompt for max_rows=3; raise max_rows"):
        gqa.generate(gqa.engine("paged", max_rows=3))


def test_one_decode_program_for_a_number_of_rows(mla):
    mla.generate(mla.paged)
    assert mla.paged.num_compilations() == 2  # the dense engine compiles one for each of its lengths
    for changed in ({"temperature": 2.0}, {"max_new_tokens": 12}, {"prompts": [[1], [2] * 7, [3], [4]]}):
        mla.generate(mla.paged, **changed)
    assert mla.paged.num_compilations() == 2


def test_where_the_pages_are():
    rows = make_paged_rows(num_prompts=2, num_samples=2, prompt_length=12, max_new_tokens=5, page_size=4)
    assert (rows.pages_per_part, rows.num_parts, rows.num_copies) == (18, 1, 1)  # a prompt: 3 of 12 tokens, 3 a sample
    batch = rows.lay_out([[7] * 9, [8] * 3], pad_id=1)
    np.testing.assert_array_equal(batch["tokens_PT"], [[7] * 9 + [1] * 3, [8] * 3 + [1] * 9])
    np.testing.assert_array_equal(batch["segments_PT"].sum(1), [9, 3])
    want = [[0, 1, 3, 4, 5, 5], [0, 1, 6, 7, 8, 8], [12, 13, 14, 14, 14, 14], [15, 16, 17, 17, 17, 17]]
    np.testing.assert_array_equal(batch["page_table_BI"], want)


def test_the_last_page_of_a_prompt_is_copied_and_no_other(gqa):
    rows = make_paged_rows(num_prompts=1, num_samples=2, prompt_length=8, max_new_tokens=4, page_size=4)
    batch = rows.lay_out([[5, 40, 17, 3, 29, 11]], pad_id=0)  # a full page and two tokens
    state = gqa.paged._prefill(*gqa.trees, batch | {"first_row": np.int32(0)}, rows=rows)
    table = batch["page_table_BI"]
    pool = state["cache"].layers[0]["kv_WJSA"]
    used = np.abs(np.asarray(pool)).max((1, 2, 3)) > 0
    assert set(np.flatnonzero(used)) == {table[0, 0], table[0, 1], table[1, 1]}
    assert table[0, 0] == table[1, 0] and table[0, 1] != table[1, 1]
    np.testing.assert_array_equal(pool[table[0, 1]], pool[table[1, 1]])
    np.testing.assert_array_equal(state["cache"].lengths_B, [6, 6])


MESHES = [
    pytest.param(
        "gqa", {"data": 2, "fsdp": 2, "tensor": 2}, ("data", "fsdp"), marks=pytest.mark.slow
    ),  # a prompt a part
    ("mla", {"fsdp": 4, "expert": 2}, ("fsdp", "expert")),  # a prompt's samples in two parts: prefilled twice
]


@pytest.mark.parametrize(("name", "axes", "cut_by"), MESHES, ids=str)
def test_same_tokens_on_a_mesh(name, axes, cut_by, request):
    sampler, mesh = request.getfixturevalue(name), make_mesh(axes)
    assert split_rows(4, 4, mesh.shape) == cut_by
    want = sampler.generate(sampler.dense)
    with jax.set_mesh(mesh):
        shardings = (
            tree_shardings(axes, tree, mesh, role="rollout")
            for axes, tree in zip(sampler.model.logical_axes(), sampler.trees, strict=True)
        )
        trees = jax.device_put(sampler.trees, tuple(shardings))
        engine = sampler.engine("paged")
        rows = engine._rows(4, 8, num_samples=4, max_new_tokens=10)
        batch = rows.lay_out(MORE, pad_id=0) | {"first_row": np.int32(0)}
        table = batch["page_table_BI"]
        of_part = np.arange(len(table)) // (len(table) // rows.num_parts)
        assert (table // rows.pages_per_part == of_part[:, None]).all()
        pool = jax.tree.leaves(engine._prefill(*trees, batch, rows=rows)["cache"].layers)[0]
        assert pool.sharding.shard_shape(pool.shape)[0] == rows.pages_per_part
        assert_same(sampler.generate(engine, trees=trees), want, atol=2e-5)


def test_rows_are_cut_into_whole_groups_or_groups_into_equal_parts():
    assert split_rows(3, 4, {"data": 2, "sequence": 4}) == ()  # 6 rows of 12 hold one group and a half, 3 less than one
    assert split_rows(3, 4, {"data": 3, "fsdp": 2, "tensor": 2}) == ("data", "fsdp")
    assert split_rows(8, 1, {"fsdp": 16, "expert": 4}) == ("expert",)
    assert split_rows(32, 16, {"fsdp": 16, "expert": 8, "sequence": 2}) == ("fsdp", "expert", "sequence")
    assert split_rows(5, 2, {}) == ()


def test_batches_are_even_where_that_costs_no_device_more_rows():
    prompts_at_once = engine_module.prompts_at_once
    assert [prompts_at_once(n, 4, 16) for n in (1, 4, 5, 9)] == [1, 4, 3, 3]
    assert prompts_at_once(9, 4, None) == 9 and prompts_at_once(3, 4, 4) == 1
    with jax.set_mesh(make_mesh({"fsdp": 8})):
        # 3 prompts are 12 rows, which 8 devices do not share: all of them on each. Of 4 each has 2 rows, of 1 all 4.
        assert [prompts_at_once(n, 4, 16) for n in (8, 5, 9)] == [4, 4, 4]
        assert prompts_at_once(9, 8, 32) == 4 and prompts_at_once(9, 8, 24) == 3


def test_rows_that_go_on_are_as_many_in_each_part(monkeypatch):
    monkeypatch.setattr(engine_module, "MIN_ROWS", 1)
    done = np.array([1, 0, 1, 1, 1, 1, 0, 1], bool)
    np.testing.assert_array_equal(engine_module._rows_to_keep(done, 1), [1, 6])
    np.testing.assert_array_equal(engine_module._rows_to_keep(done, 2), [1, 6])
    np.testing.assert_array_equal(engine_module._rows_to_keep(done, 4), [1, 2, 4, 6])
    done[[2, 3]] = False
    np.testing.assert_array_equal(engine_module._rows_to_keep(done, 2), np.arange(8))  # three of four are alive
    np.testing.assert_array_equal(engine_module._rows_to_keep(done, 1), [1, 2, 3, 6])


def test_a_page_is_a_multiple_of_what_the_kernels_need():
    with pytest.raises(ValueError, match="page_size=192 must be a multiple of 128"):
        EngineSpec(page_size=192)


def test_auto_is_dense_where_there_is_no_tpu_and_paged_for_one():
    engine = Engine(make_model(GQA), EngineSpec(), pad_id=0)
    sizes = {"num_samples": 4, "max_new_tokens": 8}
    assert type(engine._rows(2, 32, **sizes)).__name__ == "DenseRows"
    device = jax.sharding.AbstractDevice("TPU v6 lite", 1, "tpu")
    auto = (jax.sharding.AxisType.Auto,)
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("x",), auto, abstract_device=device)):
        rows = engine._rows(2, 32, **sizes)
    assert isinstance(rows, PagedRows) and (rows.page_size, rows.num_parts) == (128, 1)


def test_the_pool_is_known_before_anything_runs():
    """Pages of the prompts, and of each row for the whole budget and the rest of its prompt."""
    rows = make_paged_rows(num_prompts=3, num_samples=4, prompt_length=32, max_new_tokens=10, page_size=4)
    batch = rows.lay_out(MORE[:3], pad_id=0)
    cache = jax.eval_shape(lambda: rows.init_cache(make_model(GQA), batch))
    assert cache.layers[0]["kv_WJSA"].shape == (3 * (8 + 4 * 4), 2, 4, 16)
    assert batch["page_table_BI"].shape == (12, 12)
