"""Every family against transformers' own classes, float32, random weights (invariant 1)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from r1jax.kernels.route import route
from r1jax.models.config import Yarn
from r1jax.models.presets import make_preset
from r1jax.models.rope import rope_angles
from r1jax.models.transformer import make_model
from tests.models import hf_oracle
from tests.models.hf_oracle import CONFIGS, V3

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.filterwarnings("ignore:Initializing zero-element"),  # no shared expert: torch has one of width 0
]
torch = pytest.importorskip("torch")

LENGTH = 24  # past the 8 tokens of YaRN's original context
FAR = 131_000  # the second row stands near the end of the context of 128K
WITH_GRADIENT = ("v3", "qwen")


def inputs():
    tokens = np.random.default_rng(0).integers(0, hf_oracle.VOCAB, (2, LENGTH)).astype(np.int32)
    positions = np.stack([np.arange(LENGTH), FAR + np.arange(LENGTH)]).astype(np.int32)
    return tokens, positions, np.ones_like(tokens)


def layers_and_logits(model, params, buffers, tokens, positions, segments):
    """(mean −log p of the next tokens, (hidden states as transformers lists them, logits of the scanned model))."""
    module = nnx.merge(model.graphdef, params, buffers)
    shared = {"angles": rope_angles(model.config, positions), "segments_BT": segments}
    hiddens = [params["embed_VD"][tokens]]
    for block in module.blocks():
        hiddens.append(block(hiddens[-1], **shared)[0])
    hiddens[-1] = module.final_norm(hiddens[-1])
    hidden, _, _ = model.hidden(params, buffers, tokens, positions_BT=positions, segments_BT=segments)
    logp, _ = model.token_logprob(params, hidden[:, :-1], tokens[:, 1:])
    return -logp.mean(), (hiddens, hidden, model.logits(params, hidden))


@pytest.mark.parametrize("name", CONFIGS)
def test_layers_logits_and_gradient(name):
    config = CONFIGS[name]
    oracle = hf_oracle.torch_model(config)
    tensors = hf_oracle.state_of(oracle)
    mtp_tensors = hf_oracle.mtp_model(oracle)[1] if config.num_mtp_layers else {}
    params, buffers = hf_oracle.trees_of(tensors | mtp_tensors, config)
    tokens, positions, segments = inputs()
    with_gradient = name in WITH_GRADIENT
    ids = torch.tensor(tokens, dtype=torch.long)
    with torch.set_grad_enabled(with_gradient):
        out = oracle(ids, position_ids=torch.tensor(positions), output_hidden_states=True)
    model = make_model(config)

    def run(params):
        return layers_and_logits(model, params, buffers, tokens, positions, segments)

    if with_gradient:
        (loss, (hiddens, hidden, logits)), grads = jax.jit(jax.value_and_grad(run, has_aux=True))(params)
    else:
        _, (hiddens, hidden, logits) = jax.jit(run)(params)
    for ours, theirs in zip(hiddens, out.hidden_states, strict=True):
        np.testing.assert_allclose(ours, theirs.detach(), atol=1e-4)
    np.testing.assert_allclose(hidden, hiddens[-1], atol=1e-5)
    np.testing.assert_allclose(logits, out.logits.detach(), atol=1e-4)
    assert np.abs(logits[0] - logits[1]).max() > 0.1  # the tokens differ

    if with_gradient:
        nll = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        nll.backward()
        np.testing.assert_allclose(loss, nll.item(), atol=1e-5)
        named = hf_oracle.grads_of(oracle)
        zeros = {k: np.zeros_like(v) for k, v in (tensors | mtp_tensors).items() if k not in named}
        want, _ = hf_oracle.trees_of(named | zeros, config)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-3), grads, want)


def test_mtp():
    """transformers' own MTP layers: the embedding first, the hidden state after the final norm."""
    oracle = hf_oracle.torch_model(V3)
    mtp, mtp_tensors = hf_oracle.mtp_model(oracle)
    params, buffers = hf_oracle.trees_of(hf_oracle.state_of(oracle) | mtp_tensors, V3)
    tokens, positions, segments = (array[:1] for array in inputs())
    ids = torch.tensor(tokens, dtype=torch.long)
    with torch.no_grad():
        theirs = oracle.model(ids).last_hidden_state[:, :-1]
        places = torch.tensor(positions[:, :-1])
        want_hidden = mtp.forward_layer(0, theirs, places, None, input_ids=ids[:, 1:])
        want = mtp._project_to_logits(want_hidden)
    model = make_model(V3)

    @jax.jit
    def run(params, hidden, next_tokens, positions, segments):
        hidden, _, aux = model.mtp_hidden(
            params, buffers, hidden, next_tokens, positions_BT=positions, segments_BT=segments
        )
        return hidden, model.logits(params, hidden), aux["expert_counts_LE"]

    hidden, logits, counts = run(params, theirs.numpy(), tokens[:, 1:], positions[:, :-1], segments[:, :-1])
    np.testing.assert_allclose(hidden, want_hidden, atol=1e-4)
    np.testing.assert_allclose(logits, want, atol=1e-4)
    assert counts.shape == (1, 8) and counts.sum() == 2 * (LENGTH - 1)


ROTARIES = {name: make_preset(name) for name in ("deepseek_v3", "deepseek_v2", "llama3_1_8b", "qwen2_5_14b")}
ROTARIES["qwen with yarn"] = dataclasses.replace(
    ROTARIES["qwen2_5_14b"], yarn=Yarn(factor=4.0, original_length=32_768, mscale_all_dim=0.0)
)


@pytest.mark.parametrize("name", ROTARIES)
def test_angles_at_the_end_of_the_context(name):
    """The released shapes to 128K and beyond: frequencies in float32 as there, or cos would be off by 0.005."""
    positions = np.array([[0, 1, 4095, 4096, 131_071, 131_072, 163_839]])
    config = ROTARIES[name]
    cos, sin = rope_angles(config, jnp.array(positions))
    rotary = hf_oracle.torch_rotary(config)
    with torch.no_grad():
        their_cos, their_sin = rotary(torch.zeros(1), torch.tensor(positions))
    half = config.rotated_dim // 2
    np.testing.assert_allclose(cos, their_cos[..., :half], atol=2e-5)
    np.testing.assert_allclose(sin, their_sin[..., :half], atol=2e-5)


def test_discarded_groups_here_in_transformers_and_in_its_older_versions():
    """All of the kept group is below zero. −inf, as in the released code: it is chosen; 0.0 chose a discarded expert."""
    config = hf_oracle.V3_ODD
    router = hf_oracle.torch_model(config).model.layers[0].mlp.gate
    bias = np.array([-9.0, -9.5, -20.0, -20.0, -30.0, -30.0], np.float32)
    x = np.random.default_rng(0).normal(size=(5, config.model_dim)).astype(np.float32)
    with torch.no_grad():
        router.e_score_correction_bias.copy_(torch.tensor(bias))
        logits, weights, experts = router(torch.tensor(x))
    affinity = torch.sigmoid(logits).numpy()
    ours = route(
        affinity, bias, num_experts_per_token=1, num_groups=3, num_groups_per_token=1, scaling=config.routed_scaling
    )
    np.testing.assert_allclose(ours[0], weights, rtol=1e-6)
    np.testing.assert_array_equal(ours[1], experts)
    np.testing.assert_array_equal(np.array(ours[1]) < 2, True)
    with_zeros = np.where(np.arange(6) < 2, affinity + bias, 0.0)
    assert (with_zeros.argmax(-1) >= 2).all()
