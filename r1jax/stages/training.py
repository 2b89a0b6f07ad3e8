"""What the stages that train share: train state, an update that must be finite, and the forward pass of a micro-batch.

And what a mixture of experts adds to a loss and an update.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.models.config import ModelConfig
from r1jax.models.reward_head import REWARD_HEAD
from r1jax.models.transformer import Model
from r1jax.objectives.sums import add_metrics, token_weights
from r1jax.training.learner import NonFiniteError, TrainState, Update, init_state, make_update, update_once
from r1jax.training.offload import OPTIMIZER, to_host_memory
from r1jax.training.optimizer import make_optimizer


def make_train_state(
    spec: Any, loss_function: Callable, params, buffers, *, num_updates: int
) -> tuple[TrainState, Update]:
    """Train state and jitted update from weights that are laid out on their mesh, or ShapeDtypeStructs of them.

    What the loss does not use comes out of every update as it went in: MTP where its loss has no weight, and of a
    reward model the unembedding.
    """
    unused = () if getattr(spec, "mtp_weight", 0.0) else ("mtp",)
    unused += ("unembed_VD",) if REWARD_HEAD in params else ()
    optimizer, schedule = make_optimizer(spec.optimizer, total_steps=num_updates, unused=unused)
    state = init_state(params, buffers, optimizer=optimizer)
    if OPTIMIZER in getattr(spec, "offload", ()):
        state["opt_state"] = to_host_memory(state["opt_state"])
    options = {"schedule": schedule, "bias_rate": spec.bias_rate, "add_metrics": add_metrics}
    return state, make_update(loss_function, optimizer, state=state, **options)


def finite_update(
    state: TrainState, update: Update, microbatches: Sequence[Any]
) -> tuple[TrainState, dict[str, Any], dict[str, jax.Array]]:
    """``update_once``; raises NonFiniteError, naming the update, where the gradient was not finite."""
    state, sums, info = update_once(state, update, microbatches)
    if not info.pop("finite"):
        number = int(state["step"]) + 1
        raise NonFiniteError(f"update {number}: the gradient is not finite; the last good checkpoint is kept")
    return state, sums, info


def hidden_of(model: Model, params, buffers, batch: Mapping[str, Any], **routing):
    """``Model.hidden`` of a packed micro-batch, whose experts are its "replayed" [R, T, L, K], where it has them."""
    where = {"positions_BT": batch["positions"], "segments_BT": batch["segment_ids"]}
    where["prefixes_BT"] = batch.get("prefix_ids")
    if (replayed_BTLK := batch.get("replayed")) is not None:
        routing["replayed_LBTK"] = jnp.moveaxis(replayed_BTLK, 2, 0)
    return model.hidden(params, buffers, batch["tokens"], **where, **routing)


def loss_weights(batch: Mapping[str, Any], spec: Any) -> jax.Array:
    """[R, T] ``token_weights`` of a micro-batch that carries the counts of the whole batch."""
    counts = {name: batch[name] for name in ("num_sequences", "num_tokens")}
    constant = getattr(spec, "aggregation_constant", None)
    return token_weights(batch["mask"], batch["segment_ids"], aggregation=spec.aggregation, constant=constant, **counts)


def mtp_loss(
    model: Model,
    params,
    buffers,
    hidden_BTD: jax.Array,
    batch: Mapping[str, Any],
    weight_BT: jax.Array,
    *,
    temperature: Any = 1.0,
    **routing,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(1/M Σ_m Σ w · −log p_m(target), aux) of the MTP depths m, to be multiplied by λ (V3 Sec. 2.2 Eqs. 24-25).

    hidden_BTD: the main model's. weight_BT: the main loss's, of the batch's targets; a target weighs in every depth
    what it weighs there. Depth m (from 1) at position i sees the tokens up to i + m and predicts token i + m + 1 where
    that is in i's own sequence; the positions for which it is not take no part, not even in the expert counts. What
    follows a prefix begins with ``num_mtp_layers`` + 1 tokens that all that follow it have there.
    routing, aux: as in ``Model.mtp_hidden``, with the depths stacked.
    """
    num_depths = model.config.num_mtp_layers
    next_BT, segments_BT = batch["targets"], batch["segment_ids"]
    prefixes_BT = batch.get("prefix_ids", jnp.zeros_like(segments_BT))
    loss, auxes = jnp.float32(0.0), []
    for depth in range(num_depths):
        stays_BT = (segments_BT == _shifted(segments_BT)) | (segments_BT == _shifted(prefixes_BT))
        segments_BT, prefixes_BT = (jnp.where(stays_BT, ids_BT, 0) for ids_BT in (segments_BT, prefixes_BT))
        where = {"depth": depth, "positions_BT": batch["positions"]}
        where |= {"segments_BT": segments_BT, "prefixes_BT": prefixes_BT}
        hidden_BTD, _, aux = model.mtp_hidden(params, buffers, hidden_BTD, next_BT, **where, **routing)
        next_BT, weight_BT = _shifted(next_BT), _shifted(weight_BT)
        logp_BT, _ = model.token_logprob(params, hidden_BTD, next_BT, temperature=temperature)
        counted_BT = (segments_BT > 0) & (weight_BT != 0)
        loss -= jnp.sum(weight_BT * jnp.where(counted_BT, logp_BT, 0.0)) / num_depths
        auxes.append(aux)
    return loss, jax.tree.map(lambda *values: jnp.concatenate(values), *auxes)


def drafting_loss(model: Model, params, buffers, hidden_BTD, batch: Mapping[str, Any], weight_BT, **options):
    """``mtp_loss`` at the batch's temperature that trains the MTP depths alone: to draft what the policy samples.

    No gradient reaches the hidden states, the embedding and the head, so that the policy's is what it is without.
    """
    hidden_BTD, others = jax.lax.stop_gradient((hidden_BTD, params))
    params = others | {"mtp": params["mtp"]}
    options["temperature"] = batch["temperature"]
    return mtp_loss(model, params, buffers, hidden_BTD, batch, weight_BT, **options)


def auxiliary_losses(spec: Any, buffers, batch: Mapping[str, Any], aux: Mapping[str, jax.Array], *, mtp: Callable):
    """(what the spec's weights add to the loss, sums: the parts of it, times tokens, and "expert_counts").

    aux: of the main model, with balance where that has a weight. mtp: ``mtp_loss`` or ``drafting_loss``, but for the
    routing.
    """
    extras, mtp_aux = {}, None
    if spec.mtp_weight:
        extras["mtp_loss"], mtp_aux = mtp(balance=spec.balance_weight > 0)
    if spec.balance_weight:
        extras["moe/balance_loss"] = balance_loss(aux, mtp_aux, num_sequences=batch["num_segments"])
    weights = {"mtp_loss": spec.mtp_weight, "moe/balance_loss": spec.balance_weight}
    loss = sum((weights[name] * value for name, value in extras.items()), jnp.float32(0.0))
    sums = {name: jax.lax.stop_gradient(value) * batch["num_tokens"] for name, value in extras.items()}
    return loss, sums | {"expert_counts": expert_counts(buffers, aux, mtp_aux)}


def _shifted(array_BT: jax.Array) -> jax.Array:
    """What stands one position later; 0 after the end."""
    return jnp.pad(array_BT[:, 1:], ((0, 0), (0, 1)))


def num_mtp_depths(params) -> int:
    """MTP depths of a model by its parameters."""
    return jax.tree.leaves(params["mtp"])[0].shape[0] if "mtp" in params else 0


def expert_counts(buffers, aux: Mapping[str, jax.Array], mtp_aux: Mapping[str, jax.Array] | None = None):
    """Tokens routed to each expert, a tree like ``buffers``, as an update's ``apply`` takes it.

    MTP depths that did not run count nothing, so that their biases stay.
    """
    counts = {"moe": aux.get("expert_counts_LE"), "mtp": (mtp_aux or {}).get("expert_counts_LE")}
    return {
        stack: jax.tree.map(lambda bias, c=counts[stack]: jnp.zeros_like(bias) if c is None else c, biases)
        for stack, biases in buffers.items()
    }


def balance_loss(aux: Mapping[str, jax.Array], mtp_aux: Mapping[str, jax.Array] | None, *, num_sequences) -> jax.Array:
    """Σ over MoE layers of the mean over the whole batch's sequences of Σ_i f_i P_i; times α it is V3's Eq. 17.

    aux, mtp_aux: made with ``balance``; num_sequences counts all micro-batches, so that theirs add up.
    """
    layers = [values["balance_L"].sum() for values in (aux, mtp_aux) if values]
    return sum(layers, jnp.float32(0.0)) / jnp.maximum(num_sequences, 1)


def check_auxiliary(config: ModelConfig, *, mtp_weight: float = 0.0, balance_weight: float = 0.0) -> None:
    """Raises ValueError for a weight on a part that the model does not have."""
    if mtp_weight and not config.num_mtp_layers:
        raise ValueError(f"mtp_weight={mtp_weight}, but the model has num_mtp_layers=0")
    if balance_weight and not config.num_experts:
        raise ValueError(f"balance_weight={balance_weight}, but the model has num_experts=0")
