/** Lines over time as inline SVG, built node by node: a spark for a tile, a chart with axes and a cursor. */

const SVG = "http://www.w3.org/2000/svg";
const W = 600, H = 120;
/** So many samples are shown at least, so that a young hour does not look full. */
const LEAST = 30;

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** The polylines of one series: nothing was measured where a value is null, and the line is broken there. */
function lines(values, top, line, height) {
  const span = Math.max(values.length, LEAST);
  const x = (index) => ((span - values.length + index) / (span - 1)) * W;
  const y = (value) => height - 2 - (value / top) * (height - 4);
  const made = [];
  let points = [];
  const end = () => {
    if (points.length === 1) points.push(points[0].replace(/^[^,]*/, (at) => String(Number(at) + 2)));
    if (points.length) made.push(shape("polyline", { points: points.join(" "), "data-line": line }));
    points = [];
  };
  values.forEach((value, index) => {
    if (value === null) end();
    else points.push(`${x(index).toFixed(1)},${y(value).toFixed(1)}`);
  });
  end();
  return made;
}

const numbers = (values) => values.filter((value) => value !== null);

/** A line without axes; the tile beside it says the value. */
export class Spark {
  constructor() {
    this.root = shape("svg", { class: "spark", viewBox: `0 0 ${W} 28`, preserveAspectRatio: "none", "aria-hidden": "true" });
  }

  show(values) {
    this.root.replaceChildren(...lines(values, Math.max(...numbers(values), 1e-9), 0, 28));
  }
}

/** The least of 1, 2, 5, 10, … that is not below a value. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((edge) => edge >= value * 0.999);
}

export class Chart {
  #series;
  #format;
  #rows = [];
  #at = 0;
  #step = 10;
  #picked = null;

  /** `series`: name → label. `format`: a value in words. `floor`: the least height of the axis. */
  constructor(title, series, format, floor) {
    this.#series = series;
    this.#format = format;
    this.floor = floor;
    this.title = title;
    this.caption = element("figcaption");
    this.svg = shape("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img", tabindex: "0" });
    this.top = element("span", { class: "top", "aria-hidden": "true" });
    this.bottom = element("span", { class: "bottom", "aria-hidden": "true" });
    this.bottom.textContent = format(0);
    this.since = element("span");
    const times = element("div", { class: "times", "aria-hidden": "true" }, this.since, element("span", {}, "now"));
    this.root = element("figure", {}, this.caption, element("div", { class: "plot" }, this.svg, this.top, this.bottom), times);
    this.svg.addEventListener("pointermove", (event) => this.#point(event));
    this.svg.addEventListener("pointerleave", () => this.#pick(null));
    this.svg.addEventListener("blur", () => this.#pick(null));
    this.svg.addEventListener("keydown", (event) => this.#key(event));
  }

  /** `columns`: name → values, oldest first; the newest is of the time `at`, in ms, and `step` seconds lie between two. */
  show(columns, at, step) {
    this.#rows = Object.keys(this.#series).map((name) => columns[name] ?? []);
    this.#at = at;
    this.#step = step;
    this.#draw();
  }

  get #length() {
    return this.#rows[0]?.length ?? 0;
  }

  #draw() {
    const most = Math.max(this.floor, ...this.#rows.flatMap(numbers));
    const top = nice(most);
    const grid = [0.02, 0.5, 0.98].map((y) => shape("line", { class: "grid", x1: 0, x2: W, y1: y * H, y2: y * H }));
    this.svg.replaceChildren(...grid, ...this.#rows.flatMap((values, line) => lines(values, top, line, H)));
    this.top.textContent = this.#format(top);
    this.since.textContent = `${Math.round((Math.max(this.#length, LEAST) * this.#step) / 60)} min ago`;
    this.#say();
  }

  /** The caption shows the last values, or those under the cursor; the label sums the hour up. */
  #say() {
    const picked = this.#picked === null ? null : Math.max(0, this.#length - 1 - this.#picked);
    const index = picked ?? this.#length - 1;
    const labels = Object.values(this.#series);
    const told = (value) => this.#format(value ?? null);
    const keys = labels.map((label, line) =>
      element("span", { class: "key", "data-line": line }, `${label} ${told(this.#rows[line][index])}`.trim()),
    );
    const when = picked === null ? [] : [element("span", {}, clock(this.#at - (this.#length - 1 - index) * this.#step * 1000))];
    this.caption.replaceChildren(element("b", {}, this.title), ...when, ...keys);
    this.svg.querySelector(".cursor")?.remove();
    if (picked !== null) {
      const span = Math.max(this.#length, LEAST);
      const x = ((span - this.#length + index) / (span - 1)) * W;
      this.svg.append(shape("line", { class: "cursor", x1: x, x2: x, y1: 0, y2: H }));
      return;
    }
    const sums = labels.map((label, line) => {
      const known = numbers(this.#rows[line]);
      if (!known.length) return `${label}: nothing measured`;
      const [low, high] = [Math.min(...known), Math.max(...known)].map(this.#format);
      return `${label}: from ${low} to ${high}, last ${told(this.#rows[line].at(-1))}`;
    });
    this.svg.setAttribute("aria-label", `${this.title}, the last ${this.since.textContent.replace(" ago", "utes")}. ${sums.join("; ")}.`);
  }

  #pick(back) {
    if (back !== null) back = Math.max(0, Math.min(this.#length - 1, back));
    if (back === this.#picked || !this.#length) return;
    this.#picked = back;
    this.#say();
  }

  #point(event) {
    const box = this.svg.getBoundingClientRect();
    const span = Math.max(this.#length, LEAST);
    this.#pick(Math.round((1 - (event.clientX - box.left) / box.width) * (span - 1)));
  }

  #key(event) {
    const steps = { ArrowLeft: 1, ArrowRight: -1, PageUp: 30, PageDown: -30, Home: Infinity, End: -Infinity };
    if (event.key === "Escape") this.#pick(null);
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.#pick((this.#picked ?? 0) + steps[event.key]);
  }
}

/** A time of the clock on the wall. */
export function clock(ms, seconds = true) {
  const parts = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  return new Intl.DateTimeFormat(undefined, seconds ? { ...parts, second: "2-digit" } : parts).format(ms);
}
