from r1jax.report.panels import Line, resolve


def titles(names):
    return {panel.title: [line.label for line in panel.lines] for panels in resolve(names).values() for panel in panels}


def test_only_what_is_there_gets_a_panel():
    assert resolve([]) == {}
    assert titles(["loss", "eval/pass@1", "eval/pass@1_low"]) == {
        "Held-out score": ["pass@1"],
        "Held-out pass@k": ["pass@1"],
        "Loss": ["training"],
    }


def test_stars_are_filled_in_by_number_and_bring_their_bands():
    names = ["eval/cons@16", "eval/cons@4", "eval/cons@16_low", "eval/cons@16_high"]
    assert list(Line("eval/cons@*", "cons@*", "eval/cons@*_low").matches(names)) == [
        Line("eval/cons@4", "cons@4", "eval/cons@4_low"),
        Line("eval/cons@16", "cons@16", "eval/cons@16_low"),
    ]


def test_a_star_stands_for_one_part():
    assert titles(["rewards/accuracy/mean", "rewards/accuracy/std", "rewards/a/b/mean"]) == {
        "Reward parts": ["accuracy"],
        "rewards/a/b/mean": ["rewards/a/b/mean"],
    }


def test_failures_of_verifiers_are_shown():
    assert titles(["rewards/math/errors", "rewards/math/std", "eval/rewards/math/timeouts"]) == {
        "Failed verifiers": ["math", "math, held-out, out of time"]
    }


def test_unknown_metrics_come_last():
    sections = resolve(["zzz", "reward", "time/step"])
    assert list(sections) == ["Learning", "Other metrics"]
    assert [panel.title for panel in sections["Other metrics"]] == ["zzz"]
