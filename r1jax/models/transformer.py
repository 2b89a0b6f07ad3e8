"""The decoder that every stage trains and samples from, and its pure form.

``Transformer`` is the NNX module. ``make_model`` splits it once; all else sees plain dicts of arrays (``params``, and
``buffers`` with the router bias) and the functions of ``Model``. Layers of a kind are stacked on a leading dim:
``dense`` (the prefix of a mixture of experts, or all layers of a dense model), ``moe``, and the depths of ``mtp``.
Without a cache they are scanned, and where an empty one is filled; else, with one, they are unrolled, so that a decode
step reads each layer's weights and cache in place.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from r1jax.kernels import flash_attention
from r1jax.kernels.token_logprob import token_logprob
from r1jax.models import cache as kv_cache
from r1jax.models.block import MTP, Block, stacked
from r1jax.models.config import ModelConfig
from r1jax.models.layers import Buffer, RMSNorm, param
from r1jax.models.rope import rope_angles
from r1jax.sharding import TOKENS, constrain


def _rematerialised(layer, remat: str):
    """``layer`` whose backward pass computes again what ``ModelConfig.remat`` says."""
    if remat == "none":
        return layer
    policies = jax.checkpoint_policies
    attention = policies.save_only_these_names(flash_attention.SAVED)
    with_dots = policies.save_from_both_policies(attention, policies.dots_with_no_batch_dims_saveable)
    return jax.checkpoint(layer, policy={"dots": with_dots, "full": attention, "everything": None}[remat])


STACKS = ("dense", "moe", "mtp")
"""First name of the parameters that have a leading dim of layers."""
_OVER_LAYERS = {"expert_counts_E": "expert_counts_LE", "balance": "balance_L", "experts_BTK": "experts_LBTK"}
"""What a router says -> its name in aux, stacked over the MoE layers."""


def _aux_of(routing: dict) -> dict:
    """aux of what the routers of the stacked layers say."""
    return {_OVER_LAYERS[name]: value for name, value in routing.items()}


class Transformer(nnx.Module):
    """Embedding, blocks, final norm, MTP depths; the unembedding is applied by ``Model.token_logprob`` or ``Model.logits``."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = c = config
        shape, axes = (c.vocab_size, c.model_dim), ("vocab", "embed")
        self.embed_VD = param(rngs, shape, axes=axes, std=c.init_std)
        if c.num_layers > c.num_moe_layers:
            num_dense = c.num_layers - c.num_moe_layers
            self.dense = stacked(lambda rngs: Block(c, is_moe=False, rngs=rngs), num_dense, rngs=rngs)
        if c.num_moe_layers:
            self.moe = stacked(lambda rngs: Block(c, is_moe=True, rngs=rngs), c.num_moe_layers, rngs=rngs)
        self.final_norm = RMSNorm(c.model_dim, eps=c.rms_eps)
        if not c.tie_embeddings:
            self.unembed_VD = param(rngs, shape, axes=axes, std=c.init_std)
        if c.num_mtp_layers:
            self.mtp = stacked(lambda rngs: MTP(c, rngs=rngs), c.num_mtp_layers, rngs=rngs)

    def __call__(
        self, tokens_BT, *, positions_BT, segments_BT, prefixes_BT=None, cache=None, is_prefill=False, balance=False,
        record=False, replayed_LBTK=None,
    ):  # fmt: skip
        """(hidden after the final norm [B, T, D], cache or None, aux): see ``Model.hidden``."""
        inputs = {"angles": rope_angles(self.config, positions_BT), "balance": balance, "record": record}
        inputs |= {"segments_BT": segments_BT, "prefixes_BT": prefixes_BT}
        h_BTD = self._embed(tokens_BT, cache)
        if cache is None:
            h_BTD, _, routing = self._scanned(h_BTD, inputs, replayed_LBTK)
        else:
            slots = kv_cache.take_slots(cache, segments_BT, is_prefill=is_prefill)
            if slots.is_read:
                h_BTD, layers, routing = self._unrolled(h_BTD, inputs, slots)
            else:
                inputs |= {"slots": kv_cache.NEW_TOKENS, "cache": {}}
                h_BTD, new_tokens, routing = self._scanned(h_BTD, inputs)
                layers = tuple(map(slots.write, slots.layers, new_tokens))  # MTP's, at the end, are left out
            cache = slots.advanced((*layers, *slots.layers[len(layers) :]))  # those of MTP as they were
        return self.final_norm(h_BTD), cache, _aux_of(routing)

    def mtp_step(
        self, hidden_BTD, next_BT, *, depth=0, positions_BT, segments_BT, prefixes_BT=None, cache=None,
        is_prefill=False, balance=False,
    ):  # fmt: skip
        """(hidden [B, T, D], cache or None, aux) of one MTP depth: see ``Model.mtp_hidden``."""
        inputs = {"angles": rope_angles(self.config, positions_BT), "balance": balance}
        inputs |= {"segments_BT": segments_BT, "prefixes_BT": prefixes_BT}
        if cache is not None:
            slots = kv_cache.take_slots(cache, segments_BT, is_prefill=is_prefill)
            index = self.config.num_layers + depth
            inputs |= {"slots": slots, "cache": slots.layers[index]}
        graphdef, state = nnx.split(self.mtp)

        def step(state, hidden_BTD, embedded_BTD):
            return nnx.merge(graphdef, jax.tree.map(lambda a: a[depth], state))(hidden_BTD, embedded_BTD, **inputs)

        step = _rematerialised(step, self.config.remat)
        hidden_BTD, layer, routing = step(state, hidden_BTD, self._embed(next_BT, cache))
        if cache is not None:
            cache = slots.advanced((*slots.layers[:index], layer, *slots.layers[index + 1 :]))
        return hidden_BTD, cache, _aux_of(jax.tree.map(lambda value: value[None], routing))

    def blocks(self):
        """The block of every layer in order, each with its own slice of the stacked arrays."""
        for _, graphdef, state in self._stacks():
            for index in range(jax.tree.leaves(state)[0].shape[0]):
                yield nnx.merge(graphdef, jax.tree.map(lambda a, index=index: a[index], state))

    def _embed(self, tokens_BT, cache):
        h_BTD = self.embed_VD[...][tokens_BT].astype(self.config.dtype)
        return constrain(h_BTD, (*TOKENS, None), role="train" if cache is None else "rollout")

    def _stacks(self):
        for name in ("dense", "moe"):
            if hasattr(self, name):
                yield name, *nnx.split(getattr(self, name))

    def _scanned(self, h_BTD, inputs, replayed_LBTK=None):
        """(hidden, what attention leaves of each layer, what routers say)."""
        left, routing_of_moe = [], {}
        for name, graphdef, state in self._stacks():

            def layer(h_BTD, of_layer, graphdef=graphdef):
                layer_state, replayed_BTK = of_layer
                block = nnx.merge(graphdef, layer_state)
                h_BTD, left, routing = block(h_BTD, replayed_BTK=replayed_BTK, **inputs)
                return h_BTD, (left, routing)

            layer = _rematerialised(layer, self.config.remat)
            of_layers = (state, replayed_LBTK if name == "moe" else None)
            h_BTD, (stacked_left, routing) = jax.lax.scan(layer, h_BTD, of_layers)
            num_layers = jax.tree.leaves(state)[0].shape[0]
            left += [jax.tree.map(lambda a, i=i: a[i], stacked_left) for i in range(num_layers)]
            routing_of_moe |= routing  # {} of dense layers
        return h_BTD, left, routing_of_moe

    def _unrolled(self, h_BTD, inputs, slots):
        layers, by_layer = [], []
        for block, layer in zip(self.blocks(), slots.layers[: self.config.num_layers], strict=True):
            h_BTD, layer, routing = block(h_BTD, cache=layer, slots=slots, **inputs)
            layers.append(layer)
            by_layer += [routing] if routing else []
        routing = jax.tree.map(lambda *values: jnp.stack(values), *by_layer) if by_layer else {}
        return h_BTD, tuple(layers), routing


@dataclasses.dataclass(frozen=True)
class Model:
    """Pure functions of one architecture over plain dicts of arrays."""

    config: ModelConfig
    graphdef: nnx.GraphDef

    def init(self, key: jax.Array) -> tuple[dict, dict]:
        """(params, buffers): normal(0, init_std) weights in float32; router biases 0."""
        params, buffers = _split(self.config, key)[1:]
        return nnx.to_pure_dict(params), nnx.to_pure_dict(buffers)

    def hidden(self, params, buffers, tokens_BT, **inputs):
        """(hidden [B, T, D] after the final norm, cache or None, aux); ``inputs`` are those of
        ``Transformer.__call__``.

        Tokens see earlier tokens of their own segment and of their prefix (``prefixes_BT``, 0 for none): a segment of
        their row that several others go on from. Segment 0 is padding. With a cache, of either kind of
        ``r1jax.models.cache``, which knows no prefixes, the tokens take its next T slots; ``is_prefill`` says that it
        is empty, so that attention is among the given tokens alone. Layers of the cache past the model's are of MTP;
        they stay.

        aux: {} of a dense model, else "expert_counts_LE"; with ``balance`` "balance_L", the balance loss summed over
          sequences (``r1jax.models.moe.balance_sum``); with ``record`` "experts_LBTK", the routers' choice.
        replayed_LBTK: experts that the MoE layers take instead, without a cache (``r1jax.models.moe.MoE``).
        """
        return nnx.merge(self.graphdef, params, buffers)(tokens_BT, **inputs)

    def mtp_hidden(self, params, buffers, hidden_BTD, next_BT, **inputs):
        """(hidden [B, T, D], cache or None, aux) of MTP depth ``depth``, whose logits predict the token after
        ``next_BT``.

        ``inputs`` are those of ``Transformer.mtp_step``.

        hidden_BTD: of the depth before, or of the main model (``hidden``'s), at token i. next_BT: token i + 1 + depth.
        positions_BT and segments_BT are those of token i; a position whose next token is not of its own sequence
        belongs to segment 0. cache: one with layers for MTP after the model's (``num_mtp_layers`` of ``init_cache``),
        whose lengths are those from before token i; layer ``num_layers + depth`` takes the tokens' slots, and the
        lengths advance, as in ``hidden``. So after ``hidden`` of the same tokens they are set back first. aux as
        ``hidden``'s, L being 1.
        """
        return nnx.merge(self.graphdef, params, buffers).mtp_step(hidden_BTD, next_BT, **inputs)

    def unembedding(self, params) -> jax.Array:
        """[V, D]; the embedding itself where they are tied."""
        return params["embed_VD" if self.config.tie_embeddings else "unembed_VD"]

    def logits(self, params, hidden_BTD) -> jax.Array:
        """[B, T, V] float32: for single positions and tests; losses use ``token_logprob``."""
        w_VD = self.unembedding(params).astype(hidden_BTD.dtype)
        return jnp.einsum("btd,vd->btv", hidden_BTD, w_VD, preferred_element_type=jnp.float32)

    def token_logprob(self, params, hidden_BTD, targets_BT, *, temperature=1.0) -> tuple[jax.Array, jax.Array]:
        """(log π(target), entropy), each [B, T] float32, of the distribution after each position."""
        hidden_XD = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])
        logp_X, entropy_X = token_logprob(
            hidden_XD, self.unembedding(params), targets_BT.reshape(-1), temperature=temperature
        )
        return logp_X.reshape(targets_BT.shape), entropy_X.reshape(targets_BT.shape)

    def init_cache(self, **sizes) -> kv_cache.DenseCache:
        """See ``r1jax.models.cache.init_cache``."""
        return kv_cache.init_cache(self.config, **sizes)

    def init_paged_cache(self, **sizes) -> kv_cache.PagedCache:
        """See ``r1jax.models.cache.init_paged_cache``."""
        return kv_cache.init_paged_cache(self.config, **sizes)

    def abstract(self) -> tuple[dict, dict]:
        """(params, buffers) as ShapeDtypeStructs, without allocating."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def logical_axes(self) -> tuple[dict, dict]:
        """Trees like (params, buffers) with a tuple of logical axes for each array; stacked layers lead with None."""
        _, params, buffers = nnx.eval_shape(lambda: _split(self.config, jax.random.key(0)))

        def axes(variable):
            names = variable.get_metadata("axes")
            return (None,) * (variable.get_value().ndim - len(names)) + tuple(names)

        trees = jax.tree.map(axes, (params, buffers), is_leaf=lambda node: isinstance(node, nnx.Variable))
        return nnx.to_pure_dict(trees[0]), nnx.to_pure_dict(trees[1])


def _split(config: ModelConfig, key: jax.Array):
    return nnx.split(Transformer(config, rngs=nnx.Rngs(params=key)), nnx.Param, Buffer)


@functools.cache
def make_model(config: ModelConfig) -> Model:
    """The pure functions of ``config``; allocates nothing."""
    graphdef = nnx.eval_shape(lambda: _split(config, jax.random.key(0)))[0]
    return Model(config=config, graphdef=graphdef)


class ParameterCounts(NamedTuple):
    """Scalars of a model, router biases included."""

    total: int
    """Of the main model: MTP left out, as the published counts do."""
    activated: int
    """Those of ``total`` that one token passes through: K of the E experts; embedding and head counted whole."""
    mtp: int
    """Of the MTP depths, which share the embedding and the head."""


def parameter_counts(config: ModelConfig) -> ParameterCounts:
    """671,026,419,200, 37,552,297,472 and 11,610,068,224 for DeepSeek-V3; allocates nothing."""
    trees = make_model(config).abstract()
    mtp = sum(array.size for array in jax.tree.leaves([tree.get("mtp", {}) for tree in trees]))
    total = sum(array.size for array in jax.tree.leaves(trees)) - mtp
    idle_experts = config.num_moe_layers * (config.num_experts - config.num_experts_per_token)
    return ParameterCounts(total, total - idle_experts * 3 * config.model_dim * config.expert_ffn_dim, mtp)
