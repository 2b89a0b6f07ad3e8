"""Where a float32 sampler and its trainer differ: experts that change places, on the completions of configs/zero.py.

Command:  python experiments/routing_flips.py runs/zero/zero runs/base-<hash> [--sequences 7000]
          (whose completions, whose weights). Four minutes on two busy CPU cores.

The sampler's attention is absorbed, the trainer's expanded; here both score whole sequences. Printed are how far their
log-probs of the answers' tokens differ, which tokens went to other experts and how near two scores were there, what is
left when the experts are replayed, and what one exchange does: in up to 1,024 sequences the expert that came next takes
the place of the last one that was chosen, at a token and layer where their scores are within 1e-2.
"""

import argparse
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models import moe
from r1jax.policies.policy import load_init
from r1jax.sharding import make_mesh
from r1jax.specs.policy import StageInit
from r1jax.text.chat import encode_prompt

LENGTH, BATCH, NEAR, NUM_EXCHANGED = 160, 128, 1e-2, 1024
choose = moe.MoE.__call__


def choose_and_say(self, x_BTD, **options):
    """``MoE`` whose "experts_BTK" go on: K + 1 experts by score, and how near the last chosen and the next one were."""
    out_BTD, routing = choose(self, x_BTD, **options)
    c = self.config
    logits_BTE = jnp.einsum("btd,de->bte", x_BTD, self.w_router_DE[...], precision="highest")
    by_group = (jax.nn.sigmoid(logits_BTE) + self.router_bias_E[...]).reshape(*x_BTD.shape[:2], c.num_groups, -1)
    of_group = jax.lax.top_k(by_group, 2)[0].sum(-1)
    groups = jax.lax.top_k(of_group, c.num_groups_per_token + 1)[0]
    kept = jnp.where((of_group >= groups[..., -2:-1])[..., None], by_group, -jnp.inf).reshape(logits_BTE.shape)
    scores, order = jax.lax.top_k(kept, c.num_experts_per_token + 1)
    margins = [scores[..., -2:-1] - scores[..., -1:], groups[..., -2:-1] - groups[..., -1:]]  # of experts, of groups
    parts = [part.astype(jnp.float32) for part in (routing["experts_BTK"], order, *margins)]
    return out_BTD, routing | {"experts_BTK": jnp.concatenate(parts, -1)}


def sequences(run: Path, tokenizer, count: int):
    """(tokens, targets, segments, whether the target is of the answer) of the first completions, [N, T], short ones first."""
    lines = (line for file in sorted((run / "completions").glob("update_*")) for line in file.open())
    pairs = []
    for row, _ in zip(map(json.loads, lines), range(count), strict=False):
        prompt = encode_prompt([{"role": "user", "content": row["prompt"]}], tokenizer, template="plain")
        answer = tokenizer.encode(row["completion"]) + [tokenizer.eos_id] * (row["stop_reason"] == "stop")
        pairs.append((prompt, answer[: LENGTH + 1 - len(prompt)]))
    arrays = np.zeros((4, len(pairs), LENGTH), np.int32)
    for index, (prompt, answer) in enumerate(sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))):
        ids = [*prompt, *answer]
        arrays[:3, index, : len(ids) - 1] = ids[:-1], ids[1:], np.ones(len(ids) - 1)
        arrays[3, index, len(prompt) - 1 : len(ids) - 1] = 1
    return arrays[0], arrays[1], arrays[2], arrays[3] > 0


@functools.partial(jax.jit, static_argnums=(0, 1))
def scored(model, form, params, buffers, tokens_BT, targets_BT, segments_BT, replayed_BTLK):
    """(log-probs [B, T], what the routers say [B, T, L, ...]) in a form: "absorbed", "expanded" or "replayed"."""
    inputs = {"positions_BT": jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)}
    if form == "absorbed":
        inputs["cache"] = model.init_cache(batch=tokens_BT.shape[0], length=tokens_BT.shape[1])
    if form == "replayed":
        inputs["replayed_LBTK"] = jnp.moveaxis(replayed_BTLK, 2, 0)
    hidden_BTD, _, aux = model.hidden(params, buffers, tokens_BT, segments_BT=segments_BT, record=True, **inputs)
    return model.token_logprob(params, hidden_BTD, targets_BT)[0], jnp.moveaxis(aux["experts_LBTK"], 0, 2)


def main():
    """Prints it all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--sequences", type=int, default=7000)
    args = parser.parse_args()
    policy, *weights = load_init(StageInit(path=str(args.weights), step="latest"), mesh=make_mesh(), seed=0)
    model, c = policy.model, policy.model.config
    k = c.num_experts_per_token
    tokens, targets, segments, mask = sequences(args.run, policy.tokenizer, args.sequences)
    moe.MoE.__call__ = choose_and_say

    def score(form, rows, experts):
        logps = np.zeros((len(rows), LENGTH), np.float32)
        routes = np.zeros((len(rows), LENGTH, c.num_moe_layers, 2 * k + 3), np.float32)
        for first in range(0, len(rows), BATCH):
            batch = np.resize(rows[first : first + BATCH], BATCH)
            width, count = -(-segments[batch].sum(1).max() // 32) * 32, min(BATCH, len(rows) - first)
            arrays = (array[batch, :width] for array in (tokens, targets, segments, experts))
            logp, route = scored(model, form, *weights, *arrays)
            logps[first : first + count, :width], routes[first : first + count, :width] = logp[:count], route[:count]
        return logps, routes

    every, none = np.arange(len(tokens)), np.zeros((len(tokens), LENGTH, c.num_moe_layers, k), np.int32)
    (trainer, routes), (sampler, others) = (score(form, every, none) for form in ("expanded", "absorbed"))
    difference = np.abs(sampler - trainer) * mask
    flips = (np.sort(routes[..., :k]) != np.sort(others[..., :k])).any(-1) & (segments[..., None] > 0)
    margins = routes[..., -2:].min(-1)
    is_before = flips.any(2).cumsum(1) == 0
    print(f"{len(tokens)} answers of {mask.sum()} tokens; {segments.sum() * c.num_moe_layers} choices")
    print(f"mean difference {difference[mask].mean():.1e}, largest {difference.max():.1e}")
    print(
        f"largest before any flip {(difference * is_before).max():.1e}, from one on {(difference * ~is_before).max():.1e}"
    )
    near = [f"{(margins[segments > 0] < bound).sum()} below {bound:.0e}" for bound in (1e-5, 1e-6, 1e-7)]
    print("margins:", ", ".join(near))
    rows = np.flatnonzero(flips.any((1, 2)))
    if len(rows):
        replayed, _ = score("replayed", rows, others[..., :k].astype(np.int32))
        for index, row in enumerate(rows):
            position, layer = np.argwhere(flips[row])[0]
            left = (np.abs(sampler[row] - replayed[index]) * mask[row]).max()
            print(
                f"answer {row}: flip at token {position}, MoE layer {layer}, margins {routes[row, position, layer, -2:]} (of "
                f"experts, of groups); largest difference {difference[row].max():.1e}, replayed {left:.1e}"
            )

    rng, exchanged = np.random.default_rng(0), routes[..., :k].astype(np.int32)
    is_near = (routes[..., -2] < np.minimum(NEAR, routes[..., -1])) & mask[..., None]
    rows = rng.permutation(np.flatnonzero(is_near.any((1, 2))))[:NUM_EXCHANGED]
    for row in rows:
        position, layer = rng.permutation(np.argwhere(is_near[row]))[0]
        order = routes[row, position, layer, k : 2 * k + 1]
        exchanged[row, position, layer] = [*order[: k - 1], order[k]]
    changes = (np.abs(score("replayed", rows, exchanged)[0] - trainer[rows]) * mask[rows]).max(1)
    shares = ", ".join(
        f"{share:.0%} {np.quantile(changes, share):.1e}" for share in (0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1)
    )
    print(f"{len(rows)} single exchanges, largest change of an answer's token: {shares}")


if __name__ == "__main__":
    main()
