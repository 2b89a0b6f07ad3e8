// The completions: an index of columns is filtered at once; the texts come in chunks, as scripts, when they are asked for.
"use strict";

const INVISIBLE = /[\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu;
const BROKEN = /[\x80-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]/gu;
const REFLECTION = readJson(byId("reflection")), CHINESE = "\u3000-\u303f\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef";
const MARKED = new RegExp(`(${REFLECTION})|(</?(?:think|answer)>)|[${CHINESE}]+?(?=${REFLECTION}|[^${CHINESE}]|$)`, "giu");
const ROW_HEIGHT = 32, MAX_CHARACTERS = 20000, MAX_GROUPS = 400, MAX_PRELOADED = 100;
const section = byId("completions");

// As markup.py's: control characters as pictures, direction marks by code, broken ones as U+FFFD.
function visible(text) {
  return text.replace(/[\x00-\x08\x0b-\x1f\x7f]/g, (c) => String.fromCharCode(c === "\x7f" ? 0x2421 : 0x2400 + c.charCodeAt(0)))
    .replace(BROKEN, "\ufffd")
    .replace(INVISIBLE, (c) => `⟨U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

class Completions {
  constructor(index) {
    Object.assign(this, index, index.columns);
    this.size = this.run.length;
    this.chunks = new Map(); // number -> promise of {rows, questions}
    this.loaded = new Map(); // number -> {rows, questions}
    this.groupOf = new Int32Array(this.size);
    this.groups = [];
    const numbers = new Map();
    for (let i = 0; i < this.size; i++) {
      const key = `${this.run[i]} ${this.split[i]} ${this.step[i]} ${this.problem[i]}`;
      if (!numbers.has(key)) numbers.set(key, this.groups.push([]) - 1);
      this.groupOf[i] = numbers.get(key);
      this.groups[this.groupOf[i]].push(i);
    }
    this.isEqual = this.groups.map((rows) => rows.length > 1 && rows.every((i) => this.reward[i] === this.reward[rows[0]]));
  }

  chunkOf(i) {
    let number = this.starts.length - 1;
    while (this.starts[number] > i) number--;
    return number;
  }

  load(number) {
    if (!this.chunks.has(number)) {
      this.chunks.set(number, new Promise((resolve, reject) => { waiting.set(number, resolve); addScript(this.files[number], reject); }));
    }
    return this.chunks.get(number);
  }

  // {row, prompt, problem} of a completion.
  async text(i) {
    const number = this.chunkOf(i), { rows, questions } = await this.load(number), row = rows[i - this.starts[number]];
    const [prompt, problem] = questions[row.question];
    return { row, prompt, problem };
  }
}

const waiting = new Map();
function addScript(name, onerror) {
  const script = document.createElement("script");
  script.src = `${section.dataset.folder}/${name}`;
  script.onerror = onerror;
  document.head.append(script);
}
function chunk(name, data) {
  const number = all.files.indexOf(name);
  all.loaded.set(number, data);
  waiting.get(number)(data);
}

let isColoured = false; // tokens by their log-probability
let all, shown, chosen = null, pinned = null, problemFilter = null, request = 0;

function index(data) {
  all = new Completions(data);
  const fill = (id, options) => {
    for (const [value, text] of options) make("option", "", visible(text), byId(id)).value = value;
    byId(id).parentElement.hidden = options.length < 2;
  };
  fill("f-run", all.runs.map((run, i) => [i, run.label]));
  fill("f-task", [...new Set(all.titles.map(([task]) => task))].map((task) => [task, task]));
  fill("f-step", [...new Set(all.step)].sort((a, b) => a - b).map((step) => [step, show(step)]));
  fill("f-stop", all.stops.map((stop, i) => [i, stop || "unknown"]));
  for (const input of byId("filters").querySelectorAll("input,select")) input.addEventListener("input", filter);
  byId("f-problem").onclick = () => { problemFilter = null; filter(); };
  byId("f-clear").onclick = () => {
    for (const input of byId("filters").querySelectorAll("input,select")) input.value = "";
    problemFilter = null;
    filter();
  };
  byId("list").addEventListener("scroll", drawRows);
  byId("list").addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const at = Math.min(Math.max(0, shown.indexOf(chosen) + by), shown.length - 1);
    if (shown.length) choose(shown[at], at);
  });
  byId("filters").hidden = byId("browser").hidden = false;
  restore(byId("filters"));
  filter();
  window.dispatchEvent(new Event("completions"));
  firstAndLast();
  if (all.starts.length <= MAX_PRELOADED) preload(0);
}

// Loads the texts while nothing else is to do, so that the first search need not wait for them.
function preload(number) {
  if (number < all.starts.length) requestIdleCallback(() => all.load(number).then(() => preload(number + 1)));
}

// At first: a held-out problem's completions before and after, next to each other.
function firstAndLast() {
  const rows = [...Array(all.size).keys()].filter((i) => all.run[i] === 0);
  const heldout = rows.filter((i) => all.split[i] === 0), candidates = heldout.length ? heldout : rows;
  const last = Math.max(...new Set(candidates.map((i) => all.step[i])));
  const after = candidates.find((i) => all.step[i] === last);
  const before = candidates.find((i) => all.problem[i] === all.problem[after] && all.step[i] < last);
  if (after === undefined) return;
  pinned = before ?? null;
  choose(after);
}

async function filter() {
  const mine = ++request, value = (id) => byId(id).value, number = (id) => (value(id) === "" ? null : Number(value(id)));
  const [run, split, step, stop] = ["f-run", "f-split", "f-step", "f-stop"].map(number);
  const task = value("f-task"), correct = value("f-correct"), group = value("f-group"), marks = value("f-marks");
  const ranges = ["reward", "length"].map((name) => [all[name], number(`f-${name}-min`), number(`f-${name}-max`)]);
  const verdict = { right: (c) => c !== null && c >= 1, wrong: (c) => c !== null && c < 1, none: (c) => c === null }[correct];
  const mark = { words: (i) => all.words[i] > 0, both: (i) => all.script[i] === 3, dropped: (i) => all.flags[i] & 1, failed: (i) => all.flags[i] & 2 }[marks];
  let rows = [];
  for (let i = 0; i < all.size; i++) {
    if (run !== null && all.run[i] !== run) continue;
    if (split !== null && all.split[i] !== split) continue;
    if (step !== null && all.step[i] !== step) continue;
    if (stop !== null && all.stop[i] !== stop) continue;
    if (problemFilter !== null && all.problem[i] !== problemFilter) continue;
    if (task && all.titles[all.problem[i]][0] !== task) continue;
    if (verdict && !verdict(all.correct[i])) continue;
    if (group && (group === "equal") !== all.isEqual[all.groupOf[i]]) continue;
    if (mark && !mark(i)) continue;
    if (ranges.some(([column, low, high]) => (low !== null && !(column[i] >= low)) || (high !== null && !(column[i] <= high)))) continue;
    rows.push(i);
  }
  const order = value("f-sort"), column = all[order.replace("-", "")], sign = order.startsWith("-") ? -1 : 1;
  const key = (i) => (column[i] === null ? Infinity : sign * column[i]);
  if (column) rows.sort((a, b) => key(a) - key(b) || a - b);
  const words = value("f-search");
  let state = "";
  if (words) {
    const pattern = new RegExp(words.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "i");
    const numbers = [...new Set(rows.map((i) => all.chunkOf(i)))], missing = numbers.filter((k) => !all.loaded.has(k));
    for (const [done, k] of missing.entries()) {
      byId("count").textContent = `loading ${done + 1} of ${missing.length} files …`;
      await all.load(k);
      if (mine !== request) return;
    }
    const isAsked = new Map();
    rows = rows.filter((i) => {
      const k = all.chunkOf(i), { rows: texts, questions } = all.loaded.get(k), { completion, question } = texts[i - all.starts[k]];
      if (!isAsked.has(all.problem[i])) isAsked.set(all.problem[i], pattern.test(questions[question][0]));
      return isAsked.get(all.problem[i]) || pattern.test(completion);
    });
  }
  shown = rows;
  byId("f-problem").hidden = problemFilter === null;
  if (problemFilter !== null) byId("f-problem").textContent = `one problem: ${visible(all.titles[problemFilter][1])} ✕`;
  byId("count").textContent = `${shown.length.toLocaleString("en-US")} of ${all.size.toLocaleString("en-US")}`;
  byId("rows").style.height = `${shown.length * ROW_HEIGHT}px`;
  byId("list").scrollTop = 0;
  drawRows();
}

const verdictOf = (i) => (all.correct[i] === null ? ["", "–"] : all.correct[i] >= 1 ? ["good", "✓"] : ["bad", "✗"]);

// Only the rows in view exist.
function drawRows() {
  const list = byId("list"), first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - 5);
  const last = Math.min(shown.length, first + Math.ceil(list.clientHeight / ROW_HEIGHT) + 10);
  const rows = [];
  for (let at = first; at < last; at++) {
    const i = shown[at], row = make("div", `row${i === chosen ? " chosen" : ""}`), [look, sign] = verdictOf(i);
    row.style.top = `${at * ROW_HEIGHT}px`;
    make("span", "step", `${all.split[i] ? "" : "h"}${all.step[i]}`, row).title = all.split[i] ? "update, training" : "update, held-out";
    make("b", look, sign, row);
    make("span", "number", show(all.reward[i]), row).title = "reward";
    make("span", "number", show(all.length[i]), row).title = "tokens";
    make("span", "title", visible(all.titles[all.problem[i]][1] || all.titles[all.problem[i]][0]).replace(/\s+/g, " "), row);
    row.onclick = () => choose(i);
    rows.push(row);
  }
  byId("rows").replaceChildren(...rows);
}

async function choose(i, at = null) {
  chosen = i;
  if (at !== null) {
    const list = byId("list"), top = at * ROW_HEIGHT;
    list.scrollTop = Math.min(top, Math.max(list.scrollTop, top + ROW_HEIGHT - list.clientHeight));
  }
  drawRows();
  await Promise.all([drawOne(byId("one"), i, () => i === chosen), drawOne(byId("other"), pinned, () => true)]);
}

async function drawOne(target, i, isWanted) {
  if (i === null) { target.replaceChildren(); return; }
  const { row, prompt, problem } = await all.text(i);
  if (!isWanted()) return;
  const card = make("div", "answer"), header = make("header", "", "", card), [look, sign] = verdictOf(i);
  const fact = (text, className = "") => make("span", className, text, header);
  if (all.runs.length > 1) fact(all.runs[all.run[i]].label);
  fact(`${all.split[i] ? "training" : "held-out"}, ${all.runs[all.run[i]].unit} ${show(all.step[i])}`, "strong");
  fact({ good: "right", bad: all.correct[i] > 0 ? show(all.correct[i]) : "wrong" }[look] ?? "no verdict", look);
  if (row.answer) fact(`answered ${visible(String(row.answer)).slice(0, 200)}`);
  fact(`${show(all.length[i])} tokens`);
  if (all.advantage[i] !== null) fact(`advantage ${show(all.advantage[i])}`);
  const stop = all.stops[all.stop[i]];
  if (stop) fact(stop === "length" ? "cut off" : `stopped by ${visible(stop)}`, stop === "length" ? "bad" : "");
  if (all.flags[i] & 1) fact("not trained on");
  const pin = make("button", "", i === pinned ? "unpin" : "pin", header);
  pin.onclick = () => { pinned = i === pinned ? null : i; choose(chosen); };
  drawRewards(card, i, row);
  const question = make("p", "prompt", visible(prompt).slice(0, MAX_CHARACTERS), card);
  const answer = all.titles[all.problem[i]][2];
  if (answer) make("b", "", ` = ${visible(answer)}`, question);
  question.title = visible(problem).slice(0, 2000);
  const text = make("pre", "", "", card), hasTokens = Array.isArray(row.tokens) && Array.isArray(row.logps);
  if (hasTokens) {
    const button = make("button", "", "log-probs", header);
    button.setAttribute("aria-pressed", String(isColoured));
    button.onclick = () => { isColoured = !isColoured; choose(chosen); };
  }
  if (hasTokens && isColoured) drawTokens(text, row);
  else drawText(text, visible(row.completion));
  drawGroups(card, i);
  target.replaceChildren(card);
}

// Reward = sum of weight times part, and what failed.
function drawRewards(card, i, row) {
  const { weights } = all.runs[all.run[i]], parts = Object.entries(row.rewards ?? {});
  const line = make("p", "rewards", `reward ${show(all.reward[i])}`, card);
  const terms = parts.map(([name, value]) => `${weights[name] !== undefined ? `${show(weights[name])} × ` : ""}${visible(name)} ${show(value)}`);
  if (terms.length) line.append(` = ${terms.join(" + ")}`);
  for (const [name, message] of Object.entries(row.errors ?? {})) make("p", "bad", `${visible(name)} failed: ${visible(String(message)).slice(0, 500)}`, card);
  for (const [name, value] of Object.entries(row.extra ?? {})) make("p", "quiet", `${visible(name)}: ${visible(JSON.stringify(value) ?? "")}`.slice(0, 500), card);
}

// Reflection words, Chinese and the tags of the template are marked.
function drawText(pre, text, limit = MAX_CHARACTERS) {
  const part = text.slice(0, limit);
  let at = 0;
  for (const match of part.matchAll(MARKED)) {
    pre.append(part.slice(at, match.index));
    const [word, reflection, tag] = match;
    make(reflection ? "mark" : "span", reflection ? "" : tag ? "tag" : "chinese", word, pre);
    at = match.index + word.length;
  }
  pre.append(part.slice(at));
  if (!text.trim()) make("span", "quiet", "(empty)", pre);
  if (text.length > limit) {
    const more = make("button", "", `show all ${text.length.toLocaleString("en-US")} characters`, pre);
    more.onclick = () => { pre.replaceChildren(); drawText(pre, text, Infinity); };
  }
}

// Each token on a ground that is the redder the less likely it was: full at a probability of e^-5.
function drawTokens(pre, { tokens, logps }) {
  for (const [at, token] of tokens.slice(0, MAX_CHARACTERS).entries()) {
    const span = make("span", "token", visible(String(token)), pre), logp = Number(logps[at]);
    span.style.background = `oklch(65% 0.2 25 / ${Math.min(1, Math.max(0, -logp / 5)) * 0.7})`;
    span.title = `log-prob ${show(logp)}, probability ${show(Math.exp(logp))}`;
  }
}

// The other samples of the group, and the problem in other updates and runs.
function drawGroups(card, i) {
  const chip = (parent, j, text, look) => {
    const button = make("button", `chip ${look}${j === i ? " chosen" : ""}`, text, parent);
    button.onclick = () => choose(j);
  };
  const rows = all.groups[all.groupOf[i]];
  const group = make("div", "chips", `${rows.length} sample${rows.length > 1 ? "s" : ""}${all.isEqual[all.groupOf[i]] ? ", rewards all equal: " : ": "}`, card);
  for (const j of rows.slice(0, MAX_GROUPS)) chip(group, j, show(all.reward[j]), verdictOf(j)[0]);
  const same = all.groups.filter(([j]) => all.problem[j] === all.problem[i]);
  if (same.length < 2) return;
  const others = make("div", "chips", "", card), link = make("button", "", "this problem in all updates", others);
  link.onclick = () => { problemFilter = all.problem[i]; filter(); };
  for (const members of same.slice(0, MAX_GROUPS)) {
    const right = members.filter((j) => all.correct[j] >= 1).length, [j] = members;
    const name = all.runs.length > 1 ? `${all.runs[all.run[j]].label}, ` : "";
    chip(others, members.includes(i) ? i : j, `${name}${all.split[j] ? "" : "h"}${all.step[j]}: ${right}/${members.length}`, right * 2 >= members.length ? "good" : "bad");
  }
}

if (section) {
  addScript("index.js", () => { byId("count").textContent = `The completions are in the folder ${section.dataset.folder} next to this page, which is missing.`; });
}
