"""Routed experts that are spread over the mesh's "expert" axis, each token with all of its experts: none is ever
dropped.

Three ways to bring tokens and experts together, one result (V3 Sec. 2.1.2 Eqs. 12-16), that of the layer on one device:

- ``ring``: every device has all tokens of the axis (all-gather), computes what its experts give them, and the sums go
  home (reduce-scatter in float32). Traffic does not depend on the routing: best for many experts a token and few
  devices.
- ``all_to_all``: a token goes to the devices that hold its experts, *once* to each however many they hold, and a sum in
  the activations' type comes back. Each pair of devices has room for a fixed number of tokens.
- ``ragged_all_to_all``: the same, but only what is sent travels, and the room is the receiver's, for all its senders
  together. For TPUs: XLA's CPU has no such collective.

Room (``capacity`` times the mean) bounds memory and not the tokens: what does not fit goes in a further round, of which
there are as many as the fullest device needs (``in_rounds``). Balanced routing, which the bias of V3 is for, needs one.

Group-limited routing (V3 Sec. 2.1.2, "node-limited") bounds how many devices a token goes to, hence the room: at most
``num_groups_per_token`` devices where each holds whole groups, that many times the devices of a group where groups are
spread (``max_destinations``). So in V3 on 8 devices a token travels 4 times, not 8. Experts stand on the axis group by
group: where devices stand there node by node (GPUs do, in the order of their processes) and a node holds whole groups,
what a token sends reaches ``num_groups_per_token`` nodes at most. V3's further step, one copy over the slow network to
a node and then on within it, has no use here: an expert axis lies within a slice (``make_mesh``), whose links are
alike.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from r1jax.kernels import hardware
from r1jax.kernels.route import replay, route
from r1jax.models.config import ModelConfig
from r1jax.models.expert_exchange import exchanged, local_experts
from r1jax.sharding import TOKENS, Role, axes_of, partition_spec


def is_spread(config: ModelConfig) -> bool:
    """Does the layer that is traced run here, on several devices, rather than as XLA partitions it?

    Raises ValueError where the config's way cannot run on this platform.
    """
    if config.expert_parallel == "ragged_all_to_all" and not hardware.is_tpu():
        raise ValueError(
            f"expert_parallel='ragged_all_to_all' needs a TPU, and this program is for {jax.default_backend()!r}: take 'ring' or "
            "'all_to_all'"
        )
    mesh = jax.sharding.get_abstract_mesh()
    return config.expert_parallel != "auto" and not mesh.empty and mesh.size > 1


def routed_experts(
    x_BTD: jax.Array,
    logits_BTE: jax.Array,
    bias_E: jax.Array | None,
    weights: tuple[jax.Array, jax.Array, jax.Array],
    replayed_BTK: jax.Array | None = None,
    *,
    config: ModelConfig,
    role: Role,
    route_options: dict,
) -> tuple[jax.Array, jax.Array]:
    """(Σ_k g_k · Expert_k(x) [B, T, D], the chosen experts [B, T, K] int32), under the ambient mesh (``is_spread``).

    logits_BTE: the router's, float32. weights: gate and up [E, D, F], down [E, F, D], laid out as ``role`` says
    (another layout is changed to it). replayed_BTK: the choice, where it is not the router's; it keeps to the config's
    groups. route_options: those of ``route``. Gradients flow to x, logits and weights.
    """
    mesh, c = jax.sharding.get_abstract_mesh(), config
    tokens = partition_spec((*TOKENS, None), x_BTD.shape, mesh, role=role)
    names = "the experts' gate and up", "the experts' down"
    up = partition_spec(("experts", "embed", "mlp"), weights[0].shape, mesh, role=role, name=names[0])
    down = partition_spec(("experts", "mlp", "embed"), weights[2].shape, mesh, role=role, name=names[1])
    experts, embed, ffn = map(axes_of, up)
    # Over the axes that split tokens too these must travel; over the others of the experts each device has them.
    moved = tuple(axis for axis in experts if axis in {axis for entry in tokens for axis in axes_of(entry)})
    shared = tuple(axis for axis in experts if axis not in moved)
    num_moved, num_spread = (math.prod(mesh.shape[axis] for axis in axes) for axes in (moved, experts))

    def room(mean: float, most: int) -> int:
        """expert_capacity times the mean number of rows, in whole eights, no more than ``most``."""
        return min(-(-math.ceil(c.expert_capacity * mean) // 8) * 8, most)

    def on_device(x_BTD, logits_BTE, bias_E, weights, replayed_BTK):
        x_XD = x_BTD.reshape(-1, x_BTD.shape[-1])
        logits_XE = logits_BTE.reshape(x_XD.shape[0], -1)
        if replayed_BTK is None:
            weights_XK, experts_XK = route(logits_XE, bias_E, **route_options)
        else:
            experts_XK = replayed_BTK.reshape(x_XD.shape[0], -1)
            weights_XK, experts_XK = replay(logits_XE, experts_XK, **route_options)
        weights = tuple(_gathered(w.astype(x_XD.dtype), embed, dim) for w, dim in zip(weights, (1, 1, 2), strict=True))
        mean_pairs = experts_XK.size * num_moved / num_spread  # that a device's experts are given

        def here(x_RD, experts_RK, weights_RK, weights):
            """What this device's experts give rows of any; over ``ffn`` it is still to be summed."""
            num_local = weights[0].shape[0]
            local_RK = experts_RK - (lax.axis_index(experts) * num_local if experts else 0)
            local_RK = jnp.where((local_RK >= 0) & (local_RK < num_local), local_RK, num_local)
            options = {"capacity": room(mean_pairs, experts_RK.size), "implementation": c.expert_implementation}
            return local_experts(x_RD, local_RK, weights_RK, weights, **options)

        if (
            c.expert_parallel == "ring" or num_moved < num_spread or num_moved == 1
        ):  # all tokens to every device, sums back
            x_RD, experts_RK, weights_RK = (_gathered(a, moved, 0) for a in (x_XD, experts_XK, weights_XK))
            y_XD = here(x_RD, experts_RK, weights_RK, weights)
            if moved:
                y_XD = lax.psum_scatter(y_XD, moved, scatter_dimension=0, tiled=True)
        else:
            copies = max_destinations(c, num_moved)
            of_pair = room(x_XD.shape[0] * copies / num_moved, x_XD.shape[0])
            options = {"way": c.expert_parallel, "axes": moved, "copies": copies, "room": of_pair}
            y_XD = exchanged(here, x_XD, experts_XK, weights_XK, weights, **options)
        if summed := (*shared, *ffn):
            y_XD = lax.psum(y_XD, summed)
        return y_XD.astype(x_BTD.dtype).reshape(x_BTD.shape), experts_XK.reshape(*x_BTD.shape[:2], -1)

    routing = PartitionSpec(*tokens[:2], None)
    return jax.shard_map(
        on_device,
        in_specs=(tokens, routing, PartitionSpec(), (up, up, down), routing),
        out_specs=(tokens, routing),
        check_vma=False,  # the kernels' loops and calls do not say over which axes their arrays vary
    )(x_BTD, logits_BTE, bias_E, weights, replayed_BTK)


def _gathered(array, axes: tuple[str, ...], dim: int):
    return lax.all_gather(array, axes, axis=dim, tiled=True) if axes else array


def max_destinations(config: ModelConfig, num_devices: int) -> int:
    """To how many of the expert axis' devices a token goes at most; experts and groups are consecutive (spec A.5.1)."""
    c = config
    most = min(c.num_experts_per_token, num_devices)
    if max(num_devices, c.num_groups) % min(num_devices, c.num_groups):
        return most
    return min(most, c.num_groups_per_token * max(1, num_devices // c.num_groups))
