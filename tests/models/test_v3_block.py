"""DeepSeek-V3 once more, slowly, from its published equations (spec A.2-A.5): no line is shared with the model."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from r1jax.models.transformer import make_model
from tests.tiny import V3, padded, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

TOKENS = [5, 40, 17, 3, 29, 11, 22, 8, 31, 2, 45, 19]  # longer than YaRN's original length


def rms_norm(x, g):
    return x / np.sqrt(np.mean(x * x) + 1e-6) * g


def swiglu(x, w1, w3, w2):
    gate = w1 @ x
    return w2 @ (gate / (1 + np.exp(-gate)) * (w3 @ x))


def yarn_frequencies(c):
    D, L, s, b = c.rope_head_dim, c.yarn.original_length, c.yarn.factor, c.rope_theta
    corr = lambda n: D * math.log(L / (2 * math.pi * n)) / (2 * math.log(b))  # noqa: E731
    low, high = max(math.floor(corr(c.yarn.beta_fast)), 0), min(math.ceil(corr(c.yarn.beta_slow)), D - 1)
    freqs = []
    for i in range(D // 2):
        f = b ** (-2 * i / D)
        r = min(max((i - low) / (high - low), 0.0), 1.0)
        freqs.append(f * (1 - r) + f / s * r)
    return freqs


def rope(x, position, freqs):
    pairs = x[0::2] + 1j * x[1::2]
    turned = pairs * np.exp(1j * position * np.array(freqs))
    return np.stack([turned.real, turned.imag], -1).ravel()


def attention(xs, w, c, freqs):
    """MLA of spec A.3.1 over a sequence of vectors; weights [out, in]."""
    N, nope, value = c.num_heads, c.nope_head_dim, c.value_head_dim
    sigma = (nope + c.rope_head_dim) ** -0.5 * (0.1 * math.log(c.yarn.factor) + 1) ** 2
    queries, keys, values = [], [], []
    for t, x in enumerate(xs):
        q = w["q_b"] @ rms_norm(w["q_a"] @ x, w["q_norm"]) if "q_a" in w else w["q"] @ x
        q = q.reshape(N, -1)
        u = w["kv_a"] @ x
        latent, k_pe = rms_norm(u[: c.kv_lora_rank], w["kv_norm"]), rope(u[c.kv_lora_rank :], t, freqs)
        kv = (w["kv_b"] @ latent).reshape(N, nope + value)
        queries.append([np.concatenate([q[n, :nope], rope(q[n, nope:], t, freqs)]) for n in range(N)])
        keys.append([np.concatenate([kv[n, :nope], k_pe]) for n in range(N)])
        values.append(kv[:, nope:])
    outs = []
    for t in range(len(xs)):
        heads = []
        for n in range(N):
            scores = np.array([sigma * queries[t][n] @ keys[s][n] for s in range(t + 1)])
            p = np.exp(scores - scores.max())
            p /= p.sum()
            heads.append(sum(p[s] * values[s][n] for s in range(t + 1)))
        outs.append(w["o"] @ np.concatenate(heads))
    return outs


def moe(u, w, c):
    """Spec A.5.1, step by step, for one token."""
    s = 1 / (1 + np.exp(-(w["gate"] @ u)))
    s_hat = s + w["bias"]
    size = c.num_experts // c.num_groups
    group_score = [sorted(s_hat[g * size : (g + 1) * size])[-2:] for g in range(c.num_groups)]
    best = sorted(range(c.num_groups), key=lambda g: -sum(group_score[g]))[: c.num_groups_per_token]
    for e in range(c.num_experts):
        if e // size not in best:
            s_hat[e] = -np.inf
    chosen = np.argsort(-s_hat)[: c.num_experts_per_token]
    y = swiglu(u, *w["shared"]) if w["shared"] else 0.0
    for e in chosen:
        y = y + c.routed_scaling * s[e] / (s[chosen].sum() + 1e-20) * swiglu(u, *w["experts"][e])
    return y, chosen


def spec_layer(tree, buffers, layer, c):
    """One layer's weights in the spec's layout: [out, in], heads flattened."""
    a, f = tree["attention"], tree["ffn"]
    flat = lambda m: m.reshape(m.shape[0], -1).T  # noqa: E731 [in, N, A] -> [N A, in]
    w = {
        "in_norm": tree["attention_norm"]["scale"][layer],
        "post_norm": tree["ffn_norm"]["scale"][layer],
        "kv_a": a["w_dkv_DC"][layer].T,
        "kv_norm": a["kv_norm"]["scale"][layer],
        "kv_b": flat(a["w_ukv_CNA"][layer]),
        "o": a["w_o_NUD"][layer].reshape(-1, c.model_dim).T,
    }
    if c.q_lora_rank:
        w |= {"q_a": a["w_dq_DQ"][layer].T, "q_norm": a["q_norm"]["scale"][layer], "q_b": flat(a["w_uq_QNA"][layer])}
    else:
        w["q"] = flat(a["w_q_DNA"][layer])
    ffn = lambda m: tuple(m[name][layer].T for name in ("w_gate_DF", "w_up_DF", "w_down_FD"))  # noqa: E731
    if "w_router_DE" not in f:
        return w | {"mlp": ffn(f)}
    experts = [tuple(f[n][layer][e].T for n in ("w_gate_EDF", "w_up_EDF", "w_down_EFD")) for e in range(c.num_experts)]
    bias = buffers["moe"]["ffn"]["router_bias_E"][layer]
    return w | {
        "gate": f["w_router_DE"][layer].T,
        "bias": bias,
        "experts": experts,
        "shared": ffn(f["shared"]) if c.num_shared_experts else None,
    }


def slow_v3(params, buffers, tokens, c):
    """(final hidden [T, D], logits [T, V], chosen experts by MoE layer and token) in float64."""
    params, buffers = (jax.tree.map(lambda a: np.array(a, np.float64), tree) for tree in (params, buffers))
    layers = [spec_layer(params["dense"], buffers, i, c) for i in range(c.num_dense_layers)]
    layers += [spec_layer(params["moe"], buffers, i, c) for i in range(c.num_layers - c.num_dense_layers)]
    freqs, hs, chosen = yarn_frequencies(c), [params["embed_VD"][t] for t in tokens], []
    for w in layers:
        out = attention([rms_norm(h, w["in_norm"]) for h in hs], w, c, freqs)
        hs = [h + o for h, o in zip(hs, out, strict=True)]
        xs = [rms_norm(h, w["post_norm"]) for h in hs]
        if "mlp" in w:
            ys = [swiglu(x, *w["mlp"]) for x in xs]
        else:
            ys, experts = zip(*[moe(x, w, c) for x in xs], strict=True)
            chosen.append(experts)
        hs = [h + y for h, y in zip(hs, ys, strict=True)]
    hidden = np.array([rms_norm(h, params["final_norm"]["scale"]) for h in hs])
    return hidden, hidden @ params["unembed_VD"].T, chosen


LITE = dataclasses.replace(V3, q_lora_rank=0, num_shared_experts=2, num_groups=1, num_groups_per_token=1)


@pytest.mark.parametrize("config", [V3, LITE], ids=["v3", "dense queries, no groups, two shared"])
def test_model_equals_the_published_equations(config):
    model = make_model(config)
    params, buffers = shaken(model)

    @jax.jit
    def run(params, buffers):
        tokens, positions, segments = padded([TOKENS])
        hidden, _, aux = model.hidden(params, buffers, tokens, positions_BT=positions, segments_BT=segments)
        return hidden, model.logits(params, hidden), aux["expert_counts_LE"]

    hidden, logits, counts = run(params, buffers)
    want_hidden, want_logits, chosen = slow_v3(params, buffers, TOKENS, config)
    np.testing.assert_allclose(hidden[0], want_hidden, atol=1e-5)
    np.testing.assert_allclose(logits[0], want_logits, atol=1e-5)
    want_counts = [np.bincount(np.ravel(experts), minlength=config.num_experts) for experts in chosen]
    np.testing.assert_array_equal(counts, want_counts)
