"""A tokenizer's own template: rendered as transformers does, in a sandbox, with errors in its own words."""

import json

import pytest

from r1jax.text import templates
from r1jax.text.templates import render_jinja

MESSAGES = [{"role": "system", "content": " s "}, {"role": "user", "content": "<b> & 中"}]


def rendered(source, messages=MESSAGES, **options):
    return render_jinja(source, messages, add_generation_prompt=True, **options)


def test_blocks_leave_no_lines_and_json_is_not_escaped():
    source = """
    {%- for m in messages %}
      {% if loop.first %}
        {% continue %}
      {% endif %}
{{ m | tojson }}
    {% endfor %}
{{ bos_token }}{{ eos_token }}{{ tools }}{% generation %}!{% endgeneration %}"""
    assert rendered(source, bos_token="<s>", tools=3) == '{"role": "user", "content": "<b> & 中"}\n<s>3!'


def test_a_template_refuses_messages_in_its_own_words():
    with pytest.raises(ValueError, match="chat template: TemplateError: roles must alternate"):
        rendered("{{ raise_exception('roles must alternate') }}")


LLAMA_DATE = """{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "Today Date: " + date_string }}"""
"""As in Llama 3.2's template."""


def test_a_template_that_writes_the_date_writes_the_same_every_day_and_it_is_said_once(capsys):
    templates._strftime_now.cache_clear()
    assert rendered(LLAMA_DATE) == rendered(LLAMA_DATE) == "Today Date: 26 Jul 2024"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the tokenizer's chat template writes today's date; it is always given 26 Jul 2024")
    assert rendered("{{ strftime_now('%Y-%m-%d') }}") == "2024-07-26"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ messages.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ messages[9].content }}", "UndefinedError"),
        ("{% for i in range(10**9) %}{% endfor %}", "OverflowError"),
        ("{{ 'a' + 1 }}", "TypeError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
    ],
)
def test_bad_templates_are_value_errors(source, words):
    with pytest.raises(ValueError, match=words):
        rendered(source)


@pytest.mark.oracle
@pytest.mark.parametrize("add", [True, False])
def test_transformers_renders_the_same(add):
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    source = """{{ bos_token }}
{% set ns = namespace(n=0) %}
{% for m in messages -%}
    {% if m.role == 'system' %}{{ m['content'] | trim }}
    {% else %}
        {{- '<|' + m.role + '|>\\n' + m.content | tojson }}{% set ns.n = ns.n + 1 %}
    {% endif %}
  {# a comment #}
{% endfor %}
{% generation %} {{ ns.n }} {% endgeneration %}
{% if add_generation_prompt %}<|assistant|>{% endif %}
"""
    want, _ = utils.render_jinja_template([MESSAGES], chat_template=source, add_generation_prompt=add, bos_token="<s>")
    assert render_jinja(source, MESSAGES, add_generation_prompt=add, bos_token="<s>") == want[0]
    assert json.dumps(MESSAGES[1]["content"], ensure_ascii=False) in want[0]
