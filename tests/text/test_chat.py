import pytest

from r1jax.text.chat import render

QUESTION = [{"role": "user", "content": "What is {2} + 2?"}]


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


def test_chatml_has_smollm2s_system_message_unless_another_is_given():
    assert render(QUESTION, template="chatml") == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is {2} + 2?<|im_end|>\n<|im_start|>assistant\n"
    )
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    assert render(messages, template="chatml") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )


def test_what_a_template_cannot_express_is_an_error():
    with pytest.raises(ValueError, match="template 'llama': must be one of chatml, plain, r1_zero"):
        render(QUESTION, template="llama")
    with pytest.raises(ValueError, match="'r1_zero': takes one user message and got system, user"):
        render([{"role": "system", "content": "Be brief."}, *QUESTION], template="r1_zero")
    for messages in ([], [{"role": "assistant", "content": "Hello"}]):
        with pytest.raises(ValueError, match="last message must be the user's"):
            render(messages, template="chatml")
