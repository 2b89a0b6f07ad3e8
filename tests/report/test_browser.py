"""The pages in a headless Chromium: what a person sees, switches and filters."""

import json
import threading

import numpy as np
import pytest

from r1jax.report import compare, write_report
from r1jax.report.serve import Server
from tests.report.browser import CHROMIUM, Browser
from tests.report.synthetic import completion_rows, make_rl_stage, make_workdir, write_lines

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
READY = "typeof all !== 'undefined' && all && document.querySelector('#one .answer')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of one setting, and another setting that is worse on one held-out problem of four."""
    folder = tmp_path_factory.mktemp("runs")
    make_workdir(folder / "a", updates=20)
    make_rl_stage(folder / "b", seed=1, updates=20)
    make_rl_stage(folder / "c", seed=2, updates=20, learning_rate=1e-4)
    rows = completion_rows(20, "heldout", late=True)
    write_lines(
        folder / "c" / "completions" / "heldout_000020.jsonl", [r | {"correct": 0.0} for r in rows[:2]] + rows[2:]
    )
    return folder


@pytest.fixture
def page(browser, runs):
    """The page of one run, opened anew."""
    browser.errors.clear()
    browser.open(write_report(runs / "a"))
    browser.wait(READY)
    return browser


@pytest.fixture
def comparison(browser, runs):
    browser.errors.clear()
    browser.open(compare([runs / name for name in "abc"], out=runs / "compare.html"))
    browser.wait(READY)
    return browser


def plot_of(page, title):
    """Scrolls to a plot and leaves it as `plot` in the page."""
    figures = "[...document.querySelectorAll('figure')].filter((f) => f.checkVisibility())"
    find = f"{figures}.find((f) => f.querySelector('figcaption').firstChild.textContent.trim() === {json.dumps(title)})"
    page.run(f"globalThis.figure = {find}; figure.scrollIntoView({{block: 'center'}}); 0")
    page.wait("figure.querySelector('.plot').plot?.plot")
    page.run("globalThis.plot = figure.querySelector('.plot').plot; 0")


def shown(page):
    """(split, step, title) of the completions in the list."""
    return page.run("shown.map((i) => [all.split[i], all.step[i], all.titles[all.problem[i]][1]])")


def test_curves_are_drawn_and_looked_at(page):
    plot_of(page, "Reward")
    assert page.run("plot.plot.ctx.canvas.width") > 200
    assert page.run("plot.shown.map((c) => [c.label, c.at.length, c.mean.length])") == [
        ["mean", 20, 20],
        ["spread", 20, 20],
    ]
    x, y, width = page.run(
        "(({x, y, width, height}) => [x, y + height / 2, width])(plot.plot.over.getBoundingClientRect())"
    )
    before = page.run("plot.legend.textContent")
    page.move(x + width - 2, y)
    page.wait(f"plot.legend.textContent !== {json.dumps(before)}")
    last = page.run("plot.shown[0].y[19]")
    assert (
        page.run("plot.legend.querySelector('b').textContent") == f"{last:.2f} at 20"
    )  # as it was logged, not smoothed
    page.move(x + 0.25 * width, y, kind="mousePressed", button="left", clickCount=1)
    page.move(x + 0.75 * width, y, button="left", buttons=1)
    page.move(x + 0.75 * width, y, kind="mouseReleased", button="left", clickCount=1)
    page.wait("plot.plot.scales.x.max < 16")
    assert page.run("plot.plot.scales.x.min") > 5
    assert page.errors == []


def test_smoothing_and_the_horizontal_axis_are_chosen(page):
    plot_of(page, "Reward")
    page.set("smoothing", "0")
    assert page.run("plot.shown[0].mean") is None
    page.set("smoothing", "40")
    values, means = page.run("[plot.shown[0].y, plot.shown[0].mean]")
    assert means == pytest.approx([np.mean(values[max(0, i - 4) : i + 5]) for i in range(20)])
    assert page.run("[...byId('across').options].map((o) => o.value)") == ["update", "time"]  # no tokens were logged
    page.set("across", "time")
    assert page.run("plot.shown[0].at[19]") == pytest.approx(20 * 3.1 / 60)
    page.run("plot.legend.querySelectorAll('button')[1].click()")
    assert page.run("plot.plot.series.length") == 1 + 2  # the dots and the mean of one curve
    assert page.errors == []


def test_phases_and_experts_are_charts_of_bars(page):
    for title, rows in (("Phases over time", 4), ("Expert load, every layer", 2)):
        plot_of(page, title)
        assert page.run("plot.plot.axes[1]._values.length") == rows == len(page.run("plot.data.rows"))
    assert page.errors == []


def test_completions_are_filtered_searched_and_shown_next_to_each_other(page):
    assert page.run("[byId('one'), byId('other')].map((e) => e.querySelector('.strong').textContent)") == [
        "held-out, update 20",
        "held-out, update 1",
    ]
    assert page.run("[...document.querySelectorAll('#one mark')].map((e) => e.textContent)") == [
        "Wait",
        "check",
        "等等",
    ]
    assert page.run("document.querySelector('#one .rewards').textContent") == "reward 2 = accuracy 1 + format 1"
    assert len(shown(page)) == 32
    page.set("f-split", "0")
    page.set("f-correct", "wrong")
    assert {tuple(row[:2]) for row in shown(page)} == {(0, 1)} and len(shown(page)) == 5
    page.run("byId('f-clear').click()")
    page.set("f-group", "equal")
    assert [row for row in shown(page) if row[1] == 1] == [[0, 1, "8 + 64 = ?"]] * 2 + [
        [1, 1, "8 + 64 = ? (update 1)"]
    ] * 2
    assert len(shown(page)) == 4 + 16  # those of the last update are all right
    page.run("byId('f-clear').click()")
    page.set("f-search", "TENS. 等等")
    page.wait("shown.length === 16")
    page.set("f-search", "update 20")  # of the question
    page.wait("shown.length === 8")
    page.run("byId('f-clear').click(); document.querySelector('#one .chips:last-child button').click()")
    assert shown(page) == [[0, step, "27 + 45 = ?"] for step in (1, 1, 20, 20)]
    page.set("f-sort", "-length")
    assert page.run("shown.map((i) => all.length[i])") == sorted(
        page.run("shown.map((i) => all.length[i])"), reverse=True
    )
    assert page.errors == []


def test_tokens_are_coloured_by_their_log_probability(browser, tmp_path):
    row = completion_rows(1, "train", late=True)[0] | {"tokens": ["<b>", "进", ""], "logps": [-5.0, -0.5, None]}
    write_lines(tmp_path / "completions" / "update_000001.jsonl", [row])
    browser.errors.clear()
    browser.open(write_report(tmp_path))
    browser.wait(READY)
    browser.run(
        "[...document.querySelectorAll('#one header button')].find((b) => b.textContent === 'log-probs').click()"
    )
    browser.wait("document.querySelector('#one .token')")
    tokens = "[...document.querySelectorAll('#one .token')]"
    assert browser.run(f"{tokens}.map((t) => [t.textContent, t.title])")[:2] == [
        ["<b>", "log-prob -5, probability 0.007"],
        ["进", "log-prob -0.500, probability 0.607"],
    ]
    assert browser.run(f"{tokens}.map((t) => t.style.background)")[:2] == [
        "oklch(0.65 0.2 25 / 0.7)",
        "oklch(0.65 0.2 25 / 0.07)",
    ]
    assert browser.errors == []


def test_a_long_list_has_only_the_rows_in_view(browser, tmp_path):
    rows = [row | {"num_tokens": number} for number, row in enumerate(completion_rows(1, "train", late=True) * 1250)]
    write_lines(tmp_path / "completions" / "update_000001.jsonl", rows)
    browser.errors.clear()
    browser.open(write_report(tmp_path))
    browser.wait(READY)
    assert browser.run("shown.length") == 10_000 and browser.run("byId('rows').childElementCount") < 60
    browser.set("f-sort", "-length")
    browser.run("byId('list').scrollTop = 1e9")
    browser.wait("byId('rows').lastChild.textContent.endsWith('027 + 45 = ? (update 1)')")
    browser.set("f-length-min", "9990")
    assert browser.run("shown.length") == 10 and browser.errors == []


def test_hostile_completions_are_text(browser, tmp_path):
    bad = "</script><script>globalThis.hit = 1</script><img src=x onerror='globalThis.hit = 1'>\u2028\u202e\x00\ud800中文 $\\frac{1}{2}$ "
    rows = [
        {
            "problem": {"task": bad, "answer": bad},
            "prompt": bad,
            "completion": bad,
            "rewards": {bad: 1.0},
            "errors": {bad: bad},
        }
        | {"correct": 1.0, "answer": bad, "stop_reason": bad},
        {"problem": {"task": "long"}, "prompt": "?", "completion": "x" * 1_000_000 + "end"},
    ]
    folder = tmp_path / "bad <b>"
    write_lines(folder / "completions" / "update_000001.jsonl", rows)
    browser.errors.clear()
    browser.open(write_report(folder))
    browser.wait(READY)
    text = (
        bad.replace("\u2028", "⟨U+2028⟩").replace("\u202e", "⟨U+202E⟩").replace("\x00", "␀").replace("\ud800", "\ufffd")
    )
    assert browser.run("document.querySelector('#one pre').textContent") == text
    assert browser.run("document.querySelector('#one .chinese').textContent") == "中文"
    assert browser.run("[globalThis.hit, document.querySelectorAll('main img, main script:not([type])').length]") == [
        None,
        0,
    ]
    browser.run("choose(1)")
    browser.wait("document.querySelector('#one pre button')")
    assert browser.run("document.querySelector('#one pre').textContent.length") < 25_000
    browser.run("document.querySelector('#one pre button').click()")
    assert browser.run("document.querySelector('#one pre').textContent").endswith("xend")
    assert browser.errors == []


def test_runs_are_switched_on_and_off_gathered_and_sorted(comparison):
    plot_of(comparison, "Reward: mean")
    assert comparison.run("plot.shown.map((c) => c.label)") == ["a", "b", "c"]
    comparison.run("[...byId('chips').querySelectorAll('button')][2].click()")
    assert comparison.run("plot.shown.map((c) => c.label)") == ["a", "b"]
    comparison.run("[...byId('chips').querySelectorAll('button')][2].click(); byId('gathered').click()")
    assert comparison.run("plot.shown.map((c) => c.label)") == ["a and 1 more seed", "c"]
    first, mean = comparison.run("[plot.data.curves.slice(0, 2).map((c) => c.y[0]), plot.shown[0].y[0]]")
    assert mean == pytest.approx(sum(first) / 2)
    assert comparison.run("[plot.shown[0].low[0], plot.shown[0].high[0]]") == sorted(first)
    cells = "[...document.querySelector('table.sortable').tBodies[0].rows].map((r) => r.cells[0].textContent)"
    comparison.run("document.querySelectorAll('table.sortable th button')[1].click()")  # the learning rate
    assert comparison.run(cells) == ["a", "b", "c"]  # highest first
    comparison.run("document.querySelectorAll('table.sortable th button')[1].click()")
    assert comparison.run(cells) == ["c", "a", "b"]
    assert comparison.errors == []


def test_settings_stand_next_to_the_score(browser, tmp_path):
    """Four runs: a rate of 1e-4 to 1e-1, the best at 1e-3; and whether there is a schedule."""
    for i, score in enumerate((0.2, 0.4, 0.9, 0.3)):
        folder = make_rl_stage(tmp_path / f"run_{i}", updates=2, learning_rate=10.0 ** (i - 4))
        summary = json.loads((folder / "summary.json").read_text())
        summary["after"]["pass@1"] = score
        (folder / "summary.json").write_text(json.dumps(summary))
    browser.errors.clear()
    browser.open(compare(sorted(tmp_path.iterdir()), out=tmp_path / "page.html"))
    texts = browser.run("[...document.querySelectorAll('.parallel text')].map((t) => t.textContent)")
    assert texts[:2] == ["optimizer.learning_rate", "ρ = 0.40"]  # ranks 0 1 2 3 with 0 2 3 1
    assert texts[4:] == ["pass@1", "0.200", "0.900"]
    lines = browser.run("[...document.querySelectorAll('.parallel polyline')].map((l) => l.getAttribute('points'))")
    heights = [[float(point.split(",")[1]) for point in line.split()] for line in lines]
    assert [height for height, _ in heights] == pytest.approx([200, 150, 100, 50])  # a logarithmic axis
    assert heights[2][1] == min(height for _, height in heights) and browser.errors == []


def test_runs_are_compared_problem_by_problem(comparison):
    rows = "[...document.querySelectorAll('#paired tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    assert comparison.run(rows) == [
        ["b", "4", "1", "1", "0", "0 to 0", "0", "0"],
        ["c", "4", "0.750", "1", "-0.250", "-0.740 to 0.240", "0", "1"],  # 1.96 * 0.5 / 2
    ]
    comparison.set("baseline", "2")
    assert comparison.run(rows)[0] == ["a", "4", "1", "0.750", "0.250", "-0.240 to 0.740", "1", "0"]


def test_a_page_that_is_served_keeps_what_was_chosen_when_it_is_loaded_again(browser, runs):
    browser.errors.clear()
    path = write_report(runs / "a")
    with Server(path, lambda: path, port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.go(server.url)
        browser.wait(READY)
        browser.set("smoothing", "25")
        browser.set("f-step", "20")
        browser.go(server.url)
        browser.wait(READY)
        assert browser.run("[view.share, shown.length]") == [0.25, 16]
        server.shutdown()
    assert [error for error in browser.errors if "favicon" not in error] == []


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(browser, runs, width):
    browser.resize(width, 844)
    try:
        for path in (write_report(runs / "a"), compare([runs / "a", runs / "b"], out=runs / "compare.html")):
            browser.open(path)
            browser.wait(READY)
            assert browser.run("document.documentElement.scrollWidth") == width
    finally:
        browser.resize(1280, 900)


def test_without_its_folder_the_page_says_so(browser, runs, tmp_path):
    (tmp_path / "mailed.html").write_text(write_report(runs / "a").read_text())
    browser.open(tmp_path / "mailed.html")
    browser.wait("byId('count').textContent.includes('report_data next to this page, which is missing')")
    browser.errors.clear()  # that of the missing file
