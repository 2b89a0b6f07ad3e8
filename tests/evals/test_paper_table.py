import pytest

from r1jax.evals.estimates import Estimate
from r1jax.evals.suites.paper import MODELS, STAGES, STUDENT_COLUMNS, STUDENTS, stages_table, students_table
from r1jax.evals.suites.table import SUITES


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_papers_figures_are_there():
    """21 rows in four groups; some figures, and the mean of R1's column, typed from the paper."""
    assert len(STAGES) == 21 and len(MODELS) == 11 and all(len(row[2]) == 11 for row in STAGES.values())
    assert [sum(row[0] == group for row in STAGES.values()) for group in ("English", "Code", "Math", "Chinese")] == [
        *(10, 5, 3, 3)
    ]
    at = MODELS.index
    assert STAGES["aime_2024"][2][at("R1")] == 79.8 and STAGES["aime_2024"][2][at("R1-Zero")] == 77.9
    assert STAGES["codeforces_rating"][2][at("R1")] == 2029 and STAGES["codeforces_rating"][2][0] is None
    assert STAGES["drop"][2][at("o1-1217")] == 90.2 and STAGES["ifeval"][2][at("o1-1217")] is None
    assert STAGES["c_simpleqa"][2] == (None, 68.0, 66.4, 58.8, 64.2, 66.9, 63.7, 55.4, 58.7, 40.3, None)
    assert STUDENTS["Distill-Qwen-32B"] == (72.6, 83.3, 94.3, 62.1, 57.2, 1691)
    assert all(len(row) == len(STUDENT_COLUMNS) for row in STUDENTS.values()) and len(STUDENTS) == 11


def test_suites_stand_in_the_papers_groups():
    shared = set(SUITES) & set(STAGES)
    assert shared == set(SUITES) - {"humaneval", "aime_2025", "hmmt_2025"}
    assert all(SUITES[name].group == STAGES[name][0] for name in shared)


def test_our_column_stands_beside_the_published_ones():
    ours = {"aime_2024": Estimate(12.34, 3.0, 30.06), "codeforces_rating": Estimate(1234.4)}
    lines = stages_table(ours, name="mini", models=("R1", "o1-1217")).splitlines()
    assert cells(lines[0]) == ["", "benchmark", "mini", "R1 (published)", "o1-1217 (published)"]
    assert len(lines) == 2 + 21
    by_title = {cells(line)[1]: cells(line) for line in lines[2:]}
    assert by_title["AIME 2024 (Pass@1)"] == ["Math", "AIME 2024 (Pass@1)", "12.3 [3.0, 30.1]", "79.8", "79.2"]
    assert by_title["Codeforces (Rating)"][2:] == ["1234", "2029", "2061"]
    assert by_title["MMLU-Pro (EM)"][2:] == ["", "84.0", "–"] and by_title["MMLU-Pro (EM)"][0] == ""
    with pytest.raises(ValueError, match="suite 'humaneval' is not in the paper's table"):
        stages_table({"humaneval": Estimate(1.0)})
    with pytest.raises(ValueError, match="model 'R2' is not"):
        stages_table({}, models=("R2",))


def test_students():
    lines = students_table({"ours": {"aime_2024/cons@64": Estimate(50.0, 40.0, 60.0)}}).splitlines()
    assert cells(lines[2]) == ["ours", "", "50.0 [40.0, 60.0]", "", "", "", ""]
    assert cells(lines[3]) == ["Distill-Qwen-1.5B (published)", "28.9", "52.7", "83.9", "33.8", "16.9", "954"]
    with pytest.raises(ValueError, match="column 'mmlu' is not"):
        students_table({"ours": {"mmlu": Estimate(1.0)}})
