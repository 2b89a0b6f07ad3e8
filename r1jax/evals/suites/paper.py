"""The paper's tables of results as data, and ours beside them.

Published figures are R1 v2 Tables 3, 8 and 15 to 17 as this project's reference spec.md (lines 557 to 597) has them:
per cent, ratings as they are; None where the paper prints a dash.
"""

from collections.abc import Mapping, Sequence

from r1jax.evals.estimates import Estimate

MODELS = (
    "V3-Base",
    "V3",
    "R1-Zero",
    "Dev1",
    "Dev2",
    "Dev3",
    "R1",
    "Claude-3.5-1022",
    "GPT-4o-0513",
    "o1-mini",
    "o1-1217",
)

# suite: (group, as the paper names it, figures in the order of MODELS)
STAGES: dict[str, tuple[str, str, tuple[float | None, ...]]] = {
    "mmlu": ("English", "MMLU (EM)", (87.1, 88.5, 88.8, 89.1, 91.2, 91.0, 90.8, 88.3, 87.2, 85.2, 91.8)),
    "mmlu_redux": ("English", "MMLU-Redux (EM)", (86.2, 89.1, 85.6, 90.0, 93.0, 93.1, 92.9, 88.9, 88.0, 86.7, None)),
    "mmlu_pro": ("English", "MMLU-Pro (EM)", (64.4, 75.9, 68.9, 74.1, 83.8, 83.1, 84.0, 78.0, 72.6, 80.3, None)),
    "drop": ("English", "DROP (3-shot F1)", (89.0, 91.6, 89.1, 89.8, 91.1, 88.7, 92.2, 88.3, 83.7, 83.9, 90.2)),
    "ifeval": (
        "English",
        "IF-Eval (Prompt Strict)",
        (58.6, 86.1, 46.6, 71.7, 72.0, 78.1, 83.3, 86.5, 84.3, 84.8, None),
    ),
    "gpqa_diamond": (
        "English",
        "GPQA Diamond (Pass@1)",
        (None, 59.1, 75.8, 66.1, 70.7, 71.2, 71.5, 65.0, 49.9, 60.0, 75.7),
    ),
    "simpleqa": ("English", "SimpleQA (Correct)", (20.1, 24.9, 30.3, 17.8, 28.2, 24.9, 30.1, 28.4, 38.2, 7.0, 47.0)),
    "frames": ("English", "FRAMES (Acc.)", (None, 73.3, 82.3, 78.5, 81.8, 81.9, 82.5, 72.5, 80.5, 76.9, None)),
    "alpacaeval": (
        "English",
        "AlpacaEval 2.0 (LC-winrate)",
        (None, 70.0, 24.7, 50.1, 55.8, 62.1, 87.6, 52.0, 51.1, 57.8, None),
    ),
    "arena_hard": (
        "English",
        "ArenaHard (GPT-4-1106)",
        (None, 85.5, 53.6, 77.0, 73.2, 75.6, 92.3, 85.2, 80.4, 92.0, None),
    ),
    "livecodebench": (
        "Code",
        "LiveCodeBench (Pass@1-CoT)",
        (None, 36.2, 50.0, 57.5, 63.5, 64.6, 65.9, 38.9, 32.9, 53.8, 63.4),
    ),
    "codeforces_percentile": (
        "Code",
        "Codeforces (Percentile)",
        (None, 58.7, 80.4, 84.5, 90.5, 92.1, 96.3, 20.3, 23.6, 93.4, 96.6),
    ),
    "codeforces_rating": (
        "Code",
        "Codeforces (Rating)",
        (None, 1134, 1444, 1534, 1687, 1746, 2029, 717, 759, 1820, 2061),
    ),
    "swe_bench_verified": (
        "Code",
        "SWE Verified (Resolved)",
        (None, 42.0, 43.2, 39.6, 44.6, 45.6, 49.2, 50.8, 38.8, 41.6, 48.9),
    ),
    "aider_polyglot": (
        "Code",
        "Aider-Polyglot (Acc.)",
        (None, 49.6, 12.2, 6.7, 25.6, 44.8, 53.3, 45.3, 16.0, 32.9, 61.7),
    ),
    "aime_2024": ("Math", "AIME 2024 (Pass@1)", (None, 39.2, 77.9, 59.0, 74.0, 78.1, 79.8, 16.0, 9.3, 63.6, 79.2)),
    "math_500": ("Math", "MATH-500 (Pass@1)", (None, 90.2, 95.9, 94.2, 95.9, 95.4, 97.3, 78.3, 74.6, 90.0, 96.4)),
    "cnmo_2024": ("Math", "CNMO 2024 (Pass@1)", (None, 43.2, 88.1, 58.0, 73.9, 77.3, 78.8, 13.1, 10.8, 67.6, None)),
    "cluewsc": ("Chinese", "CLUEWSC (EM)", (82.7, 90.9, 93.1, 92.8, 92.6, 91.6, 92.8, 85.4, 87.9, 89.9, None)),
    "c_eval": ("Chinese", "C-Eval (EM)", (90.1, 86.5, 92.8, 85.7, 91.9, 86.4, 91.8, 76.7, 76.0, 68.9, None)),
    "c_simpleqa": (
        "Chinese",
        "C-SimpleQA (Correct)",
        (None, 68.0, 66.4, 58.8, 64.2, 66.9, 63.7, 55.4, 58.7, 40.3, None),
    ),
}

STUDENT_COLUMNS = {
    "aime_2024": "AIME 2024 pass@1",
    "aime_2024/cons@64": "AIME 2024 cons@64",
    "math_500": "MATH-500 pass@1",
    "gpqa_diamond": "GPQA Diamond pass@1",
    "livecodebench": "LiveCodeBench pass@1",
    "codeforces_rating": "Codeforces rating",
}
# model: figures in the order of STUDENT_COLUMNS
STUDENTS: dict[str, tuple[float | None, ...]] = {
    "Distill-Qwen-1.5B": (28.9, 52.7, 83.9, 33.8, 16.9, 954),
    "Distill-Qwen-7B": (55.5, 83.3, 92.8, 49.1, 37.6, 1189),
    "Distill-Qwen-14B": (69.7, 80.0, 93.9, 59.1, 53.1, 1481),
    "Distill-Qwen-32B": (72.6, 83.3, 94.3, 62.1, 57.2, 1691),
    "Distill-Llama-8B": (50.4, 80.0, 89.1, 49.0, 39.6, 1205),
    "Distill-Llama-70B": (70.0, 86.7, 94.5, 65.2, 57.5, 1633),
    "QwQ-32B-Preview": (50.0, 60.0, 90.6, 54.5, 41.9, 1316),
    "Qwen2.5-32B-Zero (RL only)": (47.0, 60.0, 91.6, 55.0, 40.2, None),
    "o1-mini": (63.6, 80.0, 90.0, 60.0, 53.8, 1820),
    "GPT-4o-0513": (9.3, 13.4, 74.6, 49.9, 32.9, 759),
    "Claude-3.5-1022": (16.0, 26.7, 78.3, 65.0, 38.9, 717),
}


def stages_table(ours: Mapping[str, Estimate], *, name: str = "ours", models: Sequence[str] = MODELS) -> str:
    """The paper's comparison as a table in Markdown: our column, then the published ones, marked as theirs.

    Args:
        ours: by suite, in the paper's units (per cent, or a rating); a suite that is not there is an empty cell.
        models: which published columns.

    Raises ValueError for a suite or a model that the paper's table does not have.
    """
    _check(ours, STAGES, "suite")
    _check(models, MODELS, "model")
    columns = [MODELS.index(model) for model in models]
    rows = [["", "benchmark", name, *(f"{model} (published)" for model in models)]]
    group = ""
    for key, (of_group, title, figures) in STAGES.items():
        first = of_group if of_group != group else ""
        group = of_group
        rows.append([first, title, _cell(ours.get(key)), *(_number(figures[column]) for column in columns)])
    return _markdown(rows)


def students_table(ours: Mapping[str, Mapping[str, Estimate]]) -> str:
    """The paper's table of distilled models in Markdown: our models, then the published ones, marked as theirs.

    Args:
        ours: by model, by column of ``STUDENT_COLUMNS``. Raises ValueError for another column.
    """
    rows = [["model", *STUDENT_COLUMNS.values()]]
    for model, figures in ours.items():
        _check(figures, STUDENT_COLUMNS, "column")
        rows.append([model, *(_cell(figures.get(column)) for column in STUDENT_COLUMNS)])
    rows += [[f"{model} (published)", *map(_number, figures)] for model, figures in STUDENTS.items()]
    return _markdown(rows)


def _check(names: Mapping[str, object] | Sequence[str], known: Mapping[str, object] | Sequence[str], what: str) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{what} {unknown[0]!r} is not in the paper's table; there are {', '.join(known)}")


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    interval = "" if estimate.low is None else f" [{_number(estimate.low)}, {_number(estimate.high)}]"
    return f"{_number(estimate.value)}{interval}"


def _number(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.1f}" if abs(figure) <= 100 else f"{figure:.0f}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
