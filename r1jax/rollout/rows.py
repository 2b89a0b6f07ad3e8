"""How the sequences of one call lie in the engine's cache, which is dense; ``pages`` has the other kind."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from r1jax.models import cache as kv_cache
from r1jax.models.transformer import Model


class Rows(Protocol):
    """P prompts, each with ``num_samples`` rows in a row; sizes alone, so that a program can be compiled for it."""

    @property
    def num_parts(self) -> int:
        """Blocks of consecutive rows that stay on devices of their own."""
        ...

    @property
    def num_samples(self) -> int:
        """Rows of each sequence that is prefilled."""
        ...

    def lay_out(self, prompts: Sequence[Sequence[int]], *, pad_id: int) -> dict[str, np.ndarray]:
        """What prefill takes: "tokens_PT", "segments_PT", and what the kind needs beside them."""
        ...

    def init_cache(self, model: Model, batch: dict) -> Any:
        """An empty cache for the prompts."""
        ...

    def last(self, array_PTX: jax.Array, segments_PT: jax.Array) -> jax.Array:
        """[P, ...]: each prompt's last token's."""
        ...

    def fork(self, cache: Any, batch: dict) -> Any:
        """The prompts' cache as one of all rows."""
        ...

    def with_room(self, cache: Any, num_new: int) -> Any:
        """The cache with room for ``num_new`` tokens after the prompts."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseRows:
    """Prompts of ``prompt_length`` slots with the padding on the left, a dense cache that grows by copying."""

    prompt_length: int
    num_samples: int
    num_parts: int = 1

    def lay_out(self, prompts, *, pad_id):
        tokens_PT = np.full((len(prompts), self.prompt_length), pad_id, np.int32)
        segments_PT = np.zeros_like(tokens_PT)
        for row, prompt in enumerate(prompts):
            tokens_PT[row, self.prompt_length - len(prompt) :] = prompt
            segments_PT[row, self.prompt_length - len(prompt) :] = 1
        return {"tokens_PT": tokens_PT, "segments_PT": segments_PT}

    def init_cache(self, model, batch):
        return model.init_cache(batch=batch["tokens_PT"].shape[0], length=self.prompt_length)

    def last(self, array_PTX, segments_PT):
        return array_PTX[:, -1]

    def fork(self, cache, batch):
        return kv_cache.repeat(cache, self.num_samples)

    def with_room(self, cache, num_new):
        return _grow(cache, length=self.prompt_length + num_new)


_grow = jax.jit(kv_cache.grow, static_argnames=("length",))
