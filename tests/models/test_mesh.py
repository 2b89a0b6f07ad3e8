"""The blocked kernels under a mesh of eight simulated devices against plain ones on a single device."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels import flash_attention, grouped_matmul, hardware, token_logprob
from r1jax.models.transformer import make_model
from r1jax.sharding import make_mesh, tree_shardings
from tests.tiny import GQA, V3, padded, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIGS = {"gqa": dataclasses.replace(GQA, num_layers=1), "v3": dataclasses.replace(V3, num_layers=2)}
MESHES = {"gqa": {"data": 2, "fsdp": 2, "tensor": 2}, "v3": {"fsdp": 2, "expert": 2, "tensor": 2}}


def value_and_gradient(model, buffers, tokens, positions, segments):
    """Function of params: ((loss, hidden), gradient)."""

    def loss(params):
        hidden, _, aux = model.hidden(
            params, buffers, tokens, positions_BT=positions, segments_BT=segments, balance=True
        )
        logp, entropy = model.token_logprob(params, hidden, jnp.roll(tokens, -1, axis=1), temperature=0.7)
        return jnp.where(segments > 0, logp + 0.1 * entropy, 0.0).sum() + jnp.sum(aux.get("balance_L", 0.0)), hidden

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize(("name", "experts"), [("gqa", None), ("v3", "xla"), ("v3", "ragged_dot")])
def test_blocked_kernels_under_a_mesh_equal_one_device(name, experts, monkeypatch):
    model = make_model(CONFIGS[name])
    params, buffers = shaken(model)
    rng = np.random.default_rng(0)
    arrays = padded([rng.integers(1, 48, length).tolist() for length in (3, 7, 5, 6)])
    (want_loss, want), want_gradient = value_and_gradient(model, buffers, *arrays)(params)

    monkeypatch.setattr(flash_attention, "SHORT", 2)
    monkeypatch.setattr(flash_attention.xla, "_BLOCK", 4)
    monkeypatch.setattr(token_logprob.xla, "MAX_LOGITS", 512)  # three blocks of the 48 tokens
    monkeypatch.setattr(token_logprob.xla, "MIN_BLOCK", 16)
    monkeypatch.setattr(hardware, "is_cpu", lambda: experts == "xla")
    monkeypatch.delitem(flash_attention.IMPLEMENTATIONS, "reference")  # so it is an error to take it
    for other in grouped_matmul.IMPLEMENTATIONS.keys() - {experts}:
        monkeypatch.delitem(grouped_matmul.IMPLEMENTATIONS, other)
    mesh = make_mesh(MESHES[name])
    with jax.set_mesh(mesh):
        layouts = map(partial(tree_shardings, mesh=mesh), model.logical_axes(), model.abstract())
        params, buffers = map(jax.device_put, (params, buffers), layouts)
        (loss, hidden), gradient = value_and_gradient(model, buffers, *arrays)(params)
    assert len(hidden.sharding.device_set) == 8
    np.testing.assert_allclose(loss, want_loss, rtol=1e-5)
    np.testing.assert_allclose(hidden, want, atol=2e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), gradient, want_gradient)
