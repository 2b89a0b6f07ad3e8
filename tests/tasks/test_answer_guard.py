import pytest

from r1jax.tasks.answer_guard import is_harmless

HOSTILE = [
    "__import__('os').system('id')",
    "().__class__.__base__.__subclasses__()",
    "(lambda: 1)()",
    "[0 for a in [1] * 9 for b in [1] * 9]",
    "9**9**9**9",
    "(9**9)**9",
    "factorial(10**9)",
    "x**1000000000",
    "(a+b+c+d+e+f)**60",
    "x**(1" + "0" * 400 + "/3)",
    "(" * 500 + "1" + ")" * 500,
    "1+" * 2000 + "1",
    "open('f', 'w')",
    "exit()",
]


@pytest.mark.parametrize("dataset", ["spiral_matrix", "countdown", "polynomial_multiplication"])
@pytest.mark.parametrize("answer", HOSTILE)
def test_hostile_answers_are_refused(answer, dataset):
    assert not is_harmless(answer, dataset)


@pytest.mark.parametrize(
    ("answer", "dataset"),
    [
        ("1 1 0 1\n0 1 1 2", "binary_matrix"),
        ("[[1, 0], [0, 1]]", "binary_matrix"),
        ("Q _ _\n_ _ Q", "n_queens"),
        ("BEDEAAB", "string_insertion"),
        ("94 + 28*(75 - 64)/87", "countdown"),
        ("3*(5 + 6) - 9", "puzzle24"),
        ("-2025*y**4 + 3159*y**3 - 8658*y", "polynomial_multiplication"),
        ("-5*x**10 + x**2/5 + C", "simple_integration"),
        ("3*x*atan(2*x) - 3*log(4*x**2 + 1)/4 + C", "intermediate_integration"),
        ("2**x/log(2) + sqrt(x) + (x + 1)**(3/2)", "intermediate_integration"),
    ],
)
def test_answers_that_people_write_pass(answer, dataset):
    assert is_harmless(answer, dataset)


def test_an_integral_left_undone_is_refused():
    assert not is_harmless("Integral(x**2, x)", "intermediate_integration")


def test_other_data_sets_only_have_a_length_limit():
    assert is_harmless("f(x) = [1]", "chain_sum")
    assert not is_harmless("1" * 2001, "chain_sum")
