"""The chat: what it streams, grades, stops and remembers."""

import dataclasses
import io
import signal

import numpy as np
import pytest

from r1jax.__main__ import main
from r1jax.desk.chat import Chat, _printable, talk
from r1jax.policies import Generation, load_policy
from r1jax.specs.reader import read
from r1jax.specs.stages import RlSpec
from tests.policies.stage_folder import DENSE_R1, SPEC, write_stage

pytestmark = pytest.mark.usefixtures("quick_compilation")
SETTINGS = {"n": 1, "temperature": 0.6, "top_p": 0.95, "max_new_tokens": 8}


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and what was written to it in which pieces."""

    def __init__(self, on_write=lambda: None):
        super().__init__()
        self.pieces, self.on_write = [], on_write

    def isatty(self):
        return True

    def write(self, text):
        self.pieces += [text] if text else []
        self.on_write()
        return super().write(text)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    path = tmp_path_factory.mktemp("stages")
    write_stage(path / "plain", eval={"final_problems": 8, "problems": 8}, num_updates=2)
    write_stage(path / "r1", **DENSE_R1)
    return path


@pytest.fixture(scope="module")
def policy(stages):
    return load_policy(stages / "plain")


@pytest.fixture
def chat(policy):
    return Chat(policy, settings=SETTINGS, out=io.StringIO(), notes=io.StringIO())


def test_the_text_comes_in_pieces_and_is_what_generate_gives(policy, chat):
    chat.settings = SETTINGS | {"n": 2, "max_new_tokens": 24}
    chat.out = Terminal()
    chat.ask("What is 2 + 2?")
    expected = policy.generate("What is 2 + 2?", **chat.settings)[0]
    assert len(chat.out.pieces) >= 3
    assert chat.out.getvalue() == "".join(f"{_printable(answer.text.lstrip())}\n" for answer in expected)
    assert chat.notes.getvalue().splitlines() == ["[1 of 2]", *_cut(expected[0]), "[2 of 2]", *_cut(expected[1])]
    chat.ask("What is 2 + 2?")
    assert (
        chat.notes.getvalue().count("[1 of 2]") == 2 and len(set(chat.out.getvalue().splitlines())) > 2
    )  # another seed


def _cut(answer):
    return ["[cut off after 24 tokens]"] if answer.stop_reason == "length" else []


def answer_of(policy, text, *, prompt="", stop_reason="stop"):
    ids = np.array([*policy.tokenizer.encode(text), policy.tokenizer.eos_id], np.int32)
    return Generation(prompt, text, None, None, stop_reason, token_ids=ids, logps=np.zeros(len(ids), np.float32))


def test_answers_to_problems_of_the_run_are_graded_and_rewarded_as_in_training(policy, chat):
    grader = chat.grader
    assert len(grader.heldout) == 8 and len(grader.trained) == 2 * 32
    for problem in (grader.heldout[3], grader.trained[5]):
        assert grader.find(f" {problem.messages[-1]['content']}\n") == problem
        right = answer_of(policy, f"<think> so </think> <answer> {problem.answer} </answer>")
        assert "[reward 2: accuracy_reward 1, format 1; answer " in grader.verdict(problem, right)
        assert grader.verdict(problem, right).endswith(": right]")
        wrong = answer_of(policy, "<answer>\x1b[0m</answer>")
        assert "[reward 0: accuracy_reward 0, format 0; answer \ufffd[0m: wrong (expected " in grader.verdict(
            problem, wrong
        )
    lost = dataclasses.replace(grader, spec=read(RlSpec, SPEC | {"rewards": [{"function": "no_such_module:f"}]}))
    assert lost.verdict(grader.trained[5], wrong).startswith("[not graded: ")
    chat.ask(grader.trained[5].messages[-1]["content"])
    assert "[reward " in chat.notes.getvalue()
    chat.ask("What is 2 + 2?")
    assert chat.notes.getvalue().count("[reward ") == 1


def test_the_thought_is_dimmed_on_a_terminal_alone(policy, chat, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)

    def shown(texts, *, prompt="", out):
        chat.out, count = out, 0
        for text in texts:
            count = chat._show(answer_of(policy, text, prompt=prompt), count, is_done=text == texts[-1])
        return chat.out.getvalue()

    growing = [" <th", " <think> a\ufffd", " <think> a\u4e2d </thi", " <think> a\u4e2d </think> <answer>4\x07"]
    dimmed = (
        "".join(f"\x1b[2m{text}\x1b[0m" for text in ("<th", "ink> a", "\u4e2d </thi", "nk>")) + " <answer>4\ufffd\n"
    )
    assert shown(growing, out=Terminal()) == dimmed
    assert shown(["b</think>4"], prompt="<think>\n", out=Terminal()) == "\x1b[2mb</think>\x1b[0m4\n"
    assert shown(["4 <think>"], out=Terminal()) == "4 <think>\n"
    plain = "<think> a\u4e2d </think> <answer>4\ufffd\n"
    assert shown(growing, out=io.StringIO()) == plain
    monkeypatch.setenv("NO_COLOR", "1")
    assert shown(growing, out=Terminal()) == plain


def test_ctrl_c_stops_the_answer_and_a_second_one_the_program(chat):
    before = signal.getsignal(signal.SIGINT)
    chat.settings = SETTINGS | {"temperature": 0.0, "max_new_tokens": 64}
    chat.out = Terminal(lambda: signal.raise_signal(signal.SIGINT) if len(chat.out.pieces) == 1 else None)
    chat.ask("What is 2 + 2?")
    assert chat.notes.getvalue() == "[stopped]\n" and signal.getsignal(signal.SIGINT) is before
    chat.out, chat.notes = io.StringIO(), io.StringIO()
    chat.ask("What is 2 + 2?")
    assert "[stopped]" not in chat.notes.getvalue()
    chat.out = Terminal(lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        chat.ask("What is 2 + 2?")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_conversation_goes_on_where_the_template_has_turns(stages, chat):
    assert not chat.has_turns
    turns = Chat(
        load_policy(stages / "r1"), settings=SETTINGS, system="Be brief.", out=io.StringIO(), notes=io.StringIO()
    )
    turns.ask("One?")
    (said,) = turns.out.getvalue().splitlines() or [""]
    roles = [message["role"] for message in turns.messages]
    assert roles == ["system", "user", "assistant"] and turns.messages[-1]["content"].startswith("<think>\n")
    assert said.strip() in turns.messages[-1]["content"].replace("\n", " ") or not said
    turns.ask("Two?")
    assert [message["content"] for message in turns.messages if message["role"] == "user"] == ["One?", "Two?"]
    turns.forget()
    assert turns.messages == [{"role": "system", "content": "Be brief."}]
    with pytest.raises(ValueError, match="'plain': takes one user message and got system, user"):
        Chat(chat.policy, settings=SETTINGS, system="Be brief.")


def test_lines_of_a_pipe(chat, monkeypatch):
    question = chat.grader.heldout[1].messages[-1]["content"]
    lines = ["/problem 1", "/problem", "", "/problem 8", "/what", "What is 2 + 2?"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    talk(chat)
    notes = chat.notes.getvalue()
    assert notes.startswith(f"[problem 1] {question}\n") and chat.grader.heldout[0].messages[-1]["content"] in notes
    assert "error: /problem 8: the held-out problems have the numbers 0 to 7\n" in notes and "/exit  " in notes
    assert notes.count("[reward ") == 2 and chat.num_asked == 3


def test_the_command_line(stages, tmp_path, capsys):
    asked = ["chat", str(stages / "plain"), "--prompt", "What is 2 + 2?", "--max-new-tokens", "8"]
    assert main(asked) == 0
    first = capsys.readouterr()
    assert first.out.endswith("\n") and "\x1b" not in first.out + first.err
    assert main([*asked, "--seed", "1", "--step", "2"]) == 0
    assert capsys.readouterr().out != first.out
    for arguments, words in [
        ([str(tmp_path)], f"{tmp_path} is no policy"),
        ([str(stages / "plain"), "--step", "9"], "no checkpoint of step 9; there are 2, 3"),
        ([str(stages / "plain"), "--temperature=-1"], "temperature must be at least 0, got -1"),
        ([str(stages / "plain"), "--system", "x", "--prompt", "y"], "takes one user message and got system, user"),
    ]:
        assert main(["chat", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error and error.startswith("error: ") and error.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["chat", str(tmp_path), "--n", "0"])
    assert "argument --n: must be a whole number of at least 1, got '0'" in capsys.readouterr().err
