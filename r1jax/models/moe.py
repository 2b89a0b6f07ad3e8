"""DeepSeek's mixture of experts (V3 Sec. 2.1.2; spec A.5): V3's router or V2's, routed experts, one wide shared expert."""

import jax
import jax.numpy as jnp
from flax import nnx

from r1jax.kernels.grouped_matmul import expert_ffn
from r1jax.kernels.route import affinities, replay_and_sort, route, route_and_sort
from r1jax.models.config import ModelConfig
from r1jax.models.expert_parallel import is_spread, routed_experts
from r1jax.models.layers import Buffer, SwiGLU, param
from r1jax.sharding import Role


class MoE(nnx.Module):
    """y = Σ_k g_k · Expert_k(x) + Shared(x); affinities in float32, no token dropped."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = c = config
        dim, ffn, experts, std = c.model_dim, c.expert_ffn_dim, c.num_experts, c.init_std
        self.w_router_DE = param(rngs, (dim, experts), axes=("embed", None), std=std)
        if c.router_bias:
            self.router_bias_E = Buffer(jnp.zeros((experts,)), axes=(None,))
        self.w_gate_EDF = param(rngs, (experts, dim, ffn), axes=("experts", "embed", "mlp"), std=std)
        self.w_up_EDF = param(rngs, (experts, dim, ffn), axes=("experts", "embed", "mlp"), std=std)
        self.w_down_EFD = param(rngs, (experts, ffn, dim), axes=("experts", "mlp", "embed"), std=std)
        if c.num_shared_experts:
            self.shared = SwiGLU(dim, c.num_shared_experts * ffn, std=std, rngs=rngs)

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        segments_BT: jax.Array,
        prefixes_BT: jax.Array | None = None,
        role: Role = "train",
        balance: bool = False,
        record: bool = False,
        replayed_BTK: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(output [B, T, D], how the tokens were routed).

        Always "expert_counts_E", tokens routed to each expert, padding not counted, and a prefix once however many
        sequences share it; with ``balance`` "balance", see ``balance_sum``; with ``record`` "experts_BTK", the choice of
        this router. ``replayed_BTK``: experts that are taken instead of these, weighed by this router's affinities.
        ``role``: how the experts lie on the mesh (``r1jax.sharding.RULES``).
        """
        c = self.config
        x_XD = x_BTD.reshape(-1, x_BTD.shape[-1])
        logits_XE = jnp.einsum(
            "xd,de->xe",
            x_XD.astype(jnp.float32),
            self.w_router_DE[...].astype(jnp.float32),
            precision=jax.lax.Precision.HIGHEST,  # the default of TPU and GPU rounds the inputs
        )
        bias_E = self.router_bias_E[...] if c.router_bias else None
        options = {
            "num_experts_per_token": c.num_experts_per_token,
            "num_groups": c.num_groups,
            "num_groups_per_token": c.num_groups_per_token,
            "scaling": c.routed_scaling,
            "best_per_group": 2 if c.score_function == "sigmoid" else 1,
            "normalize": c.normalize_weights,
            "score_function": c.score_function,
        }
        experts = (self.w_gate_EDF[...], self.w_up_EDF[...], self.w_down_EFD[...])
        if is_spread(c):
            logits_BTE = logits_XE.reshape(*segments_BT.shape, -1)
            out_BTD, experts_BTK = routed_experts(
                x_BTD, logits_BTE, bias_E, experts, replayed_BTK, config=c, role=role, route_options=options
            )
        else:
            if replayed_BTK is None:
                weights_XK, experts_XK, order = route_and_sort(logits_XE, bias_E, **options)
            else:
                experts_XK = replayed_BTK.reshape(-1, c.num_experts_per_token)
                weights_XK, experts_XK, order = replay_and_sort(logits_XE, experts_XK, **options)
            out_XD = expert_ffn(
                x_XD, experts_XK, weights_XK, *experts, order=order, role=role, implementation=c.expert_implementation
            )
            out_BTD = out_XD.reshape(x_BTD.shape)
            experts_BTK = experts_XK.reshape(*segments_BT.shape, -1)
        if c.num_shared_experts:
            out_BTD = out_BTD + self.shared(x_BTD)
        counted_BTKE = jax.nn.one_hot(experts_BTK, c.num_experts) * (segments_BT[..., None, None] > 0)
        routing = {"expert_counts_E": counted_BTKE.sum((0, 1, 2))}
        if record:
            is_own = replayed_BTK is None
            routing["experts_BTK"] = (
                experts_BTK if is_own else route(logits_XE, bias_E, **options)[1].reshape(experts_BTK.shape)
            )
        if balance:
            affinity_BTE = affinities(logits_XE, c.score_function).reshape(*segments_BT.shape, -1)
            routing["balance"] = balance_sum(
                affinity_BTE, segments_BT, prefixes_BT, num_experts_per_token=c.num_experts_per_token
            )
        return out_BTD, routing


def balance_sum(
    affinity_BTE: jax.Array,
    segments_BT: jax.Array,
    prefixes_BT: jax.Array | None = None,
    *,
    num_experts_per_token: int,
) -> jax.Array:
    """Σ over sequences of Σ_i f_i P_i, the sequence-wise balance loss before α (V3 Eqs. 17-20); 1 a sequence when even.

    f_i counts the tokens whose K highest affinities hold i (without bias and groups, as Eq. 18 has it) and has no
    gradient; P_i is the mean of i's share of a token's affinities. Sequences are the segments of a row, each with its
    prefix, which is none itself; nor is padding.
    """
    num_experts, num_buckets = affinity_BTE.shape[-1], segments_BT.shape[1] + 1
    _, best_BTK = jax.lax.top_k(jax.lax.stop_gradient(affinity_BTE), num_experts_per_token)
    chosen_BTE = jax.nn.one_hot(best_BTK, num_experts).sum(-2)
    share_BTE = affinity_BTE / (affinity_BTE.sum(-1, keepdims=True) + 1e-20)

    def of_row(chosen_TE, share_TE, segments_T, prefixes_T):
        prefix_S = jnp.maximum(jax.ops.segment_max(prefixes_T, segments_T, num_segments=num_buckets), 0)

        def by_sequence(values_TX):
            values_TX = jnp.where(segments_T[:, None] > 0, values_TX, 0.0)
            sums_SX = jax.ops.segment_sum(values_TX, segments_T, num_segments=num_buckets)
            return sums_SX + sums_SX[prefix_S]  # 0 in bucket 0, padding

        length_S = jnp.maximum(by_sequence(jnp.ones((len(segments_T), 1)))[:, 0], 1.0)
        product_S = (by_sequence(chosen_TE) * by_sequence(share_TE)).sum(-1) / length_S**2
        return product_S.at[prefix_S].set(0.0).sum()

    prefixes_BT = jnp.zeros_like(segments_BT) if prefixes_BT is None else prefixes_BT
    products_B = jax.vmap(of_row)(chosen_BTE, share_BTE, segments_BT, prefixes_BT)
    return num_experts / num_experts_per_token * products_B.sum()
