"""Every field of every spec: explained, settable by a flag, on the reference page and in `--help`."""

import dataclasses
import re
import typing
from pathlib import Path
from typing import Any, Literal

import pytest

from r1jax import run
from r1jax.specs.config_file import load_experiment
from r1jax.specs.fields import TemplateName, types_of
from r1jax.specs.reader import FlagText, SpecError, read
from r1jax.specs.reference import default_of, describe_stage, reachable, reference_page
from r1jax.specs.stages import STAGES
from r1jax.text.chat import TOKENIZERS_OWN
from r1jax.text.templates import TEMPLATES

REPOSITORY = Path(__file__).parent.parent.parent
CONFIGS = sorted(path for path in REPOSITORY.glob("configs/**/*.py") if "def get_config" in path.read_text())
TEXTS = {
    "dtype": "bfloat16",
    "url": "http://127.0.0.1:8000/v1",
    "page_size": "256",
    "aggregation": "token",
    "group_size": "3",
    "row_length": "8192",
    "slots": "512",
    "prompt": "{question}?",
    "cons_at": "[2, 4]",
    "dual_clip": "3",
    "orderings": "[]",
    "from_update": "0",
    "num_prompts": "32",
    "prompts_per_batch": "2",
    "judge.tasks": "None",
}
"""What a field is set to, where the first text of its type would not go with the other fields."""
WITH: dict[str, dict[str, Any]] = {
    "aggregation_constant": {"aggregation": "constant"},
    "num_epochs": {"num_updates": None},
    "replay_routing": {"engine": {"record_routing": True}},
    "long_evaluated_path": {"short_evaluated_path": "/w"},
    "short_evaluated_path": {"long_evaluated_path": "/w"},
    "partial_rollouts": {"importance_cap": 2.0},
    "overlap": {"importance_cap": 2.0, "rollout_mesh": {"first_device": 1}},
}
"""What else must be said for a field to be set."""


def specs_of(kind: Any) -> list[type]:
    """The specs that a type names, the type itself or those of a union."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return [kind]
    return [spec for argument in typing.get_args(kind) for spec in specs_of(argument)]


def is_list(kind: Any) -> bool:
    return typing.get_origin(kind) is tuple


def text_of(name: str, kind: Any) -> str:
    """A text that a flag can set a field to; not its default where there is another."""
    if name in TEXTS:
        return TEXTS[name]
    choices = [str(choice) for choice in reversed(typing.get_args(kind))] if typing.get_origin(kind) is Literal else []
    specs = [repr([minimal(spec)] if is_list(kind) else minimal(spec)) for spec in specs_of(kind)]
    for text in [
        *choices,
        *specs,
        "0.5",
        "1",
        "3",
        "true",
        "some/where",
        "['some/where']",
        "[1]",
        "{'a': 1}",
        "{'a': 'b'}",
        "[]",
    ]:
        try:
            read(kind, FlagText(text), name)
        except SpecError:
            continue
        return text
    raise AssertionError(f"no text sets {name}, a {kind}")


def minimal(spec: type) -> dict[str, Any]:
    """As little as a config must say of a spec."""
    values = {}
    for field in dataclasses.fields(spec):
        kind = types_of(spec)[field.name]
        if field.name == "kind" or default_of(field) is dataclasses.MISSING:
            inner = specs_of(kind)
            if inner:
                values[field.name] = [minimal(inner[0])] if is_list(kind) else minimal(inner[0])
            else:
                values[field.name] = read(kind, FlagText(text_of(field.name, kind)))
    if {"path", "function"} <= set(types_of(spec)):
        values["function"] = "a:b"
    if {"path", "train"} <= set(types_of(spec)):
        values["path"] = "some/where"
    if "num_epochs" in types_of(spec):
        values["num_updates"] = 3
    if "orderings" in types_of(spec):
        values["orderings"] = []
    return values


def fields_below(spec: type, key: str, place, seen: set[type]):
    """(dotted key, name, type, stage's values without that field) of each field of each spec that a stage can hold.

    place: from the values of `spec` to those of the stage.
    """
    seen.add(spec)
    for field in dataclasses.fields(spec):
        if field.name in ("stage", "kind") and len(typing.get_args(types_of(spec)[field.name])) == 1:
            continue
        name, kind = field.name, types_of(spec)[field.name]
        values = {other: value for other, value in minimal(spec).items() if other != name} | WITH.get(name, {})
        if name in ("path", "split", "subset") and "function" in types_of(spec):
            values = {other: value for other, value in values.items() if other != "function"}
            values |= {} if name == "path" else {"path": "some/where"}
        if name in ("train", "heldout") and "path" in types_of(spec):
            del values["path"]
        yield f"{key}{name}", name, kind, place(values)
        for inner in specs_of(kind):
            if inner in seen:
                continue

            def deeper(below, name=name, kind=kind, values=values):
                return place(values | {name: [below] if is_list(kind) else below})

            yield from fields_below(inner, f"{key}{name}{'[0]' if is_list(kind) else ''}.", deeper, seen)


@pytest.mark.parametrize("spec", reachable(), ids=lambda spec: spec.__name__)
def test_every_field_is_explained(spec):
    assert spec.__doc__ and not spec.__doc__.startswith(f"{spec.__name__}("), f"{spec.__name__} has no docstring"
    for field in dataclasses.fields(spec):
        if field.name in ("stage", "kind") and field.default is not dataclasses.MISSING:
            continue
        words = field.metadata.get("explanation", "")
        assert re.match(r"[^a-z\s]", words) and words.endswith(".") and "\n" not in words, f"{field.name}: {words!r}"
        assert len(words) < 200


@pytest.mark.parametrize("stage", STAGES)
def test_every_field_is_set_by_a_flag(stage, tmp_path):
    file = tmp_path / "x.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(text):\n"
        "    return ConfigDict({'stages': {'s': eval(text)}})\n"
    )
    count = 0
    for key, name, kind, values in fields_below(STAGES[stage], "", lambda values: values, set()):
        text = TEXTS.get(key) or text_of(name, kind)
        experiment = load_experiment(f"{file}:{values!r}", [f"--config.stages.s.{key}={text}"])
        spec = read(STAGES[stage], experiment.stages["s"], "stages.s")
        for step in re.findall(r"\w+", key):
            spec = spec[int(step)] if step.isdecimal() else getattr(spec, step)
        assert spec == read(kind, FlagText(text)), key
        count += 1
    assert count >= 50


def test_the_names_of_templates_are_those_that_there_are():
    assert {*TEMPLATES, TOKENIZERS_OWN} == set(typing.get_args(TemplateName))


def test_the_page_of_the_repository_is_that_of_the_specs():
    assert (REPOSITORY / "r1jax" / "specs" / "REFERENCE.md").read_text(encoding="utf-8") == reference_page(), (
        "python -m r1jax.specs.reference > r1jax/specs/REFERENCE.md"
    )


def test_the_page_has_a_table_of_every_spec_and_a_row_of_every_field():
    page = reference_page()
    for spec in reachable():
        (table,) = re.findall(rf"^## {spec.__name__}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
        rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
        fields = [field.name for field in dataclasses.fields(spec)]
        assert [name for name in fields if name not in ("stage", "kind")] == [row for row in rows if row != "kind"]
    for link in re.findall(r"\]\(#(\w+)\)", page):
        assert f"## {link}" in page.lower()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(REPOSITORY / "configs")))
def test_help_of_every_config_shows_every_field_of_each_stage(path, capsys):
    assert run.main([f"--config={path}", "--help"]) == 0
    out = capsys.readouterr().out
    stages = load_experiment(str(path)).stages
    assert [line.split()[0] for line in out.splitlines() if line.startswith("stages.")] == [
        f"stages.{name}:" for name in stages
    ]
    for name, values in stages.items():
        (section,) = re.findall(rf"^stages\.{name}: (.*?)(?=^stages\.|\Z)", out, re.DOTALL | re.MULTILINE)
        for field in types_of(STAGES[values["stage"]]):
            assert field == "stage" or re.search(rf"^  {field}( = |: |\n)", section, re.MULTILINE), (name, field)


def test_help_of_chosen_stages_shows_no_others(capsys):
    path = "configs/zero.py"
    assert run.main([f"--config={path}", "--stages=zero", "--help"]) == 0
    assert re.findall(r"^stages\.(\w+): ", capsys.readouterr().out, re.MULTILINE) == ["zero"]
    assert run.main([f"--config={path}", "--skip=zero", "--help"]) == 0
    assert re.findall(r"^stages\.(\w+): ", capsys.readouterr().out, re.MULTILINE) == ["base"]
    assert run.main([f"--config={path}", "--stages=nil", "--help"]) == 2
    assert "--stages: there is no stage 'nil'" in capsys.readouterr().err


def test_a_field_s_lines_say_value_default_unit_and_what_it_is():
    values = minimal(STAGES["rl"]) | {"group_size": 8, "init": {"kind": "hf", "path": "/m"}}
    text = describe_stage("zero", read(STAGES["rl"], values))
    assert text.startswith("stages.zero: rl. GRPO with rule rewards")
    assert (
        "\n  group_size = 8   (default 16)\n      Outputs of each question (R1 Sec. B.1). [int (at least 1)]\n" in text
    )
    assert "\n  temperature = 1.0\n      Of sampling" in text
    assert "\n  init: hf. A folder as Hugging Face lays it out" in text and "\n  init.path = '/m'\n" in text
    assert (
        "\n  max_prompt_tokens = 1024\n      Longer training prompts are passed over and counted. [tokens; int (at least 1)]\n"
        in text
    )
