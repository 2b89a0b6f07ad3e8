"""How the sequences of one call lie in the engine's cache: P prompts, each with ``num_samples`` rows one after the
other.

``DenseRows`` says what every kind does; ``PagedRows`` is the other. Both are sizes alone: programs are compiled for
them.

Which page (``r1jax.models.cache``) each token gets is decided on the host before anything runs. The samples of a prompt
share its full pages; each has the rest of the prompt and its tokens in other pages, enough for the whole budget. So no
page is given out later, and a decode step never waits for the host. Pages of S tokens: P · ⌊T / S⌋ + B · (⌈budget / S⌉
+ 1) for B rows of P prompts of up to T tokens. ``Engine`` bounds B (``max_rows``).

On a mesh the rows are cut into parts, one for each group of devices that the "batch" of the role "rollout" is split
over, and the pool alike: a row's pages are in its part's pool, so reading them needs no other device. A prompt whose
samples are in several parts is prefilled in each.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models import cache as kv_cache
from r1jax.models.transformer import Model
from r1jax.sharding import MESH_AXES, RULES


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseRows:
    """Prompts of ``prompt_length`` slots with the padding on the left, a dense cache that grows by copying.

    ``num_samples``: rows of each prefilled sequence. ``num_parts``: blocks of consecutive rows, each on other devices.
    """

    prompt_length: int
    num_samples: int
    num_parts: int = 1

    def lay_out(self, prompts: Sequence[Sequence[int]], *, pad_id: int) -> dict[str, np.ndarray]:
        """What prefill takes: "tokens_PT", "segments_PT", and what else the kind needs."""
        return _padded(prompts, length=self.prompt_length, pad_id=pad_id, on_the_left=True)

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


def _padded(prompts: Sequence[Sequence[int]], *, length: int, pad_id: int, on_the_left: bool) -> dict[str, np.ndarray]:
    tokens_PT = np.full((len(prompts), length), pad_id, np.int32)
    segments_PT = np.zeros_like(tokens_PT)
    for row, prompt in enumerate(prompts):
        columns = slice(length - len(prompt), None) if on_the_left else slice(len(prompt))
        tokens_PT[row, columns], segments_PT[row, columns] = prompt, 1
    return {"tokens_PT": tokens_PT, "segments_PT": segments_PT}


_grow = jax.jit(kv_cache.grow, static_argnames=("length",))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PagedRows:
    """Of ``num_prompts`` prefilled sequences, the padding on the right, in a paged cache.

    ``num_copies`` of them in a row are of one prompt. ``batch_axes``: the mesh axes that the ``num_parts`` parts lie
    over.
    """

    num_prompts: int
    num_samples: int
    num_copies: int
    prompt_length: int
    page_size: int
    budget_pages: int
    num_parts: int
    batch_axes: tuple[str, ...]

    @property
    def _prompt_pages(self) -> int:
        return self.prompt_length // self.page_size

    @property
    def _own_pages(self) -> int:
        return self.budget_pages + 1  # the first may hold the rest of the prompt

    @property
    def _pages_per_prompt(self) -> int:
        return self._prompt_pages + self.num_samples * self._own_pages

    @property
    def pages_per_part(self) -> int:
        """Pages of a part's pool."""
        return self.num_prompts // self.num_parts * self._pages_per_prompt

    def lay_out(self, prompts, *, pad_id):
        prompts = [prompt for prompt in prompts for _ in range(self.num_copies)]
        table_PGI = np.zeros((self.num_prompts, self.num_samples, self._prompt_pages + self._own_pages), np.int32)
        for row, prompt in enumerate(prompts):
            first, shared = row * self._pages_per_prompt, len(prompt) // self.page_size
            own_G1 = first + self._prompt_pages + self._own_pages * np.arange(self.num_samples)[:, None]
            table_PGI[row, :, :shared] = first + np.arange(shared)
            table_PGI[row, :, shared:] = (
                own_G1 + self._own_pages - 1
            )  # past a row's last page it repeats, within its part
            table_PGI[row, :, shared : shared + self._own_pages] = own_G1 + np.arange(self._own_pages)
        padded = _padded(prompts, length=self.prompt_length, pad_id=pad_id, on_the_left=False)
        return padded | {"page_table_BI": table_PGI.reshape(-1, table_PGI.shape[-1])}

    def init_cache(self, model, batch):
        return model.init_paged_cache(
            page_table_BI=batch["page_table_BI"][:: self.num_samples],
            num_pages=self.num_parts * self.pages_per_part,
            page_size=self.page_size,
            batch_axes=self.batch_axes,
        )

    def last(self, array_PTX, segments_PT):
        last_P = segments_PT.sum(1) - 1
        return jnp.take_along_axis(array_PTX, last_P.reshape(-1, *[1] * (array_PTX.ndim - 1)), axis=1)[:, 0]

    def fork(self, cache, batch):
        return kv_cache.fork(cache, page_table_BI=batch["page_table_BI"], num_samples=self.num_samples)

    def with_room(self, cache, num_new):
        return cache


def make_paged_rows(
    *, num_prompts: int, num_samples: int, prompt_length: int, max_new_tokens: int, page_size: int
) -> PagedRows:
    """The pages of a call, on the ambient mesh (``jax.set_mesh``) where there is one of several devices."""
    axes, num_parts = split_here(num_prompts, num_samples)
    samples = min(num_samples, num_prompts * num_samples // num_parts)
    copies, budget_pages = num_samples // samples, -(-max_new_tokens // page_size)
    sizes = {"num_prompts": num_prompts * copies, "num_samples": samples, "num_copies": copies}
    pages = {"prompt_length": prompt_length, "page_size": page_size, "budget_pages": budget_pages}
    return PagedRows(**sizes, **pages, num_parts=num_parts, batch_axes=axes)


def split_here(num_prompts: int, num_samples: int) -> tuple[tuple[str, ...], int]:
    """(``split_rows``, how many parts these are) on the ambient mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = split_rows(num_prompts, num_samples, mesh.shape if set(mesh.axis_names) == set(MESH_AXES) else {})
    return axes, math.prod(mesh.shape[axis] for axis in axes)


def prompts_at_once(num_prompts: int, num_samples: int, max_rows: int | None) -> int:
    """Prompts of a batch, of which no more than ``max_rows`` rows are sampled.

    So many that the fewest rows are on one device at a time (batches that the mesh does not cut are whole on each); of
    those numbers the smallest, which makes the batches as even as can be.
    """
    if max_rows is None:
        return num_prompts
    most = min(num_prompts, max_rows // num_samples)
    least = -(-num_prompts // -(-num_prompts // most))  # in as many batches

    def rows_on_a_device(at_once: int) -> int:
        sizes = {at_once, num_prompts % at_once or at_once}
        return max(size * num_samples // split_here(size, num_samples)[1] for size in sizes)

    return min(range(least, most + 1), key=rows_on_a_device)


def split_rows(num_prompts: int, num_samples: int, mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
    """Those axes of the rule of "batch" (role "rollout") that cut the rows into whole groups or a group into equal parts."""
    chosen, num_parts = (), 1
    for axis in RULES["rollout"]["batch"]:
        rows, rest = divmod(num_prompts * num_samples, num_parts * mesh_shape.get(axis, 1))
        if mesh_shape.get(axis, 1) > 1 and not rest and not (rows % num_samples and num_samples % rows):
            chosen, num_parts = (*chosen, axis), num_parts * mesh_shape[axis]
    return chosen
