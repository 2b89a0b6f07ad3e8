"""Prefill and decode over either kind of cache, every row with a length of its own: equal to teacher forcing."""

import dataclasses

import jax
import numpy as np
import pytest

from r1jax.kernels import paged_decode
from r1jax.models.transformer import make_model
from tests.tiny import GQA, V3, padded, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROWS = [[5, 40, 17, 3, 29, 11, 22, 8, 31, 2, 45, 19], [7, 41, 13, 9, 30, 2], [33, 9, 26, 14, 1, 28, 20, 4]]
PROMPTS = [7, 1, 3]
"""Tokens of each row that are prefilled: the last page is nearly full, has one token, is nearly full."""
TABLE = np.array([[6, 1, 9, 4], [3, 8, 8, 8], [0, 11, 2, 3]], np.int32)
"""Pages of 4 in scrambled order; what lies past a row's last page is another's."""


MLA = dataclasses.replace(
    V3, num_layers=2, num_experts=0, num_experts_per_token=0, num_shared_experts=0, expert_ffn_dim=0, num_dense_layers=0,
    num_groups=1, num_groups_per_token=1,
)  # fmt: skip


class Cached:
    """A model whose prefill and decode over a cache are compiled once a shape."""

    def __init__(self, config, kind="paged"):
        self.model, self.kind = make_model(config), kind
        self.params, self.buffers = shaken(self.model)
        self.forward = jax.jit(lambda *arrays: self._hidden(*arrays)[0])
        self.cached = jax.jit(self._hidden, static_argnames="is_prefill")

    def _hidden(self, tokens, positions, segments, cache=None, is_prefill=False):
        return self.model.hidden(
            self.params, self.buffers, tokens, positions_BT=positions, segments_BT=segments, cache=cache,
            is_prefill=is_prefill,
        )[:2]  # fmt: skip

    def prefilled(self, *, page_size=4, table=TABLE):
        """(hidden of the prompts, cache): the prompts as the engine gives them, padded on the right."""
        cache = self.model.init_paged_cache(page_table_BI=table, num_pages=13, page_size=page_size)
        if self.kind == "dense":
            cache = self.model.init_cache(batch=3, length=14)
        prompts = padded([ids[:count] for ids, count in zip(ROWS, PROMPTS, strict=True)], length=8)
        return self.cached(*prompts, cache, is_prefill=True)

    def step(self, cache, starts, counts, *, width):
        """``counts`` further tokens of each row from ``starts`` on, ``width`` with the padding."""
        arrays = np.zeros((3, 3, width), np.int32)
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            arrays[:, row, :count] = ROWS[row][start : start + count], range(start, start + count), [1] * count
        return self.cached(*arrays, cache)

    def wanted(self):
        """Hidden states of each row by teacher forcing."""
        hidden = self.forward(*padded(ROWS))
        return [np.asarray(hidden[row, : len(ids)]) for row, ids in enumerate(ROWS)]


@pytest.fixture(scope="module", params=[GQA, MLA], ids=["gqa", "mla"])
def paged(request):
    return Cached(request.param)


@pytest.fixture(scope="module", params=[(GQA, "dense"), (MLA, "dense"), (GQA, "paged"), (MLA, "paged")], ids=str)
def cached(request):
    return Cached(*request.param)


def test_ragged_decode_equals_teacher_forcing(cached):
    """One token a step, each row until its own end; rows past it have none, and change nothing."""
    hidden, cache = cached.prefilled()
    want, lengths = cached.wanted(), list(PROMPTS)
    for row, length in enumerate(PROMPTS):
        np.testing.assert_allclose(hidden[row, :length], want[row][:length], atol=1e-5)
    for _ in range(5):
        counts = [int(length < len(ids)) for length, ids in zip(lengths, ROWS, strict=True)]
        hidden, cache = cached.step(cache, lengths, counts, width=1)
        for row, count in enumerate(counts):
            if count:
                np.testing.assert_allclose(hidden[row, 0], want[row][lengths[row]], atol=1e-5)
        lengths = [length + count for length, count in zip(lengths, counts, strict=True)]
    assert lengths == [12, 6, 8]  # rows 0 and 1 end at a page's end and inside one
    np.testing.assert_array_equal(cache.lengths_B, lengths)
    if cached.kind == "paged":
        np.testing.assert_array_equal(cache.page_table_BI, TABLE)


def test_several_tokens_a_step_equal_teacher_forcing_and_can_be_taken_back(cached):
    """Speculation: three tokens at once, over a page's edge; a length that is set back forgets the last of them."""
    _, cache = cached.prefilled()
    want = cached.wanted()
    for again in range(2):
        hidden, after = cached.step(cache, PROMPTS, [3, 3, 0], width=3)
        for row in (0, 1):
            place = slice(PROMPTS[row], PROMPTS[row] + 3)
            np.testing.assert_allclose(hidden[row], want[row][place], atol=1e-5)
        np.testing.assert_array_equal(after.lengths_B, [10, 4, 3])
        if not again:
            cache = dataclasses.replace(after, lengths_B=cache.lengths_B)


@pytest.mark.slow
def test_the_kernel_gives_the_same(paged, monkeypatch):
    """Pages of 128, as on a TPU; the kernel interpreted."""
    config = dataclasses.replace(paged.model.config, num_layers=1, kv_lora_rank=16)  # in multiples of 8; GQA has none
    hidden, chosen = [], (paged_decode.IMPLEMENTATIONS["pallas_tpu"], {"interpret": True})
    for kernel in (False, True):
        if kernel:
            monkeypatch.setattr(paged_decode, "choose_implementation", lambda *_, **__: chosen)
        model = Cached(config)
        cache = model.prefilled(page_size=128)[1]
        hidden.append(np.asarray(model.step(cache, PROMPTS, [1, 1, 1], width=1)[0]))
    np.testing.assert_allclose(hidden[1], hidden[0], atol=2e-5)
    assert (hidden[1] != hidden[0]).any()  # the kernel's sums are in another order


def test_prefill_writes_real_tokens_and_nothing_else(paged):
    _, cache = paged.prefilled()
    np.testing.assert_array_equal(cache.lengths_B, PROMPTS)
    owned = {(row_pages[t // 4], t % 4) for row_pages, count in zip(TABLE, PROMPTS, strict=True) for t in range(count)}
    assert len(owned) == 11
    for layer in cache.layers:
        for name, pool in layer.items():
            slots = np.moveaxis(np.asarray(pool), {"latent_WSC": 1, "rope_WRS": 2, "kv_WJSA": 2}[name], 1)
            written = {tuple(map(int, place)) for place in np.argwhere(np.abs(slots).reshape(13, 4, -1).max(-1) > 0)}
            assert written == owned


def test_rows_may_share_pages_that_neither_writes(paged):
    """Row 2 goes on from row 0's first page."""
    cache, table = paged.prefilled()[1], TABLE.copy()
    table[2, 0] = table[0, 0]
    cache = dataclasses.replace(cache, page_table_BI=table, lengths_B=np.array([7, 1, 4], np.int32))
    ids = [*ROWS[0][:4], 26, 14]
    arrays = np.zeros((3, 3, 3), np.int32)
    arrays[:, 2, :2] = ids[4:], [4, 5], [1, 1]
    arrays[:, 2, 2] = 1, 6, 1
    hidden, _ = paged.cached(*arrays, cache)
    want = paged.forward(*padded([[*ids, 1], [], []], length=12))
    np.testing.assert_allclose(hidden[2], want[0, 4:7], atol=1e-5)
