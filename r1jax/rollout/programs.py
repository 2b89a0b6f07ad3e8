"""The programs of the sampler: prefill, what moves slots, and segments of decode steps.

A program is compiled for each size of its arrays; all settings are arrays. ``num_compiled`` counts.

One decode step runs the model on the pending token of each slot, the last that was sampled, and on its drafts: T = 1 +
K tokens. It then samples a token after each of them, with the random numbers that those tokens would be sampled with
one by one. Drafts are kept as far as they are the tokens sampled, so a step makes 1 to T tokens, and drafts change the
speed alone: neither the distribution nor the tokens of a seed.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from r1jax import members
from r1jax.kernels import hardware, paged_decode
from r1jax.models import cache as kv_cache
from r1jax.models.transformer import STACKS, Model
from r1jax.rollout.drafts import draft_by_ngram
from r1jax.rollout.sampling import MAX_STOP_IDS, SAMPLING_FIELDS, sample_tokens, uniforms

Layers = tuple[kv_cache.Layer, ...]


class Programs:
    """The jitted functions of one model. drafts: "none", "ngram", or "mtp", whose layer then has a cache too.

    record_routing: prefill and decode also return the experts of each token (``routes_dtype``).
    """

    def __init__(self, model: Model, drafts: str, record_routing: bool = False):
        self._model, self._drafts, self._record = model, drafts, record_routing
        self._with_mtp = {"num_mtp_layers": 1 if drafts == "mtp" else 0}
        self.num_compiled = 0
        self._unstack = self._jit(_unstack)
        self.empty_dense = self._jit(self._empty_dense, static=("num_slots", "num_tokens"))
        self.empty_paged = self._jit(self._empty_paged, static=("num_pages", "page_size", "batch_axes"))
        self.prefill_dense = self._jit(self._prefill_dense)
        self.prefill_paged = self._jit(self._prefill_paged, donated=("layers",), static=("batch_axes",))
        self.insert = self._jit(_insert, donated=("layers",))
        self.take = self._jit(_take)
        self.copy_pages = self._jit(_copy_pages, donated=("layers",), static=("batch_axes",))
        self.decode = self._jit(self._decode, rank=1, donated=("layers",), static=("steps", "features", "batch_axes"))

    def _jit(self, function: Callable, *, rank: int = 0, donated: tuple[str, ...] = (), static: tuple[str, ...] = ()):
        @functools.wraps(function)
        def counted(*args, **kwargs):
            self.num_compiled += 1
            return function(*args, **kwargs)

        return members.jit(counted, rank=rank, is_shared=True, donated=donated, static=static)

    def weights_of_steps(self, params) -> Any:
        """The parameters as ``decode`` takes them.

        On a CPU each layer's are a copy of their own: XLA's there would copy them out of the stacks in every step.
        """
        return self._unstack(params) if hardware.is_cpu() else params

    def _empty_dense(self, *, num_slots: int, num_tokens: int) -> Layers:
        return self._model.init_cache(batch=num_slots, length=num_tokens, **self._with_mtp).layers

    def _empty_paged(self, *, num_pages: int, page_size: int, batch_axes: tuple[str, ...]) -> Layers:
        table_11 = jnp.zeros((1, 1), jnp.int32)
        sizes = {"num_pages": num_pages, "page_size": page_size, "batch_axes": batch_axes, **self._with_mtp}
        return self._model.init_paged_cache(page_table_BI=table_11, **sizes).layers

    def _prefill(self, params, buffers, cache, tokens_PT, lengths_P) -> tuple[Layers, jax.Array | None]:
        """(layers, the experts of each token [P, T, L, K] where they are recorded)."""
        positions_PT = jnp.broadcast_to(jnp.arange(tokens_PT.shape[1]), tokens_PT.shape)
        segments_PT = (positions_PT < lengths_P[:, None]).astype(jnp.int32)
        inputs = {"positions_BT": positions_PT, "segments_BT": segments_PT, "is_prefill": True}
        hidden_PTD, filled, aux = self._model.hidden(
            params, buffers, tokens_PT, cache=cache, record=self._record, **inputs
        )
        if self._drafts == "mtp":
            filled, next_PT = dataclasses.replace(filled, lengths_B=cache.lengths_B), jnp.roll(tokens_PT, -1, axis=1)
            _, filled, _ = self._model.mtp_hidden(params, buffers, hidden_PTD, next_PT, cache=filled, **inputs)
        return filled.layers, self._routes(aux)

    def _routes(self, aux) -> jax.Array | None:
        if not self._record:
            return None
        return jnp.moveaxis(aux["experts_LBTK"], 0, 2).astype(routes_dtype(self._model))

    def _prefill_dense(self, params, buffers, tokens_PT, lengths_P):
        """The first ``lengths_P`` tokens of prompts [P, T] in a cache of their own."""
        cache = self._model.init_cache(batch=tokens_PT.shape[0], length=tokens_PT.shape[1], **self._with_mtp)
        return self._prefill(params, buffers, cache, tokens_PT, lengths_P)

    def _prefill_paged(self, params, buffers, layers, tokens_PT, lengths_P, table_PI, *, batch_axes):
        """The pools with the first ``lengths_P`` tokens of prompts [P, T] in the pages of the table."""
        lengths = jnp.zeros_like(lengths_P)
        cache = kv_cache.PagedCache(layers=layers, page_table_BI=table_PI, lengths_B=lengths, batch_axes=batch_axes)
        return self._prefill(params, buffers, cache, tokens_PT, lengths_P)

    def _decode(self, weights, buffers, layers, rows, *, steps: int, features, batch_axes):
        """Up to ``steps`` steps of all slots that are running: (layers, {"tokens_BN", ...}).

        rows, arrays of B slots: "token_B" pending, "lengths_B" tokens before it, "count_B" tokens of the answer so far
        and "budget_B" of them in all, "is_running_B", "key_B2", "stop_BK" ids (−1: none), "draft_BK", the fields of
        ``Sampling``, with pages "page_table_BI", with n-grams "text_BS", all tokens up to the pending one; with
        features what ``sample_tokens`` asks for; and "max_idle", a scalar: how many slots may end before the segment
        does.

        Of a slot: "tokens_BN" (−1 after its last), "logps_BN" and, with features, "sampled_logps_BN"; "num_new_B", how
        many, in "num_steps_B" steps; where they are recorded "experts_BNLK", of the tokens that were run for those, the
        first of them the pending one; "is_done_B", ended by a stop id or its budget; "is_failed_B", a distribution was
        not valid; "draft_BK". And "num_steps", a scalar.
        """
        num_slots, num_drafts = rows["draft_BK"].shape
        drafts, num_tokens = self._drafts if num_drafts else "none", 1 + num_drafts
        width = steps * num_tokens
        names = ["logps_BN"] + (["sampled_logps_BN"] if features else [])
        out = {"tokens_BN": jnp.full((num_slots, width), -1, jnp.int32)}
        out |= {name: jnp.zeros((num_slots, width), jnp.float32) for name in names}
        out |= {name: rows[name] for name in ("token_B", "lengths_B", "draft_BK")}
        out |= {name: jnp.zeros(num_slots, jnp.int32) for name in ("num_new_B", "num_steps_B")}
        out["num_steps"] = jnp.int32(0)
        if self._record:
            c = self._model.config
            shape = (num_slots, width, c.num_moe_layers, c.num_experts_per_token)
            out["experts_BNLK"] = jnp.zeros(shape, routes_dtype(self._model))
        out |= {name: jnp.zeros(num_slots, bool) for name in ("is_done_B", "is_failed_B")}
        kept_here = [name for name in ("text_BS", "in_text_BV", "num_in_answer_BV") if name in rows]
        out |= {name: rows[name] for name in kept_here}

        def goes_on(carry):
            _, out = carry
            num_ended = jnp.sum(out["is_done_B"])
            has_rows = num_ended < jnp.sum(rows["is_running_B"])
            return members.is_any((out["num_steps"] < steps) & has_rows & (num_ended < rows["max_idle"]))

        def step(carry):
            layers, out = carry
            params = _stack(weights)
            is_running_B = rows["is_running_B"] & ~out["is_done_B"]
            tokens_BT = jnp.concatenate([out["token_B"][:, None], out["draft_BK"]], axis=1)
            offsets_T = jnp.arange(num_tokens)
            now = rows | {name: out[name] for name in (*kept_here, "lengths_B")}
            cache = _cache(layers, now, batch_axes)
            inputs = {
                "positions_BT": out["lengths_B"][:, None] + offsets_T,
                "segments_BT": jnp.broadcast_to(is_running_B[:, None], tokens_BT.shape).astype(jnp.int32),
            }
            hidden_BTD, cache, aux = self._model.hidden(
                params, buffers, tokens_BT, cache=cache, record=self._record, **inputs
            )
            count_B = rows["count_B"] + out["num_new_B"]
            uniform_BT = uniforms(rows["key_B2"], count_B[:, None] + offsets_T)
            logits_BTV = self._model.logits(params, hidden_BTD)
            names = [name for name in (*SAMPLING_FIELDS, "allowed_BV", "in_text_BV", "num_in_answer_BV") if name in now]
            settings = {name: now[name] for name in names}
            draw = functools.partial(sample_tokens, features=features)
            sampled = members.over_rows(draw, logits_BTV, uniform_BT, settings)

            new_BT, is_valid_BT = sampled["token"], sampled["is_valid"]
            is_kept_BK = new_BT[:, :num_drafts] == out["draft_BK"]
            num_made_B = 1 + jnp.cumprod(is_kept_BK, axis=1, dtype=jnp.int32).sum(1)
            is_stop_BT = (new_BT[:, :, None] == rows["stop_BK"][:, None]).any(-1)
            num_to_stop_B = jnp.where(is_stop_BT.any(1), jnp.argmax(is_stop_BT, axis=1) + 1, num_tokens + 1)
            num_left_B = rows["budget_B"] - count_B
            num_valid_B = jnp.where(is_valid_BT.all(1), num_tokens + 1, jnp.argmin(is_valid_BT, axis=1))
            num_new_B = jnp.minimum(jnp.minimum(num_made_B, num_to_stop_B), num_left_B)
            is_failed_B = is_running_B & (num_valid_B < num_new_B)
            num_new_B = jnp.where(is_running_B, jnp.minimum(num_new_B, num_valid_B), 0)
            is_last_B = (num_new_B >= num_to_stop_B) | (num_new_B >= num_left_B)

            is_new_BT = offsets_T < num_new_B[:, None]
            where = jnp.arange(num_slots)[:, None], out["num_new_B"][:, None] + offsets_T
            written = {"tokens_BN": (new_BT, -1), "logps_BN": (sampled["logp"], 0.0)}
            if features:
                written["sampled_logps_BN"] = (sampled["sampled_logp"], 0.0)
            for name, (value_BT, empty) in written.items():
                out = out | {name: out[name].at[where].set(jnp.where(is_new_BT, value_BT, empty), mode="drop")}
            if self._record:  # what is not kept is written over, or past the last
                out["experts_BNLK"] = out["experts_BNLK"].at[where].set(self._routes(aux), mode="drop")
            last_B1 = jnp.maximum(num_new_B - 1, 0)[:, None]
            token_B = jnp.where(num_new_B > 0, jnp.take_along_axis(new_BT, last_B1, axis=1)[:, 0], out["token_B"])
            out = out | {
                "token_B": token_B,
                "lengths_B": out["lengths_B"] + num_new_B,
                "num_new_B": out["num_new_B"] + num_new_B,
                "num_steps_B": out["num_steps_B"] + is_running_B,
                "num_steps": out["num_steps"] + 1,
                "is_done_B": out["is_done_B"] | is_failed_B | (is_running_B & is_last_B),
                "is_failed_B": out["is_failed_B"] | is_failed_B,
            }
            if "penalty" in features:  # then a step has one token
                at = where[0][:, 0], jnp.where(is_new_BT[:, 0], token_B, self._model.config.vocab_size)
                out["num_in_answer_BV"] = out["num_in_answer_BV"].at[at].add(1, mode="drop")
                out["in_text_BV"] = out["in_text_BV"].at[at].set(True, mode="drop")
            if drafts == "ngram":
                at = where[0], out["lengths_B"][:, None] - num_new_B[:, None] + 1 + offsets_T
                at = at[0], jnp.where(is_new_BT, at[1], out["text_BS"].shape[1])
                text_BS = out["text_BS"].at[at].set(new_BT, mode="drop")
                draft_BK = draft_by_ngram(text_BS, out["lengths_B"] + 1, num_drafts=num_drafts)
                out = out | {"text_BS": text_BS, "draft_BK": draft_BK}
            if drafts == "mtp":
                cache = dataclasses.replace(cache, lengths_B=now["lengths_B"])
                hidden_BTD, cache, _ = self._model.mtp_hidden(
                    params, buffers, hidden_BTD, new_BT, cache=cache, **inputs
                )
                hidden_B1D = jnp.take_along_axis(hidden_BTD, last_B1[..., None], axis=1)
                uniform_B1 = uniforms(rows["key_B2"], count_B[:, None] + num_new_B[:, None])
                drafted = sample_tokens(self._model.logits(params, hidden_B1D), uniform_B1, now, features=features)
                out = out | {"draft_BK": drafted["token"]}
            return cache.layers, out

        layers, out = jax.lax.while_loop(goes_on, step, (layers, out))
        return layers, {name: array for name, array in out.items() if name not in (*kept_here, "lengths_B")}


def routes_dtype(model: Model) -> jnp.dtype:
    """The smallest type that holds the number of an expert."""
    return jnp.dtype(jnp.uint8 if model.config.num_experts <= 256 else jnp.uint16)


def _cache(layers: Layers, rows: dict[str, Any], batch_axes: tuple[str, ...]) -> kv_cache.Cache:
    lengths_B = rows["lengths_B"]
    if "page_table_BI" not in rows:
        return kv_cache.DenseCache(layers=layers, lengths_B=lengths_B)
    table_BI = rows["page_table_BI"]
    return kv_cache.PagedCache(layers=layers, page_table_BI=table_BI, lengths_B=lengths_B, batch_axes=batch_axes)


def _unstack(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters whose stacks of layers are tuples with a tree for each layer."""

    def of_layers(stack):
        num_layers = jax.tree.leaves(stack)[0].shape[0]
        return tuple(jax.tree.map(lambda array, index=index: array[index], stack) for index in range(num_layers))

    return {name: of_layers(value) if name in STACKS else value for name, value in params.items()}


def _stack(params: dict[str, Any]) -> dict[str, Any]:
    """``_unstack`` taken back; a program that takes layers out of what this makes reads them where they are."""
    return {
        name: jax.tree.map(lambda *arrays: jnp.stack(arrays), *value) if isinstance(value, tuple) else value
        for name, value in params.items()
    }


def _insert(layers: Layers, rows: Layers, source_N, target_N) -> Layers:
    return kv_cache.insert(layers, rows, source_N=source_N, target_N=target_N)


def _take(layers: Layers, slots_B) -> Layers:
    """Dense layers of these rows; −1 gives an empty one."""
    return jax.tree.map(lambda array: jnp.take(array, slots_B, axis=0, mode="fill", fill_value=0), layers)


def _copy_pages(layers: Layers, pages_N2, *, batch_axes) -> Layers:
    return tuple(paged_decode.pages.copy(layer, pages_B2=pages_N2, batch_axes=batch_axes) for layer in layers)


def abstract_rows(
    num_slots: int,
    *,
    num_drafts: int = 0,
    num_text: int = 0,
    table_width: int = 0,
    features: frozenset[str] = frozenset(),
) -> dict[str, jax.ShapeDtypeStruct]:
    """The rows of ``Programs.decode`` as the engine gives them, for who compiles ahead of time.

    num_text: tokens of "text_BS", with n-grams. table_width: pages of a row, where the cache is paged. features:
    "greedy" and "filter" alone.
    """
    shapes = {
        **dict.fromkeys(("token_B", "lengths_B", "count_B", "budget_B"), ((num_slots,), jnp.int32)),
        "is_running_B": ((num_slots,), jnp.bool),
        "key_B2": ((num_slots, 2), jnp.uint32),
        "stop_BK": ((num_slots, MAX_STOP_IDS), jnp.int32),
        "draft_BK": ((num_slots, num_drafts), jnp.int32),
        "max_idle": ((), jnp.int32),
        **({"page_table_BI": ((num_slots, table_width), jnp.int32)} if table_width else {}),
        **({"text_BS": ((num_slots, num_text), jnp.int32)} if num_text else {}),
        **dict.fromkeys(SAMPLING_FIELDS if features else ("temperature",), ((num_slots,), jnp.float32)),
    }
    return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}


make_programs = functools.cache(Programs)
"""The programs of a model, ``Programs``'; what they compiled is shared."""
