"""A tokenizer's own chat template: jinja text from a model's folder, rendered as transformers renders it.

The text is a stranger's program: it runs in jinja's immutable sandbox, and sees the messages and nothing else. In
particular it does not see the clock: a template that writes today's date would change the prompt from day to day, also
between a run and its continuation. It is given `TODAY` instead, which is what Llama 3's template writes without a clock.
"""

import datetime
import functools
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jinja2
import jinja2.ext
import jinja2.parser
import jinja2.sandbox

TODAY = datetime.datetime(2024, 7, 26)
"""What `strftime_now` takes for today."""


def render_jinja(
    source: str, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool, **variables: Any
) -> str:
    """The text of a conversation by the jinja text `source`.

    messages: "role", "content" and what else the template knows; variables: what else it takes ("bos_token", "tools").

    ValueError: not a jinja template, or the template itself refuses the messages, with its words.
    """
    try:
        return _compile(source).render(
            messages=[dict(message) for message in messages], add_generation_prompt=add_generation_prompt, **variables
        )
    except (jinja2.TemplateError, TypeError, LookupError, ArithmeticError) as error:
        raise ValueError(f"the tokenizer's chat template: {type(error).__name__}: {error}") from error


class _Generation(jinja2.ext.Extension):
    """`{% generation %} ... {% endgeneration %}`, which marks the assistant's words in some templates: plain text here."""

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: jinja2.parser.Parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@functools.lru_cache(maxsize=16)
def _compile(source: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)  # jinja's own escapes it for HTML
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


@functools.cache
def _strftime_now(pattern: str) -> str:
    text = TODAY.strftime(pattern)
    note = f"warning: the tokenizer's chat template writes today's date; it is always given {text}, so that prompts stay alike"
    print(note, file=sys.stderr, flush=True)
    return text
