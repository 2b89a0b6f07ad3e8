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

// Ranks of numbers, equal ones sharing the mean of theirs.
const ranks = (values) => values.map((v) => values.filter((w) => w < v).length + (values.filter((w) => w === v).length - 1) / 2);

function correlation(a, b) {
  const mean = (values) => values.reduce((x, y) => x + y, 0) / values.length, [ma, mb] = [mean(a), mean(b)];
  const product = (x, mx, y, my) => x.reduce((sum, v, i) => sum + (v - mx) * (y[i] - my), 0);
  return product(a, ma, b, mb) / Math.sqrt(product(a, ma, a, ma) * product(b, mb, b, mb));
}

// An axis of parallel coordinates: where each run lies on it, from 0 to 1, and what its ends, or its values, are called.
function axisOf(name, texts) {
  const numbers = texts.map(Number), isNumber = texts.every((text, i) => text !== "" && Number.isFinite(numbers[i]));
  if (!isNumber) {
    const kinds = [...new Set(texts)].sort(), at = (i) => (kinds.length > 1 ? i / (kinds.length - 1) : 0.5);
    return { name, at: texts.map((text) => at(kinds.indexOf(text))), ticks: kinds.map((kind, i) => [at(i), kind]) };
  }
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)], isLog = low > 0 && high / low >= 50;
  const scale = isLog ? Math.log : (value) => value, width = scale(high) - scale(low) || 1;
  return { name, numbers, at: numbers.map((value) => (scale(value) - scale(low)) / width), ticks: [[0, show(low)], [1, show(high)]] };
}

function drawParallel(element, table) {
  const columns = [...table.tHead.rows[0].cells].flatMap((cell, i) => (cell.dataset.kind ? [[cell.dataset.kind, i]] : []));
  columns.sort((a, b) => (a[0] === "score") - (b[0] === "score")); // the score stands on the right
  const rows = [...table.tBodies[0].rows], score = columns[columns.length - 1][1];
  const known = rows.filter((row) => Number.isFinite(Number(row.cells[score].dataset.value)));
  if (known.length < 3) return;
  const axes = columns.map(([, i]) => axisOf(table.tHead.rows[0].cells[i].textContent, known.map((row) => row.cells[i].dataset.value)));
  const step = 170, height = 200, x = (i) => 80 + i * step, y = (at) => 200 - 150 * at;
  const draw = (tag, attributes, parent, text = "") => {
    const shape = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
    shape.textContent = text;
    return parent.appendChild(shape);
  };
  const svg = draw("svg", { width: x(axes.length - 1) + 90, height: height + 30, role: "img" }, element);
  for (const [i, axis] of axes.entries()) {
    const rank = axis.numbers && i < axes.length - 1 ? correlation(ranks(axis.numbers), ranks(axes[axes.length - 1].numbers)) : NaN;
    draw("line", { x1: x(i), x2: x(i), y1: y(0), y2: y(1), class: "axis" }, svg);
    draw("text", { x: x(i), y: 16, class: "name" }, svg, axis.name.length > 24 ? `…${axis.name.slice(-23)}` : axis.name);
    if (Number.isFinite(rank)) draw("text", { x: x(i), y: 32 }, svg, `ρ = ${rank.toFixed(2)}`);
    for (const [at, text] of axis.ticks.slice(0, 12)) {
      const isEnd = at === 0 || at === 1;
      draw("text", { x: x(i) + (isEnd ? 0 : 6), y: y(at) + (isEnd ? 16 - 21 * at : 4), class: isEnd ? "" : "middle" }, svg, text.slice(0, 24));
    }
  }
  for (const [k, row] of known.entries()) {
    const line = draw("polyline", { points: axes.map((axis, i) => `${x(i)},${y(axis.at[k])}`).join(" ") }, svg);
    line.style.stroke = `oklch(var(--curve) ${row.cells[0].querySelector("i").style.getPropertyValue("--h")})`;
    draw("title", {}, line, `${row.cells[0].textContent}: ${show(axes[axes.length - 1].numbers[k])}`);
  }
}

for (const element of document.querySelectorAll(".parallel")) {
  let before = element;
  while (!before.querySelector("table")) before = before.previousElementSibling;
  drawParallel(element, before.querySelector("table"));
}
