"""The chat templates, as data: what stands before and after each message, and what the model's turn begins and ends
with.

`r1_zero` is R1 (v2) Table 1, byte for byte; the full stop after the question is part of it. R1-Zero has no chat tokens.
`r1` is the template of DeepSeek-R1 and its six students since February 2025 (spec A.9.2): the prompt opens the thought.

`render_jinja` renders a tokenizer's own template as transformers does. It is a stranger's program: it runs in jinja's
immutable sandbox, and sees the messages but not the clock: a template that writes today's date would change the prompt
from day to day, also between a run and its continuation. It is given `TODAY` instead, as Llama 3's template is without
a clock.
"""

import dataclasses
import datetime
import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jinja2
import jinja2.ext
import jinja2.parser
import jinja2.sandbox

Messages = Sequence[Mapping[str, str]]

THOUGHT_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Where a message may hold the assistant's thought apart from its content; transformers takes the first that is there."""
MESSAGE_FIELDS = (*THOUGHT_FIELDS, "tool_calls", "tool_call_id", "function_call")
"""What a message may say besides role and content. A template writes it, or the message is refused."""


def _one_question(messages: Messages) -> Messages:
    if [message["role"] for message in messages] != ["user"]:
        others = ", ".join(name for name, template in TEMPLATES.items() if template.arrange is not _one_question)
        raise ValueError(
            f"takes one user message and got {', '.join(message['role'] for message in messages)}; {others} and "
            "tokenizer take a system message and several turns"
        )
    return messages


def _joined_system_first(messages: Messages) -> Messages:
    """V3, R1: the system messages, an empty line between them, first. The students' own files write the last one only."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    return [{"role": "system", "content": system}, *(m for m in messages if m["role"] != "system")]


def _default_system(text: str, messages: Messages) -> Messages:
    return messages if messages[0]["role"] == "system" else [{"role": "system", "content": text}, *messages]


@dataclasses.dataclass(frozen=True)
class Template:
    """How a conversation is written, and how the answer is read (`style`, `answer`: see `r1jax.text.response`)."""

    before: Mapping[str, str]  # by role, before the content of a message
    after: Mapping[str, str]  # and after it, but for "assistant": see `end`, `gap`
    arrange: Callable[[Messages], Messages] = tuple  # order and defaults; ValueError for what cannot be expressed
    arranged: str = ""  # the same as jinja: what it checks, and what it writes before the messages
    begin: str = ""  # before everything
    end: str = ""  # the token that ends an assistant's turn; empty: the tokenizer's end token, in training only
    gap: str = ""  # what follows `end`
    opens: str = ""  # what the generation prompt adds after `before["assistant"]`
    cuts_reasoning: bool = False  # of earlier assistant turns only what follows the last `</think>` is written
    trims: bool = False  # white space around every content is left out
    tokens: tuple[str, ...] = ()  # special tokens it writes; without any, BOS comes first if the tokenizer `adds_bos`
    style: str = "r1_zero"
    answer: str = "tags_or_boxed"


def _plain(text: str) -> Template:
    before, after = text.split("{question}")
    return Template(
        before={"user": before, "assistant": ""},
        after={"user": after},
        arrange=_one_question,
        arranged="{% if messages[1:] | rejectattr('role', 'equalto', 'assistant') | list or messages | length > 2 %}"
        "{{ raise_exception('takes one user message') }}{% endif %}",
        answer="tags",
    )


def _deepseek(**options) -> Template:
    begin, end, user, assistant = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"
    return Template(
        begin=begin,
        before={"system": "", "user": user, "assistant": assistant},
        after={"system": "", "user": ""},
        end=end,
        arrange=_joined_system_first,
        arranged="{{ messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join('\\n\\n') }}",
        tokens=(begin, end, user, assistant),
        **options,
    )


def _headed(start: str, stop: str, *, end: str, gap: str = "", **options) -> Template:
    """Every message under a header with its role."""
    return Template(
        before={role: f"{start}{role}{stop}" for role in ("system", "user", "assistant")},
        after={"system": end + gap, "user": end + gap},
        end=end,
        gap=gap,
        **options,
    )


def _chatml(system: str) -> Template:
    arrange, tokens = functools.partial(_default_system, system), ("<|im_start|>", "<|im_end|>")
    header = json.dumps(f"<|im_start|>system\n{system}<|im_end|>\n")
    arranged = f"{{% if messages[0]['role'] != 'system' %}}{{{{ {header} }}}}{{% endif %}}"
    return _headed("<|im_start|>", "\n", end="<|im_end|>", gap="\n", arrange=arrange, arranged=arranged, tokens=tokens)


_LLAMA3 = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")

TEMPLATES: Mapping[str, Template] = {
    "r1_zero": _plain(
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
        "The assistant first thinks about the reasoning process in the mind and then provides the user with the "
        "answer. The reasoning process and answer are enclosed within <think>...</think> and <answer>...</answer> "
        "tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. "
        "User: {question}. Assistant:"
    ),
    "plain": _plain("User: {question}. Assistant:"),
    "r1": _deepseek(opens="<think>\n", cuts_reasoning=True, style="r1"),
    "v3": _deepseek(),
    "chatml": _chatml("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    "qwen2.5": _chatml("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    "llama3": _headed(_LLAMA3[1], f"{_LLAMA3[2]}\n\n", begin=_LLAMA3[0], end=_LLAMA3[3], trims=True, tokens=_LLAMA3),
}
"""By name. "chatml" is SmolLM2's, "llama3" Llama 3's (3.1 and later write a date too: use "tokenizer" for these)."""


def write_jinja(name: str, *, adds_bos: bool = False) -> str:
    """A template of ``TEMPLATES`` as jinja, for other programs; it renders what ``r1jax.text.chat.render`` does.

    Where the template itself ends no turn, the tokenizer's end token stands after an answer, as in training.
    adds_bos: the tokenizer's BOS comes first, of a template without tokens.
    """
    form, quote = TEMPLATES[name], functools.partial(json.dumps, ensure_ascii=False)
    content = "m['content'] | trim" if form.trims else "m['content']"
    answer = f"({content}).split('</think>')[-1]" if form.cuts_reasoning else content
    end = quote(form.end + form.gap) if form.end else "eos_token"
    lines = [
        "{{ bos_token }}" if adds_bos else "",
        f"{{{{ {quote(form.begin)} }}}}" if form.begin else "",
        form.arranged,
    ]
    lines += ["{% for m in messages %}{% set role = m['role'] %}"]
    lines += [f"{{% if role == 'assistant' %}}{{{{ {quote(form.before['assistant'])} + ({answer}) + {end} }}}}"]
    for role in form.after:
        written = f"{{{{ {quote(form.before[role])} + ({content}) + {quote(form.after[role])} }}}}"
        is_before = form.arrange is _joined_system_first and role == "system"
        lines += [f"{{% elif role == '{role}' %}}" + ("" if is_before else written)]
    lines += [f"{{% else %}}{{{{ raise_exception('role must be one of {', '.join(form.before)}') }}}}"]
    lines += ["{% endif %}{% endfor %}"]
    opening = quote(form.before["assistant"] + form.opens)
    return "".join([*lines, f"{{% if add_generation_prompt %}}{{{{ {opening} }}}}{{% endif %}}"])


TODAY = datetime.datetime(2024, 7, 26)  # what `strftime_now` takes for today


def render_jinja(
    source: str, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool, **variables: Any
) -> str:
    """The text of a conversation by the jinja text `source`; variables: what else it takes ("bos_token", "tools").

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
