"""The sampler: token ids in, token ids and log-probabilities out.

One jitted prefill of the distinct prompts, whose cache serves the G samples of each; then one jitted decode loop,
called for ``segment`` steps at a time. Between calls the rows that are still alive may be gathered into half as many.
Shapes are bucketed; temperature, top-p, stop ids and budget are arrays: ``num_compilations`` counts what a run
compiled.

The cache is of one of two kinds (``r1jax.models.cache``), which give the same tokens. A *dense* one is repeated for the
samples and grows by ``segment`` slots, by copying, because a step reads every allocated slot. A *paged* one has pages
for the whole budget from the start (``rows``); samples share their prompt's full pages, and a row moves by its row of
the page table. Both take memory by the row: ``max_rows`` bounds it.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models import cache as kv_cache
from r1jax.models.transformer import Model
from r1jax.processes import to_host
from r1jax.rollout.records import Completion
from r1jax.rollout.rows import DenseRows, PagedRows, make_paged_rows, prompts_at_once
from r1jax.specs.rollout import EngineSpec

MAX_STOP_IDS = 8
_BLOCK = 256  # vocabulary entries a block of the two-level inverse CDF
MIN_ROWS = 16  # alive rows are not gathered into batches smaller than this
RowLayout = DenseRows | PagedRows


class Engine:
    """Samples completions of prompts under given weights. pad_id: any token id; fills slots that are never read."""

    def __init__(self, model: Model, spec: EngineSpec, *, pad_id: int):
        self.model, self.spec, self.pad_id = model, spec, pad_id
        self._num_traces = 0
        self._prefill = jax.jit(self._prefill_fn, static_argnames=("rows",))
        self._decode = jax.jit(self._decode_fn, static_argnames=("steps",), donate_argnames=("state",))
        self._take = jax.jit(lambda arrays, rows_B: jax.tree.map(lambda a: a[rows_B], arrays))

    def num_compilations(self) -> int:
        """Prefill and decode programs compiled so far."""
        return self._num_traces

    def generate(
        self,
        params,
        buffers,
        prompts: Sequence[Sequence[int]],
        *,
        num_samples: int = 1,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_p: float | None = None,
        stop_ids: Sequence[int],
        key: jax.Array,
        on_done: Callable[[int, list[Completion]], None] | None = None,
    ) -> list[list[Completion]]:
        """``num_samples`` completions of each prompt, in order.

        ``on_done(prompt, completions)`` is called once for each prompt, as soon as all of its samples are done. Tokens
        do not depend on ``max_rows`` nor on the kind of the cache.

        Raises ValueError for an argument that is out of its range, and for more samples than ``max_rows``.
        """
        max_rows = self.spec.max_rows or num_samples
        wrong = {
            "every prompt needs at least one token": not prompts or not all(map(len, prompts)),
            f"temperature must be positive, got {temperature}": temperature <= 0,
            f"top_p must be in (0, 1], got {top_p}": top_p is not None and not 0 < top_p <= 1,
            f"num_samples must be at least 1, got {num_samples}": num_samples < 1,
            f"max_new_tokens must be at least 1, got {max_new_tokens}": max_new_tokens < 1,
            f"1 to {MAX_STOP_IDS} stop ids, got {len(stop_ids)}": not 0 < len(stop_ids) <= MAX_STOP_IDS,
            f"num_samples={num_samples} rows of one prompt for {max_rows=}; raise max_rows": num_samples > max_rows,
        }
        if message := next((message for message, is_wrong in wrong.items() if is_wrong), None):
            raise ValueError(message)
        settings = {
            "temperature": jnp.float32(temperature),
            "top_p": None if top_p is None else jnp.float32(top_p),
            "stop_ids": jnp.asarray(list(stop_ids) + [-1] * (MAX_STOP_IDS - len(stop_ids)), jnp.int32),
            "budget": jnp.int32(max_new_tokens),
            "key": key,
        }
        bucket = self.spec.prompt_bucket
        prompt_length = -(-max(len(p) for p in prompts) // bucket) * bucket
        at_once = prompts_at_once(len(prompts), num_samples, self.spec.max_rows)
        completions: dict[int, list[Completion]] = {}
        for first in range(0, len(prompts), at_once):
            some = prompts[first : first + at_once]
            rows = self._rows(len(some), prompt_length, num_samples=num_samples, max_new_tokens=max_new_tokens)
            batch = rows.lay_out(some, pad_id=self.pad_id) | {"first_row": np.int32(first * num_samples)}

            for prompt, samples in self._sample(params, buffers, batch, settings, rows=rows, num_samples=num_samples):
                completions[first + prompt] = samples
                if on_done is not None:
                    on_done(first + prompt, samples)
        return [completions[prompt] for prompt in range(len(prompts))]

    def _rows(self, num_prompts: int, prompt_length: int, *, num_samples: int, max_new_tokens: int) -> RowLayout:
        """How the rows of so many prompts lie in the cache, on the ambient mesh."""
        kind = kv_cache.best_kind() if self.spec.cache == "auto" else self.spec.cache
        if kind == "dense":
            return DenseRows(prompt_length=prompt_length, num_samples=num_samples)
        return make_paged_rows(
            num_prompts=num_prompts, num_samples=num_samples, prompt_length=prompt_length,
            max_new_tokens=max_new_tokens, page_size=self.spec.page_size,
        )  # fmt: skip

    def _sample(
        self, params, buffers, batch: dict, settings: dict, *, rows: RowLayout, num_samples: int
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Prefill and decode until all rows are done; gives (prompt, its completions) as soon as a prompt is."""
        state, segment = self._prefill(params, buffers, batch, rows=rows), self.spec.segment
        num_rows = state["done_B"].shape[0]
        tokens_BN = np.zeros((num_rows, 0), np.int32)
        logps_BN = np.zeros((num_rows, 0), np.float32)
        row_B, done_B = np.arange(num_rows), np.zeros(num_rows, bool)
        budget, stop_ids = int(settings["budget"]), to_host(settings["stop_ids"]).tolist()
        given_P = np.zeros(num_rows // num_samples, bool)
        for start in range(0, budget, segment):
            state = state | {"cache": rows.with_room(state["cache"], start + segment)}
            state, new_tokens, new_logps = self._decode(params, buffers, state, settings, steps=segment)
            tokens_BN = np.pad(tokens_BN, ((0, 0), (0, segment)), constant_values=-1)
            logps_BN = np.pad(logps_BN, ((0, 0), (0, segment)))
            tokens_BN[row_B, start:], logps_BN[row_B, start:] = to_host(new_tokens), to_host(new_logps)
            done_B[row_B] = to_host(state["done_B"])
            is_last = bool(done_B.all()) or start + segment >= budget
            ready_P = ~given_P & (done_B.reshape(-1, num_samples).all(1) | is_last)
            for prompt in map(int, np.flatnonzero(ready_P)):
                samples = range(prompt * num_samples, (prompt + 1) * num_samples)
                yield prompt, [_completion(tokens_BN[row], logps_BN[row], stop_ids) for row in samples]
            given_P |= ready_P
            if is_last:
                return
            keep = _rows_to_keep(done_B[row_B], rows.num_parts)
            if len(keep) < len(row_B):
                state, row_B = self._gather(state, keep), row_B[keep]

    def _gather(self, state: dict, rows_B: np.ndarray) -> dict:
        """The decode state of the rows ``rows_B``; a pool of pages is not touched."""
        arrays = {name: state[name] for name in ("hidden_BD", "position_B", "row_B", "done_B")}
        taken = self._take(arrays | {"cache": kv_cache.per_sequence(state["cache"])}, rows_B)
        return state | taken | {"cache": kv_cache.with_sequences(state["cache"], taken["cache"])}

    def _prefill_fn(self, params, buffers, batch, *, rows: RowLayout) -> dict:
        """Decode state of all rows: the prompts' cache and their last hidden."""
        self._num_traces += 1
        segments_PT = batch["segments_PT"]
        positions_PT = jnp.maximum(jnp.cumsum(segments_PT, axis=1) - 1, 0)
        hidden_PTD, cache, _ = self.model.hidden(
            params,
            buffers,
            batch["tokens_PT"],
            positions_BT=positions_PT,
            segments_BT=segments_PT,
            cache=rows.init_cache(self.model, batch),
            is_prefill=True,
        )
        position_B = jnp.repeat(positions_PT[:, -1] + 1, rows.num_samples)
        return {
            "cache": rows.fork(cache, batch),
            "hidden_BD": jnp.repeat(rows.last(hidden_PTD, segments_PT), rows.num_samples, axis=0),
            "position_B": position_B,
            "row_B": batch["first_row"] + jnp.arange(len(position_B)),
            "done_B": jnp.zeros(position_B.shape, bool),
            "step": jnp.int32(0),
        }

    def _decode_fn(self, params, buffers, state, settings, *, steps: int):
        """Up to ``steps`` more tokens a row: (state, tokens [B, steps], logps [B, steps]); −1 after a row's end."""
        self._num_traces += 1
        num_rows = state["done_B"].shape[0]
        first = state["step"]
        tokens_BN = jnp.full((num_rows, steps), -1, jnp.int32)
        logps_BN = jnp.zeros((num_rows, steps), jnp.float32)

        def is_running(carry):
            state, _, _ = carry
            in_budget = (state["step"] < settings["budget"]) & (state["step"] < first + steps)
            return in_budget & ~jnp.all(state["done_B"])

        def advance(carry):
            state, tokens_BN, logps_BN = carry
            logits_BV = self.model.logits(params, state["hidden_BD"][:, None])[:, 0] / settings["temperature"]
            uniform_B = row_uniforms(settings["key"], state["row_B"], state["step"])
            token_B, logp_B = sample_tokens(logits_BV, uniform_B, top_p=settings["top_p"])
            column = state["step"] - first
            tokens_BN = tokens_BN.at[:, column].set(jnp.where(state["done_B"], -1, token_B))
            logps_BN = logps_BN.at[:, column].set(jnp.where(state["done_B"], 0.0, logp_B))
            is_stop_B = (token_B[:, None] == settings["stop_ids"]).any(-1)
            hidden_B1D, cache, _ = self.model.hidden(
                params,
                buffers,
                token_B[:, None],
                positions_BT=state["position_B"][:, None],
                segments_BT=kv_cache.step_segments(state["cache"], state["done_B"]),
                cache=state["cache"],
            )
            state = state | {
                "cache": cache,
                "hidden_BD": hidden_B1D[:, 0],
                "position_B": state["position_B"] + 1,
                "done_B": state["done_B"] | is_stop_B,
                "step": state["step"] + 1,
            }
            return state, tokens_BN, logps_BN

        return jax.lax.while_loop(is_running, advance, (state, tokens_BN, logps_BN))


def _rows_to_keep(done_B: np.ndarray, num_parts: int) -> np.ndarray:
    """Rows to go on with, in order: all that are alive, in as many of each part of consecutive rows."""
    done_KR = done_B.reshape(num_parts, -1)
    fewer = _fewer_rows(done_B.size, num_parts * int((~done_KR).sum(1).max()), num_parts)
    first_done_KR = np.argsort(done_KR, axis=1, kind="stable")[:, : fewer // num_parts]
    return (np.sort(first_done_KR, axis=1) + np.arange(num_parts)[:, None] * done_KR.shape[1]).reshape(-1)


def _fewer_rows(num_rows: int, num_alive: int, num_parts: int = 1) -> int:
    """Rows to go on with: halved as long as all that are alive fit and each part has as many."""
    while num_rows % (2 * num_parts) == 0 and num_rows // 2 >= max(num_alive, MIN_ROWS):
        num_rows //= 2
    return num_rows


def _completion(tokens_N: np.ndarray, logps_N: np.ndarray, stop_ids: Sequence[int]) -> Completion:
    num_tokens = int((tokens_N >= 0).sum())
    token_ids = tokens_N[:num_tokens].copy()  # not a view: the whole batch would stay in memory with it
    stopped = num_tokens > 0 and int(token_ids[-1]) in stop_ids
    return Completion(token_ids, logps_N[:num_tokens].copy(), "stop" if stopped else "length")


def sample_tokens(logits_BV: jax.Array, uniform_B: jax.Array, *, top_p=None) -> tuple[jax.Array, jax.Array]:
    """(token [B] int32, its log-probability [B] float32) of softmax(logits), temperature already divided out.

    The inverse CDF in two levels, sums of blocks and then within one block, costs two passes over [B, V] and one random
    number a row; ``jax.random.categorical`` draws V of them. A token of probability zero is never returned. ``top_p``
    (a scalar array, or None for the whole distribution, as RL needs) keeps the smallest set of tokens whose mass
    reaches it; the returned log-probability stays that of the *full* distribution.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    logp_BV = logits_BV - jax.nn.logsumexp(logits_BV, axis=-1, keepdims=True)
    probs_BV = jnp.exp(logp_BV)
    if top_p is not None:
        probs_BV = _nucleus(probs_BV, top_p)
    batch, vocab_size = probs_BV.shape
    num_blocks = -(-vocab_size // _BLOCK)
    probs_BkV = jnp.pad(probs_BV, ((0, 0), (0, num_blocks * _BLOCK - vocab_size))).reshape(batch, num_blocks, _BLOCK)

    block_B, rest_B = _inverse_cdf(probs_BkV.sum(-1), uniform_B)
    within_BV = jnp.take_along_axis(probs_BkV, block_B[:, None, None], axis=1)[:, 0]
    offset_B, _ = _inverse_cdf(within_BV, rest_B)
    token_B = block_B * _BLOCK + offset_B
    return token_B.astype(jnp.int32), jnp.take_along_axis(logp_BV, token_B[:, None], axis=-1)[:, 0]


def _inverse_cdf(mass_BM: jax.Array, uniform_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(index, uniform number within it) of the entry where uniform · total falls, never one of zero mass."""
    cumulative_BM = jnp.cumsum(mass_BM, axis=-1)
    target_B = uniform_B * cumulative_BM[:, -1]
    is_past_BM = (cumulative_BM > target_B[:, None]) & (mass_BM > 0)
    last_B = mass_BM.shape[-1] - 1 - jnp.argmax(mass_BM[:, ::-1] > 0, axis=-1)
    index_B = jnp.where(is_past_BM.any(-1), jnp.argmax(is_past_BM, axis=-1), last_B)
    chosen_B = jnp.take_along_axis(mass_BM, index_B[:, None], axis=-1)[:, 0]
    before_B = jnp.take_along_axis(cumulative_BM, index_B[:, None], axis=-1)[:, 0] - chosen_B
    return index_B, jnp.clip((target_B - before_B) / jnp.maximum(chosen_B, 1e-38), 0.0, 1.0 - 1e-7)


def _nucleus(probs_BV: jax.Array, top_p: jax.Array) -> jax.Array:
    sorted_BV = -jnp.sort(-probs_BV, axis=-1)
    is_needed = jnp.cumsum(sorted_BV, axis=-1) - sorted_BV < top_p
    threshold_B = jnp.min(jnp.where(is_needed, sorted_BV, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(probs_BV >= threshold_B, probs_BV, 0.0)


def row_uniforms(key: jax.Array, rows_B: jax.Array, step: jax.Array) -> jax.Array:
    """[B] uniform numbers that depend on (key, row, step) alone, not on which rows share a batch."""
    step_key = jax.random.fold_in(key, step)
    return jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(step_key, row)))(rows_B)


make_engine = functools.cache(Engine)
"""The engine of these arguments, ``Engine``'s; calls with the same ones share its compiled programs."""
