"""Prompt templates: from a conversation to the text that the model continues.

``r1_zero`` is R1 (v2) Table 1, byte for byte; the full stop after the question is part of it. R1-Zero has no chat
tokens. A beginning-of-sequence token is the tokenizer's matter, not the template's.
"""

from collections.abc import Callable, Sequence

Messages = Sequence[dict[str, str]]

_R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think>...</think> and <answer>...</answer> tags, "
    "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. "
    "User: {question}. Assistant:"
)
_PLAIN = "User: {question}. Assistant:"
_SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def render(messages: Messages, *, template: str) -> str:
    """The prompt text of a conversation.

    Args:
        messages: ``{"role", "content"}`` each; the last one is the user's.
        template: "r1_zero" (R1 v2 Table 1) or "plain" ("User: ... Assistant:"), for one user message only; or "chatml"
            (SmolLM2's, with its default system message where the conversation has none).

    Raises:
        ValueError: unknown template, or a conversation that the template cannot express.
    """
    if template not in TEMPLATES:
        raise ValueError(f"chat template {template!r}: must be one of {', '.join(sorted(TEMPLATES))}")
    if not messages or messages[-1]["role"] != "user":
        raise ValueError(f"chat template {template!r}: the last message must be the user's")
    return TEMPLATES[template](messages)


def _single_turn(text: str, template: str) -> Callable[[Messages], str]:
    def render_single(messages: Messages) -> str:
        if len(messages) != 1:
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(f"chat template {template!r}: takes one user message and got {roles}")
        return text.replace("{question}", messages[0]["content"])

    return render_single


def _chatml(messages: Messages) -> str:
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": _SMOLLM2_SYSTEM}, *messages]
    turns = "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)
    return f"{turns}<|im_start|>assistant\n"


TEMPLATES: dict[str, Callable[[Messages], str]] = {
    "r1_zero": _single_turn(_R1_ZERO, "r1_zero"),
    "plain": _single_turn(_PLAIN, "plain"),
    "chatml": _chatml,
}
