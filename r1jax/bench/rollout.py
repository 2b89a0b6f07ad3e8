"""The sampler's tokens/s, with other implementations and another checkout of this one in turns of one run.

"fixed": batches of prompts of one length with one number of new tokens; prefill is included, compilation is not.
"lengths": more requests than slots, with log-normal lengths, so that a sampler that refills its slots is done earlier
than one whose batches wait for their longest row.

A ratio above 1 says that this checkout is faster. On a machine that others use, that of CPU time is the steadier one.

Every implementation runs in a process of its own (``r1jax.bench.peers``), this checkout's engine too. SmolLM2 has real
weights; what a step costs does not depend on them, and a preset gets random ones.
"""

import contextlib
import itertools
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

import numpy as np

from r1jax.bench.peers import SCRIPTS, Peer, ratio
from r1jax.hf.gguf import find_smollm2
from r1jax.models.presets import make_preset

ROOT = Path(__file__).parents[2]
OURS = "r1jax"
PEERS = ("transformers", "openvino")
COMPILED = (OURS, "before")
SMOLLM2 = "smollm2"
_FIRST_ID = 100  # of random prompts: SmolLM2's control tokens come before


def run(
    *,
    parts: Sequence[str],
    models: Sequence[str],
    dtypes: Sequence[str],
    batches: Sequence[int],
    prompt_tokens: int,
    new_tokens: int,
    requests: int,
    slots: int,
    mean_length: int,
    longest: int,
    repeats: int,
    engine: Mapping[str, Any] | None = None,
    peers: str | None = None,
    against: Sequence[str] = PEERS,
    before: Path | None = None,
) -> dict[str, Any]:
    """Rows of both parts. ``peers``: a Python that has those of ``against``; ``before``: a checkout. ValueError: a peer failed."""
    if before is not None and not (before / "r1jax").is_dir():
        raise ValueError(f"--before={before}: there is no r1jax in it")
    vocab_sizes = {name: make_preset("smollm2_135m" if name == SMOLLM2 else name).vocab_size for name in models}
    rows = []
    for model, dtype, part in itertools.product(models, dtypes, parts):
        if part == "fixed":
            loads = [([new_tokens] * batch, None) for batch in batches]
        else:
            loads = [(log_normal_lengths(requests, mean=mean_length, longest=longest), slots)]
        implementations = _implementations(part, model, dtype, slots, engine or {}, peers, before)
        implementations = {name: options for name, options in implementations.items() if name in (*COMPILED, *against)}
        with contextlib.ExitStack() as stack:
            running = {name: stack.enter_context(Peer(**options)) for name, options in implementations.items()}
            for lengths, at_once in loads:
                request = {
                    "prompts": _random_prompts(len(lengths), prompt_tokens, vocab_sizes[model]),
                    "lengths": lengths,
                    "slots": at_once,
                }
                row = {"part": part, "model": model, "dtype": dtype, "requests": len(lengths)}
                rows.append(row | take_turns(running, request, repeats=repeats))
                print(_line(rows[-1]), flush=True)
    return {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "slots": slots, "rows": rows}


def take_turns(running: Mapping[str, Peer], request: dict[str, Any], *, repeats: int) -> dict[str, Any]:
    """Asks each peer in turn ``repeats`` times, after a turn that compiles; those that do not compile do little in it.

    ValueError: a peer made other lengths.
    """
    replies: dict[str, list[dict]] = {name: [] for name in running}
    loads = []
    for turn in range(repeats + 1):
        for name, peer in running.items():
            asked = request
            if turn == 0 and name not in COMPILED:
                asked = request | {"lengths": [min(length, 2) for length in request["lengths"]]}
            reply = peer.ask(asked)
            if reply["lengths"] != asked["lengths"]:
                raise ValueError(f"{name} made {sum(reply['lengths'])} tokens, not {sum(asked['lengths'])} as asked")
            if turn:
                replies[name].append(reply)
                loads.append(os.getloadavg()[0])
                print(f"{name}: {reply['seconds']:.2f} s", file=sys.stderr, flush=True)
    tokens = sum(request["lengths"])
    row: dict[str, Any] = {"tokens": tokens, "load_average": [min(loads), max(loads)]}
    for kind, key in (("seconds", "ratio"), ("cpu_seconds", "cpu_ratio")):
        row[kind] = {name: [reply[kind] for reply in of_one] for name, of_one in replies.items()}
        row[key] = {name: ratio(row[kind][OURS], values) for name, values in row[kind].items() if name != OURS}
    row["tokens_per_second"] = {name: tokens / median(values) for name, values in row["seconds"].items()}
    shares = {name: of_one[0].get("occupancy") for name, of_one in replies.items()}
    return row | {"occupancy": {name: share for name, share in shares.items() if share is not None}}


def log_normal_lengths(count: int, *, mean: int, longest: int, seed: int = 0) -> list[int]:
    """The quantiles of a log-normal distribution of this mean whose highest is ``longest``, in a random order.

    Quantiles, not draws: the longest of a few draws would decide how long a batch takes. ValueError: no such one.
    """
    normal = NormalDist()
    z_N = [normal.inv_cdf((i + 0.5) / count) for i in range(count)]
    spread = z_N[-1] ** 2 - 2 * math.log(longest / mean)  # of mu + z sigma = ln longest, mu + sigma^2 / 2 = ln mean
    if spread < 0:
        raise ValueError(f"{count} log-normal lengths of mean {mean} do not reach {longest}")
    sigma = z_N[-1] - math.sqrt(spread)
    mu = math.log(longest) - sigma * z_N[-1]
    lengths_N = [max(1, round(math.exp(mu + sigma * z))) for z in z_N]
    return np.random.default_rng(seed).permutation(lengths_N).tolist()


def _random_prompts(count: int, length: int, vocab_size: int) -> list[list[int]]:
    return np.random.default_rng(0).integers(_FIRST_ID, vocab_size, (count, length)).tolist()


def _implementations(part, model, dtype, slots, engine, python, before) -> dict[str, dict[str, Any]]:
    """``Peer``'s arguments by name, ours first."""
    script = [sys.executable, SCRIPTS / "r1jax_generate.py", "--model", model, "--dtype", dtype]
    chosen = {OURS: {"command": [*script, "--engine", json.dumps(engine)], "pythonpath": ROOT}}
    if before is not None:
        chosen["before"] = {"command": script, "pythonpath": before}
    if python is not None and model == SMOLLM2:
        gguf = ["--gguf", find_smollm2()]
        if part == "fixed":
            theirs = [python, SCRIPTS / "transformers_generate.py", *gguf, "--dtype", dtype]
            chosen["transformers"] = {"command": theirs}
        chosen["openvino"] = {"command": [python, SCRIPTS / "openvino_generate.py", *gguf, "--slots", str(slots)]}
    return chosen


def _line(row: dict[str, Any]) -> str:
    cells = [f"{row['part']:7} {row['model']} {row['dtype']:8} {row['requests']:4}"]
    for name, speed in row["tokens_per_second"].items():
        cell = f"{name} {speed:.1f} tokens/s"
        if name != OURS:
            cell += f" (ratio {row['ratio'][name]['median']:.2f}, of CPU time {row['cpu_ratio'][name]['median']:.2f})"
        cells.append(cell + (f" occupancy {row['occupancy'][name]:.2f}" if name in row["occupancy"] else ""))
    return " | ".join([*cells, f"load {row['load_average'][1]:.1f}"])
