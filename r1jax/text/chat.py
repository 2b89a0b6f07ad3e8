"""From a conversation to the text and the token ids that the model continues or is trained on.

One rule for the token that begins a text (BOS): a template with special tokens writes what it wants of it itself; for
one without ("plain", "r1_zero") `encode_prompt` puts `tokenizer.bos_id` first if the model was trained so. Nothing else
adds one. SFT and RL share `encode_prompt`: the ids before the trained turn are those that the sampler gets.

A thought that a message holds apart (`reasoning_content`) is written where the template reads that field. Under "r1",
and an own template that knows only `</think>`, it becomes the beginning of the content. Elsewhere the message is
refused, as it is for other fields that the template does not write (`tool_calls`): nothing that was said is left out
silently.
"""

import bisect
import itertools
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1jax.text.templates import MESSAGE_FIELDS, TEMPLATES, THOUGHT_FIELDS, Messages, render_jinja, write_jinja
from r1jax.text.tokenizer import Tokenizer

TOKENIZERS_OWN = "tokenizer"  # the name of the template that came with the tokenizer (`Tokenizer.chat_template`)
TRAIN = ("last", "all")
_OPENING = re.compile(r"\A\s*<think>\n?")
_SENTINEL, _THOUGHT_SENTINEL = "\ue000answer\ue000", "\ue000thought\ue000"


def render(
    messages: Messages, *, template: str, tokenizer: Tokenizer | None = None, add_generation_prompt: bool = True
) -> str:
    """The text of a conversation, ending with what opens the assistant's turn.

    messages: ``{"role", "content"}`` each, and what else of ``MESSAGE_FIELDS`` the template writes; the last one is the
    user's.
    template: a name in ``TEMPLATES``, or "tokenizer" for the tokenizer's own, which is then needed.
    add_generation_prompt: False renders a finished conversation, whoever spoke last.

    Raises ValueError for an unknown template, or a conversation that the template cannot express.
    """
    check_template(template)
    if not messages or (add_generation_prompt and messages[-1].get("role") != "user"):
        raise _refusal(template, "the last message must be the user's")
    messages = _with_thoughts(messages, template, tokenizer)
    if template == TOKENIZERS_OWN:
        return _render_own(messages, tokenizer, add_generation_prompt=add_generation_prompt)
    form = TEMPLATES[template]
    text = "".join(text for text, _ in _pieces(messages, template))
    return text + (form.before["assistant"] + form.opens if add_generation_prompt else "")


def check_template(template: str, messages: Messages | None = None) -> None:
    """ValueError for an unknown name, or for messages it cannot express; what the tokenizer's own can is not known yet."""
    if template not in (*TEMPLATES, TOKENIZERS_OWN):
        raise _refusal(template, f"must be one of {', '.join(sorted([*TEMPLATES, TOKENIZERS_OWN]))}")
    if messages is not None and template != TOKENIZERS_OWN:
        render(messages, template=template)


def has_turns(template: str, tokenizer: Tokenizer) -> bool:
    """Whether the template can express a conversation of several turns."""
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
    try:
        return bool(render(turns, template=template, tokenizer=tokenizer))
    except ValueError:
        return False


def encode_prompt(messages: Messages, tokenizer: Tokenizer, *, template: str) -> list[int]:
    """The token ids of ``render(messages)``, with the BOS that the module's rule gives.

    Raises ValueError as ``render``, or where the tokenizer lacks a special token of the template (it would be written
    as text).
    """
    check_template(template)
    return _begin(tokenizer, template) + tokenizer.encode(render(messages, template=template, tokenizer=tokenizer))


def encode_conversation(
    messages: Messages, tokenizer: Tokenizer, *, template: str, train: str = "last"
) -> tuple[list[int], list[int]]:
    r"""(token ids, mask) of a conversation that the assistant ends; both as long as the text.

    The mask is 1 on the assistant's words and the token that ends its turn, 0 elsewhere. Text is encoded in pieces, cut
    where the mask changes: the ids before the last answer are ``encode_prompt(messages[:-1])``, and all are those of
    the whole text unless an answer begins with white space after a prompt that ends with it.

    Where the template cuts reasoning from history, only the last turn keeps it. A template that opens the thought does
    so for an answer that holds ``</think>`` (whose own ``<think>`` is left out); one without is written as in history.

    train: "last": mask the last assistant turn alone; "all": the earlier ones too, as history shows them; ValueError
      with the template "tokenizer", which does not say whose words are whose. Other errors: as of ``encode_prompt``.
    """
    if train not in TRAIN:
        raise ValueError(f"train={train!r}: must be one of {', '.join(TRAIN)}")
    if len(messages) < 2 or messages[-1].get("role") != "assistant":
        raise _refusal(template, "the last message of a conversation must be the assistant's")
    messages = _with_thoughts(messages, template, tokenizer)
    history, content = messages[:-1], messages[-1].get("content")
    if not isinstance(content, str):
        raise _refusal(template, f"the content of the last message must be text, got {content!r:.80}")
    prompt = render(history, template=template, tokenizer=tokenizer)
    if template == TOKENIZERS_OWN:
        if train == "all":
            raise ValueError("chat template 'tokenizer' can train on the last turn alone (train='last')")
        pieces = _own_conversation(messages, prompt, tokenizer)
    else:
        form = TEMPLATES[template]
        pieces = [(text, is_answer and train == "all") for text, is_answer in _pieces(history, template)]
        content, opening = content.strip() if form.trims else content, form.before["assistant"]
        if form.opens and "</think>" in content:
            opening, content = opening + form.opens, _OPENING.sub("", content)
        pieces += [(opening, False), (content + form.end, True), (form.gap, False)]
    ids = _begin(tokenizer, template)
    mask = [0] * len(ids)
    for is_trained, run in itertools.groupby(filter(operator.itemgetter(0), pieces), key=operator.itemgetter(1)):
        piece = tokenizer.encode("".join(text for text, _ in run))
        ids, mask = ids + piece, mask + [int(is_trained)] * len(piece)
    if template != TOKENIZERS_OWN and not TEMPLATES[template].end:
        ids, mask = [*ids, tokenizer.eos_id], [*mask, 1]
    return ids, mask


def stop_ids(tokenizer: Tokenizer, template: str) -> tuple[int, ...]:
    """The ids that end a response: the tokenizer's, and the token that ends a turn of the template."""
    check_template(template)
    end = "" if template == TOKENIZERS_OWN else TEMPLATES[template].end
    return tuple(dict.fromkeys((*tokenizer.stop_ids, *([tokenizer.token_id(end)] if end else []))))


def stops_at(strings: Sequence[str], tokenizer: Tokenizer) -> Callable[[Sequence[int]], int | None]:
    """What tells the sampler where a text ends: of token ids, the fewest whose text has one of the strings; else None.

    A string may span tokens, and the last of them may say more than it. ``Request.is_finished`` takes this.
    """

    def has_any(ids: Sequence[int]) -> bool:
        text = tokenizer.decode(ids)
        return any(string in text for string in strings)

    def fewest(ids: Sequence[int]) -> int | None:
        if not has_any(ids):
            return None
        return bisect.bisect_left(range(len(ids) + 1), True, key=lambda count: has_any(ids[:count]))

    return fewest


def tokenizer_for(tokenizer: Tokenizer, template: str) -> Tokenizer:
    """The tokenizer that a stage of a template leaves: "r1" has an end token of its own, which later stages need."""
    return with_template(tokenizer, template) if template == "r1" else tokenizer


def with_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    """The tokenizer whose folder tells other programs of the template, and of the token that ends its turns.

    Raises ValueError where it lacks a special token of the template.
    """
    if template == TOKENIZERS_OWN:
        return tokenizer
    jinja = write_jinja(template, adds_bos=bool(_begin(tokenizer, template)))
    end = TEMPLATES[template].end or tokenizer.token_text(tokenizer.eos_id)
    return tokenizer if tokenizer.chat_template == jinja else tokenizer.with_chat_template(jinja, eos=end)


def response_form(template: str, tokenizer: Tokenizer) -> tuple[str, str]:
    """(style, answer) with which ``r1jax.text.response`` reads what a model writes after a prompt of this template."""
    check_template(template)
    if template != TOKENIZERS_OWN:
        return TEMPLATES[template].style, TEMPLATES[template].answer
    source = tokenizer.chat_template or ""
    return ("r1" if "</think>" in source and "<answer>" not in source else "r1_zero"), "tags_or_boxed"


def _refusal(template: str, words: str) -> ValueError:
    return ValueError(f"chat template {template!r}: {words}")


def _pieces(messages: Messages, template: str) -> list[tuple[str, bool]]:
    """The text of messages as history, in pieces: (text, is it the assistant's, with the end of its turn)."""
    form = TEMPLATES[template]
    for message in messages:
        if not (isinstance(message.get("role"), str) and isinstance(message.get("content"), str)):
            raise _refusal(template, f"role and content of a message must be text, got {message!r:.80}")
    try:
        arranged = form.arrange(messages)
    except ValueError as error:
        raise _refusal(template, str(error)) from error
    pieces = [(form.begin, False)]
    for message in arranged:
        role, content = message["role"], message["content"].strip() if form.trims else message["content"]
        if role not in form.before:
            raise _refusal(template, f"role {role!r} must be one of {', '.join(form.before)}")
        if role == "assistant":
            content = content.split("</think>")[-1] if form.cuts_reasoning else content
            pieces += [(form.before[role], False), (content + form.end, True), (form.gap, False)]
        else:
            pieces.append((form.before[role] + content + form.after[role], False))
    return pieces


def _with_thoughts(messages: Messages, template: str, tokenizer: Tokenizer | None) -> Messages:
    """The messages with each thought where the template reads it. ValueError names a field that it would leave out."""
    source = (tokenizer.chat_template if template == TOKENIZERS_OWN and tokenizer else None) or ""
    # message.field or message['field']; the bare word may be a variable of the template
    written = {field for field in MESSAGE_FIELDS if re.search(rf"""[.'"]{field}\b""", source)}
    reads_field = bool(written.intersection(THOUGHT_FIELDS))
    reads_tags = "</think>" in source if template == TOKENIZERS_OWN else TEMPLATES[template].cuts_reasoning
    changed: list[Mapping[str, Any]] = []
    for message in messages:
        thoughts = [message[field] for field in THOUGHT_FIELDS if message.get(field)]
        if thoughts and not isinstance(thoughts[0], str):
            raise _refusal(template, f"the thought of a message must be text, got {thoughts[0]!r:.80}")
        if thoughts and reads_field:  # as transformers: under both names that templates read
            message = {"thinking": thoughts[0], **message, "reasoning_content": thoughts[0]}
        elif thoughts and reads_tags and message.get("role") == "assistant":
            if "</think>" in str(message.get("content")):
                raise _refusal(template, "a message has a thought apart and another in its content")
            thought = thoughts[0].strip("\n")
            message = {field: value for field, value in message.items() if field not in THOUGHT_FIELDS}
            message["content"] = f"<think>\n{thought}\n</think>\n\n{message.get('content') or ''}"
        for field in MESSAGE_FIELDS:
            if message.get(field) and field not in written and not (field in THOUGHT_FIELDS and reads_field):
                raise _refusal(template, f"it does not write {field!r} of a message; say it in its content")
        changed.append(message)
    return changed


def _render_own(messages: Messages, tokenizer: Tokenizer | None, *, add_generation_prompt: bool) -> str:
    if tokenizer is None or tokenizer.chat_template is None:
        raise _refusal(TOKENIZERS_OWN, "the tokenizer has no chat_template")
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    tokens = {name: tokenizer.token_text(token) for name, token in ids.items() if token is not None}
    return render_jinja(tokenizer.chat_template, messages, add_generation_prompt=add_generation_prompt, **tokens)


def _own_conversation(messages: Messages, prompt: str, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    """The pieces of a conversation by the tokenizer's own template, learned by showing it a last answer that we know."""
    *history, last = messages
    content, thought = last["content"], last.get("reasoning_content")
    known = {"content": _SENTINEL} | {field: _THOUGHT_SENTINEL for field in THOUGHT_FIELDS if last.get(field)}
    shown = _render_own([*history, {**last, **known}], tokenizer, add_generation_prompt=False)
    opening, found, rest = shown.rpartition(_SENTINEL)
    if not found:
        raise _refusal(TOKENIZERS_OWN, "it does not write the last answer, so it cannot be trained on")
    if thought:
        before, found, between = opening.rpartition(_THOUGHT_SENTINEL)
        if not found:
            raise _refusal(TOKENIZERS_OWN, "it does not write the last answer's 'reasoning_content'")
        opening, content = before, thought.strip("\n") + between + content
        if before.startswith(prompt):  # what the template writes before the thought is the model's too
            opening, content = prompt, before.removeprefix(prompt) + content
    elif "</think>" in content and prompt.rstrip().endswith("<think>"):
        opening, content = prompt, _OPENING.sub("", content)
    ids = tokenizer.encode(rest)
    closed = next((place + 1 for place, token in enumerate(ids) if tokenizer.is_special(token)), None)
    end = tokenizer.decode(ids[:closed]) if closed else tokenizer.token_text(tokenizer.eos_id)
    return [(opening, False), (content + end, True), (rest.removeprefix(end), False)]


def _begin(tokenizer: Tokenizer, template: str) -> list[int]:
    """The BOS of the module's rule. ValueError if the tokenizer lacks a special token of the template."""
    tokens = () if template == TOKENIZERS_OWN else TEMPLATES[template].tokens
    if missing := [text for text in tokens if len(tokenizer.encode(text)) != 1]:
        raise _refusal(template, f"the tokenizer has no special token {', '.join(missing)}")
    writes_its_own = template == TOKENIZERS_OWN or tokens
    return [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None and not writes_its_own else []
