// Plots of the page. Each <div class="plot"> holds its curves as JSON and is drawn with uPlot when it comes into view.
"use strict";

const byId = (id) => document.getElementById(id);
const readJson = (element) => JSON.parse(element.textContent);
const RUNS = readJson(byId("runs"));
const view = { across: "update", share: 0.1, gathered: false, hidden: new Set() };
const dark = matchMedia("(prefers-color-scheme: dark)");

// An element with text in it: nothing that a model or a config wrote is ever parsed as HTML.
function make(tag, className = "", text = "", parent = null) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== "") element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

function show(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e7 || (size < 1e-3 && value !== 0)) return value.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2");
  const digits = Number.isInteger(value) || size >= 1000 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// The golden angle keeps the hues of any number of runs apart; every eighth run changes the dash. As in parts.html.
const hue = (look) => (look * 137.508 + 255) % 360;
const colour = (look, alpha = 1) => `oklch(${dark.matches ? "76% 0.13" : "56% 0.17"} ${hue(look)} / ${alpha})`;
const dash = (look) => [[], [9, 4], [3, 3], [9, 3, 3, 3]][Math.floor(look / 8) % 4];

// Index of the value of ascending `xs` that is nearest to `x`.
function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle; else high = middle;
  }
  return high >= 0 && Math.abs(xs[high] - x) < Math.abs(xs[low] - x) ? high : low;
}

function interpolate(x, { x: xs, y: ys }) {
  const right = Math.min(Math.max(1, xs.findIndex((value) => value >= x)), xs.length - 1);
  if (right < 1 || x >= xs[xs.length - 1]) return ys[ys.length - 1];
  const share = (x - xs[right - 1]) / (xs[right] - xs[right - 1]);
  return ys[right - 1] + Math.max(0, share) * (ys[right] - ys[right - 1]);
}

// The running mean of `values` over `share` of them; null stays null.
function smooth(values, share) {
  const half = Math.round((share * values.length) / 2), sums = [0], counts = [0];
  for (const value of values) {
    sums.push(sums[sums.length - 1] + (value ?? 0));
    counts.push(counts[counts.length - 1] + (value === null ? 0 : 1));
  }
  return values.map((value, i) => {
    const from = Math.max(0, i - half), to = Math.min(values.length, i + half + 1);
    return value === null ? null : (sums[to] - sums[from]) / (counts[to] - counts[from]);
  });
}

const T_95 = [0, 0, 0, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]; // quantiles of n - 1 degrees of freedom

// Runs that differ in their seed only become one curve: their mean, and an interval of the mean.
function gather(curves) {
  const groups = new Map();
  for (const curve of curves) {
    const key = `${RUNS[curve.run]?.setting} ${Boolean(curve.points)}`;
    groups.set(key, [...(groups.get(key) ?? []), curve]);
  }
  return [...groups.values()].map((group) => {
    if (group.length === 1) return group[0];
    const at = new Map();
    for (const curve of group) {
      curve.x.forEach((x, i) => { if (curve.y[i] !== null) at.set(x, [...(at.get(x) ?? []), curve.y[i]]); });
    }
    const x = [...at.keys()].sort((a, b) => a - b), y = [], low = [], high = [];
    for (const values of x.map((step) => at.get(step))) {
      const n = values.length, mean = values.reduce((a, b) => a + b) / n;
      const deviation = Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / Math.max(1, n - 1));
      const half = ((T_95[n] ?? 2) * deviation) / Math.sqrt(n);
      y.push(mean);
      low.push(n < 3 ? Math.min(...values) : mean - half);
      high.push(n < 3 ? Math.max(...values) : mean + half);
    }
    const label = group[0].label && `${group[0].label} and ${group.length - 1} more seed${group.length > 2 ? "s" : ""}`;
    return { ...group[0], x, y, low, high, label, ends: "" };
  });
}

class Plot {
  constructor(element) {
    this.element = element;
    this.data = readJson(element.querySelector("script"));
    this.legend = element.parentElement.querySelector(".legend");
    this.hidden = new Set();
    this.isStale = true;
    this.isVisible = false;
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", this.data.name);
  }

  // The curves as they are looked at, each with its x on the chosen axis.
  curves() {
    let curves = this.data.curves.filter((curve) => curve.run === null || !view.hidden.has(curve.run));
    if (view.gathered && curves.every((curve) => curve.run !== null) && RUNS.length > 1) curves = gather(curves);
    return curves.map((curve) => {
      const axis = this.data.across === "update" ? RUNS[curve.run]?.axes[view.across] : null;
      const scale = view.across === "time" ? 1 / 60 : 1;
      const isSmooth = view.share > 0 && curve.y.length >= 8 && !curve.exact && !curve.points;
      const at = axis ? curve.x.map((x) => interpolate(x, axis) * scale) : curve.x;
      return { ...curve, at, mean: isSmooth ? smooth(curve.y, view.share) : null };
    });
  }

  draw() {
    this.isStale = false;
    const zoom = this.plot && this.across === view.across ? this.zoom : null;
    this.plot?.destroy();
    this.across = view.across;
    this.shown = this.curves();
    this.drawLegend();
    const style = getComputedStyle(document.documentElement), text = style.getPropertyValue("--quiet").trim();
    const axis = { stroke: text, grid: { stroke: style.getPropertyValue("--grid").trim(), width: 1 }, ticks: { show: false } };
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const { rows } = this.data, labels = { tokens: "tokens", time: "minutes" };
    const label = (this.data.across === "update" && labels[view.across]) || this.data.across;
    const values = (plot, splits) => splits.map((value) => (Number.isInteger(value) ? value.toLocaleString("en-US") : Number(value.toPrecision(6))));
    const size = (plot, ticks) => (ticks ? 14 + 6.5 * Math.max(...ticks.map((tick) => String(tick).length)) : 40);
    const { series, bands, table } = rows ? this.bars() : this.lines();
    this.plot = new uPlot({
      width: this.element.clientWidth,
      height: rows ? 80 + Math.min(260, 22 * rows.length) : 220,
      legend: { show: false },
      cursor: { sync: rows ? undefined : { key: "page", setSeries: false }, points: { show: false }, drag: { x: true, y: false }, y: false },
      scales: {
        x: { time: false, range: (plot, low, high) => (low === high ? [low - 1, high + 1] : [low, high]) },
        y: { dir: rows ? -1 : 1, range: (plot, low, high) => (rows ? [0, rows.length] : this.bounds(low, high)) },
      },
      axes: [
        { ...axis, font, label, labelFont: font, labelSize: 16, labelGap: 0, gap: 5, size: 24, values },
        rows
          ? { ...axis, font, size, grid: { show: false }, splits: () => rows.map((row, i) => i + 0.5), values: () => rows }
          : { ...axis, font, size, values },
      ],
      series, bands,
      hooks: {
        draw: [(plot) => (rows ? this.drawBars(plot) : this.drawErrors(plot))],
        setCursor: [(plot) => this.readOut(plot)],
        setScale: [(plot, key) => { if (key === "x") this.zoom = { min: plot.scales.x.min, max: plot.scales.x.max }; }],
      },
    }, table, this.element);
    if (zoom) this.plot.setScale("x", zoom);
  }

  lines() {
    const series = [{}], bands = [], tables = [];
    for (const curve of this.shown) {
      if (this.hidden.has(curve.label)) continue;
      const stroke = colour(curve.look), width = 1.7, columns = [];
      const add = (values, options) => { columns.push(values); return series.push({ points: { show: false }, ...options }) - 1; };
      if (curve.points) {
        add(curve.y, { paths: () => null, points: { show: true, size: 7, stroke, fill: stroke } });
      } else {
        const mark = (size, alpha) => ({ show: true, size, width: 0, fill: colour(curve.look, alpha) });
        if (curve.low && curve.high) {
          const [high, low] = [curve.high, curve.low].map((edge) => add(edge, { paths: uPlot.paths.linear(), stroke: "transparent" }));
          bands.push({ series: [high, low], fill: colour(curve.look, 0.15) });
        }
        if (curve.mean) add(curve.y, { paths: () => null, points: mark(3.5, 0.4) });
        const few = !curve.mean && curve.y.length < 60;
        add(curve.mean ?? curve.y, { stroke, width, dash: dash(curve.look), points: few ? mark(4, 1) : { show: false } });
      }
      tables.push([curve.at, ...columns]);
    }
    return { series, bands, table: tables.length ? uPlot.join(tables) : [[0]] };
  }

  // The given ends of the axis, unless the data go past them or fill less than a tenth of it.
  bounds(least, most) {
    if (least === null || most === null) return [0, 1];
    const { low, high } = this.data, spread = most - least;
    const room = 0.05 * (spread || Math.abs(most) || 1);
    if (low !== null && spread > 0 && spread < 0.1 * ((high ?? most) - low)) return [least - room, most + room];
    return [low === null ? least - room : Math.min(low, least), high === null ? most + room : Math.max(high * 1.02, most)];
  }

  drawErrors({ ctx, valToPos, bbox }) {
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const curve of this.shown) {
      if (!curve.points || !curve.low || this.hidden.has(curve.label)) continue;
      ctx.strokeStyle = colour(curve.look);
      ctx.lineWidth = 1.3 * devicePixelRatio;
      curve.at.forEach((x, i) => {
        const at = valToPos(x, "x", true);
        ctx.beginPath();
        ctx.moveTo(at, valToPos(curve.low[i], "y", true));
        ctx.lineTo(at, valToPos(curve.high[i], "y", true));
        ctx.stroke();
      });
    }
    ctx.restore();
  }

  bars() {
    const ends = this.data.bars.flatMap(([, left, right]) => [left, right]).sort((a, b) => a - b);
    return { series: [{}, { paths: () => null, points: { show: false } }], bands: [], table: [ends, ends.map(() => 0)] };
  }

  drawBars({ ctx, valToPos, bbox }) {
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const [row, left, right, shade] of this.data.bars) {
      const [x, y] = [valToPos(left, "x", true), valToPos(row + 0.08, "y", true)];
      ctx.fillStyle = colour(this.data.across === "update" ? 0 : row, 0.06 + 0.94 * shade);
      ctx.fillRect(x, y, Math.max(1, valToPos(right, "x", true) - x), valToPos(row + 0.92, "y", true) - y);
    }
    ctx.restore();
  }

  drawLegend() {
    if (this.data.rows) return;
    this.legend.replaceChildren();
    this.entries = [];
    for (const curve of this.shown) {
      if (!curve.label) continue;
      const entry = make("button", "entry", "", this.legend);
      const swatch = make("i", `dash${Math.floor(curve.look / 8) % 4}${curve.points ? " points" : ""}`, "", entry);
      swatch.style.setProperty("--h", hue(curve.look));
      make("span", "", `${curve.label} `, entry);
      const value = make("b", "", this.ends(curve), entry);
      entry.setAttribute("aria-pressed", String(!this.hidden.has(curve.label)));
      entry.onclick = () => {
        if (!this.hidden.delete(curve.label)) this.hidden.add(curve.label);
        this.draw();
      };
      this.entries.push([curve, value]);
    }
  }

  ends(curve) {
    const known = curve.y.filter((value) => value !== null);
    return curve.ends || [...new Set([0, known.length - 1])].map((i) => show(known[i])).join(" → ");
  }

  // Under the pointer: of every curve the point that is nearest, as it was logged.
  readOut(plot) {
    const { left, top } = plot.cursor, isOver = left >= 0;
    if (this.data.rows) {
      const x = isOver ? plot.posToVal(left, "x") : NaN, y = Math.floor(plot.posToVal(top, "y"));
      const bar = this.data.bars.find(([row, from, to]) => row === y && from <= x && x <= to);
      this.legend.textContent = bar ? `${this.data.rows[y]}, ${bar[4]}` : "\u00a0";
      return;
    }
    const x = isOver ? plot.posToVal(left, "x") : 0;
    for (const [curve, value] of this.entries) {
      const i = nearest(curve.at, x);
      value.textContent = isOver ? `${show(curve.y[i])} at ${show(curve.at[i])}` : this.ends(curve);
      value.className = isOver ? "hover" : "";
    }
  }
}

const plots = [];
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    target.plot ??= plots[plots.push(new Plot(target)) - 1];
    target.plot.isVisible = isIntersecting;
    if (isIntersecting && target.plot.isStale) target.plot.draw();
  }
}, { rootMargin: "300px" });
const resized = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    if (contentRect.width && target.plot?.plot) target.plot.plot.setSize({ width: contentRect.width, height: target.plot.plot.height });
  }
});

function redraw() {
  for (const plot of plots) {
    plot.isStale = true;
    if (plot.isVisible) plot.draw();
  }
}

for (const element of document.querySelectorAll(".plot")) {
  seen.observe(element);
  resized.observe(element);
}
dark.addEventListener("change", redraw);

// A page that is served is loaded again and again; what was chosen in it stays.
const isServed = location.protocol !== "file:", REFRESH_SECONDS = 30;
const inputs = (root) => [...root.querySelectorAll("input[id],select[id]")];
const keyOf = (input) => (input.type === "checkbox" ? "checked" : "value");
const kept = JSON.parse((isServed && sessionStorage.getItem(location.pathname)) || "{}");

function restore(root) {
  for (const input of inputs(root)) if (input.id in kept) input[keyOf(input)] = kept[input.id];
}
if (isServed) {
  addEventListener("pagehide", () => {
    sessionStorage.setItem(location.pathname, JSON.stringify(Object.fromEntries(inputs(document).map((input) => [input.id, input[keyOf(input)]]))));
  });
  setInterval(() => { if (byId("refresh").checked && !document.hidden) location.reload(); }, 1000 * REFRESH_SECONDS);
}

const toolbar = byId("toolbar");
if (toolbar) {
  toolbar.hidden = !document.querySelector(".plot");
  const [across, smoothing, gathered, chips] = ["across", "smoothing", "gathered", "chips"].map(byId);
  byId("refresh").parentElement.hidden = !isServed;
  restore(toolbar);
  for (const option of [...across.options]) {
    if (option.value !== "update" && !RUNS.some((run) => run.axes[option.value])) option.remove();
  }
  across.onchange = () => { view.across = across.value; redraw(); };
  smoothing.oninput = () => {
    view.share = Number(smoothing.value) / 100;
    byId("share").textContent = `${smoothing.value} %`;
    redraw();
  };
  across.onchange();
  smoothing.oninput();
  if (chips) {
    const settings = RUNS.map((run) => run.setting);
    gathered.parentElement.hidden = new Set(settings).size === settings.length;
    gathered.onchange = () => { view.gathered = gathered.checked; redraw(); };
    gathered.onchange();
    for (const chip of chips.querySelectorAll("button")) {
      chip.onclick = () => {
        const isOn = chip.getAttribute("aria-pressed") === "true";
        chip.setAttribute("aria-pressed", String(!isOn));
        for (const run of readJson(chip.querySelector("script"))) view.hidden[isOn ? "add" : "delete"](run);
        redraw();
      };
    }
  }
}
