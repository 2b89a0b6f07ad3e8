"""The decoder that every stage trains and samples from, and its pure form.

``Transformer`` is the NNX module. ``make_model`` splits it once; all else sees plain dicts of arrays (``params``, and ``buffers``
with the router bias) and the functions of ``Model``. Layers of a kind are stacked on a leading dim: ``dense`` (the prefix of a
mixture of experts, or all layers of a dense model) and ``moe``. Without a cache they are scanned; with one they are
unrolled, so that a decode step reads each layer's weights and cache in place.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from r1jax.kernels.token_logprob import token_logprob
from r1jax.models import cache as kv_cache
from r1jax.models.config import ModelConfig
from r1jax.models.gqa import GQA
from r1jax.models.layers import Buffer, RMSNorm, SwiGLU, param
from r1jax.models.mla import MLA
from r1jax.models.moe import MoE
from r1jax.models.rope import rope_angles
from r1jax.sharding import constrain


class Block(nnx.Module):
    """h + Attention(norm(h)), then h + FFN(norm(h)) (spec A.2)."""

    def __init__(self, config: ModelConfig, *, is_moe: bool, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.model_dim, eps=config.rms_eps)
        self.attention = (MLA if config.attention == "mla" else GQA)(config, rngs=rngs)
        self.ffn_norm = RMSNorm(config.model_dim, eps=config.rms_eps)
        if is_moe:
            self.ffn = MoE(config, rngs=rngs)
        else:
            self.ffn = SwiGLU(config.model_dim, config.ffn_dim, std=config.init_std, rngs=rngs)

    def __call__(self, h_BTD: jax.Array, *, segments_BT: jax.Array, **attention_inputs):
        """(h, the layer's cache or None, tokens per expert [E] or None)."""
        with jax.named_scope("attention"):
            out_BTD, cache = self.attention(self.attention_norm(h_BTD), segments_BT=segments_BT, **attention_inputs)
        h_BTD = constrain(h_BTD + out_BTD, ("batch", None, None))
        with jax.named_scope("ffn"):
            x_BTD = self.ffn_norm(h_BTD)
            if isinstance(self.ffn, MoE):
                out_BTD, counts_E = self.ffn(x_BTD, segments_BT=segments_BT)
            else:
                out_BTD, counts_E = self.ffn(x_BTD), None
        return constrain(h_BTD + out_BTD, ("batch", None, None)), cache, counts_E


def _stacked(config: ModelConfig, num_layers: int, *, is_moe: bool, rngs: nnx.Rngs) -> Block:
    """``num_layers`` blocks as one module whose arrays have a leading layer dim."""
    make = nnx.vmap(lambda key: Block(config, is_moe=is_moe, rngs=nnx.Rngs(params=key)), in_axes=0)
    return make(jax.random.split(rngs.params(), num_layers))


class Transformer(nnx.Module):
    """Embedding, blocks, final norm; the unembedding is applied by ``Model.token_logprob`` or ``Model.logits``."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        shape, axes = (config.vocab_size, config.model_dim), ("vocab", "embed")
        self.embed_VD = param(rngs, shape, axes=axes, std=config.init_std)
        if config.num_layers > config.num_moe_layers:
            self.dense = _stacked(config, config.num_layers - config.num_moe_layers, is_moe=False, rngs=rngs)
        if config.num_moe_layers:
            self.moe = _stacked(config, config.num_moe_layers, is_moe=True, rngs=rngs)
        self.final_norm = RMSNorm(config.model_dim, eps=config.rms_eps)
        if not config.tie_embeddings:
            self.unembed_VD = param(rngs, shape, axes=axes, std=config.init_std)

    def __call__(self, tokens_BT, *, positions_BT, segments_BT, cache=None, is_prefill=False):
        """(hidden after the final norm [B, T, D], cache or None, {"expert_counts_LE"}).

        Tokens see earlier tokens of their own segment; segment 0 is padding. With a cache the tokens take its next T slots;
        ``is_prefill`` says that it is empty, so that attention is among the given tokens alone.
        """
        h_BTD = self.embed_VD[...][tokens_BT].astype(self.config.dtype)
        h_BTD = constrain(h_BTD, ("batch", None, None))
        inputs = {"angles": rope_angles(self.config, positions_BT), "segments_BT": segments_BT}
        if cache is None:
            h_BTD, counts = self._scanned(h_BTD, inputs)
        else:
            h_BTD, cache, counts = self._unrolled(h_BTD, inputs, cache, is_prefill)
        aux = {"expert_counts_LE": counts} if counts is not None else {}
        return self.final_norm(h_BTD), cache, aux

    def _stacks(self):
        for name in ("dense", "moe"):
            if hasattr(self, name):
                yield nnx.split(getattr(self, name))

    def _scanned(self, h_BTD, inputs):
        counts_LE = None
        for graphdef, state in self._stacks():

            def layer(h_BTD, layer_state, graphdef=graphdef):
                h_BTD, _, counts_E = nnx.merge(graphdef, layer_state)(h_BTD, **inputs)
                return h_BTD, counts_E

            h_BTD, stack_counts = jax.lax.scan(jax.checkpoint(layer) if self.config.remat else layer, h_BTD, state)
            counts_LE = stack_counts if stack_counts is not None else counts_LE
        return h_BTD, counts_LE

    def _unrolled(self, h_BTD, inputs, cache, is_prefill):
        start = 0 if is_prefill else cache["length"]
        num_new = h_BTD.shape[1]
        segments_BS = jax.lax.dynamic_update_slice_in_dim(cache["segments_BS"], inputs["segments_BT"], start, axis=1)
        inputs = inputs | {"start": start}
        if self.config.attention == "mla":
            inputs |= {"absorbed": not is_prefill}
        layers, counts = list(cache["layers"]), []
        index = 0
        for graphdef, state in self._stacks():
            for depth in range(jax.tree.leaves(state)[0].shape[0]):
                block = nnx.merge(graphdef, jax.tree.map(lambda a, depth=depth: a[depth], state))
                h_BTD, layers[index], counts_E = block(
                    h_BTD, cache=layers[index], cache_segments_BS=segments_BS, **inputs
                )
                counts += [counts_E] if counts_E is not None else []
                index += 1
        cache = {"layers": tuple(layers), "segments_BS": segments_BS, "length": cache["length"] + num_new}
        return h_BTD, cache, jnp.stack(counts) if counts else None


@dataclasses.dataclass(frozen=True)
class Model:
    """Pure functions of one architecture over plain dicts of arrays."""

    config: ModelConfig
    graphdef: nnx.GraphDef

    def init(self, key: jax.Array) -> tuple[dict, dict]:
        """(params, buffers): normal(0, init_std) weights in float32; router biases 0."""
        params, buffers = _split(self.config, key)[1:]
        return nnx.to_pure_dict(params), nnx.to_pure_dict(buffers)

    def hidden(self, params, buffers, tokens_BT, *, positions_BT, segments_BT, cache=None, is_prefill=False):
        """(hidden [B, T, D] after the final norm, cache, aux): see ``Transformer.__call__``."""
        module = nnx.merge(self.graphdef, params, buffers)
        return module(tokens_BT, positions_BT=positions_BT, segments_BT=segments_BT, cache=cache, is_prefill=is_prefill)

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

    def init_cache(self, *, batch: int, length: int) -> dict:
        """Empty cache: see ``r1jax.models.cache``."""
        return kv_cache.init_cache(self.config, batch=batch, length=length)

    def abstract(self) -> tuple[dict, dict]:
        """(params, buffers) as ShapeDtypeStructs, without allocating."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def logical_axes(self) -> tuple[dict, dict]:
        """Trees like (params, buffers) with a tuple of logical axes for each array; stacked layers lead with None."""
        _, params, buffers = nnx.eval_shape(lambda: _split(self.config, jax.random.key(0)))

        def axes(variable):
            names = variable.get_metadata("axes")
            return (None,) * (variable.get_value().ndim - len(names)) + tuple(names)

        def tree(state):
            return jax.tree.map(axes, state, is_leaf=lambda node: isinstance(node, nnx.Variable))

        return nnx.to_pure_dict(tree(params)), nnx.to_pure_dict(tree(buffers))


def _split(config: ModelConfig, key: jax.Array):
    return nnx.split(Transformer(config, rngs=nnx.Rngs(params=key)), nnx.Param, Buffer)


@functools.cache
def make_model(config: ModelConfig) -> Model:
    """The pure functions of ``config``; allocates nothing."""
    graphdef = nnx.eval_shape(lambda: _split(config, jax.random.key(0)))[0]
    return Model(config=config, graphdef=graphdef)


def count_params(params) -> int:
    """Number of scalars in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
