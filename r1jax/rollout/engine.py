"""The sampler: token ids in, token ids and log-probabilities out.

One jitted prefill of the distinct prompts, whose cache is repeated for the G samples of each; then one jitted decode loop, called for
``segment`` steps at a time on a cache that grows by ``segment`` slots, because a step reads every allocated slot. Between
calls the rows that are still alive may be gathered into half as many. Shapes are bucketed; temperature, top-p, stop ids and budget are
arrays: ``num_compilations`` counts what a run compiled.
"""

import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models import cache as kv_cache
from r1jax.models.transformer import Model
from r1jax.processes import to_host
from r1jax.rollout.sampling import row_uniforms, sample_tokens
from r1jax.rollout.types import Completion

MAX_STOP_IDS = 8
MIN_ROWS = 16
"""Alive rows are not gathered into batches smaller than this."""


class Engine:
    """Samples completions of a batch of prompts under given weights.

    Args:
      model: the policy's architecture.
      pad_id: any token id; fills slots that are never read.
      prompt_bucket: prompts are padded on the left to a multiple of this.
      segment: decode steps between two looks at which rows are done.
    """

    def __init__(self, model: Model, *, pad_id: int, prompt_bucket: int = 32, segment: int = 32):
        self.model, self.pad_id = model, pad_id
        self.prompt_bucket, self.segment = prompt_bucket, segment
        self._num_traces = 0
        self._prefill = jax.jit(self._prefill_fn, static_argnames=("length", "repeats"))
        self._decode = jax.jit(self._decode_fn, static_argnames=("steps",), donate_argnames=("state",))
        self._grow = jax.jit(kv_cache.grow, static_argnames=("length",))
        self._gather = jax.jit(lambda state, rows: _map_rows(state, lambda a: a[rows]))

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

        ``on_done(prompt, completions)`` is called once for each prompt, as soon as all of its samples are done.

        Raises ValueError for an empty prompt, a temperature that is not positive, top_p outside (0, 1], too many stop ids,
        no samples or no room.
        """
        if not prompts or min(len(p) for p in prompts) == 0:
            raise ValueError("every prompt needs at least one token")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {top_p}")
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        if not 0 < len(stop_ids) <= MAX_STOP_IDS:
            raise ValueError(f"1 to {MAX_STOP_IDS} stop ids, got {len(stop_ids)}")
        prompt_length = -(-max(len(p) for p in prompts) // self.prompt_bucket) * self.prompt_bucket
        tokens_PT = np.full((len(prompts), prompt_length), self.pad_id, np.int32)
        segments_PT = np.zeros((len(prompts), prompt_length), np.int32)
        for row, prompt in enumerate(prompts):
            tokens_PT[row, prompt_length - len(prompt) :] = prompt
            segments_PT[row, prompt_length - len(prompt) :] = 1

        settings = {
            "temperature": jnp.float32(temperature),
            "top_p": None if top_p is None else jnp.float32(top_p),
            "stop_ids": jnp.asarray(list(stop_ids) + [-1] * (MAX_STOP_IDS - len(stop_ids)), jnp.int32),
            "budget": jnp.int32(max_new_tokens),
            "key": key,
        }
        state = self._prefill(params, buffers, tokens_PT, segments_PT, length=prompt_length, repeats=num_samples)
        num_rows = len(prompts) * num_samples
        tokens_BN = np.zeros((num_rows, 0), np.int32)
        logps_BN = np.zeros((num_rows, 0), np.float32)
        rows, done_B = np.arange(num_rows), np.zeros(num_rows, bool)
        completions: dict[int, list[Completion]] = {}

        def finish(done: Iterable[int]) -> None:
            for prompt in map(int, done):
                if prompt not in completions:
                    own = range(prompt * num_samples, (prompt + 1) * num_samples)
                    completions[prompt] = [_completion(tokens_BN[row], logps_BN[row], stop_ids) for row in own]
                    if on_done is not None:
                        on_done(prompt, completions[prompt])

        for start in range(0, max_new_tokens, self.segment):
            state = state | {"cache": self._grow(state["cache"], length=prompt_length + start + self.segment)}
            state, new_tokens, new_logps = self._decode(params, buffers, state, settings, steps=self.segment)
            tokens_BN = np.pad(tokens_BN, ((0, 0), (0, self.segment)), constant_values=-1)
            logps_BN = np.pad(logps_BN, ((0, 0), (0, self.segment)))
            tokens_BN[rows, start:], logps_BN[rows, start:] = to_host(new_tokens), to_host(new_logps)
            done_B[rows] = to_host(state["done_B"])
            finish(np.flatnonzero(done_B.reshape(-1, num_samples).all(1)))
            alive = np.flatnonzero(~done_B[rows])
            if not len(alive):
                break
            fewer = _fewer_rows(len(rows), len(alive))
            if fewer < len(rows):
                done = np.setdiff1d(np.arange(len(rows)), alive)
                keep = np.sort(np.concatenate([alive, done[: fewer - len(alive)]]))
                state, rows = self._gather(state, keep), rows[keep]
        finish(range(len(prompts)))
        return [completions[prompt] for prompt in range(len(prompts))]

    def _prefill_fn(self, params, buffers, tokens_PT, segments_PT, *, length: int, repeats: int) -> dict:
        """Decode state of P·repeats rows: the prompts' cache and their last hidden."""
        self._num_traces += 1
        num_prompts = tokens_PT.shape[0]
        positions_PT = jnp.maximum(jnp.cumsum(segments_PT, axis=1) - 1, 0)
        hidden_PTD, cache, _ = self.model.hidden(
            params,
            buffers,
            tokens_PT,
            positions_BT=positions_PT,
            segments_BT=segments_PT,
            cache=self.model.init_cache(batch=num_prompts, length=length),
            is_prefill=True,
        )
        num_rows = num_prompts * repeats
        return {
            "cache": kv_cache.repeat(cache, repeats),
            "hidden_BD": jnp.repeat(hidden_PTD[:, -1], repeats, axis=0),
            "position_B": jnp.repeat(positions_PT[:, -1] + 1, repeats),
            "row_B": jnp.arange(num_rows),
            "done_B": jnp.zeros((num_rows,), bool),
            "step": jnp.int32(0),
        }

    def _decode_fn(self, params, buffers, state, settings, *, steps: int):
        """Up to ``steps`` more tokens a row: (state, tokens [B, steps], logps [B, steps]); −1 after a row's end."""
        self._num_traces += 1
        num_rows = state["done_B"].shape[0]
        first = state["step"]
        tokens_BN = jnp.full((num_rows, steps), -1, jnp.int32)
        logps_BN = jnp.zeros((num_rows, steps), jnp.float32)
        segments_B1 = jnp.ones((num_rows, 1), jnp.int32)

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
                segments_BT=segments_B1,
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


def _fewer_rows(num_rows: int, num_alive: int) -> int:
    """Rows to go on with: halved as long as all that are alive fit."""
    while num_rows % 2 == 0 and num_rows // 2 >= max(num_alive, MIN_ROWS):
        num_rows //= 2
    return num_rows


def _map_rows(state: dict, select) -> dict:
    """``select`` on every array of a decode state that has a row dim."""
    cache = state["cache"]
    per_row = {name: select(state[name]) for name in ("hidden_BD", "position_B", "row_B", "done_B")}
    cache = cache | {"layers": jax.tree.map(select, cache["layers"]), "segments_BS": select(cache["segments_BS"])}
    return state | per_row | {"cache": cache}


def _completion(tokens_N: np.ndarray, logps_N: np.ndarray, stop_ids: Sequence[int]) -> Completion:
    num_tokens = int((tokens_N >= 0).sum())
    token_ids = tokens_N[:num_tokens].copy()  # not a view: the whole batch would stay in memory with it
    stopped = num_tokens > 0 and int(token_ids[-1]) in stop_ids
    return Completion(
        token_ids=token_ids, logps=logps_N[:num_tokens].copy(), stop_reason="stop" if stopped else "length"
    )


@functools.cache
def make_engine(model: Model, *, pad_id: int, prompt_bucket: int = 32, segment: int = 32) -> Engine:
    """The engine of these settings; calls with the same ones share its compiled programs."""
    return Engine(model, pad_id=pad_id, prompt_bucket=prompt_bucket, segment=segment)
