"""`r1jax chat RUN_OR_FOLDER`: talk to a policy; an answer to a problem of the run's tasks is graded and rewarded."""

import argparse
import contextlib
import dataclasses
import functools
import os
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from r1jax.data.prompts import PromptIterator
from r1jax.evals.evaluate import heldout_problems
from r1jax.launch.compilation_cache import use_compilation_cache
from r1jax.policies.policy import Policy
from r1jax.policies.preview import Previews
from r1jax.policies.reward_model import load_rewards
from r1jax.policies.sample import Generation, LoadedPolicy, load_policy
from r1jax.rewards.rubric import Rubric
from r1jax.rollout.collect import Collector
from r1jax.rollout.records import Completion, Rollout
from r1jax.rollout.sampling import Sampling
from r1jax.specs.config_file import import_from
from r1jax.specs.reader import FlagText
from r1jax.specs.stages import RlSpec
from r1jax.stages.sampling import make_collector
from r1jax.tasks.mixture import TaskSchedule
from r1jax.tasks.problem import Problem
from r1jax.text.chat import has_turns
from r1jax.text.templates import TEMPLATES, Messages
from r1jax.training.checkpoint import CheckpointError

BAD_INPUT, INTERRUPTED = 2, 130
_SEGMENT = 4  # tokens between two looks: the text appears in steps of it
_MOST_TRAINED = 2000  # training problems that are known by their text
_HELP = """\
/problem [N]   ask a held-out problem of the run's tasks, the next one or number N; its answer is graded
/new           forget the conversation
/exit          leave, as Ctrl-D does; Ctrl-C stops an answer"""


def main(arguments: list[str] | None = None) -> int:
    """The command line; 2 and a message without traceback for what the user can mend."""
    options = _parser().parse_args(arguments)
    settings = {name: getattr(options, name) for name in ("temperature", "top_p", "n", "max_new_tokens")}
    import_from(Path.cwd())
    use_compilation_cache()
    try:
        Sampling(temperature=options.temperature, top_p=options.top_p)  # or it raises, before anything is loaded
        policy = load_policy(options.path, step=options.step, template=options.template)
        chat = Chat(policy, settings=settings, system=options.system, seed=options.seed)
        if options.prompt is not None:
            chat.ask(sys.stdin.read().strip() if options.prompt == "-" else options.prompt)
        else:
            talk(chat)
    except (ValueError, OSError, CheckpointError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="r1jax chat",
        description="Talk to a policy. Its thought is dimmed.",
        epilog=f"In the chat:\n{_HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", metavar="RUN_OR_FOLDER", help="a stage, a run, a Hugging Face folder, a GGUF file")
    parser.add_argument("--step", type=FlagText, help="checkpoint: a number of updates, 'latest' or 'best'")
    parser.add_argument("--prompt", metavar="TEXT", help="answer this and leave; '-' reads it from standard input")
    parser.add_argument("--system", metavar="TEXT", help="the system message")
    parser.add_argument(
        "--n", type=_count, default=1, help="answers to each question; a conversation goes on with the first"
    )
    parser.add_argument("--temperature", type=float, default=0.6, help="0 takes the likeliest token (default: 0.6)")
    parser.add_argument("--top-p", type=float, default=0.95, help="(default: 0.95)")
    parser.add_argument("--max-new-tokens", type=_count, help="of an answer (default: as the stage trained, or 1024)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same answers (default: 0)")
    names = ", ".join([*TEMPLATES, "tokenizer"])
    parser.add_argument("--template", help=f"chat template, if it is not the policy's own: {names}")
    return parser


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


@dataclasses.dataclass
class Chat:
    """A conversation with a policy. ValueError: the template takes no system message."""

    policy: LoadedPolicy
    settings: dict  # of ``LoadedPolicy.stream``
    system: str | None = None
    seed: int = 0
    out: TextIO = dataclasses.field(default_factory=lambda: sys.stdout)  # what the policy writes
    notes: TextIO = dataclasses.field(default_factory=lambda: sys.stderr)  # what is said about it
    messages: list = dataclasses.field(default_factory=list)
    num_asked: int = 0

    def __post_init__(self):
        self.forget()
        if self.system is not None:
            self.policy.encode([*self.messages, {"role": "user", "content": ""}])

    @functools.cached_property
    def has_turns(self) -> bool:
        """Whether questions have the ones before them as context."""
        return self.policy.template is not None and has_turns(self.policy.template, self.policy.tokenizer)

    @functools.cached_property
    def grader(self) -> "Grader | None":
        """Of the problems of the run's tasks; None where it has none, or they cannot be made here, which is noted."""
        try:
            return make_grader(self.policy)
        except (ValueError, OSError) as error:
            self.note(f"answers are not graded: {error}")
            return None

    def forget(self) -> None:
        """Begins a new conversation."""
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]

    def note(self, text: str) -> None:
        """Says something about the conversation."""
        print(_dimmed(text, self.notes), file=self.notes, flush=True)

    def ask(self, question: str) -> None:
        """Streams the answers to a question. One of the run's tasks is asked as a problem.

        Raises ValueError as ``LoadedPolicy.stream``; the conversation is then as before.
        """
        if self.grader and (problem := self.grader.find(question)):
            self.ask_problem(problem, self.grader)
        elif self.policy.template is None:
            self._answer(question)
        else:
            asked = [*self.messages, {"role": "user", "content": question}]
            self._go_on(asked, self._answer(asked))

    def ask_problem(self, problem: Problem, grader: "Grader") -> None:
        """Streams the answers to a problem of the run's tasks, in a new conversation, and shows grades and rewards."""
        asked = list(problem.messages)
        self._go_on(asked, self._answer(asked, functools.partial(grader.verdict, problem)))

    def _go_on(self, asked: list, answers: Sequence[Generation]) -> None:
        if self.has_turns:
            opened = "<think>\n" if answers[0].prompt.rstrip().endswith("<think>") else ""
            self.messages = [*asked, {"role": "assistant", "content": opened + answers[0].text}]

    def _answer(
        self, prompt: str | Messages, verdict: Callable[[Generation], str] | None = None
    ) -> Sequence[Generation]:
        """Streams the answers one after the other; they are sampled together. Ctrl-C ends them where they are."""
        number, shown, answers = 0, 0, []
        seed, self.num_asked = self.seed + self.num_asked, self.num_asked + 1
        with _interruption() as is_stopped:
            for (answers,) in self.policy.stream([prompt], seed=seed, segment=_SEGMENT, **self.settings):
                for answer in answers[number:]:
                    is_done = answer.stop_reason != "unfinished"
                    shown = self._show(answer, shown, is_done=is_done, header=_header(number, answers))
                    if not is_done:
                        break
                    self._end(answer, verdict)
                    number, shown = number + 1, 0
                if is_stopped():
                    break
        if number < len(answers):
            self._show(answers[number], shown, is_done=True)
            self.note("[stopped]")
        return answers

    def _show(self, answer: Generation, shown: int, *, is_done: bool, header: str = "") -> int:
        """Writes what an answer has beyond ``shown`` characters; returns how many it has now."""
        text = answer.text if is_done else answer.text.rstrip("\ufffd")  # the begin of a character, perhaps
        if not shown:
            shown = len(text) - len(text.lstrip())
            if header and (text or is_done):
                self.note(header)
        end_of_thought = max(shown, _end_of_thought(text, prompt=answer.prompt))
        thought, rest = _printable(text[shown:end_of_thought]), _printable(text[end_of_thought:])
        self.out.write((_dimmed(thought, self.out) if thought else "") + rest + ("\n" if is_done else ""))
        self.out.flush()
        return len(text)

    def _end(self, answer: Generation, verdict: Callable[[Generation], str] | None) -> None:
        if answer.stop_reason == "length":
            self.note(f"[cut off after {len(answer.token_ids)} tokens]")
        if verdict is not None:
            self.note(verdict(answer))


def _header(number: int, answers: Sequence[Generation]) -> str:
    return f"[{number + 1} of {len(answers)}]" if len(answers) > 1 else ""


def talk(chat: Chat) -> None:
    """Asks what is typed, line by line, until the input ends."""
    policy, is_typed, problems = chat.policy, sys.stdin.isatty(), iter(range(sys.maxsize))
    if is_typed:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # lines can be edited and are remembered
        turns = "" if chat.has_turns else ", every question by itself"
        chat.note(f"{policy.path}, template {policy.template or 'none: texts are continued'}{turns}; /help")
    while True:
        try:
            line = input("> ").strip() if is_typed else next(sys.stdin).strip()
        except (EOFError, StopIteration):
            if is_typed:
                print()
            return
        except KeyboardInterrupt:
            print("\n(Ctrl-D leaves)")
            continue
        command, _, argument = line.partition(" ")
        try:
            if command == "/exit":
                return
            if command == "/new":
                chat.forget()
            elif command == "/problem":
                _ask_heldout(chat, argument.strip(), problems)
            elif command.startswith("/"):
                chat.note(_HELP)
            elif line:
                chat.ask(line)
        except (ValueError, FloatingPointError) as error:
            chat.note(f"error: {error}")


def _ask_heldout(chat: Chat, number: str, following: Iterator[int]) -> None:
    if chat.grader is None:
        raise ValueError(f"{chat.policy.path} has no tasks: it is not an RL stage")
    heldout = chat.grader.heldout
    if number and not (number.isascii() and number.isdigit() and int(number) < len(heldout)):
        raise ValueError(f"/problem {number}: the held-out problems have the numbers 0 to {len(heldout) - 1}")
    chosen = int(number) if number else next(following) % len(heldout)
    problem = heldout[chosen]
    question = "\n".join(_printable(message["content"]) for message in problem.messages)
    chat.note(f"[problem {chosen}] {question}")
    chat.ask_problem(problem, chat.grader)


@dataclasses.dataclass
class Grader:
    """Problems of a run's tasks, and what grades and scores their answers as the run does."""

    policy: LoadedPolicy
    spec: RlSpec
    schedule: TaskSchedule
    heldout: list[Problem]
    trained: list[Problem]  # of those that the run trains on, the first ones

    def find(self, question: str) -> Problem | None:
        """The problem that is asked by its prompt or its question, word for word."""
        return self._by_text.get(question.strip())

    @functools.cached_property
    def _by_text(self) -> dict[str, Problem]:
        problems = [*self.trained, *self.heldout]
        return {text.strip(): p for p in problems for text in (p.question, p.messages[-1]["content"])}

    @functools.cached_property
    def _collector(self) -> Collector:  # when it is needed: a reward may be a model, which is loaded
        rubric = Rubric(load_rewards(self.spec.rewards, mesh=self.policy.mesh)).at(self.spec.num_updates)
        policy = Policy(self.policy.model, self.policy.tokenizer)
        return make_collector(self.spec, policy, task=self.schedule.everything, rubric=rubric)

    def verdict(self, problem: Problem, answer: Generation) -> str:
        """One line: the reward, its parts, the grade of the answer; or why there are none."""
        completion = Completion(answer.token_ids, answer.logps, answer.stop_reason)  # type: ignore[arg-type]
        try:
            (rollout,) = self._collector.score(problem, [completion]).rollouts
        except (ValueError, OSError, CheckpointError) as error:
            return f"[not graded: {error}]"
        return describe(rollout, problem)


def make_grader(policy: LoadedPolicy) -> Grader | None:
    """The grader of the stage that trained the policy; None where that is no RL stage.

    ValueError, OSError: its problems cannot be made here.
    """
    spec = Previews().stage_at(str(policy.path))
    if not isinstance(spec, RlSpec):
        return None
    schedule = TaskSchedule(spec.tasks, seed=spec.seed)
    count = min(spec.num_updates // spec.updates_per_phase * spec.questions_per_phase, _MOST_TRAINED)
    trained = PromptIterator(schedule.everything, batch_size=count, seed=spec.seed)
    return Grader(policy, spec, schedule, heldout_problems(schedule.at(0), spec.eval), next(trained))


def describe(rollout: Rollout, problem: Problem) -> str:
    """A scored answer in one line."""
    parts = [f"{name} {value:.3g}" for name, value in rollout.rewards.items()]
    failed = [f"{name} failed: {message}" for name, message in rollout.errors.items()]
    reference = f" (expected {problem.answer})" if problem.answer and not rollout.is_correct else ""
    verdict = "right" if rollout.is_correct else f"wrong{reference}"
    answer = "no answer" if rollout.answer is None else f"answer {_printable(rollout.answer)}"
    return f"[reward {rollout.reward:.3g}: {', '.join([*parts, *failed])}; {answer}: {verdict}]"


def _end_of_thought(text: str, *, prompt: str) -> int:
    """How many characters of a text that may go on are the thought that it begins with, tags included."""
    begins = "<think>".startswith(text.lstrip()[: len("<think>")])
    if not (begins or prompt.rstrip().endswith("<think>")):
        return 0
    before, closing, _ = text.partition("</think>")
    return len(before + closing)


def _printable(text: str) -> str:
    """The text without control characters, which a terminal would obey."""
    return "".join("\ufffd" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)


def _dimmed(text: str, stream: TextIO) -> str:
    return f"\x1b[2m{text}\x1b[0m" if stream.isatty() and not os.environ.get("NO_COLOR") else text


@contextlib.contextmanager
def _interruption() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; a second time raises KeyboardInterrupt."""
    seen = []

    def handle(number, frame) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)
