"""Specs as plain values, and walks over all that one holds."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from r1jax.specs.fields import Count, PathText, leaves, option, paths_of, specs_in, to_plain, types_of
from r1jax.specs.reader import SpecError, read
from r1jax.specs.stages import STAGES, RlSpec


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A spec inside of another."""

    path: PathText = option(explanation="A path.")
    rate: float = option(1.0, "A rate.")


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Fields of all kinds."""

    count: Count = option(1, "A count.", unit="updates", how=True)
    name: str = option("x", "A text.")
    empty: tuple[int, ...] = option((), "Nothing.")
    pairs: tuple[tuple[int, ...], ...] = option((), "Pairs.")
    model: dict[str, Any] = option(factory=dict, explanation="Of a model.", how=("remat",))
    source: PathText | Inner | None = option(None, "A path or a spec.")
    sources: tuple[Inner, ...] = option((), "Specs.")
    engine: Inner | None = option(None, "How it is run.", how=True)


SPEC = Whole(
    pairs=((0, 1),),
    model={"remat": "full", "dtype": "bfloat16", "path": "/not/a/path/field"},
    source="/a",
    sources=(Inner(path="/b"),),
    engine=Inner(path="/c"),
)


def test_to_plain_is_what_json_gives_back_and_is_read_again():
    plain = to_plain(SPEC)
    assert json.loads(json.dumps(plain)) == plain and plain["sources"] == [{"path": "/b", "rate": 1.0}]
    assert read(Whole, plain) == SPEC


def test_leaves_say_the_key_the_value_how_and_what_is_a_path():
    assert list(leaves(SPEC)) == [
        ("count", 1, True, False),
        ("name", "x", False, False),
        ("empty", (), False, False),
        ("pairs[0][0]", 0, False, False),
        ("pairs[0][1]", 1, False, False),
        ("model.remat", "full", True, False),
        ("model.dtype", "bfloat16", False, False),
        ("model.path", "/not/a/path/field", False, False),
        ("source", "/a", False, True),
        ("sources[0].path", "/b", False, True),
        ("sources[0].rate", 1.0, False, False),
        ("engine.path", "/c", True, True),
        ("engine.rate", 1.0, True, False),
    ]
    assert paths_of(SPEC) == {"source": "/a", "sources[0].path": "/b", "engine.path": "/c"}
    assert paths_of(Whole(source=Inner(path="/d"))) == {"source.path": "/d"}


def test_specs_in_a_spec():
    assert [(key, type(spec)) for key, spec in specs_in(SPEC)] == [
        ("", Whole),
        ("sources[0]", Inner),
        ("engine", Inner),
    ]


def test_types_keep_their_bounds():
    assert types_of(Whole)["count"] is Count


@pytest.mark.parametrize(
    ("stage", "key", "good", "bad"),
    [
        ("supervised", "seed", [0, 2**31 - 1], [-1, 2**31, 2**70]),
        ("rl", "num_updates", [1], [0, -4]),
        ("rl", "max_refills", [0], [-1]),
        ("rl", "temperature", [0.1], [0, -1]),
        ("rl", "kl_coef", [0], [-0.1]),
        ("reward_model", "heldout_fraction", [0.5], [0, 1]),
        ("evaluate", "top_p", [1, 0.1], [0, 1.1]),
        ("supervised", "optimizer.b2", [0, 0.9], [1, -0.1]),
        ("supervised", "optimizer.final_fraction", [0, 1], [1.1, -0.1]),
        ("rl", "tasks[0].path", ["x"], [""]),
        ("rl", "rewards[0].tasks", [["a"]], [[]]),
    ],
)
def test_bounds_of_the_types(stage, key, good, bad):
    """Both sides of each, on a field that has it; other mistakes would name another key."""
    field, _, inner = key.partition(".")
    name = field.partition("[")[0]

    def complaints(value):
        entry = {"kind": "files"} if name == "tasks" else {}
        values = {name: [entry | {inner: value}] if "[" in field else {inner: value} if inner else value}
        try:
            read(STAGES[stage], values, "s")
        except SpecError as error:
            return str(error).startswith(f"s.{key}=")
        return False

    assert not any(map(complaints, good)) and all(map(complaints, bad))


def test_how_is_what_may_change_on_the_way_and_nothing_that_is_learned():
    values = {"init": {"kind": "hf", "path": "/m"}, "tasks": [{"kind": "files", "path": "/t"}]}
    spec = read(RlSpec, values | {"rewards": [{"function": "a:b"}]})
    how = {key for key, _, is_how, _ in leaves(spec) if is_how}
    assert {
        "num_updates",
        "mesh.fsdp",
        "rows_per_microbatch",
        "checkpoint_every",
        "eval.every",
        "engine.slots",
    } <= how
    assert not how & {
        "seed",
        "learning_rate",
        "optimizer.learning_rate",
        "group_size",
        "rewards[0].weight",
        "init.path",
    }
