"""The memory and work of a stage's programs by count: what ``--analytic`` shows, in seconds, without a compiler.

Arguments and resident arrays are exact: the stage's own, laid out by the sharding rules. What the forward pass keeps is
JAX's own answer (``Local.saved_bytes``). Temporaries follow these rules (tests/plan/test_budget.py compares them with
the compiler's figures; small programs are within 15 %):

- *layer, forward*: the hidden state twice; attention: queries and keys of all heads, twice (the kernel wants heads
  first); experts: ``FORWARD_ROWS`` arrays of the routed rows in float32; the layer's weights, gathered.
- *layer, backward*: what the layer keeps when it is computed again; attention's result and its gradient with heads
  first, as the kernel has them; keys and values of all tokens of a row in float32, twice; ``BACKWARD_ROWS`` arrays of
  routed rows, ``FORWARD_ROWS`` of the tokens of all devices where those are gathered; the gradients of the gathered
  weights in float32.
- *head*: its weights, gathered, in the type of the activations; backward their gradient in float32 twice (a loop's sum
  and its copy) and that of its rows.
- *update*: the gradient of all parameters in float32, before it is added to the sum.
- *apply*: one more copy of what is updated stays until the norm of the whole is known.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from r1jax.models.transformer import Model, make_model
from r1jax.plan import flops
from r1jax.plan.local import Local
from r1jax.plan.program import Exchange, Program, ProgramPlan
from r1jax.sharding import bytes_on_device

FORWARD_ROWS, BACKWARD_ROWS = 4, 12
"""Arrays [routed rows, model width] in float32 that live at once in an expert layer."""


_WITH_TOKENS = ("kv_WJSA", "latent_WSC", "k_BJSH", "latent_BSC")
"""Arrays of a cache's layer whose last dim but one is tokens."""


def _plan(
    program: Program,
    *,
    output: float,
    alias: float = 0,
    temporaries: float = 0,
    model_flops: float = 0,
    hardware_flops: float | None = None,
    hbm: float = 0,
    exchanges: Sequence[Exchange] = (),
) -> ProgramPlan:
    """By bytes of a device and FLOPs of all devices. hbm: but for the arguments, each of which is read once."""
    arguments, num_devices = bytes_on_device(program.arguments), program.mesh.size
    collectives: dict[str, float] = defaultdict(float)
    for exchange in exchanges:
        collectives[exchange.kind] += exchange.bytes
    return ProgramPlan(
        name=program.name,
        calls=program.calls,
        argument_bytes=arguments,
        output_bytes=int(output),
        alias_bytes=int(alias),
        temp_bytes=int(temporaries),
        peak_bytes=None,
        resident_bytes=bytes_on_device(program.resident),
        flops=model_flops / num_devices,
        hardware_flops=(model_flops if hardware_flops is None else hardware_flops) / num_devices,
        hbm_bytes=hbm + arguments,
        collectives=dict(collectives),
        exchanges=tuple(exchanges),
    )


def _layer_weights(local: Local) -> int:
    """Numbers of the largest layer's parameters, gathered on a device (what "tensor" splits stays split)."""
    c = local.config
    one = flops.forward_flops(dataclasses.replace(c, num_mtp_layers=0), tokens=1, pairs=0, head_tokens=0)
    attention = (one.projections + one.keys) / 2 / c.num_layers / local.parts("heads", c.num_heads)
    if not c.num_moe_layers:
        return int(attention + 3 * c.model_dim * c.ffn_dim / local.parts("mlp", c.ffn_dim))
    shared = 3 * c.num_shared_experts * c.model_dim * c.expert_ffn_dim / local.parts("mlp", c.expert_ffn_dim)
    return int(attention + local.expert_weights + shared)


def _layer_forward(local: Local) -> float:
    """Bytes of a layer's forward pass at the most, of either of its halves."""
    c, t, a = local.config, local.tokens, local.itemsize
    queries, keys = local.attention_width()
    attention = 2 * (t * queries + local.keys * keys) * a
    dense = 4 * t * c.ffn_dim // local.parts("mlp", c.ffn_dim) * a
    ffn = FORWARD_ROWS * local.routed_bytes if c.num_moe_layers else dense
    return 2 * t * c.model_dim * a + max(attention, ffn) + _layer_weights(local) * a


def _layer_backward(local: Local) -> float:
    """Bytes of a layer's backward pass at the most; with ``remat`` including what it computes again."""
    c, a = local.config, local.itemsize
    attention = 2 * local.keys * local.attention_width()[1] * 4 + 2 * local.tokens * local.result_width() * a
    dense = local.tokens * c.ffn_dim // local.parts("mlp", c.ffn_dim) * 4
    gathered = 0 if local.is_exchanged or local.moved == 1 else local.moved * local.tokens * c.model_dim * 4
    ffn = BACKWARD_ROWS * local.routed_bytes + FORWARD_ROWS * gathered if c.num_moe_layers else dense
    again = _one_layer_saved(local) if c.remat != "none" else 0
    weights = _layer_weights(local) * (a + 4)
    return 2 * local.tokens * c.model_dim * a + again + attention + ffn + weights


def _one_layer_saved(local: Local) -> int:
    """Bytes that one more layer, of the larger kind, keeps without ``remat``; the head is in both terms."""
    c = local.config
    num_layers = 1 if c.num_moe_layers else 2

    def saved(num_layers: int) -> int:
        config = dataclasses.replace(c, num_layers=num_layers, num_dense_layers=0, num_mtp_layers=0, remat="none")
        return dataclasses.replace(local, model=make_model(config)).saved_bytes()

    return saved(num_layers + 1) - saved(num_layers)


def _head(local: Local, *, is_backward: bool) -> float:
    c = local.config
    weights = c.vocab_size // local.parts("vocab", c.vocab_size) * c.model_dim
    backward = 2 * weights * 4 + local.tokens * c.model_dim * 4 if is_backward else 0
    return (weights + local.tokens * c.model_dim) * local.itemsize + backward


def _weights_read(local: Local, passes: int) -> float:
    """HBM bytes of gathering the layers' weights and reading them, in ``passes`` passes."""
    return 2.0 * passes * local.config.num_layers * _layer_weights(local) * local.itemsize


def _activations_moved(local: Local, passes: float) -> float:
    """HBM bytes of activations: each half of a layer reads and writes what is widest in it, about twice."""
    c = local.config
    queries, keys = local.attention_width()
    ffn = 2 * local.routed_rows * c.model_dim if c.num_moe_layers else 3 * local.tokens * c.ffn_dim
    per_layer = 4 * local.tokens * c.model_dim + 2 * (local.tokens * queries + local.keys * keys) + 2 * ffn
    return passes * c.num_layers * per_layer * local.itemsize


def _token_exchanges(local: Local, passes: int, *, has_gradients: bool = False) -> list[Exchange]:
    """Tokens for experts, sums, keys."""
    of_experts = local.expert_exchanges(passes=passes, has_gradients=has_gradients)
    return of_experts + local.activation_exchanges(passes=passes, has_gradients=has_gradients)


def _train_pass(program: Program, model: Model, *, has_head: bool = True) -> tuple[Local, flops.Forward, float]:
    """(a device's part, FLOPs of the forward pass, scores of the busiest device over the mean).

    A row is one sequence where the program's sizes have no "segment".
    """
    local = Local(model, program.mesh, int(program.sizes["rows"]), int(program.sizes["length"]))
    segment, tokens = program.sizes.get("segment", local.length), local.rows * local.length
    slowest = flops.slowest_part(length=local.length, num_parts=local.sequence_parts, segment_length=segment)
    pairs = tokens * (segment + 1) / 2  # causal
    forward = flops.forward_flops(model.config, tokens=tokens, pairs=pairs, head_tokens=tokens if has_head else 0)
    return local, forward, slowest


def plan_scoring(program: Program, model: Model, *, has_head: bool = True) -> ProgramPlan:
    """A forward pass; without the head it is that of a reward model."""
    local, forward, slowest = _train_pass(program, model, has_head=has_head)
    head = _head(local, is_backward=False) if has_head else 0
    return _plan(
        program,
        output=local.tokens * 4,
        temporaries=max(_layer_forward(local), head),
        model_flops=forward.total,
        hardware_flops=forward.total + (local.sequence_parts - 1) * forward.keys + (slowest - 1) * forward.scores,
        hbm=_weights_read(local, 1) + _activations_moved(local, 1),
        exchanges=local.weight_exchanges(has_gradients=False) + _token_exchanges(local, 1),
    )


def plan_accumulate(program: Program, model: Model) -> ProgramPlan:
    """Forward and backward of a micro-batch, added to the sum of gradients."""
    local, forward, slowest = _train_pass(program, model)
    remat, grads = model.config.remat, bytes_on_device(program.arguments[2])
    saved = local.saved_bytes()
    passes = 1 if remat == "none" else 2
    return _plan(
        program,
        output=grads,
        alias=grads,
        temporaries=grads + saved + max(_layer_backward(local), _head(local, is_backward=True)),
        model_flops=3 * forward.total,
        hardware_flops=flops.hardware_train(
            forward, remat=remat, num_sequence_parts=local.sequence_parts, slowest=slowest
        ),
        hbm=_weights_read(local, 3) + 2 * saved + _activations_moved(local, passes + 2) + 3 * grads,
        exchanges=local.weight_exchanges(has_gradients=True) + _token_exchanges(local, passes, has_gradients=True),
    )


def plan_zeros(program: Program, model: Model) -> ProgramPlan:
    """Where that sum starts."""
    grads = bytes_on_device(program.resident["params"])
    return _plan(program, output=grads, hbm=grads)


def plan_apply(program: Program, model: Model) -> ProgramPlan:
    """The update of the optimizer."""
    state, params = program.arguments[0], program.arguments[0]["params"]
    size = bytes_on_device(state)
    work = 16 * sum(leaf.size for leaf in jax.tree.leaves(params))
    temporaries = bytes_on_device(params)
    return _plan(program, output=size, alias=size, temporaries=temporaries, hardware_flops=work, hbm=size)


def plan_reshard(program: Program, model: Model) -> ProgramPlan:
    """One array from the trainer's layout to the sampler's, or one layer of it into the copy (``make_layer_reshard``).

    At worst, as the compiler does it for V3's experts, what is moved is made whole on every device, by a sum, and is
    there twice.
    """
    output, (*copies, source) = program.sizes["output_bytes"], jax.tree.leaves(program.arguments)[:2]
    layers = source.shape[0] if copies else 1
    whole = source.size * jnp.dtype(model.config.dtype).itemsize / layers
    exchanges = [Exchange("all-reduce", whole, program.mesh.size, False)]
    alias = output if copies else 0
    return _plan(program, output=output, alias=alias, temporaries=2 * whole, hbm=output / layers, exchanges=exchanges)


def plan_prefill(program: Program, model: Model) -> ProgramPlan:
    """Padded prompts: into the pages of a cache, which is an argument, or in a cache of their own."""
    prompts, length = int(program.sizes["prompts"]), int(program.sizes["length"])
    model = _with_mtp(model, program)
    local, tokens = Local(model, program.mesh, prompts, length, role="rollout"), prompts * length
    written, pools = local.tokens * _token_bytes(local), _size_of_layers(program, 2)
    return _plan(
        program,
        output=pools or written,
        alias=pools,
        temporaries=written + _layer_forward(local),
        model_flops=flops.forward_flops(
            model.config, tokens=tokens, pairs=tokens * (length + 1) / 2, head_tokens=0
        ).total,
        hbm=_activations_moved(local, 1) + 2 * written - pools,
        exchanges=_token_exchanges(local, 1),
    )


def plan_begin(program: Program, model: Model) -> ProgramPlan:
    """Every slot gets a page of its prompt, or all of it, copied."""
    layers, *others = program.arguments
    size = bytes_on_device(layers)
    of_pages = size * others[0].shape[0] / jax.tree.leaves(layers)[0].shape[0]
    copied = of_pages if len(others) == 1 else bytes_on_device(others[0])
    return _plan(
        program, output=size, alias=size, temporaries=copied, hbm=2 * copied - bytes_on_device(program.arguments)
    )


def plan_decode(program: Program, model: Model) -> ProgramPlan:
    """A segment: sizes are "slots", "tokens" of each in a step, "steps", and on average of a step "made", tokens that are
    sampled and kept, and "cached", tokens that attention reads, of all slots.

    Every slot is computed, whether a sequence is in it or not.
    """
    slots, tokens, steps = (int(program.sizes[name]) for name in ("slots", "tokens", "steps"))
    made, cached = program.sizes["made"], program.sizes["cached"]
    model = _with_mtp(model, program)
    local, c = Local(model, program.mesh, slots, tokens, role="rollout"), model.config
    parts, of_token = local.parts("batch", slots), _token_bytes(local)
    kept = flops.forward_flops(c, tokens=made, pairs=made / slots * cached, head_tokens=made, is_absorbed=True)
    pairs, computed = tokens * cached, tokens * slots
    all_of_it = flops.forward_flops(c, tokens=computed, pairs=pairs, head_tokens=computed, is_absorbed=True)
    logits = 3 * local.tokens * (c.vocab_size // local.parts("vocab", c.vocab_size)) * 4
    params, state = program.arguments[0], _size_of_layers(program, 2)
    is_drafting = bool(program.sizes["mtp_layers"])
    weights = bytes_on_device([tree for name, tree in params.items() if name != "mtp" or is_drafting])
    is_paged, first = "page_table_BI" in program.arguments[3], program.arguments[2][0]
    room = next(array.shape[-2] for name, array in first.items() if name in _WITH_TOKENS)  # of a page, or of a slot
    scores = 0 if is_paged else 2 * local.tokens * local.heads * room * 4
    # A page is read and written as a whole for its new tokens.
    written = 2 * slots / parts * (room if is_paged else tokens) * of_token
    return _plan(
        program,
        output=state,
        alias=state,
        temporaries=max(logits, scores + (FORWARD_ROWS * local.routed_bytes if c.num_experts else 0)),
        model_flops=steps * kept.total,
        hardware_flops=steps * all_of_it.total,
        hbm=steps * (weights + cached / parts * of_token + written) - bytes_on_device(program.arguments),
        exchanges=_token_exchanges(local, steps),
    )


def _with_mtp(model: Model, program: Program) -> Model:
    """With as many more layers as depths of MTP draft; their logits are left out."""
    num_layers = model.config.num_layers + int(program.sizes["mtp_layers"])
    return make_model(dataclasses.replace(model.config, num_layers=num_layers))


def _size_of_layers(program: Program, index: int) -> int:
    """Bytes of the cache among the arguments; 0 where there is none."""
    layers = program.arguments[index]
    return bytes_on_device(layers) if isinstance(layers, tuple) else 0


def _token_bytes(local: Local) -> float:
    """Bytes of a token in a device's cache, all layers."""
    c = local.config
    cache = jax.eval_shape(lambda: local.model.init_cache(batch=1, length=1)).layers
    heads = local.parts("kv_heads", c.num_kv_heads) if c.attention == "gqa" else 1
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache)) / heads
