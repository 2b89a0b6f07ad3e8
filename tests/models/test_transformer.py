import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels import hardware
from r1jax.models.transformer import make_model
from tests.kernels.jaxprs import equations
from tests.tiny import GQA, V3, padded, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIGS = {"gqa": GQA, "v3": V3}
ROWS = [[5, 40, 17, 3, 29, 11, 22, 8, 31, 2, 45, 19], [7, 41, 13], [33, 9, 26, 14, 1]]


@dataclasses.dataclass
class Setup:
    model: object
    params: dict
    buffers: dict

    def __post_init__(self):
        self.forward = jax.jit(self._forward)
        self.cached = jax.jit(self._cached, static_argnames="is_prefill")

    def _forward(self, tokens, positions, segments):
        hidden, _, aux = self.model.hidden(
            self.params, self.buffers, tokens, positions_BT=positions, segments_BT=segments
        )
        return hidden, aux

    def _cached(self, tokens, positions, segments, cache, is_prefill):
        return self.model.hidden(
            self.params,
            self.buffers,
            tokens,
            positions_BT=positions,
            segments_BT=segments,
            cache=cache,
            is_prefill=is_prefill,
        )


@pytest.fixture(scope="module", params=CONFIGS)
def setup(request):
    model = make_model(CONFIGS[request.param])
    return Setup(model, *shaken(model))


def alone(setup):
    """Hidden states of each row by itself, all in one compiled shape: [n, D] each."""
    length = max(map(len, ROWS))
    return [np.array(setup.forward(*padded([ids], length=length))[0][0, : len(ids)]) for ids in ROWS]


def packed(fill=0):
    """The rows in one of length 24, with padding tokens ``fill`` between and after them."""
    tokens, positions, segments = np.full((1, 24), fill, np.int32), *np.zeros((2, 1, 24), np.int32)
    places = [slice(0, 12), slice(13, 16), slice(16, 21)]
    for number, (place, ids) in enumerate(zip(places, ROWS, strict=True), 1):
        tokens[0, place], positions[0, place], segments[0, place] = ids, np.arange(len(ids)), number
    return places, (tokens, positions, segments)


def test_packed_padded_and_alone_are_the_same(setup):
    want = alone(setup)
    batch, _ = setup.forward(*padded(ROWS, left=True))
    places, arrays = packed()
    row, _ = setup.forward(*arrays)
    for index, (place, ids) in enumerate(zip(places, ROWS, strict=True)):
        np.testing.assert_allclose(batch[index, -len(ids) :], want[index], atol=1e-5)
        np.testing.assert_allclose(row[0, place], want[index], atol=1e-5)
    assert np.isfinite(batch).all() and np.isfinite(row).all()


def test_expert_counts_leave_padding_out(setup):
    if setup.model.config.num_experts == 0:
        assert setup.forward(*padded(ROWS, left=True))[1] == {}
        return
    counts = setup.forward(*padded(ROWS, left=True))[1]["expert_counts_LE"]
    assert counts.shape == (2, 8)
    np.testing.assert_array_equal(counts.sum(1), 2 * sum(map(len, ROWS)))
    # Padding of another token routes elsewhere, and changes no count.
    for fill in (0, 30):
        np.testing.assert_array_equal(setup.forward(*packed(fill)[1])[1]["expert_counts_LE"], counts)


def test_cached_decode_equals_teacher_forcing_far_from_the_start(setup):
    """Prefill, then one token at a time, beyond YaRN's original length of 8 and at 128K."""
    tokens, positions, segments = padded([ROWS[0]] * 3)
    positions[1] += 131_072
    want, _ = setup.forward(tokens, positions, segments)
    first = (array[:, :8] for array in (tokens, positions, segments))
    hidden, cache, _ = setup.cached(*first, setup.model.init_cache(batch=3, length=14), is_prefill=True)
    outputs = [hidden]
    for step in range(8, 12):
        column = (array[:, step : step + 1] for array in (tokens, positions, segments))
        hidden, cache, _ = setup.cached(*column, cache, is_prefill=False)
        outputs.append(hidden)
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), want, atol=1e-5)
    np.testing.assert_array_equal(cache.lengths_B, [12] * 3)


def test_attention_over_the_cache_equals_attention_among_the_tokens(setup):
    """All tokens at once against an empty cache: MLA's absorbed form against its expanded one."""
    tokens, positions, segments = padded(ROWS)
    want, _ = setup.forward(tokens, positions, segments)
    got, _, _ = setup.cached(tokens, positions, segments, setup.model.init_cache(batch=3, length=14), is_prefill=False)
    np.testing.assert_allclose(np.array(got)[segments > 0], np.array(want)[segments > 0], atol=1e-5)


def test_loss_has_no_gradient_to_later_tokens_nor_to_other_segments(setup):
    """Causality by gradient. All tokens differ, so a row of the embedding's gradient is one input's."""
    tokens, positions, segments = (
        np.arange(8)[None],
        np.array([[0, 1, 2, 3, 0, 1, 2, 0]]),
        np.array([[1] * 4 + [2] * 3 + [0]]),
    )
    direction = np.random.default_rng(0).normal(size=setup.model.config.model_dim).astype(np.float32)

    @jax.jit
    def influence(embed_VD):
        def outputs(embed_VD):
            params = {**setup.params, "embed_VD": embed_VD}
            hidden, _, _ = setup.model.hidden(
                params, setup.buffers, tokens, positions_BT=positions, segments_BT=segments
            )
            return hidden[0] @ direction

        return jnp.abs(jax.jacrev(outputs)(embed_VD)).max(-1)[:, :8]

    got = np.array(influence(setup.params["embed_VD"]))
    is_seen = np.tri(8, dtype=bool) & (segments == segments.T)
    assert (got[:7][is_seen[:7]] > 1e-6).all()
    np.testing.assert_array_equal(
        got[:7][~is_seen[:7]], 0.0
    )  # the eighth is padding: it sees anything, and no loss sees it


def loss_of(model, params, buffers, tokens, positions, segments):
    hidden, _, _ = model.hidden(params, buffers, tokens, positions_BT=positions, segments_BT=segments)
    logp, entropy = model.token_logprob(params, hidden, jnp.roll(tokens, -1, axis=1), temperature=0.7)
    return jnp.sum(jnp.where(segments > 0, logp + 0.1 * entropy, 0.0))


@pytest.mark.slow
def test_remat_changes_no_gradient(setup):
    config = setup.model.config
    arrays = padded(ROWS)
    models = [make_model(dataclasses.replace(config, remat=remat)) for remat in ("none", "dots", "full", "everything")]
    results = [jax.jit(jax.value_and_grad(partial(loss_of, m)))(setup.params, setup.buffers, *arrays) for m in models]
    for loss, gradient in results[1:]:
        np.testing.assert_allclose(results[0][0], loss, rtol=1e-6)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), results[0][1], gradient)
    for path, grad in jax.tree_util.tree_leaves_with_path(results[0][1]):
        assert np.isfinite(grad).all() and np.abs(grad).max() > 0, path
    # The embedding is tied in one model and not in the other: tokens that never occur get gradient as outputs only.
    unseen = np.setdiff1d(np.arange(48), sum(ROWS, [0]))
    assert (np.abs(results[0][1]["embed_VD"][unseen]).max() > 0) == config.tie_embeddings


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("implementation", "sign"), [("xla", "log"), ("pallas_tpu", "flash_attention_fwd")])
def test_remat_runs_attention_forward_once(name, implementation, sign, monkeypatch):
    """By what is in that alone: the log of the normalisers, or the kernel's name. Layers of a kind are one scan."""
    monkeypatch.setattr(hardware, "require_tpu", lambda operation: None)
    monkeypatch.setattr(hardware, "generation", lambda: "v5p")
    config = dataclasses.replace(CONFIGS[name], attention_implementation=implementation, value_head_dim=8)
    tokens, positions, segments = padded(ROWS)

    def num_runs(remat):
        model = make_model(dataclasses.replace(config, remat=remat))
        params, buffers = model.abstract()

        def loss(params, buffers):
            hidden, _, _ = model.hidden(params, buffers, tokens, positions_BT=positions, segments_BT=segments)
            return hidden.sum()

        found = equations(jax.make_jaxpr(jax.grad(loss))(params, buffers).jaxpr)
        names = (e.params["name"] if e.primitive.name == "pallas_call" else e.primitive.name for e in found)
        return sum(name == sign for name in names)

    num_kinds = 2 if config.num_experts else 1
    assert [num_runs(remat) for remat in ("none", "dots", "full")] == [num_kinds] * 3
    if implementation == "pallas_tpu":  # a forward pass that keeps nothing makes no normalisers
        assert num_runs("everything") == 2 * num_kinds


def test_remat_keeps_less_for_the_backward_pass(setup):
    def kept(remat):
        """Bytes."""
        model = make_model(dataclasses.replace(setup.model.config, remat=remat))

        def pull(params):
            return jax.vjp(lambda params: loss_of(model, params, setup.buffers, *padded(ROWS)), params)[1]

        leaves = jax.tree.leaves(jax.eval_shape(pull, setup.params))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    everything, dots, attention, nothing = map(kept, ("none", "dots", "full", "everything"))
    assert nothing < attention < 0.8 * dots < 0.8 * 0.6 * everything


def test_logits_and_token_logprob_agree(setup):
    hidden, _ = setup.forward(*padded(ROWS))
    targets = padded(ROWS)[0]
    logits = np.array(setup.model.logits(setup.params, hidden), np.float64) / 0.7
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    got, entropy = setup.model.token_logprob(setup.params, hidden, targets, temperature=0.7)
    np.testing.assert_allclose(got, np.take_along_axis(logp, targets[..., None], -1)[..., 0], atol=1e-5)
    np.testing.assert_allclose(entropy, -(np.exp(logp) * logp).sum(-1), atol=1e-5)


def test_logical_axes_match_the_parameters(setup):
    axes, shapes = setup.model.logical_axes(), setup.model.abstract()
    is_axes = lambda node: isinstance(node, tuple) and all(a is None or isinstance(a, str) for a in node)  # noqa: E731
    for tree, shape in zip(axes, shapes, strict=True):
        assert jax.tree.structure(tree, is_leaf=is_axes) == jax.tree.structure(shape)
        jax.tree.map(
            lambda a, s: pytest.fail(f"{a} for {s}") if len(a) != s.ndim else None, tree, shape, is_leaf=is_axes
        )
    assert axes[0]["embed_VD"] == ("vocab", "embed")
    if setup.model.config.attention == "mla":
        assert axes[0]["moe"]["ffn"]["w_up_EDF"] == (None, "experts", "embed", "mlp")
        assert axes[1] == {"moe": {"ffn": {"router_bias_E": (None, None)}}}
    else:
        assert axes[0]["dense"]["attention"]["w_k_DJH"] == (None, "embed", "kv_heads", None)


def test_init():
    model = make_model(dataclasses.replace(GQA, vocab_size=1000))
    params, buffers = jax.jit(model.init)(jax.random.key(0))
    shapes = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)  # noqa: E731
    assert shapes((params, buffers)) == shapes(model.abstract())
    assert np.std(params["embed_VD"]) == pytest.approx(0.2, rel=0.02)
    up_LDF = np.array(params["dense"]["ffn"]["w_up_DF"])
    assert np.std(up_LDF) == pytest.approx(0.2, rel=0.05)
    assert abs(np.corrcoef(up_LDF[0].ravel(), up_LDF[1].ravel())[0, 1]) < 0.1  # layers are drawn apart
    assert (np.array(params["dense"]["ffn_norm"]["scale"]) == 1).all()
    assert (np.array(params["dense"]["attention"]["b_q_NH"]) == 0).all()


def test_qkv_bias_and_tying_are_part_of_the_parameters():
    plain = dataclasses.replace(GQA, qkv_bias=False, tie_embeddings=False)
    with_bias, without = make_model(GQA).abstract()[0], make_model(plain).abstract()[0]
    names = {"b_q_NH", "b_k_JH", "b_v_JH"}
    assert set(with_bias["dense"]["attention"]) - set(without["dense"]["attention"]) == names
    assert set(without) - set(with_bias) == {"unembed_VD"}


def test_gqa_equals_the_equations():
    """One Qwen2-like layer once more in numpy: biases before rotation, half layout, shared key heads (spec A.8.2)."""
    config = dataclasses.replace(GQA, num_layers=1)
    model = make_model(config)
    params, _ = shaken(model)
    ids = ROWS[0]
    got = jax.jit(
        lambda t, p, s: model.hidden(params, {}, t, positions_BT=p, segments_BT=s)[0]
    )(*padded([ids]))  # fmt: skip
    w = jax.tree.map(lambda a: np.array(a[0], np.float64), params["dense"])
    a, f = w["attention"], w["ffn"]
    norm = lambda x, g: x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * g  # noqa: E731
    h = np.array(params["embed_VD"], np.float64)[ids]
    x = norm(h, w["attention_norm"]["scale"])
    q, k, v = (
        np.einsum("td,dnh->tnh", x, a[f"w_{n}"]) + a[f"b_{n.replace('D', '')}"] for n in ("q_DNH", "k_DJH", "v_DJH")
    )
    angle = np.arange(len(ids))[:, None] * 10_000.0 ** (-np.arange(4) / 4)
    turn = np.exp(1j * angle)[:, None]

    def rotate(x):
        z = (x[..., :4] + 1j * x[..., 4:]) * turn
        return np.concatenate([z.real, z.imag], -1)

    q, k = rotate(q), rotate(k)
    out = np.zeros_like(q)
    for t in range(len(ids)):
        for n in range(4):
            scores = np.array([q[t, n] @ k[s, n // 2] / np.sqrt(8) for s in range(t + 1)])
            p = np.exp(scores - scores.max())
            out[t, n] = p / p.sum() @ v[: t + 1, n // 2]
    h = h + np.einsum("tnh,nhd->td", out, a["w_o_NHD"])
    x = norm(h, w["ffn_norm"]["scale"])
    gate = x @ f["w_gate_DF"]
    h = h + (gate / (1 + np.exp(-gate)) * (x @ f["w_up_DF"])) @ f["w_down_FD"]
    want = norm(h, np.array(params["final_norm"]["scale"]))
    np.testing.assert_allclose(got[0], want, atol=1e-5)
