/**
 * Markdown to DOM nodes, while the text is still being written.
 *
 *     const view = new Markdown(element, { onCopy: (text) => navigator.clipboard.writeText(text) });
 *     view.append("Some *te");
 *     view.append("xt*\n");
 *     view.end();
 *
 * Blocks: paragraphs, headings (`#`), bullet and numbered lists (nested), quotes, fenced code,
 * rules, tables of at most 20 columns. Inline: emphasis, strong, strikethrough, code, links
 * (http, https, mailto), bare http(s) addresses, backslash escapes, `<br>`. All else is text: HTML,
 * images (shown as a link), footnotes, formulas, indented code, underlined headings. A line break
 * in a paragraph stays one, as people expect in a chat.
 *
 * How it stays fast: every complete line is handled once and its nodes are never touched again.
 * Only the open paragraph and the unfinished last line are drawn again, at most once per animation
 * frame: the unfinished line is drawn on trial, and taken back before the next draw.
 *
 * How it stays safe: nodes are made one by one and text only ever becomes a text node. No HTML
 * string exists, so there is nothing to sanitize.
 */

import { element, inline } from "./inline.js";

const MAX_DEPTH = 10;
const MAX_COLUMNS = 20;

const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-+*]|\d{1,9}[.)])( +|$)/;
const RULE = /^ {0,3}([-*_])(?: *\1){2,} *$/;
const HEADING = /^ {0,3}(#{1,6})(?: +(.*))?$/;
const FENCE = /^( *)(`{3,}|~{3,})([^`]*)$/;

// An unfinished line that may still become something else is not drawn yet.
const UNDECIDED = /^(?:[-+*>#|_]+|[-|: ]*|\d{1,9}[.)]?|`+|`{3}[^`]*|~{3}.*)$/;

export class Markdown {
  #root;
  #onCopy;
  #rest = ""; // text not yet handled: an unfinished line, or lines that wait for the next draw
  #open = []; // the open containers, outermost first: {kind: "quote" | "item", node, ...}
  #leaf = null; // the open block in the innermost container: {kind: "text" | "code" | "table", ...}
  #trial = null; // how to take the unfinished line back: {open, leaf, nodes}
  #frame = 0;

  /** @param {Element} root emptied and filled; @param {{onCopy?: (text: string, button: Element) => void}} options */
  constructor(root, { onCopy } = {}) {
    this.#root = root;
    this.#onCopy = onCopy;
    root.replaceChildren();
  }

  /** Add text; it is drawn with the next frame. */
  append(text) {
    this.#rest += text;
    this.#frame ||= requestAnimationFrame(() => this.#draw(false));
  }

  /** Draw what there is now, without waiting for the next frame. */
  flush() {
    this.#draw(false);
  }

  /** No more text: draw what is left at once, and for good. */
  end() {
    this.#draw(true);
  }

  /** Start again with an empty root. */
  reset() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#rest = "";
    this.#open = [];
    this.#leaf = this.#trial = null;
    this.#root.replaceChildren();
  }

  #draw(last) {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#takeBack();
    let start = 0;
    for (let end; (end = this.#rest.indexOf("\n", start)) >= 0; start = end + 1) {
      this.#line(this.#rest.slice(start, end));
    }
    this.#rest = this.#rest.slice(start);
    if (last) {
      if (this.#rest) this.#line(this.#rest);
      this.#rest = "";
      this.#shut(0);
    } else if (this.#rest && !this.#undecided()) {
      this.#trial = { open: this.#open, leaf: this.#leaf && { ...this.#leaf }, nodes: [] };
      this.#line(this.#rest);
    }
    this.#fill(true);
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
    if (this.#leaf?.kind === "code") return /^(?:`+|~+)$/.test(line);
    return UNDECIDED.test(line);
  }

  // Blocks --------------------------------------------------------------------------------------

  #line(raw) {
    const whole = raw.replace(/\r$/, "").replace(/^[ \t]+/, (space) => space.replaceAll("\t", "    "));
    let [depth, line] = this.#descend(whole);
    const inside = depth === this.#open.length;
    if (this.#leaf?.kind === "code") {
      // Models often forget to indent code in a list: only leaving a quote ends it.
      if (inside || this.#open.slice(depth).every((box) => box.kind === "item")) return this.#code(inside ? line : whole);
    }
    if (!line.trim()) {
      this.#shut(depth);
      return;
    }
    if (this.#table(line, inside)) return;
    [depth, line] = this.#enter(depth, line);
    if (this.#block(depth, line)) return;
    this.#text(depth, line);
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
        else if (indent >= box.column + 2 && ITEM.test(line)) line = line.trimStart(); // nested, sloppily
        else break;
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
        this.#push({ kind: "quote", node: element("blockquote") });
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
    let list = sibling?.kind === "item" && sibling.list.localName === kind ? sibling.list : null;
    if (!list) {
      list = element(kind);
      if (kind === "ol" && parseInt(marker, 10) !== 1) list.start = parseInt(marker, 10);
      this.#add(list);
    }
    const padding = gap.length >= 1 && gap.length <= 4 ? gap.length : 1;
    const node = element("li");
    this.#put(list, node, "\n");
    this.#open = [
      ...this.#open,
      { kind: "item", node, list, column: space.length, indent: space.length + marker.length + padding },
    ];
    return line.slice(whole.length);
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
      const node = element(`h${heading[1].length}`);
      node.append(...inline(title(heading[2] ?? ""), this.#trial !== null));
      this.#add(node);
    } else {
      this.#add(element("hr"));
    }
    return true;
  }

  #text(depth, line) {
    const text = line.trim();
    if (!text) return this.#shut(depth);
    if (this.#leaf?.kind === "text") {
      // Also when the line left its containers: a paragraph runs on until something else begins.
      this.#leaf.raw += `\n${text}`;
      this.#leaf.dirty = true;
      return;
    }
    this.#shut(depth);
    const node = element("p");
    this.#add(node);
    this.#leaf = { kind: "text", node, raw: text, dirty: true };
  }

  #codeBox(info) {
    const box = element("div", "code");
    box.dataset.lang = info.split(/\s/, 1)[0].slice(0, 24);
    const copy = element("button", "copy");
    copy.type = "button";
    copy.ariaLabel = "Copy code";
    const pre = element("pre");
    pre.tabIndex = 0; // can be scrolled with the keyboard
    const code = element("code");
    copy.addEventListener("click", () => this.#onCopy?.(code.textContent, copy));
    pre.append(code);
    box.append(copy, pre);
    this.#add(box);
    return { node: code, empty: true };
  }

  #code(line) {
    const leaf = this.#leaf;
    const text = line.trim();
    if (text.length >= leaf.fence.length && text === leaf.fence[0].repeat(text.length)) {
      this.#leaf = null;
      return;
    }
    const indent = Math.min(leaf.indent, Math.max(line.search(/[^ ]|$/), 0));
    const node = new Text((leaf.empty ? "" : "\n") + line.slice(indent));
    leaf.empty = false;
    // One text node for all finished lines; the one on trial stands alone.
    if (!this.#trial && leaf.node.lastChild) leaf.node.lastChild.appendData(node.data);
    else this.#track(leaf.node.appendChild(node));
  }

  /** A row of the open table, or the line that makes a table of the paragraph above; false if neither. */
  #table(line, inside) {
    const leaf = this.#leaf;
    if (!inside || !leaf || leaf.kind === "code" || !line.includes("|")) return false;
    const cells = split(line);
    if (leaf.kind === "table") {
      this.#row(leaf.body, "td", cells, leaf.align);
      return true;
    }
    const head = split(leaf.raw);
    const fits = !leaf.raw.includes("\n") && head.length === cells.length && cells.length <= MAX_COLUMNS;
    if (this.#trial || !fits || !cells.every((cell) => /^:?-+:?$/.test(cell))) return false;
    const align = cells.map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : ""));
    const box = element("div", "table");
    box.tabIndex = 0;
    const [table, top, body] = [element("table"), element("thead"), element("tbody")];
    this.#row(top, "th", head, align);
    table.append(top, new Text("\n"), body);
    box.append(table);
    leaf.node.replaceWith(box);
    this.#leaf = { kind: "table", body, align };
    return true;
  }

  #row(parent, kind, cells, align) {
    const row = element("tr");
    align.forEach((side, column) => {
      const cell = element(kind);
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
    this.#leaf = null;
    if (depth < this.#open.length) this.#open = this.#open.slice(0, depth);
  }

  /** Draw the open paragraph again if it changed. `open`: more of it may come. */
  #fill(open) {
    const leaf = this.#leaf;
    if (leaf?.kind !== "text" || (open && !leaf.dirty)) return;
    leaf.dirty = false;
    const maybeTable = open && leaf.raw.startsWith("|") && !leaf.raw.includes("\n");
    leaf.node.replaceChildren(...(maybeTable ? [] : inline(leaf.raw, open)));
  }

  #push(box) {
    this.#add(box.node);
    this.#open = [...this.#open, box];
  }

  #add(node) {
    const box = this.#open.at(-1);
    this.#put(box?.node ?? this.#root, node, box ? "\n" : "\n\n");
  }

  /** The gap is not visible between blocks; it keeps the words apart in textContent. */
  #put(parent, node, gap) {
    if (parent.lastChild) this.#track(parent.appendChild(new Text(gap)));
    this.#track(parent.appendChild(node));
  }

  #track(node) {
    this.#trial?.nodes.push(node);
  }
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
