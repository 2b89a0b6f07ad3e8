"""Templates as text: literal strings, the published jinja texts' renderings, and what cannot be expressed."""

import hashlib
import random

import pytest

from r1jax.text.chat import check_template, render
from r1jax.text.templates import TEMPLATES, render_jinja, write_jinja

QUESTION = [{"role": "user", "content": "What is {2} + 2?"}]
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"},
    {"role": "user", "content": "Bye"},
]


def test_r1_zero_template_is_table_1_byte_for_byte():
    assert render(QUESTION, template="r1_zero") == (
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The "
        "assistant first thinks about the reasoning process in the mind and then provides the user with the "
        "answer. The reasoning process and answer are enclosed within <think>...</think> and <answer>...</answer> "
        "tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. User: "
        "What is {2} + 2?. Assistant:"
    )


def test_plain():
    assert render(QUESTION, template="plain") == "User: What is {2} + 2?. Assistant:"


def test_r1_writes_deepseeks_characters_cuts_the_earlier_thought_and_opens_the_next():
    bar, gap = chr(0xFF5C), chr(0x2581)
    begin, end = f"<{bar}begin{gap}of{gap}sentence{bar}>", f"<{bar}end{gap}of{gap}sentence{bar}>"
    user, assistant = f"<{bar}User{bar}>", f"<{bar}Assistant{bar}>"
    assert render(QUESTION, template="r1") == f"{begin}{user}What is {{2}} + 2?{assistant}<think>\n"
    history = f"{begin}Be brief.{user}Hi{assistant}\n\nHello{end}{user}Bye"
    assert render(TURNS, template="r1") == f"{history}{assistant}<think>\n"
    assert render(TURNS, template="r1", add_generation_prompt=False) == history
    assert render(TURNS, template="v3") == (
        f"{begin}Be brief.{user}Hi{assistant}<think>\nhm\n</think>\n\nHello{end}{user}Bye{assistant}"
    )


def test_chatml_has_the_models_system_message_unless_another_is_given():
    assert render(QUESTION, template="chatml") == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is {2} + 2?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(QUESTION, template="qwen2.5") == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhat is {2} + 2?<|im_end|>\n<|im_start|>assistant\n"
    )
    for template in ("chatml", "qwen2.5"):
        assert render(TURNS, template=template) == (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
            "<think>\nhm\n</think>\n\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
        )


def test_llama3_trims_and_writes_its_begin_token_once():
    assert render([TURNS[0], {"role": "user", "content": " Hi\n"}], template="llama3") == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def conversations(count, *, max_system):
    """Random conversations that a user ends; the contents try what a template could trip over."""
    rng = random.Random(0)
    words = ["", "Hi", "2+2?", " \n lead", "trail \n", "中文，标点", "<b>&amp;", "{{ x }}", "{% if %}", "a\n\nb", "🙂",
             "</think>", "<think>\nhm\n</think>\n\n4", "<think></think>", "a</think>b</think> c", "<｜User｜>"]  # fmt: skip
    for _ in range(count):
        messages = [{"role": "system", "content": rng.choice(words)} for _ in range(rng.randint(0, max_system))]
        for _ in range(rng.randint(1, 4)):
            messages.append({"role": "user", "content": "".join(rng.choices(words, k=rng.randint(1, 3)))})
            messages.append({"role": "assistant", "content": "".join(rng.choices(words, k=rng.randint(1, 4)))})
        if rng.random() < 0.2:
            rng.shuffle(messages)
        while messages and messages[-1]["role"] != "user":
            messages.pop()
        yield messages or [{"role": "user", "content": "x"}]


# SHA-256 of the renderings by the chat_template of the published tokenizer_config.json, each followed by a zero byte, of
# 500 conversations with and without the generation prompt. The students' (February 2025) with at most one system message,
# since it keeps the last one only; R1's own, a little later, joins up to three.
@pytest.mark.parametrize(
    ("max_system", "digest"),
    [
        (1, "5c51a157c43e223b0bc370de8cd105c43c75d832cadd8862b1758f2268e51995"),
        (3, "f6c0543ae20ad4f791a557580b44e2f173efd18e224d27f175eb6e8c42960cbc"),
    ],
)
def test_r1_is_what_the_published_template_renders(max_system, digest):
    ours, own_jinja = hashlib.sha256(), hashlib.sha256()
    for messages in conversations(500, max_system=max_system):
        for add in (True, False):
            ours.update(render(messages, template="r1", add_generation_prompt=add).encode() + b"\0")
            own_jinja.update(render_jinja(write_jinja("r1"), messages, add_generation_prompt=add).encode() + b"\0")
    assert ours.hexdigest() == digest
    assert own_jinja.hexdigest() == digest


@pytest.mark.parametrize("name", TEMPLATES)
def test_as_jinja_it_renders_or_refuses_the_same(name):
    num_rendered = 0
    for messages in [
        QUESTION,
        *conversations(100, max_system=2),
        [*QUESTION, {"role": "tool", "content": "4"}, *QUESTION],
    ]:
        for add in (True, False):
            try:
                expected = render(messages, template=name, add_generation_prompt=add)
            except ValueError:
                with pytest.raises(ValueError, match="takes one user message|role must be one of"):
                    render_jinja(write_jinja(name), messages, add_generation_prompt=add)
            else:
                assert render_jinja(write_jinja(name), messages, add_generation_prompt=add) == expected
                num_rendered += 1
    assert num_rendered >= 10


def test_what_a_template_cannot_express_is_an_error():
    with pytest.raises(
        ValueError, match="template 'llama': must be one of chatml, llama3, plain, qwen2.5, r1, r1_zero"
    ):
        render(QUESTION, template="llama")
    with pytest.raises(
        ValueError,
        match="'r1_zero': takes one user message and got system, user; r1, v3, chatml, qwen2.5, llama3 and tokenizer take",
    ):
        render([{"role": "system", "content": "Be brief."}, *QUESTION], template="r1_zero")
    for messages in ([], [{"role": "assistant", "content": "Hello"}]):
        with pytest.raises(ValueError, match="last message must be the user's"):
            render(messages, template="chatml")
    with pytest.raises(ValueError, match="'r1': role 'tool' must be one of system, user, assistant"):
        render([{"role": "tool", "content": "4"}, *QUESTION], template="r1")
    with pytest.raises(
        ValueError, match="role and content of a message must be text, got {'role': 'user', 'content': None}"
    ):
        render([{"role": "user", "content": None}], template="v3")
    with pytest.raises(ValueError, match="the tokenizer has no chat_template"):
        render(QUESTION, template="tokenizer")


def test_a_name_is_checked_before_there_is_a_tokenizer():
    check_template("tokenizer", [{"role": "tool", "content": "4"}])
    for template in TEMPLATES:
        check_template(template, QUESTION)
    with pytest.raises(ValueError, match="'nothing'"):
        check_template("nothing")
    with pytest.raises(ValueError, match="got system, user"):
        check_template("plain", [TURNS[0], *QUESTION])
