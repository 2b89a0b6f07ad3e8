"""The reader: what a spec is made of, and one line with the dotted key for each kind of mistake."""

import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy
import pytest
from ml_collections import ConfigDict

from r1jax.specs.fields import Count, Natural, PathText, Share, option
from r1jax.specs.policy import GgufInit
from r1jax.specs.reader import FlagText, SpecError, near, read, read_some


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A spec inside of another."""

    rate: Share = option(0.5, "A share.")
    samples: Count = option(4, "How many.")

    def __post_init__(self):
        if self.rate == 1 and self.samples == 1:
            raise ValueError("rate=1 does not go with samples=1")


@dataclass(frozen=True, kw_only=True)
class Cat:
    """One kind."""

    kind: Literal["cat"] = "cat"
    path: PathText = option(explanation="Where it is.")


@dataclass(frozen=True, kw_only=True)
class Dog:
    """Another kind."""

    kind: Literal["dog"] = "dog"
    age: Natural = option(0, "How old it is.")


@dataclass(frozen=True, kw_only=True)
class Plain:
    """The kind that needs no name."""

    function: str = option(explanation="What it calls.")


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A spec of every type."""

    count: Count = option(1, "A count.")
    rate: float = option(1.0, "A number.")
    text: str = option("", "A text.")
    switch: bool = option(False, "A switch.")
    choice: Literal["std", "mean"] = option("std", "A choice.")
    cap: Count | None = option(None, "A cap, or none.")
    step: Natural | Literal["latest", "best"] | None = option(None, "A number or a word.")
    path: PathText | None = option(None, "A path.")
    lengths: tuple[int, ...] = option((), "Numbers.")
    caps: Count | tuple[tuple[int, ...], ...] = option(1, "A number, or pairs.")
    shares: dict[str, float] = option(factory=dict, explanation="Numbers by name.")
    options: dict[str, Any] = option(factory=dict, explanation="Anything by name.")
    inner: Inner = option(factory=Inner, explanation="A spec.")
    maybe: Inner | None = option(None, "A spec, or none.")
    pets: tuple[Cat | Dog, ...] = option((), "Specs of several kinds.")
    parts: tuple[Plain | Dog, ...] = option((), "Specs, of which one needs no kind.")
    source: PathText | Inner | None = option(None, "A path or a spec.")


def test_defaults_and_values():
    assert read(Whole, {}) == Whole()
    spec = read(
        Whole,
        {
            "rate": 2,
            "cap": 3,
            "step": "best",
            "lengths": [1, 2],
            "caps": [[0, 8], (4, 16)],
            "shares": {"a": 1},
            "inner": {"samples": 2},
            "pets": [{"kind": "dog", "age": 3}, {"kind": "cat", "path": "/x"}],
            "parts": [{"function": "a:b"}, {"kind": "dog"}],
        },
    )
    assert (spec.rate, type(spec.rate), spec.cap, spec.step, spec.lengths) == (2.0, float, 3, "best", (1, 2))
    assert spec.caps == ((0, 8), (4, 16)) and spec.shares == {"a": 1.0} and spec.inner == Inner(samples=2)
    assert spec.pets == (Dog(age=3), Cat(path="/x")) and spec.parts == (Plain(function="a:b"), Dog())


def test_a_config_dict_and_a_spec_are_read_as_well():
    config = ConfigDict({"inner": {"samples": 2}, "pets": [ConfigDict({"kind": "dog"})], "options": {"deep": {"x": 1}}})
    spec = read(Whole, config)
    assert spec.inner.samples == 2 and spec.pets == (Dog(),) and spec.options == {"deep": {"x": 1}}
    assert type(spec.options["deep"]) is dict
    assert read(Whole, spec) is spec and read(Whole, {"inner": spec.inner}).inner is spec.inner
    assert read(Whole, {"pets": [Dog(age=2)]}).pets == (Dog(age=2),)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("count", "7", 7),
        ("rate", "3", 3.0),
        ("rate", "1e-3", 1e-3),
        ("text", "7", "7"),
        ("text", "None", "None"),
        ("text", "a=b, c", "a=b, c"),
        ("switch", "true", True),
        ("switch", "False", False),
        ("choice", "mean", "mean"),
        ("cap", "None", None),
        ("cap", "5", 5),
        ("step", "latest", "latest"),
        ("step", "40", 40),
        ("step", "None", None),
        ("lengths", "[1, 2]", (1, 2)),
        ("lengths", "(4,)", (4,)),
        ("caps", "9", 9),
        ("caps", "[[0, 8], [4, 16]]", ((0, 8), (4, 16))),
        ("shares", "{'a': 1}", {"a": 1.0}),
        ("options", "{'a': [1, {'b': None}]}", {"a": [1, {"b": None}]}),
        ("inner", "{'samples': 2}", Inner(samples=2)),
        ("maybe", "{'samples': 2}", Inner(samples=2)),
        ("maybe", "None", None),
        ("pets", "[{'kind': 'dog'}]", (Dog(),)),
        ("source", "/a/b", "/a/b"),
        ("source", "{'samples': 3}", Inner(samples=3)),
    ],
)
def test_texts_of_flags_are_read_by_the_type_of_the_field(key, text, value):
    found = getattr(read(Whole, {key: FlagText(text)}), key)
    assert found == value and type(found) is type(value)


def test_texts_of_flags_deep_in_dicts():
    spec = read(
        Whole,
        {
            "inner": {"samples": FlagText("2")},
            "pets": [{"kind": FlagText("dog"), "age": FlagText("3")}],
            "shares": {"a": FlagText("2")},
            "options": {"n": FlagText("4"), "word": FlagText("four"), "deep": {"list": [{"x": FlagText("[5]")}]}},
            "lengths": [1, FlagText("2")],
        },
    )
    assert spec.inner.samples == 2 and spec.pets == (Dog(age=3),) and spec.shares == {"a": 2.0}
    assert spec.options == {"n": 4, "word": "four", "deep": {"list": [{"x": [5]}]}} and spec.lengths == (1, 2)
    assert type(spec.options["word"]) is str


def test_paths_become_absolute_but_for_those_of_a_work_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for text, path in (
        ("a/../b", f"{tmp_path}/b"),
        ("~/x", "/home/me/x"),
        ("/y", "/y"),
        ("{here}/../z", "{here}/../z"),
    ):
        assert read(Whole, {"path": text}).path == path and read(Whole, {"source": text}).source == path
    assert read(GgufInit, {"kind": "gguf", "path": "~/x.gguf"}).path == "/home/me/x.gguf"
    assert read(GgufInit, {"kind": "gguf", "path": "x.gguf"}).path == f"{tmp_path}/x.gguf"
    for smollm2 in ("smollm2", FlagText("smollm2")):
        assert read(GgufInit, {"kind": "gguf", "path": smollm2}).path == "smollm2"
    assert read(Whole, {"path": "package:data"}).path == "package:data"
    assert read(Whole, {"text": "a/b"}).text == "a/b" and os.getcwd() == str(tmp_path)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"count": "four"}, "w.count='four' must be a whole number"),
        ({"count": FlagText("four")}, "w.count='four' must be a whole number"),
        ({"count": 4.0}, "w.count=4.0 must be a whole number"),
        ({"count": True}, "w.count=True must be a whole number"),
        ({"count": None}, "w.count=None must be a whole number"),
        ({"count": 0}, "w.count=0 must be at least 1"),
        ({"count": FlagText("-1")}, "w.count=-1 must be at least 1"),
        ({"rate": "one"}, "w.rate='one' must be a number"),
        ({"rate": None}, "w.rate=None must be a number"),
        ({"rate": True}, "w.rate=True must be a number"),
        ({"rate": float("nan")}, "w.rate=nan must be finite"),
        ({"rate": FlagText("inf")}, "w.rate=inf must be finite"),
        ({"text": 3}, "w.text=3 must be a text"),
        ({"switch": 1}, "w.switch=1 must be True or False"),
        ({"switch": FlagText("yes")}, "w.switch='yes' must be True or False"),
        ({"choice": "stdd"}, "w.choice='stdd' must be one of 'std', 'mean'"),
        ({"choice": ["std"]}, "w.choice=['std'] must be one of 'std', 'mean'"),
        ({"cap": 0}, "w.cap=0 must be at least 1"),
        ({"cap": "many"}, "w.cap='many' must be a whole number"),
        ({"step": "bestt"}, "w.step='bestt' must be a whole number, or must be one of 'latest', 'best' or None"),
        ({"cap": FlagText("none")}, "w.cap='none' must be a whole number or None"),
        ({"count": FlagText("1,000")}, "w.count=1,000 must be a whole number"),
        ({"cap": FlagText("1,000")}, "w.cap=1,000 must be a whole number"),
        ({"count": FlagText("'4'")}, "w.count='4' must be a whole number"),
        ({"rate": 10**400}, "w.rate=1000"),
        ({"choice": numpy.array(["std", "mean"])}, "w.choice=array(['std', 'mean'], dtype='<U4') must be one of"),
        ({"text": numpy.zeros((2, 2))}, "w.text=array([[0., 0.], [0., 0.]]) must be a text"),
        ({"path": ""}, "w.path='' must name a file or folder"),
        ({"path": 3}, "w.path=3 must be a text"),
        ({"lengths": 3}, "w.lengths=3 must be a list"),
        ({"lengths": FlagText("1,x")}, "w.lengths='1,x' must be a list"),
        ({"lengths": [1, "x"]}, "w.lengths[1]='x' must be a whole number"),
        ({"shares": [1]}, "w.shares=[1] must be a dict"),
        ({"shares": {"a": "x"}}, "w.shares.a='x' must be a number"),
        ({"options": {"a": [0, {"b": print}]}}, "w.options.a[1].b=<built-in function print> must be made of numbers"),
        ({"options": {"a": float("inf")}}, "w.options.a=inf must be finite"),
        ({"inner": 3}, "w.inner=3 must be a dict of rate, samples"),
        ({"inner": FlagText("x")}, "w.inner='x' must be a dict of rate, samples"),
        ({"inner": {"rate": 1.5}}, "w.inner.rate=1.5 must be in [0, 1]"),
        ({"inner": {"rate": 1, "samples": 1}}, "w.inner.rate=1 does not go with samples=1"),
        ({"inner": {"sampels": 1}}, "there is no key 'w.inner.sampels'; near it: samples"),
        ({"maybe": "x"}, "w.maybe='x' must be a dict"),
        ({"xyz": 1}, "there is no key 'w.xyz'; there are count, rate, text, "),
        ({3: 1}, "there is no key 'w.3'; "),
        ({"pets": {"kind": "dog"}}, "w.pets={'kind': 'dog'} must be a list"),
        ({"pets": [{"kind": "dgo"}]}, "w.pets[0].kind='dgo' must be one of 'cat', 'dog'"),
        ({"pets": [{"age": 3}]}, "the key 'w.pets[0].kind' is missing: it must be one of 'cat', 'dog'"),
        ({"pets": [{"kind": "dog"}, {"kind": "cat"}]}, "the key 'w.pets[1].path' is missing: Where it is."),
        ({"pets": [{"kind": "dog", "path": "x"}]}, "there is no key 'w.pets[0].path'; there are kind, age"),
        ({"pets": ["dog"]}, "w.pets[0]='dog' must be a dict"),
        ({"parts": [{"kind": "dgo"}]}, "w.parts[0].kind='dgo' must be one of absent, 'dog'"),
        ({"parts": [{}]}, "the key 'w.parts[0].function' is missing: What it calls."),
        ({"caps": "x"}, "w.caps='x' must be a whole number, or must be a list"),
        ({"caps": 0}, "w.caps=0 must be at least 1, or must be a list"),
        ({"caps": FlagText("0")}, "w.caps=0 must be at least 1, or must be a list"),
        ({"caps": [[1, "x"]]}, "w.caps=[[1, 'x']] must be a whole number, or w.caps[0][1]='x' must be a whole number"),
        ({"source": 3}, "w.source=3 must be a text"),
        ({"text": ["x" * 1000]}, "w.text=['xxx"),
    ],
)
def test_a_mistake_is_one_line_with_the_dotted_key(values, words):
    with pytest.raises(SpecError) as error:
        read(Whole, values, "w")
    message = str(error.value)
    assert message.startswith(words) and "\n" not in message and len(message) < 300


def test_without_a_key_in_front_a_message_begins_with_the_field():
    with pytest.raises(SpecError, match="^inner.samples=0 must be at least 1$"):
        read(Whole, {"inner": {"samples": 0}})
    with pytest.raises(SpecError, match="^there is no key 'cuont'; near it: count$"):
        read(Whole, {"cuont": 0})


def test_some_fields_of_a_dataclass():
    assert read_some(Cat, {}, "init.model") == {}  # `path` is required of a whole one only
    assert read_some(Inner, {"rate": 1}, "init.model") == {"rate": 1.0}
    with pytest.raises(SpecError, match="^there is no key 'init.model.rte'; near it: rate$"):
        read_some(Inner, {"rte": 1}, "init.model")


def test_near():
    assert near("lerning", ["learning_rate", "x"]) == "; near it: learning_rate"
    assert near("zzz", ["a", "b"]) == "; there are a, b"
