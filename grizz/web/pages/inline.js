/** Inline Markdown to DOM nodes: emphasis, code, links. The blocks around it, and what is left out, are in markdown.js. */

const PLAIN = /(?:[^\\`*_~[\]!<&h]|!(?!\[)|h(?!ttps?:\/\/))+/y;
const ESCAPE = /\\([!-/:-@[-`{-~])/y;
const ENTITY = /&(?:#(\d{1,7})|#[xX]([\da-fA-F]{1,6})|([a-zA-Z]{2,8}));/y;
const TICKS = /`+/y;
const MARKS = /\*+|_+|~+/y;
// What follows the text of a link. All lengths are bounded and no text has two readings, so that none can make these slow.
const TARGET = /\(\s{0,9}(?:<([^<>\n]{0,2000})>|((?!<)(?:\\[!-/:-@[-`{-~]|\\(?![!-/:-@[-`{-~])|[^\s()\\]|\((?:\\[()]|\\(?![()])|[^\s()\\]){0,200}\)){0,2000}))(?:[ \t\n]{1,9}("(?:\\.|[^"\\]){0,500}"|'(?:\\.|[^'\\]){0,500}'|\((?:\\.|[^()\\]){0,500}\)))?\s{0,9}\)/y;
const HALF_TARGET = /(?:\([^)\n]{0,2000})?$/y;
const ANGLE = /<((?:https?:\/\/|mailto:)[^\s<>]+)>|<([\w.!#$%&'*+/=?^`{|}~-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8})>/iy;
const BREAK = /<br\s{0,9}\/?>/iy;
const ADDRESS = /https?:\/\/[^\s<>"`*[\]\u3000-\u303f\uff00-\uff0f\uff1a-\uff20]+/y;
const SAFE = /^(?:https?:\/\/|mailto:)[^\s\p{Cc}]+$/iu;
const ENTITIES = {
  amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", copy: "©", reg: "®", trade: "™", hellip: "…", mdash: "—",
  ndash: "–", lsquo: "‘", rsquo: "’", ldquo: "“", rdquo: "”", laquo: "«", raquo: "»", bull: "•", middot: "·", deg: "°", plusmn: "±",
  times: "×", divide: "÷", larr: "←", rarr: "→", uarr: "↑", darr: "↓", harr: "↔", le: "≤", ge: "≥", ne: "≠", infin: "∞", euro: "€",
  pound: "£", yen: "¥", cent: "¢", sect: "§", para: "¶", auml: "ä", ouml: "ö", uuml: "ü", Auml: "Ä", Ouml: "Ö", Uuml: "Ü", szlig: "ß",
};
const LOOK_BACK = 100; // pieces between a pair of marks
const MAX_NESTED = 20; // elements in each other
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
export function inline(source, open = false) {
  const text = open ? source.replace(/(?:[*_~`\\[!]+|&#?\w{0,8})$/, "") : source;
  const pieces = []; // {node, depth}, {mark, count, …} or {bracket}
  const brackets = []; // where in `pieces` a link may have begun
  const noPartner = new Set(); // lengths of backtick runs that do not come again
  let plain = "";
  const flush = () => {
    if (plain) pieces.push({ node: new Text(plain), depth: 0 });
    plain = "";
  };
  const put = (node, depth = 1) => {
    flush();
    pieces.push({ node, depth });
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
    } else if ((match = at(ENTITY, i))) {
      plain += decode(...match);
    } else if ((match = at(TICKS, i))) {
      const end = closingTicks(text, i, match[0], noPartner, open);
      if (end < 0) plain += match[0];
      else {
        put(codeSpan(text.slice(i + match[0].length, end)));
        match = [text.slice(i, end + match[0].length)];
      }
    } else if ((match = at(MARKS, i))) {
      flush();
      pieces.push(mark(match[0], text, i));
    } else if (text[i] === "[" || text.startsWith("![", i)) {
      match = [text[i] === "[" ? "[" : "!["];
      flush();
      brackets.push(pieces.length);
      pieces.push({ bracket: match[0] });
    } else if (text[i] === "]" && brackets.length) {
      const start = brackets.pop();
      const target = at(TARGET, i + 1);
      const half = !target && open && at(HALF_TARGET, i + 1);
      match = [`]${(target || half || [""])[0]}`];
      flush();
      if (target || half) {
        const label = pair(pieces.splice(start + 1));
        const isImage = pieces.pop().bracket === "![";
        if (target && !(isImage && brackets.length)) {
          if (!isImage) brackets.length = 0; // no link in a link
          pieces.push(...link(unescape(target[1] ?? target[2]), label, unescape((target[3] ?? "").slice(1, -1))));
        } else pieces.push(...label);
      } else plain += "]";
    } else if ((match = at(ANGLE, i))) {
      const address = match[1] ?? `mailto:${match[2]}`;
      flush();
      pieces.push(...link(address, [{ node: new Text(address.replace(/^mailto:/i, "")), depth: 0 }]));
    } else if (!/\w/.test(text[i - 1] ?? "") && (match = at(ADDRESS, i))) {
      const address = bare(match[0]);
      match = [address];
      flush();
      pieces.push(...link(address, [{ node: new Text(address), depth: 0 }]));
    } else if ((match = at(BREAK, i))) {
      plain += "\n";
    } else {
      match = [text[i]];
      if (text[i] !== "\\" || text[i + 1] !== "\n") plain += text[i]; // else a hard break
    }
  }
  flush();
  const paired = pair(pieces);
  if (open) stretch(paired);
  return nodes(paired);
}

function decode(whole, decimal, hex, name) {
  if (name) return Object.hasOwn(ENTITIES, name) ? ENTITIES[name] : whole;
  const code = decimal ? parseInt(decimal, 10) : parseInt(hex, 16);
  const bad = !code || code > 0x10ffff || (code >= 0xd800 && code < 0xe000);
  return String.fromCodePoint(bad ? 0xfffd : code);
}

/** What escapes and entities stand for, where no other marks count. */
export const unescape = (text) =>
  text.replace(/\\([!-/:-@[-`{-~])|&(?:#(\d{1,7})|#[xX]([\da-fA-F]{1,6})|([a-zA-Z]{2,8}));/g, (whole, escaped, ...code) =>
    escaped ?? decode(whole, ...code),
  );

/** A bare address ends before punctuation, and before a bracket that it did not open. */
function bare(text) {
  let end = text.length;
  let unopened = text.split(")").length - text.split("(").length;
  for (;;) {
    const tail = /&\w{2,8};$|[.,;:!?'_~}|]$|\)$/.exec(text.slice(Math.max(0, end - 10), end))?.[0];
    if (!tail || (tail === ")" && unopened-- <= 0)) return text.slice(0, end);
    end -= tail.length;
  }
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
  const padded = text.startsWith(" ") && text.endsWith(" ") && text.trim();
  return wrap("code", [new Text(padded ? text.slice(1, -1) : text)]);
}

const blank = (char) => !char || /\s/.test(char);
const punctuation = (char) => /[\p{P}\p{S}]/u.test(char);
// Chinese, Japanese and Korean have no blanks between words: there **「this」**is strong.
const unspaced = (char) => /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Hangul}]/u.test(char);

/** May this run of marks begin something, may it end something? The rules of CommonMark. */
function mark(run, text, start) {
  const before = /[\udc00-\udfff]/.test(text[start - 1]) ? text.slice(start - 2, start) : (text[start - 1] ?? "");
  const end = start + run.length;
  const after = end < text.length ? String.fromCodePoint(text.codePointAt(end)) : "";
  const left = !blank(after) && (!punctuation(after) || blank(before) || punctuation(before) || unspaced(before));
  const right = !blank(before) && (!punctuation(before) || blank(after) || punctuation(after) || unspaced(after));
  const snake = run[0] === "_"; // snake_case is no emphasis
  const strikes = run[0] !== "~" || run.length === 2; // ~5 means about 5
  return {
    mark: run[0],
    count: run.length,
    length: run.length,
    opens: strikes && left && (!snake || !right || punctuation(before)),
    closes: strikes && right && (!snake || !left || punctuation(after)),
    eager: blank(before) || punctuation(before),
  };
}

/** The rule of three: `**a*b**` holds no `*a*`. */
const matches = (opener, closer) =>
  opener.mark === closer.mark &&
  opener.opens &&
  (!(opener.closes || closer.opens) ||
    (opener.length + closer.length) % 3 !== 0 ||
    (opener.length % 3 === 0 && closer.length % 3 === 0));

/** Make elements of what stands between two marks that belong together. */
function pair(pieces) {
  const out = [];
  for (const piece of pieces) {
    while (piece.closes && piece.count) {
      const floor = Math.max(0, out.length - LOOK_BACK);
      let j = out.length - 1;
      while (j >= floor && !matches(out[j], piece)) j -= 1;
      if (j < floor || j === out.length - 1) break;
      const opener = out[j];
      const count = Math.min(2, opener.count, piece.count);
      const inner = wrapped(tag(piece.mark, count), out.splice(j + 1));
      opener.count -= count;
      piece.count -= count;
      if (!opener.count) out.pop();
      out.push(...inner);
    }
    if (piece.count !== 0) out.push(piece);
  }
  return out;
}

/** Let the last marks without a partner reach to the end of an unfinished text. */
function stretch(pieces) {
  const floor = Math.max(0, pieces.length - MAX_STRETCHED);
  for (let j = pieces.length - 1; j >= floor; j -= 1) {
    const opener = pieces[j];
    if (!opener.mark || !opener.opens || !opener.eager || opener.count > 3) continue;
    let inner = pieces.splice(j + 1);
    if (opener.count !== 2) inner = wrapped("em", inner);
    if (opener.count !== 1) inner = wrapped(tag(opener.mark, 2), inner);
    pieces.splice(j, 1, ...inner);
  }
}

const tag = (char, count) => (char === "~" ? "del" : count === 2 ? "strong" : "em");

/** Marks that found no partner are text. */
const nodes = (pieces) =>
  pieces.map(({ node, bracket, mark, count }) => node ?? new Text(bracket ?? mark.repeat(count)));

function wrap(name, children) {
  const node = element(name);
  node.append(...children);
  return node;
}

/** As pieces again: one, or those within if they are nested too deeply. */
function wrapped(name, pieces) {
  const depth = 1 + Math.max(0, ...pieces.map((piece) => piece.depth ?? 0));
  const inner = nodes(pieces);
  return depth > MAX_NESTED ? inner.map((node) => ({ node, depth: MAX_NESTED })) : [{ node: wrap(name, inner), depth }];
}

/** A link, or only its text if it leads anywhere but to the web or to somebody's mail. */
function link(address, label, title = "") {
  if (!SAFE.test(address)) return label;
  const node = wrap("a", label.length ? nodes(label) : [new Text(address)]);
  for (const inner of node.querySelectorAll("a")) inner.replaceWith(...inner.childNodes);
  node.href = address;
  if (title) node.title = title;
  node.rel = "noopener noreferrer";
  node.target = "_blank";
  return [{ node, depth: 1 + Math.max(0, ...label.map((piece) => piece.depth ?? 0)) }];
}
