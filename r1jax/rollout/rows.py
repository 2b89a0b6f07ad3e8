"""How the sequences of one call lie in the engine's cache: P prompts, each with ``num_samples`` rows one after the other.

``DenseRows`` says what every kind does; ``pages.PagedRows`` is the other. Both are sizes alone, so that a program can be compiled
for them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from r1jax.models import cache as kv_cache
from r1jax.models.transformer import Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseRows:
    """Prompts of ``prompt_length`` slots with the padding on the left, a dense cache that grows by copying.

    ``num_samples``: rows of each sequence that is prefilled. ``num_parts``: blocks of consecutive rows that stay on devices of
    their own.
    """

    prompt_length: int
    num_samples: int
    num_parts: int = 1

    def lay_out(self, prompts: Sequence[Sequence[int]], *, pad_id: int) -> dict[str, np.ndarray]:
        """What prefill takes: "tokens_PT", "segments_PT", and what else the kind needs."""
        tokens_PT = np.full((len(prompts), self.prompt_length), pad_id, np.int32)
        segments_PT = np.zeros_like(tokens_PT)
        for row, prompt in enumerate(prompts):
            tokens_PT[row, self.prompt_length - len(prompt) :] = prompt
            segments_PT[row, self.prompt_length - len(prompt) :] = 1
        return {"tokens_PT": tokens_PT, "segments_PT": segments_PT}

    def init_cache(self, model: Model, batch: dict) -> Any:
        """An empty cache for the prompts."""
        return model.init_cache(batch=batch["tokens_PT"].shape[0], length=self.prompt_length)

    def last(self, array_PTX: jax.Array, segments_PT: jax.Array) -> jax.Array:
        """[P, ...]: each prompt's last token's."""
        return array_PTX[:, -1]

    def fork(self, cache: Any, batch: dict) -> Any:
        """The prompts' cache as one of all rows."""
        return kv_cache.repeat(cache, self.num_samples)

    def with_room(self, cache: Any, num_new: int) -> Any:
        """The cache with room for ``num_new`` tokens after the prompts."""
        return _grow(cache, length=self.prompt_length + num_new)


_grow = jax.jit(kv_cache.grow, static_argnames=("length",))
