/** Inline Markdown to DOM nodes: emphasis, code, links. The blocks around it are in markdown.js. */

const PLAIN = /[^\\`*_~[!<h]+/y;
const ESCAPE = /\\([!-/:-@[-`{-~])/y;
const TICKS = /`+/y;
const MARKS = /\*+|_+|~+/y;
// All lengths are bounded, so that no text can make these slow.
const LINK =
  /!?\[((?:[^[\]\\]|\\.|\[[^[\]]{0,200}\]){0,1000})\]\(\s{0,9}<?([^\s<>()]{0,2000}(?:\([^\s()]{0,200}\)[^\s()]{0,200}){0,9})>?(?:\s{1,9}"[^"]{0,300}")?\s{0,9}\)/y;
const HALF_LINK = /!?\[([^[\]]{0,1000})\]\([^)]{0,2000}$/y;
const ANGLE = /<((?:https?:\/\/|mailto:)[^\s<>]+)>/iy;
const BREAK = /<br\s*\/?>/iy;
const ADDRESS = /https?:\/\/[^\s<>"`*]*[^\s<>"`*.,;:!?'()[\]{}_~]\/?/y;
const SAFE = /^(?:https?:\/\/|mailto:)/i;
const LOOK_BACK = 200; // pieces between a pair of marks
const MAX_STRETCHED = 30; // pieces at the end that an open mark may reach over

export function element(name, className) {
  const node = document.createElement(name);
  if (className) node.className = className;
  return node;
}

/**
 * The nodes of one piece of inline text. `open`: the text is not finished, so a mark without its
 * partner is taken as lasting to the end, and marks at the very end wait for what follows.
 */
export function inline(source, open = false, links = true) {
  const text = open ? source.replace(/[*_~`\\[!]+$/, "") : source;
  const pieces = []; // Node, or {mark, count, opens, closes, eager}
  const noPartner = new Set(); // lengths of backtick runs that do not come again
  let plain = "";
  const flush = () => {
    if (plain) pieces.push(new Text(plain));
    plain = "";
  };
  const node = (made) => {
    flush();
    pieces.push(made);
  };
  const at = (pattern, index) => {
    pattern.lastIndex = index;
    return pattern.exec(text);
  };
  for (let i = 0, match; i < text.length; i += match[0].length) {
    if ((match = at(PLAIN, i))) {
      plain += match[0];
    } else if ((match = at(ESCAPE, i))) {
      plain += match[1];
    } else if ((match = at(TICKS, i))) {
      const end = closingTicks(text, i, match[0], noPartner, open);
      if (end < 0) plain += match[0];
      else {
        node(codeSpan(text.slice(i + match[0].length, end)));
        match = [text.slice(i, end + match[0].length)];
      }
    } else if ((match = at(MARKS, i))) {
      flush();
      pieces.push(mark(match[0], text[i - 1], text[i + match[0].length]));
    } else if (links && (match = at(LINK, i))) {
      node(link(match[2], inline(match[1], false, false), match[2]));
    } else if (links && open && (match = at(HALF_LINK, i))) {
      node(wrap("span", inline(match[1], false, false)));
    } else if (links && ((match = at(ANGLE, i)) || (match = at(ADDRESS, i)))) {
      const address = match[1] ?? match[0];
      node(link(address, [new Text(address.replace(/^mailto:/i, ""))]));
    } else if ((match = at(BREAK, i))) {
      plain += "\n";
    } else {
      const breaks = text[i] === "\\" && text[i + 1] === "\n";
      match = [text[i]];
      if (!breaks) plain += text[i];
    }
  }
  flush();
  const paired = pair(pieces);
  if (open) stretch(paired);
  return literal(paired);
}

function closingTicks(text, start, ticks, noPartner, open) {
  if (noPartner.has(ticks.length)) return -1;
  let i = start + ticks.length;
  while ((i = text.indexOf(ticks, i)) >= 0) {
    let end = i + ticks.length;
    while (text[end] === "`") end += 1;
    if (end - i === ticks.length) return i;
    i = end;
  }
  if (open) return text.length;
  noPartner.add(ticks.length);
  return -1;
}

function codeSpan(raw) {
  const text = raw.replaceAll("\n", " ");
  const padded = text.length > 2 && text.startsWith(" ") && text.endsWith(" ") && text.trim();
  return wrap("code", [new Text(padded ? text.slice(1, -1) : text)]);
}

function mark(run, before, after) {
  const blank = (char) => char === undefined || /\s/.test(char);
  const word = (char) => char !== undefined && /[\p{L}\p{N}]/u.test(char);
  const snake = run[0] === "_"; // snake_case is no emphasis
  return {
    mark: run[0],
    count: run.length,
    opens: !blank(after) && !(snake && word(before)) && (run[0] !== "~" || run.length === 2),
    closes: !blank(before) && !(snake && word(after)) && (run[0] !== "~" || run.length === 2),
    eager: !word(before),
  };
}

/** Make elements of what stands between two marks that belong together. */
function pair(pieces) {
  const out = [];
  for (const piece of pieces) {
    while (piece.closes && piece.count) {
      const floor = Math.max(0, out.length - LOOK_BACK);
      let j = out.length - 1;
      while (j >= floor && !(out[j].mark === piece.mark && out[j].opens)) j -= 1;
      if (j < floor || j === out.length - 1) break;
      const opener = out[j];
      const count = Math.min(2, opener.count, piece.count);
      const inner = wrap(tag(piece.mark, count), literal(out.splice(j + 1)));
      opener.count -= count;
      piece.count -= count;
      if (!opener.count) out.pop();
      out.push(inner);
    }
    if (piece instanceof Node || piece.count) out.push(piece);
  }
  return out;
}

/** Let the last marks without a partner reach to the end of an unfinished text. */
function stretch(pieces) {
  const floor = Math.max(0, pieces.length - MAX_STRETCHED);
  for (let j = pieces.length - 1; j >= floor; j -= 1) {
    const opener = pieces[j];
    if (!opener.mark || !opener.opens || !opener.eager || opener.count > 3) continue;
    let inner = literal(pieces.splice(j + 1));
    if (opener.count !== 2) inner = [wrap("em", inner)];
    if (opener.count !== 1) inner = [wrap(tag(opener.mark, 2), inner)];
    pieces.splice(j, 1, ...inner);
  }
}

const tag = (char, count) => (char === "~" ? "del" : count === 2 ? "strong" : "em");

/** Marks that found no partner are text. */
const literal = (pieces) =>
  pieces.map((piece) => (piece instanceof Node ? piece : new Text(piece.mark.repeat(piece.count))));

function wrap(name, children) {
  const node = element(name);
  node.append(...children);
  return node;
}

function link(address, children) {
  if (!SAFE.test(address)) return wrap("span", children);
  const node = wrap("a", children);
  node.href = address;
  node.rel = "noopener noreferrer";
  node.target = "_blank";
  return node;
}
