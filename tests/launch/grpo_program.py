"""What tests/launch/test_processes.py runs in one process and in several: scored groups, one GRPO update, checkpoints.

python tests/launch/grpo_program.py DIR --coordinator=... : reads DIR/one, writes DIR/many and DIR/told.<process>.json.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np

from r1jax.launch.distributed import add_arguments, initialise
from r1jax.models.transformer import make_model
from r1jax.processes import (
    OtherProcessError,
    ProcessesDifferError,
    any_process,
    exchange,
    gather,
    on_first,
    require_same,
    to_host,
)
from r1jax.rewards.calls import make_entry
from r1jax.rewards.rubric import Rubric
from r1jax.rollout.collect import Collector
from r1jax.rollout.records import Completion
from r1jax.sharding import make_mesh, place, tree_shardings
from r1jax.specs.reader import read
from r1jax.specs.stages import RlSpec
from r1jax.stages.rl import stage as rl
from r1jax.stages.rl.log import completion_rows
from r1jax.stages.rl.phase import advantages_of
from r1jax.tasks.problem import Problem
from r1jax.training.checkpoint import Checkpoints
from r1jax.workdir.directory import mark_done, open_workdir
from r1jax.workdir.metrics import CompletionsWriter, MetricsWriter
from r1jax.workdir.stop import Stopped, graceful_stop
from tests.rollout.test_collect import Task, Tokenizer
from tests.tiny import GQA, POLICY, shaken

MESH = {"fsdp": 4, "tensor": 2}  # weights are split over the processes
SPEC = read(
    RlSpec,
    {
        "init": POLICY, "tasks": [{"kind": "mini", "name": "pair_sum"}], "rewards": [{"function": "a:b"}],  # not used here
        "num_updates": 1, "max_prompt_tokens": 60, "max_new_tokens": 9, "row_length": 96, "rows_per_microbatch": 4,
        "reference_every": 1, "aggregation": "token", "bias_rate": 0.001, "clip_low": 0.2, "clip_high": 0.2,
        "optimizer": {"learning_rate": 0.01, "eps": 1e-3, "weight_decay": 0.1},
    },
)  # fmt: skip
PROBLEMS = [Problem(({"role": "user", "content": f"{a}+1"},), str(a + 1), {"task": "sums"}) for a in range(3)]


class Engine:
    """Completions of characters below the tiny vocabulary's end, told apart by question and sample."""

    def generate(self, params, buffers, prompts, *, num_samples, on_done, **settings):
        groups = [[self._complete(p, s) for s in range(num_samples)] for p in range(len(prompts))]
        for index, completions in enumerate(groups):
            on_done(index, completions)
        return groups

    def _complete(self, prompt, sample):
        ids = np.array([33 + (7 * prompt + 5 * sample + i) % 14 for i in range(4 + sample)] + [0], np.int32)
        return Completion(ids, np.full(len(ids), -0.5, np.float32), "stop")


class Characters(Tokenizer):
    def encode(self, text):
        return [ord(c) % 48 for c in text]


def collect(scored: list):
    def counts(prompts, completions, **columns):
        scored.append(prompts[0])
        return [TimeoutError("late") if "(" in text else len(text) / 10 for text in completions]

    def model(prompts, completions, **columns):  # a reward model: the devices of all take part
        total = jax.jit(lambda x: x.sum())(np.ones(8, np.float32))
        return [float(total) + len(text) for text in completions]

    rewards = [make_entry(counts), make_entry(model, weight=0.1, deferred=True)]
    collector = Collector(Engine(), Characters(), Task(), Rubric(rewards), template="plain", max_prompt_tokens=60)
    return collector.collect(
        {}, {}, PROBLEMS, num_samples=4, max_new_tokens=9, temperature=1.0, key=jax.random.key(0), policy_version=0
    )


def initial_state(mesh):
    model = make_model(GQA)
    params, buffers = (
        jax.tree.map(lambda a, s: place(np.asarray(a), s), tree, tree_shardings(axes, tree, mesh))
        for tree, axes in zip(shaken(model), model.logical_axes(), strict=True)
    )
    return rl.build(SPEC, model, params, buffers)


def run(workdir: Path):
    """(groups' figures, state after an update on them as host arrays, metrics); saves it in the work directory."""
    mesh = make_mesh(MESH)
    with open_workdir(workdir, {"stage": "test"}), jax.set_mesh(mesh), Checkpoints(workdir) as checkpoints:
        scored = []
        collected = collect(scored)
        groups = collected.groups
        figures = [[dict(r.rewards), r.reward, r.text, r.errors, r.is_correct] for g in groups for r in g.rollouts]
        figures = json.dumps([figures, {n: c for n, c in collected.counts.items() if not n.endswith("seconds")}])
        state, update, score = initial_state(mesh)
        advantages = advantages_of(groups, normalization="std")
        state, row, _ = rl.update_on_groups(groups, advantages, state, update, score, SPEC, updates=0)
        metrics = {"loss": row["loss"], "grad_norm": row["grad_norm"]}
        with MetricsWriter(workdir, resume_step=0) as writer:
            writer.write(1, metrics)
        CompletionsWriter(workdir, resume_step=0).write(1, completion_rows(groups, advantages))
        checkpoints.save(1, state, extra={"from": jax.process_count()})
        checkpoints.wait()
        mark_done(workdir, {"updates": 1})
        assert (workdir / "DONE").exists()
        return figures, jax.tree.map(to_host, state), metrics, scored


def restored(workdir: Path):
    """(the work directory's state as host arrays, extra), laid out over the mesh of this run."""
    mesh = make_mesh(MESH)
    with jax.set_mesh(mesh), Checkpoints(workdir) as checkpoints:
        state, extra = checkpoints.restore(initial_state(mesh)[0])
        return jax.tree.map(to_host, state), extra


def primitives() -> dict:
    """What the processes say to each other, literally."""
    me, count = jax.process_index(), jax.process_count()
    told = {
        "any": [any_process(False), any_process(me == count - 1)],
        "exchange": exchange({"me": me, "long": "ü" * 300 * me, "nan": float("inf")}),
        "first": on_first(lambda: f"by {jax.process_index()}"),
    }

    def fail():
        if me == 1:
            raise ValueError("no space on host 1")

    for name, call in (
        ("failed", lambda: gather(fail)),
        ("differ", lambda: require_same({"tokens": np.full(3, me)}, "update 7: its batch")),
        ("mesh", lambda: make_mesh({"data": 2})),
    ):
        try:
            told[name] = call()
        except (ValueError, OtherProcessError, ProcessesDifferError) as error:
            told[name] = f"{type(error).__name__}: {error}"
    require_same({"tokens": np.arange(3)}, "the same")
    require_same("one text", "the same text")
    with graceful_stop() as stop:
        for step in range(5):
            if step == 2 and me == count - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            try:
                stop.check()
            except Stopped:
                told["stopped_at"] = step
                break
    return told


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    add_arguments(parser)
    options = parser.parse_args()
    assert initialise(options)
    told = primitives()
    told["restored"], told["extra"] = (lambda state, extra: (digest(state), extra))(*restored(options.folder / "one"))
    told["figures"], state, told["metrics"], told["scored"] = run(options.folder / "many")
    told["state"] = digest(state)
    if jax.process_index() == 0:
        leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
        np.savez(options.folder / "state.npz", **leaves)
    (options.folder / f"told.{jax.process_index()}.json").write_text(json.dumps(told))


def digest(state) -> float:
    """A number that tells host trees apart."""
    return float(sum(np.abs(np.asarray(leaf, np.float64)).sum() for leaf in jax.tree.leaves(state)))


if __name__ == "__main__":
    sys.exit(main())
