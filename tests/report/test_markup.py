import base64
import fnmatch
import hashlib
import json
import re
import tomllib
from pathlib import Path

import pytest

from r1jax.report.markup import PAGES, as_json, clip, code, count_marked, duration, fill, show, visible
from r1jax.rewards.reflection import REFLECTION_WORDS, count_reflections


def shown(text):
    """A text as a page shows it."""
    return PAGES.from_string("{{ text }}").render(text=visible(text))


@pytest.mark.parametrize("make", [visible, shown])
def test_nothing_hidden_survives(make):
    assert make("a\x00b\x1b[31m\r\n\tc\x7f") == "a␀b␛[31m␍\n\tc␡"
    assert make("\ud800x\x85\uffff") == "\ufffdx\ufffd\ufffd"
    assert make("a\u202eb\u200bc\u2066") == "a⟨U+202E⟩b⟨U+200B⟩c⟨U+2066⟩"
    assert make("中文 é 😀") == "中文 é 😀"


def test_what_is_filled_in_is_escaped():
    assert shown("<b a='1' c=\"2\">&") == "&lt;b a=&#39;1&#39; c=&#34;2&#34;&gt;&amp;"


def test_json_in_a_page_is_text_to_it_and_comes_back():
    text = "</script><!--\u2028\ud800\u202e\x00中"
    written = as_json({text: [text]})
    assert written.isascii() and "<" not in written and json.loads(written) == {text: [text]}
    assert as_json({"a": [float("nan"), 1.5, {"b": float("-inf")}]}) == '{"a":[null,1.5,{"b":null}]}'


def test_marks_what_the_stage_counts():
    forms = [form for english, chinese in REFLECTION_WORDS.items() for form in (english, *chinese)]
    texts = [*forms, " ".join(forms), "、".join(forms), "checkers_but wait5 错误错 BUT"]
    for text in texts:
        assert count_marked(text) == sum(count_reflections(text).values()), text


def test_clip_keeps_both_ends_and_says_what_is_gone():
    text = "a" * 100 + "b" * 100
    assert clip(text, 200) == text
    assert clip(text, 60) == "a" * 40 + "\n[… 140 characters left out …]\n" + "b" * 20


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (12.0, "12"),
        (0.23456, "0.235"),
        (2.3456, "2.35"),
        (23.456, "23.5"),
        (12345.6, "12,346"),
        (2e-7, "2.00e-07"),
        (3e9, "3.00e+09"),
        (-0.5, "-0.500"),
        (float("nan"), "–"),
        (float("inf"), "–"),
    ],
)
def test_show(value, text):
    assert show(value) == text


def test_duration():
    assert [duration(s) for s in (5.4, 372, 7260, float("nan"))] == ["5 s", "6 min 12 s", "2 h 01 min", "–"]


def test_a_page_allows_its_scripts_alone_and_loads_nothing():
    text = fill("run.html", name="a<b", stages=[], runs=[], reflection="", **code("plots.js"))
    assert "<title>a&lt;b: r1jax report</title>" in text
    (policy,) = re.findall('Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'self' file: 'sha256-")
    (script,) = re.findall("<script>(.*?)</script>", text, flags=re.DOTALL)
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert "://" not in text


def test_the_files_that_a_page_is_made_of_are_installed_with_the_package():
    root = Path(__file__).parents[2]
    installed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    room = root / "r1jax" / "report"
    paths = [path for path in room.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc", ".md")]
    files = [str(path.relative_to(room)) for path in paths]
    assert set(files) >= {"page.html", "panels.toml", "style.css", "plots.js", "vendor/LICENSE"}
    for name in files:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in installed["r1jax.report"]), name
