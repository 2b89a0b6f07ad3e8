// Tables that are sorted by a click on a heading, and the differences between runs, problem by problem.
"use strict";

// Numbers by size and before texts; what is missing comes last, in either direction.
function compareCells(a, b, sign) {
  const [x, y] = [a, b].map((value) => (value === "" || value === "nan" || value === "None" ? NaN : Number(value)));
  if (Number.isNaN(x) && Number.isNaN(y)) return sign * a.localeCompare(b);
  return Number.isNaN(x) - Number.isNaN(y) || sign * (x - y);
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const [column, cell] of [...table.tHead.rows[0].cells].entries()) {
    const button = make("button", "", cell.textContent);
    cell.replaceChildren(button);
    button.onclick = () => {
      const sign = cell.getAttribute("aria-sort") === "descending" ? 1 : -1;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => compareCells(key(a), key(b), sign)));
    };
  }
}

// Of each run the share of right samples of each problem, in its last held-out evaluation.
function lastScores() {
  const last = all.runs.map(() => -1), scores = all.runs.map(() => new Map());
  for (let i = 0; i < all.size; i++) if (all.split[i] === 0) last[all.run[i]] = Math.max(last[all.run[i]], all.step[i]);
  for (let i = 0; i < all.size; i++) {
    if (all.split[i] !== 0 || all.step[i] !== last[all.run[i]] || all.correct[i] === null) continue;
    const of = scores[all.run[i]], [sum, count] = of.get(all.problem[i]) ?? [0, 0];
    of.set(all.problem[i], [sum + all.correct[i], count + 1]);
  }
  return scores.map((of) => new Map([...of].map(([problem, [sum, count]]) => [problem, sum / count])));
}

function pairedDifferences(scores, others) {
  const shared = [...scores.keys()].filter((problem) => others.has(problem)), n = shared.length;
  const differences = shared.map((problem) => scores.get(problem) - others.get(problem));
  const mean = (values) => values.reduce((a, b) => a + b, 0) / n, difference = mean(differences);
  const error = Math.sqrt(differences.reduce((sum, d) => sum + (d - difference) ** 2, 0) / (n - 1) / n);
  const [here, there] = [scores, others].map((of) => mean(shared.map((problem) => of.get(problem))));
  const half = 1.96 * error, signs = [differences.filter((d) => d > 0).length, differences.filter((d) => d < 0).length];
  return { n, here, there, difference, low: difference - half, high: difference + half, signs };
}

const paired = byId("paired");
if (paired) {
  window.addEventListener("completions", () => {
    const scores = lastScores(), known = scores.flatMap((of, run) => (of.size ? [run] : []));
    const baseline = byId("baseline");
    for (const run of known) make("option", "", all.runs[run].label, baseline).value = run;
    const draw = () => {
      const rows = known.filter((run) => run !== Number(baseline.value)).map((run) => {
        const { n, here, there, difference, low, high, signs } = pairedDifferences(scores[run], scores[Number(baseline.value)]);
        const row = make("tr");
        make("td", "", all.runs[run].label, row);
        const cells = [[show(n), n], [show(here), here], [show(there), there], [show(difference), difference], [`${show(low)} to ${show(high)}`, low], ...signs.map((k) => [show(k), k])];
        for (const [text, value] of cells) make("td", "", text, row).dataset.value = value;
        row.cells[4].className = low > 0 ? "good" : high < 0 ? "bad" : "";
        return row;
      });
      paired.querySelector("tbody").replaceChildren(...rows);
    };
    baseline.onchange = draw;
    paired.hidden = known.length < 2;
    draw();
  });
}
