/**
 * The status page: asks for /status.json while somebody looks, and shows it.
 *
 * Whether something is wrong, and in which words, is the server's to say; here it only finds its place.
 */

import { Chart, Spark, clock, element } from "./chart.js";

const $ = (id) => document.getElementById(id);
const EVERY_MS = 5000;
const LONGEST_MS = 60_000;
const KEPT = 360;
const WORDS = { good: "good", warn: "warning", bad: "bad" };
const BREAKERS = { closed: ["closed: in use", "good"], half_open: ["half open: one probe", "warn"], open: ["open: rests", "bad"] };
const NODES = { answers: "answers", silent: "does not answer: gone, stuck or older", "not asked": "cannot be asked now" };

/* Figures in words */

const figure = (value) => (value === null ? "–" : count(value));
const count = (value) => new Intl.NumberFormat(undefined, { maximumFractionDigits: Math.abs(value) < 10 ? 1 : 0 }).format(value);
const split = (s) => (!s ? ["0", "ms"] : s < 0.01 ? [(s * 1000).toFixed(1), "ms"] : s < 1 ? [String(Math.round(s * 1000)), "ms"] : s < 100 ? [s.toFixed(1), "s"] : [figure(s), "s"]);
const time = (s) => (s === null || s === undefined ? "–" : split(s).join(" "));
const money = (value) => new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 }).format(value);

function lasted(s) {
  const [days, hours, minutes] = [Math.floor(s / 86400), Math.floor((s % 86400) / 3600), Math.floor((s % 3600) / 60)];
  return days ? `${days} d ${hours} h` : hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.round(s)} s`;
}

/* What there is to see */

const both = (latency) => (latency.count ? `p95 ${time(latency.p95)}, of ${figure(latency.count)}` : "none in the last minute");
const median = (latency) => (latency.count ? split(latency.p50) : ["–", ""]);

/** Name → title, which check it shows, series of its spark, and [value, unit, note] of an answer. */
const TILES = {
  running: ["Running answers", "process", "running", ({ now, slots }) => [figure(now.running), `of ${figure(slots)}`, "slots of this process"]],
  queue: ["Queue", "queue", "queued", ({ now }) => [figure(now.queued), "waiting", now.queued ? `oldest for ${time(now.oldest_s)}` : "nothing waits"]],
  first: ["First token", null, "first_token_p50", ({ now: { latency } }) => [...median(latency.first_token), both(latency.first_token)]],
  gap: ["Between tokens", null, "gap_p50", ({ now: { latency } }) => [...median(latency.gap), both(latency.gap)]],
  tokens: ["Tokens", null, "tokens_per_s", ({ now }) => [figure(now.tokens_per_s), "a second", `${figure(now.answers.last_hour)} ${now.answers.last_hour === 1 ? "answer" : "answers"} in the last hour`]],
  errors: ["Errors", "errors", "errors", ({ now }) => [figure(now.errors.last_5m), "in 5 min", `${figure(now.errors.last_hour)} in the hour, ${figure(now.refused.last_hour)} refused`]],
  connections: ["Connections", null, "connections", ({ now }) => [figure(now.connections), "WebSockets", "open at this process"]],
  lag: ["Event loop lag", "lag", "lag_p95", ({ now: { latency } }) => [...(latency.lag.count ? split(latency.lag.p95) : ["–", ""]), `p95 of the last minute, most ${time(latency.lag.max)}`]],
  upstreams: ["Upstreams", "upstreams", "breakers_open", ({ upstreams, upstreams_more: more }) => {
    const up = upstreams.filter((one) => one.state === "closed").length;
    return [figure(up), `of ${figure(upstreams.length)}`, more ? `in use, and ${more} more` : "in use"];
  }],
  redis: ["Redis commands", "redis", "commands", ({ redis }) => redis && [figure(redis.per_hour), "an hour", redis.trouble ? `degraded: ${redis.trouble}` : `${figure(redis.projected_month)} a month, of all processes`]],
};

/** Title, series with their labels, format, least height of the axis. */
const CHARTS = [
  ["First token, from the request on", { first_token_p50: "p50", first_token_p95: "p95" }, time, 0.01],
  ["Where the time goes, p95", { queue_p95: "queue", upstream_p95: "upstream", delivery_p95: "delivery" }, time, 0.01],
  ["Between tokens", { gap_p50: "p50", gap_p95: "p95" }, time, 0.01],
  ["Tokens a second", { tokens_per_s: "" }, figure, 10],
  ["Answers", { running: "running", queued: "waiting" }, figure, 5],
  ["Oldest wait", { oldest_s: "" }, time, 1],
  ["Errors, each 10 s", { errors: "errors", refused: "refused" }, figure, 5],
  ["Event loop lag", { lag_p95: "p95", lag_max: "most" }, time, 0.01],
  ["Connections", { connections: "" }, figure, 5],
  ["Redis commands, each 10 s", { commands: "" }, figure, 5],
];

const tiles = {};
const charts = [];
const state = { node: "", next: 0, columns: {} };

function build(report) {
  for (const [name, [title]] of Object.entries(TILES)) {
    if (name === "redis" && !report.redis) continue;
    const [level, value, note, spark] = [element("span", { class: "level" }), element("p", { class: "value" }), element("p", { class: "note" }), new Spark()];
    const root = element("article", { class: "tile", "data-tile": name }, element("h3", {}, element("span", {}, title), level), value, note, spark.root);
    tiles[name] = { level, value, note, spark };
    $("tiles").append(root);
  }
  for (const [title, series, format, floor] of CHARTS) {
    if ("commands" in series && !report.redis) continue;
    const chart = new Chart(title, series, format, floor);
    charts.push(chart);
    $("charts").append(chart.root);
  }
}

/** Add the samples that came to those that are here, or begin anew: with another process, or after a restart. */
function collect({ node, series }) {
  const anew = node !== state.node || series.first !== state.next;
  for (const [name, values] of Object.entries(series.columns))
    state.columns[name] = [...(anew ? [] : state.columns[name] ?? []), ...values].slice(-KEPT);
  state.node = node;
  state.next = series.next;
}

const say = (where, text) => {
  if (where.textContent !== text) where.textContent = text; // the same words again are not read out again
};

function show(report) {
  if (!charts.length) build(report);
  collect(report);
  showVerdict(report);
  $("content").hidden = false; // before the tables, whose widths are looked at
  const levels = Object.fromEntries(report.checks.map((check) => [check.what, check]));
  for (const [name, tile] of Object.entries(tiles)) {
    const [, check, series, read] = TILES[name];
    const [value, unit, note] = read(report);
    tile.value.replaceChildren(value, element("small", {}, unit));
    tile.note.textContent = note;
    const level = levels[check]?.level ?? "";
    tile.level.hidden = !level;
    tile.level.dataset.level = level;
    tile.level.textContent = WORDS[level] ?? "";
    tile.spark.show(state.columns[series] ?? []);
  }
  const newest = report.at * 1000;
  for (const chart of charts) chart.show(state.columns, newest, report.sample_s);
  showUpstreams(report);
  showNodes(report);
  showRedis(report);
}

function showVerdict({ checks, ...report }) {
  const wrong = checks.filter((check) => check.level !== "good");
  $("verdict").dataset.level = wrong[0]?.level ?? "good";
  const sentence = (text) => text[0].toUpperCase() + text.slice(1);
  say($("headline"), wrong.length ? sentence(wrong[0].text) : "All is well");
  document.title = `${wrong.length ? sentence(wrong[0].text) : "All is well"} – Grizz`;
  $("problems").replaceChildren(...wrong.slice(1).map((check) => element("li", {}, sentence(check.text))));
  $("problems").hidden = wrong.length < 2;
  const facts = [`Grizz ${report.version}`, `up for ${lasted(report.uptime_s)}`, `process ${report.node}`, `as of ${clock(report.at * 1000)}`];
  if (report.shares_port) facts.push("one of several on this port: their sums are below");
  $("facts").textContent = facts.join(" · ");
}

function table(columns, rows) {
  const head = element("tr", {}, ...columns.map(([title, kind]) => element("th", { scope: "col", class: kind ?? "" }, title)));
  const body = rows.map(({ cells, kind = "" }) =>
    element("tr", { class: kind }, ...cells.map((cell, index) => {
      const [text, level] = Array.isArray(cell) ? cell : [cell];
      const made = element(index ? "td" : "th", index ? { class: level ? "state" : columns[index][1] ?? "" } : { scope: "row" }, text);
      if (level) made.dataset.level = level;
      return made;
    })),
  );
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
}

/** Into a section; one that is wider than the screen is scrolled, by the keyboard too. */
function put(section, made) {
  const box = $(section).querySelector(".table");
  box.replaceChildren(made);
  box.tabIndex = box.scrollWidth > box.clientWidth ? 0 : -1;
  if (box.tabIndex < 0) box.removeAttribute("tabindex");
}

function showUpstreams({ upstreams }) {
  const rows = upstreams.map((one) => {
    const rest = one.probe_in_s ? `probe in ${time(one.probe_in_s)}` : one.state === "open" ? "the next job probes" : one.paused_s ? `paused for ${time(one.paused_s)}` : "–";
    return { cells: [one.name, BREAKERS[one.state] ?? [one.state, "warn"], figure(one.open_requests), figure(one.failures), rest] };
  });
  put("upstreams", table([["Upstream"], ["Breaker"], ["Open requests", "number"], ["Failures in a row", "number"], ["Rest"]], rows));
}

const COUNTS = ["connections", "running", "slots", "queued", "tokens_per_s"];

function showNodes({ nodes, node }) {
  $("nodes").hidden = !nodes;
  if (!nodes) return;
  const shown = (row, name) => (name in row ? figure(row[name]) : "–");
  const cells = (name, health, row) => [name, health, row.version ?? "–", "uptime_s" in row ? lasted(row.uptime_s) : "–", shown(row, "connections"), "running" in row ? `${figure(row.running)} of ${figure(row.slots)}` : "–", shown(row, "queued"), shown(row, "tokens_per_s")];
  const rows = nodes.map((row) => {
    const away = row.state !== "answers";
    const words = away ? NODES[row.state] : row.degraded ? `degraded, ${row.degraded}` : row.draining ? "draining" : "well";
    return { cells: cells(row.node === node ? `${row.node} (this one)` : row.node, [words, row.state === "silent" ? "bad" : words === "well" ? "good" : "warn"], row) };
  });
  if (nodes.length > 1) {
    const heard = nodes.filter((row) => row.state === "answers");
    const sums = Object.fromEntries(COUNTS.map((name) => [name, heard.reduce((sum, row) => sum + (row[name] ?? 0), 0)]));
    rows.push({ kind: "all", cells: cells("All together", `${heard.length} of ${nodes.length} answer`, sums) });
  }
  $("nodes").querySelector(".about").textContent = "All that share this Redis. They are asked only while this page is looked at, once in 10 seconds: one command, and one for each that answers.";
  const number = "number";
  put("nodes", table([["Process"], ["State"], ["Version"], ["Up for"], ["Connections", number], ["Running", number], ["Waiting", number], ["Tokens/s", number]], rows));
}

function showRedis({ redis, covered_s: covered }) {
  $("redis").hidden = !redis;
  if (!redis) return;
  const who = redis.processes === 1 ? "this process sends" : `${redis.processes} processes send`;
  const month = `If the last hour is typical, ${who} ${figure(redis.projected_month)} commands this month, for ${money(redis.projected_cost)} at ${money(redis.price_per_100k)} each 100,000`;
  const budget = redis.budget_month ? `: ${figure(redis.share * 100)} % of the budget of ${figure(redis.budget_month)} (${money(redis.budget_cost)}).` : "; there is no budget (redis.monthly_command_budget).";
  const saves = redis.thrift ? ` Thrift ${redis.thrift} of 3 is in force: ${["", "messages go out once a second", "messages go out every two seconds", "new work stays where it was asked for"][redis.thrift]}.` : "";
  $("redis").querySelector(".about").textContent = month + budget + saves;
  $("spent").hidden = !redis.budget_month;
  $("spent").firstElementChild.style.width = `${Math.min(100, redis.share * 100)}%`;
  $("spent").dataset.level = redis.share > 0.95 ? "bad" : redis.share > 0.8 ? "warn" : "good";
  const commands = Object.entries(redis.commands);
  const sum = commands.reduce((all, [, count]) => all + count, 0);
  const rows = commands.map(([name, count]) => ({ cells: [name.toUpperCase(), figure(count), `${figure((count / sum) * 100)} %`] }));
  rows.push({ kind: "all", cells: ["All", figure(sum), ""] });
  const title = covered < 3590 ? `Since the start, ${lasted(covered)}` : "In the last hour";
  put("redis", table([["Command of this process"], [title, "number"], ["Part", "number"]], rows));
}

/* Asking */

let timer = 0;
let asking = false;
let fails = 0;
let lostAt = 0;

async function look() {
  clearTimeout(timer);
  if (asking || document.hidden) return;
  asking = true;
  try {
    const url = `/status.json?node=${encodeURIComponent(state.node)}&after=${state.next - 1}`;
    const answer = await fetch(url, { signal: AbortSignal.timeout(10_000) });
    if (answer.status === 401) return stranger();
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    show(await answer.json());
    fails = 0;
    away("");
  } catch {
    if (!fails++) lostAt = Date.now();
    away(`Server not reachable since ${clock(lostAt, false)}${charts.length ? ", showing the last state" : ""}`);
  } finally {
    asking = false;
  }
  timer = setTimeout(look, fails ? Math.min(LONGEST_MS, EVERY_MS * 2 ** (fails - 1)) : EVERY_MS);
}

function away(text) {
  document.body.classList.toggle("away", text !== "");
  $("away").hidden = !text;
  say($("away"), text);
  if (text && !charts.length) say($("headline"), "Nothing is known yet");
}

function stranger() {
  say($("headline"), "Sign in to see how this server is");
  signIn?.again(who);
}

const who = { info: async () => (await fetch("/pages/info.json", { cache: "no-store" })).json() };
// Where the server has accounts, it says so in the page itself.
const signIn = "accounts" in document.documentElement.dataset ? await import("./sign-in.js") : null;
document.addEventListener("visibilitychange", look);
addEventListener("online", look);
if (signIn) signIn.begin(who, look);
else look();
