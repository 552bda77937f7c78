/**
 * Markdown to DOM nodes, while the text is still being written.
 *
 *     const view = new Markdown(element, { onCopy: (text) => navigator.clipboard.writeText(text) });
 *     view.append("Some *te");
 *     view.append("xt*\n");
 *     view.end();
 *
 * A subset of CommonMark 0.31 with the tables, task lists and strikethrough of GitHub; docs/pages.md
 * says it in full. Blocks: paragraphs, headings (`#` and underlined), lists (nested, of tasks),
 * quotes, fenced code, rules, tables. Inline: emphasis, strong, ~~strike~~, code, links and images
 * (as links; http, https and mailto only), bare http(s) addresses, `<br>`, escapes, common entities.
 * All else is text: HTML, reference links, footnotes, formulas, indented code. A line break in a
 * paragraph stays one, as people expect in a chat.
 *
 * How it stays fast: a complete line is handled once, and finished blocks are never touched again.
 * Only the open paragraph and the unfinished last line are drawn again, once per animation frame:
 * the unfinished line is drawn on trial, and taken back before the next draw. What is long is cut
 * where it does not show, since a browser lays out a whole paragraph, list, table or line of code
 * blocks again when its end grows. All views together draw for SLICE_MS per frame, no longer.
 *
 * How it stays safe: nodes are made one by one and text only ever becomes a text node. No HTML
 * string exists, so there is nothing to sanitize.
 */

import { element, inline, unescape } from "./inline.js";

const MAX_DEPTH = 10; // quotes and list items in each other
const MAX_COLUMNS = 20;
const MAX_LINE = 4000; // characters; a longer line is a paragraph, or code
const MAX_TEXT = 4000; // characters of one <p>; more goes on in the next one
const MAX_ITEMS = 200; // of one <ul> or <ol>
const MAX_ROWS = 100; // of one <table>
const CODE_LINES = 50; // of one <code>
const SLICE_MS = 4; // the browser takes several times as long to lay out what was drawn
const SMALL = 500; // characters that are drawn at once in any case

const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-+*]|\d{1,9}[.)])([ \t]+|$)/;
const TASK = /^\[([ xX])\]\s+(?=\S)/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/;
const UNDERLINE = /^ {0,3}(=+|-+)[ \t]*$/;
const FENCE = /^( *)(`{3,}(?=[^`]*$)|~{3,})(.*)$/;

// An unfinished line that may still become something else is not drawn yet.
const UNDECIDED = /^(?:[-+*>#|_]+|[-|: ]*|[-*_ ]+|(?:[-+*]|\d{1,9}[.)]) +\[[ xX]?\]?|\d{1,9}[.)]?|`+|`{3}[^`]*|~{3}.*)$/;

const waiting = new Set(); // views with something to draw
let frame = 0;
let spent = 0; // ms of drawing since the last frame

function schedule(view) {
  if (view) waiting.add(view);
  frame ||= requestAnimationFrame(() => {
    frame = spent = 0;
    const views = [...waiting].reverse(); // of a restored chat the end is what is looked at
    waiting.clear();
    for (const one of views) one.draw();
  });
}

export class Markdown {
  #root;
  #onCopy;
  #rest = ""; // text not yet handled: an unfinished line, or lines that wait for the next draw
  #ended = false;
  #midLine = false; // `rest` goes on with a long line whose beginning was handled
  #open = []; // the open containers, outermost first: {kind: "quote" | "item", node, ...}
  #leaf = null; // the open block in the innermost container: {kind: "text" | "code" | "table", ...}
  #trial = null; // how to take the unfinished line back: {open, leaf, nodes}

  /** @param {Element} root emptied and filled; @param {{onCopy?: (text: string, button: Element) => void}} options */
  constructor(root, { onCopy } = {}) {
    this.#root = root;
    this.#onCopy = onCopy;
    root.replaceChildren();
  }

  /** Add text; it is drawn with the next frame, or the next few if it is much. */
  append(text) {
    this.#rest += text;
    schedule(this);
  }

  /** Draw all there is now, without waiting for the next frame. */
  flush() {
    this.draw(Infinity);
  }

  /** No more text. A little that is left is drawn at once, and for good; a lot over the next frames. */
  end() {
    this.#ended = true;
    this.draw();
  }

  /** Start again with an empty root. */
  reset() {
    waiting.delete(this);
    this.#rest = "";
    this.#ended = this.#midLine = false;
    this.#open = [];
    this.#leaf = this.#trial = null;
    this.#root.replaceChildren();
  }

  /** Draw for at most `limit` ms, by default for what is left of this frame's share. */
  draw(limit = document.hidden || this.#rest.length < SMALL ? Infinity : SLICE_MS - spent) {
    if (limit <= 0) return schedule(this);
    const began = performance.now();
    waiting.delete(this);
    this.#takeBack();
    let done = false;
    let position = 0;
    while (performance.now() - began < limit) {
      const next = this.#step(position);
      if ((done = next === position)) break;
      position = next;
    }
    this.#rest = this.#rest.slice(position);
    if (!done) schedule(this);
    else if (this.#ended) {
      if (this.#rest && !this.#midLine) this.#line(this.#rest);
      this.#rest = "";
      this.#midLine = false;
      this.#shut(0);
    } else if (this.#rest && !this.#undecided()) {
      this.#trial = { open: this.#open, leaf: this.#leaf && { ...this.#leaf }, nodes: [] };
      this.#line(this.#rest);
    }
    this.#fill(true);
    spent += performance.now() - began;
    schedule();
  }

  /** Handle the text from `start`: a line, or a piece of a long one. Returns where it ends, `start` if it must wait. */
  #step(start) {
    const end = this.#rest.indexOf("\n", start);
    const stop = end < 0 ? this.#rest.length : end;
    if (!this.#midLine && stop - start <= MAX_LINE) {
      if (end < 0) return start;
      this.#line(this.#rest.slice(start, end));
      return end + 1;
    }
    let cut = Math.min(stop, start + MAX_LINE);
    if (/[\ud800-\udbff]/.test(this.#rest[cut - 1])) cut -= 1;
    const piece = this.#rest.slice(start, cut);
    if (!this.#midLine) this.#midLine = this.#line(piece, true);
    else if (this.#leaf.kind === "text") this.#grow(piece, true);
    else this.#growCode(piece);
    if (cut !== end) return cut;
    this.#midLine = false;
    return end + 1;
  }

  #takeBack() {
    if (!this.#trial) return;
    for (const node of this.#trial.nodes) node.remove();
    this.#open = this.#trial.open;
    this.#leaf = this.#trial.leaf;
    if (this.#leaf) this.#leaf.dirty = true;
    this.#trial = null;
  }

  #undecided() {
    const line = this.#rest.trim();
    if (this.#midLine) return true;
    if (this.#leaf?.kind === "code") return /^(?:`+|~+)$/.test(line);
    return UNDECIDED.test(line);
  }

  // Blocks --------------------------------------------------------------------------------------

  /** `long`: only the beginning of a line that can be nothing but text or code. Returns whether it was begun. */
  #line(raw, long = false) {
    const text = raw.replace(/\r$/, "");
    const whole = text.replace(/^[ \t]+/, (space) => space.replaceAll("\t", "    "));
    let [depth, line] = this.#descend(whole);
    const inside = depth === this.#open.length;
    if (this.#leaf?.kind === "code") {
      // Models often forget to indent code in a list: only leaving a quote ends it.
      if (inside || this.#open.slice(depth).every((box) => box.kind === "item")) {
        this.#code(!this.#open.length ? text : inside ? line : whole, long); // a Makefile needs its tabs
        return true;
      }
    }
    if (!line.trim()) {
      if (long) return false;
      this.#shut(depth);
      const box = this.#open.at(-1);
      if (box?.kind === "item" && !box.node.hasChildNodes()) this.#open = this.#open.slice(0, -1);
      return false;
    }
    if (!long && (this.#underline(line, inside) || this.#table(line, inside))) return false;
    [depth, line] = this.#enter(depth, line);
    if (!long && this.#block(depth, line)) return false;
    return this.#text(depth, line, long);
  }

  /** Walk down the open containers that this line continues; returns how many, and what is left of it. */
  #descend(line) {
    let depth = 0;
    for (const box of this.#open) {
      if (box.kind === "quote") {
        if (!QUOTE.test(line)) break;
        line = line.replace(QUOTE, "");
      } else if (line.trim()) {
        const indent = line.search(/\S/);
        if (indent >= box.indent) line = line.slice(box.indent);
        else if (indent >= box.column + 2 && (ITEM.exec(line)?.[2].at(-1) ?? box.mark) !== box.mark) line = line.trimStart();
        else break; // and before it: a list in a list, indented too little
      }
      depth += 1;
    }
    return [depth, line];
  }

  /** Open the quotes and list items that this line starts. */
  #enter(depth, line) {
    const sibling = this.#open[depth];
    for (let first = true; depth < MAX_DEPTH; first = false, depth += 1) {
      const item = !RULE.test(line) && ITEM.exec(line);
      if (QUOTE.test(line)) {
        this.#shut(depth);
        this.#push({ kind: "quote", node: block("blockquote") });
        line = line.replace(QUOTE, "");
      } else if (item && !this.#staysText(item, line, first && sibling)) {
        this.#shut(depth);
        line = this.#item(item, line, first && sibling);
      } else break;
    }
    return [depth, line];
  }

  /** In the middle of a paragraph "1986. A good year" is no list, and neither is a lonely dash. */
  #staysText([, , marker, gap], line, sibling) {
    if (this.#leaf?.kind !== "text" || sibling?.kind === "item") return false;
    return gap === "" || line.trim() === marker || (/\d/.test(marker) && parseInt(marker, 10) !== 1);
  }

  #item([whole, space, marker, gap], line, sibling) {
    const kind = /\d/.test(marker) ? "ol" : "ul";
    let list = sibling?.kind === "item" && sibling.mark === marker.at(-1) ? sibling.list : null;
    const full = list?.children.length >= MAX_ITEMS ? list : null;
    if (!list || full) {
      list = element(kind, full ? "more" : "");
      const number = full ? (full.start ?? 0) + MAX_ITEMS : parseInt(marker, 10);
      if (kind === "ol" && number !== 1) list.start = number;
      this.#add(list);
    }
    const padding = gap.length <= 4 && whole.length < line.length ? gap.length : 1;
    const node = block("li");
    this.#put(list, node, "\n");
    this.#open = [
      ...this.#open,
      { kind: "item", node, list, mark: marker.at(-1), column: space.length, indent: space.length + marker.length + padding },
    ];
    return line.slice(whole.length);
  }

  /** A line of `=` or `-` makes a heading of the paragraph above; false if there is none. */
  #underline(line, inside) {
    const leaf = this.#leaf;
    const mark = inside && leaf?.kind === "text" && !leaf.more && UNDERLINE.exec(line);
    if (!mark) return false;
    if (this.#trial) return true; // not drawn yet
    const node = block(mark[1][0] === "=" ? "h1" : "h2");
    node.append(...inline(leaf.raw));
    leaf.node.replaceWith(node);
    this.#leaf = null;
    return true;
  }

  /** Headings, rules and fences; false if the line is none of them. */
  #block(depth, line) {
    const fence = FENCE.exec(line);
    const heading = !fence && HEADING.exec(line);
    if (!fence && !heading && !RULE.test(line)) return false;
    this.#shut(depth);
    if (fence) {
      this.#leaf = { kind: "code", fence: fence[2], indent: fence[1].length, ...this.#codeBox(fence[3].trim()) };
    } else if (heading) {
      const node = block(`h${heading[1].length}`);
      node.append(...inline(title(heading[2] ?? ""), this.#trial !== null));
      this.#add(node);
    } else {
      this.#add(element("hr"));
    }
    return true;
  }

  #text(depth, line, long) {
    const text = line.trim();
    if (!text) {
      this.#shut(depth);
      return false;
    }
    if (this.#leaf?.kind === "text") {
      // Also when the line left its containers: a paragraph runs on until something else begins.
      this.#leaf.raw += "\n";
    } else {
      this.#shut(depth);
      const box = this.#open.at(-1);
      const task = box?.kind === "item" && !box.node.hasChildNodes() && TASK.exec(text);
      this.#paragraph(task && (task[1] === " " ? "open" : "done"));
      if (task) {
        box.node.className = "task";
        line = text.slice(task[0].length);
      }
    }
    return this.#grow(long ? line.trimStart() : line.trim(), long);
  }

  #paragraph(task = null, gap = undefined) {
    const node = this.#open.length ? element("p") : block("p");
    this.#add(node, gap);
    this.#leaf = { kind: "text", node, raw: "", task, dirty: true };
  }

  /** More of the open paragraph. In which pieces a long line comes changes nothing about where it is cut. */
  #grow(text, long) {
    const leaf = this.#leaf;
    const more = long ? text.replace(/[ \t\r]+/g, " ") : text;
    leaf.raw += long && leaf.raw.endsWith(" ") ? more.trimStart() : more;
    leaf.dirty = true;
    while (this.#leaf.raw.length > MAX_TEXT && !this.#trial) {
      const { raw, node } = this.#leaf;
      const end = cut(raw);
      this.#leaf.raw = raw.slice(0, end);
      this.#fill(false);
      node.classList.add("cut");
      this.#paragraph(null, /\s?$/.exec(this.#leaf.raw)[0]);
      this.#leaf.raw = raw.slice(end);
      this.#leaf.more = true;
    }
    return true;
  }

  #codeBox(info) {
    const lang = unescape(info.split(/\s/, 1)[0]).slice(0, 24);
    const box = element("div", "code");
    const copy = element("button", "copy");
    copy.type = "button";
    copy.ariaLabel = "Copy code";
    const pre = scrollable(element("pre"), "Code");
    pre.dir = "ltr";
    copy.addEventListener("click", () => this.#onCopy?.(pre.textContent, copy));
    const label = element("div", "lang");
    label.textContent = lang;
    box.append(label, copy, pre);
    this.#add(box);
    return { pre, lang, code: pre.appendChild(element("code")), lines: 0 };
  }

  #code(line, long) {
    const leaf = this.#leaf;
    const text = line.trim();
    if (!long && text.length >= leaf.fence.length && text === leaf.fence[0].repeat(text.length)) return this.#shut(this.#open.length);
    const indent = Math.min(leaf.indent, Math.max(line.search(/[^ ]|$/), 0));
    const isNext = leaf.lines > 0 && leaf.lines % CODE_LINES === 0;
    if (isNext) {
      leaf.code = element("code");
      this.#put(leaf.pre, leaf.code, "\n");
    }
    const node = new Text((leaf.lines && !isNext ? "\n" : "") + line.slice(indent));
    leaf.lines += 1;
    // One text node for all finished lines; the one on trial stands alone.
    if (!this.#trial && leaf.code.lastChild) leaf.code.lastChild.appendData(node.data);
    else this.#track(leaf.code.appendChild(node));
  }

  #growCode(text) {
    const last = this.#leaf.code.lastChild;
    if (last && last.length < MAX_LINE) last.appendData(text.replace(/\r$/, ""));
    else this.#leaf.code.append(new Text(text.replace(/\r$/, "")));
  }

  /** A row of the open table, or the line that makes a table of the line above; false if neither. */
  #table(line, inside) {
    const leaf = this.#leaf;
    if (!inside || !leaf || leaf.kind === "code" || !line.includes("|")) return false;
    const cells = split(line);
    if (leaf.kind === "table") {
      if ([QUOTE, ITEM, HEADING, FENCE].some((other) => other.test(line))) return false;
      if (leaf.body.children.length >= MAX_ROWS) this.#tableBox(leaf.head, leaf.align, true);
      this.#row(this.#leaf.body, "td", cells, leaf.align);
      return true;
    }
    if (cells.length > MAX_COLUMNS || !cells.every((cell) => /^:?-+:?$/.test(cell))) return false;
    const above = leaf.raw.lastIndexOf("\n") + 1;
    const head = split(leaf.raw.slice(above));
    if (head.length !== cells.length) return false;
    if (this.#trial) return true; // not drawn yet
    const side = (cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : cell.startsWith(":") ? "left" : "");
    leaf.raw = leaf.raw.slice(0, Math.max(above - 1, 0));
    if (leaf.raw) this.#fill(false);
    else this.#drop(leaf.node);
    this.#tableBox(head, cells.map(side));
    return true;
  }

  #tableBox(head, align, more = false) {
    const box = scrollable(element("div", more ? "table more" : "table"), "Table");
    const [table, top, body] = [element("table"), element("thead"), element("tbody")];
    this.#row(top, "th", head, align);
    table.append(top, new Text("\n"), body);
    box.append(table);
    this.#add(box);
    this.#leaf = { kind: "table", body, head, align };
  }

  #row(parent, kind, cells, align) {
    const row = element("tr");
    align.forEach((side, column) => {
      const cell = block(kind);
      if (side) cell.style.textAlign = side;
      cell.append(...inline(cells[column] ?? "", this.#trial !== null));
      if (column) row.append("\t");
      row.append(cell);
    });
    this.#put(parent, row, "\n");
  }

  // The tree ------------------------------------------------------------------------------------

  /** Close the open block and all containers below `depth`. */
  #shut(depth) {
    this.#fill(false);
    if (this.#leaf?.kind === "code" && !this.#trial) {
      const { pre, lang } = this.#leaf;
      // Loaded with the first code. When the server is away just then, that code stays plain.
      import("./highlight.js").then(({ colour }) => colour(pre, lang), () => {});
    }
    this.#leaf = null;
    if (depth < this.#open.length) this.#open = this.#open.slice(0, depth);
  }

  /** Draw the open paragraph again if it changed. `open`: more of it may come. */
  #fill(open) {
    const leaf = this.#leaf;
    if (leaf?.kind !== "text" || (open && !leaf.dirty)) return;
    leaf.dirty = false;
    // A last line that may become the head of a table is not drawn yet.
    const nodes = inline(open ? leaf.raw.replace(/(?:^|\n)\|[^\n]*$/, "") : leaf.raw.trimEnd(), open);
    if (!leaf.task) return leaf.node.replaceChildren(...nodes);
    const [label, box] = [element("label"), element("input")];
    box.type = "checkbox";
    box.disabled = true;
    box.toggleAttribute("checked", leaf.task === "done");
    label.append(box, " ", ...nodes);
    leaf.node.replaceChildren(label);
  }

  #push(box) {
    this.#add(box.node);
    this.#open = [...this.#open, box];
  }

  #add(node, gap) {
    const box = this.#open.at(-1);
    this.#put(box?.node ?? this.#root, node, gap ?? (box ? "\n" : "\n\n"));
  }

  /** The gap is not visible between blocks; it keeps the words apart in textContent. */
  #put(parent, node, gap) {
    if (parent.lastChild) this.#track(parent.appendChild(new Text(gap)));
    this.#track(parent.appendChild(node));
  }

  #drop(node) {
    if (node.previousSibling) node.previousSibling.remove();
    node.remove();
  }

  #track(node) {
    this.#trial?.nodes.push(node);
  }
}

/** A block that holds text has the direction of that text. */
function block(name) {
  const node = element(name);
  node.dir = "auto";
  return node;
}

/** With the keyboard too. */
function scrollable(node, name) {
  node.tabIndex = 0;
  node.role = "group";
  node.ariaLabel = name;
  return node;
}

/** The text of a heading, without the marks that may close it. */
function title(text) {
  const whole = text.trim();
  let end = whole.length;
  while (whole[end - 1] === "#") end -= 1;
  return end === 0 || whole[end - 1] === " " ? whole.slice(0, end).trimEnd() : whole;
}

/** The cells of a table row. */
function split(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

/** Where a long paragraph is cut: after a sentence or else a word, outside of code, links and emphasis if it can be. */
function cut(raw) {
  let [ticks, stars, brackets, sentence, word, space] = [0, 0, 0, 0, 0, 0];
  for (const { 0: found, index } of raw.slice(0, MAX_TEXT).matchAll(/`+|\*+|[[\]]|[。！？]|\s/g)) {
    if (found[0] === "`") ticks = ticks === 0 ? found.length : ticks === found.length ? 0 : ticks;
    else if (ticks) continue;
    else if (found[0] === "*") stars ^= found.length;
    else if (found === "[") brackets += 1;
    else if (found === "]") brackets = Math.max(0, brackets - 1);
    else {
      const end = index + found.length;
      if (index < MAX_TEXT / 2) continue;
      space = end;
      if (stars || brackets) continue;
      word = end;
      if (found !== " " || /[.!?…:]/.test(raw[index - 1])) sentence = end;
    }
  }
  const end = sentence || word || space || MAX_TEXT;
  return /[\ud800-\udbff]/.test(raw[end - 1]) ? end - 1 : end;
}
