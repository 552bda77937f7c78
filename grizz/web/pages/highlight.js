/**
 * Colours for code, without an element more: the CSS Custom Highlight API paints ranges of the text
 * that is there anyhow. Where a browser has none, code stays plain.
 *
 * A finished block is read once, in slices while the browser is idle. Ranges exist only for what is
 * on the screen or near it (one <code> is 50 lines, see markdown.js): a browser looks at every range
 * again whenever the page changes, which costs milliseconds per thousand of them. What leaves the
 * page leaves the screen too, so nobody has to tell when ranges must go.
 */

const MAX_CHARS = 200_000; // of a block that gets colours
const MAX_RANGES = 5000; // on the page at once
const SLICE_MS = 6;

const KINDS = ["comment", "string", "number", "keyword", "type", "function", "deleted"];
const SLASHES = /\/\/.*|\/\*[^]*?(?:\*\/|$(?![^]))/;
const HASH = /(?<!\S)#.*/;
const QUOTED = /"(?:\\[^]|[^"\\\n])*"?|'(?:\\[^]|[^'\\\n])*'?/;
const NUMBER = /(?<![\p{L}\w.])(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.\d[\d_]*)?(?:[eE][-+]?\d+)?)[a-z%]{0,4}(?!\w)/u;
const WORD = /[\p{L}_$][\p{L}\p{N}_$]*/u;

// Names of languages that look alike, their keywords and their literals and types, and what else there is, in the order
// in which it is tried.
const FAMILIES = [
  {
    names: "c h cc cpp c++ cs csharp c# java js javascript jsx ts typescript tsx go golang rust rs swift kotlin kt php scala dart",
    words:
      "abstract as async await break case catch chan class const continue def default defer delete do echo else enum export extends final finally fn for foreach fun func function go guard if impl implements import in instanceof interface is let loop match mod mut namespace new object of override package private protected protocol pub public range readonly return select static struct super switch template throw throws trait try type typedef typeof unsafe use using val var virtual void when where while yield",
    types:
      "true false null nil undefined this self nullptr any bool boolean byte char double error float int long never number short string str unsigned i32 i64 u8 u32 u64 usize f32 f64 int64 float64",
    comment: SLASHES,
    string: /"(?:\\[^]|[^"\\\n])*"?|(?<![&<\w])'(?:\\.|[^'\\\n])*'|`(?:\\[^]|[^`\\])*`?/, // &'a is a lifetime
    number: NUMBER,
    function: /@\w+|#\w+|#\[[^\]\n]*\]/,
  },
  {
    names: "python py python3 ruby rb elixir lua perl r",
    words:
      "and as assert async await begin break case class continue def del do elif else elsif end except finally for from function global if import in is lambda local match module not or pass raise require rescue return self super then try unless until when while with yield",
    types: "True False None true false nil bool bytes cls dict float int list object set str tuple",
    comment: /#.*/,
    string: /[rbfu]{0,2}(?:"""[^]*?(?:"""|$(?![^]))|'''[^]*?(?:'''|$(?![^]))|"(?:\\[^]|[^"\\\n])*"?|'(?:\\[^]|[^'\\\n])*'?)/,
    number: NUMBER,
    function: /@[\w.]+/,
    type: /(?<![:\w]):\w+/,
  },
  {
    names: "bash sh shell zsh console fish dockerfile makefile powershell",
    words:
      "if then else elif fi for in do done while until case esac function return local export source set unset exit exec sudo cd echo FROM RUN CMD COPY ENV ARG WORKDIR EXPOSE ENTRYPOINT",
    types: "true false",
    comment: HASH,
    string: /"(?:\\[^]|[^"\\])*"?|'[^']*'?/,
    type: /\$(?:\{[^}\n]*\}|\w+|[@#?*!$])/,
    number: /(?<=\s)--?[a-zA-Z][\w-]*/,
  },
  {
    names: "sql mysql postgres postgresql sqlite",
    fold: true,
    words:
      "add all alter and as asc begin between by case commit constraint create cross default delete desc distinct drop else end exists foreign from full group having in index inner insert into is join key left like limit not null offset on or order outer over partition primary references returning right rollback select set table then union unique update using values view when where with",
    types: "true false int integer bigint serial text varchar char boolean date timestamp timestamptz numeric real json jsonb uuid",
    comment: /--.*|\/\*[^]*?(?:\*\/|$(?![^]))/,
    string: /'[^']*'?|"[^"\n]*"?/,
    number: NUMBER,
  },
  {
    names: "json jsonc json5 jsonl yaml yml toml ini conf properties env",
    types: "true false null yes no on off",
    comment: /(?<!\S)(?:[#;]|\/\/).*/,
    keyword: /^[ \t]{0,200}\[[\w. "-]+\]+[ \t]{0,9}$/,
    function: /"(?:\\.|[^"\\\n])*"(?=\s*:)|(?=[\w./-])(?<=^[ \t]{0,200}(?:- {1,9})?)[\w./-]+(?=[ \t]{0,9}(?:=|:(?:\s|$)))/,
    string: QUOTED,
    number: NUMBER,
  },
  {
    names: "html xml svg vue svelte",
    comment: /<!--[^]*?(?:-->|$(?![^]))/,
    keyword: /<[/!?]?[\w:-]+|[/?]?>/,
    string: /(?=["'])(?<==\s{0,9})(?:"[^"]*"?|'[^']*'?)/,
    function: /(?<![\w:@.-])[\w:@.-]+(?==["'])/,
    number: /&#?\w+;/,
  },
  {
    names: "css scss less",
    comment: /\/\*[^]*?(?:\*\/|$(?![^]))|(?<!:)\/\/.*/,
    string: QUOTED,
    keyword: /@[\w-]+|!important/,
    number: /#[\da-fA-F]{3,8}\b|(?<![\w-])-?\.?\d[\d.]*(?:[a-z]+|%)?/,
    function: /(?<=[{;\s])[a-z-]+(?=\s*:\s)/,
    type: /--[\w-]+|[.#][a-zA-Z][\w-]*/,
  },
  { names: "diff patch", comment: /^(?:diff|index|---|\+\+\+) .*/, keyword: /^@@.*/, string: /^\+.*/, deleted: /^-.*/ },
  {
    names: "markdown md",
    comment: /^>.*/,
    keyword: /^#{1,6} .*/,
    string: /`[^`\n]+`/,
    type: /\*\*[^*\n]+\*\*/,
    function: /\[[^\]\n]{0,200}\]\([^)\n]{0,500}\)/,
    number: /^[ \t]{0,200}(?:[-*+]|\d+\.)(?= )/,
  },
];

const isAble = typeof Highlight === "function" && typeof StaticRange === "function";
const found = new WeakMap(); // <code> → its tokens: from, to, kind, from, to, kind …
const painted = new Map(); // <code> → its ranges, as [highlight, range]; those that came first are first
const queue = []; // blocks that are being read
let total = 0; // ranges
let highlights;
let watcher;

/** Colour the finished code in `pre`, whose <code> elements are lines that follow each other. */
export function colour(pre, lang) {
  const family = isAble && FAMILIES.find(({ names }) => names.split(" ").includes(lang.toLowerCase()));
  if (!family || pre.textContent.length > MAX_CHARS) return;
  if (!highlights) {
    highlights = KINDS.map(() => new Highlight());
    KINDS.forEach((kind, index) => CSS.highlights.set(`code-${kind}`, highlights[index]));
    const look = (entries) => entries.forEach(({ target, isIntersecting }) => (isIntersecting ? paint : clear)(target));
    watcher = new IntersectionObserver(look, { rootMargin: "25%" });
  }
  family.pattern ??= compile(family);
  if (queue.push(read(pre, family)) === 1) later();
}

const later = () => (globalThis.requestIdleCallback ?? setTimeout)(work);

function work() {
  const until = performance.now() + SLICE_MS;
  while (queue.length && performance.now() < until) if (queue[0].next().done) queue.shift();
  if (queue.length) later();
}

function paint(code) {
  clear(code);
  const tokens = found.get(code);
  const text = code.firstChild;
  const ranges = [];
  for (let i = 0; i < tokens.length && ranges.length < MAX_RANGES / 4; i += 3) {
    const [startOffset, endOffset, kind] = tokens.slice(i, i + 3);
    const range = new StaticRange({ startContainer: text, startOffset, endContainer: text, endOffset });
    highlights[kind].add(range);
    ranges.push([highlights[kind], range]);
  }
  painted.set(code, ranges);
  total += ranges.length;
  for (const oldest of painted.keys()) if (total > MAX_RANGES) clear(oldest);
}

function clear(code) {
  const ranges = painted.get(code) ?? [];
  for (const [highlight, range] of ranges) highlight.delete(range);
  painted.delete(code);
  total -= ranges.length;
}

/** One pattern that finds every token, with a group for each kind. */
function compile(family) {
  const { words = "", types = "" } = family;
  const kinds = Object.keys(family).filter((key) => KINDS.includes(key));
  family.kinds = kinds.map((kind) => KINDS.indexOf(kind));
  family.known = new Map([...words.split(" ").map((word) => [word, 3]), ...types.split(" ").map((word) => [word, 4])]);
  return new RegExp([...kinds.map((kind) => `(${family[kind].source})`), types ? `(${WORD.source})` : "(?!)"].join("|"), "gmu");
}

function kindOf(word, { known, fold, words }, next) {
  const kind = known.get(fold ? word.toLowerCase() : word);
  if (kind !== undefined || !words) return kind;
  if (next === "(") return 5;
  return /^\p{Lu}\w*\p{Ll}/u.test(word) ? 4 : undefined;
}

/** Find the tokens of a block, a few at a time, and have each <code> painted when it is looked at. */
function* read(pre, family) {
  const codes = [...pre.children];
  const text = pre.textContent;
  const pattern = new RegExp(family.pattern); // with a position of its own
  let [index, start, end, tokens] = [0, 0, codes[0].textContent.length, []];
  const next = () => {
    // A line in several text nodes is too long for anybody to read.
    if (codes[index].childNodes.length === 1) {
      found.set(codes[index], tokens);
      watcher.observe(codes[index]);
    }
    tokens = [];
    start = end + 1;
    index += 1;
    end = start + (codes[index]?.textContent.length ?? 0);
  };
  for (let match, count = 1; (match = pattern.exec(text)); count += 1) {
    const group = match.findIndex((one, i) => i > 0 && one !== undefined) - 1;
    const kind = family.kinds[group] ?? kindOf(match[0], family, text[pattern.lastIndex]);
    let from = match.index;
    const to = pattern.lastIndex;
    if (to === from) pattern.lastIndex += 1;
    if (kind !== undefined) {
      while (from > end) next();
      for (; to > end; from = start) {
        tokens.push(Math.min(from, end) - start, end - start, kind);
        next();
      }
      if (to > from) tokens.push(from - start, to - start, kind);
    }
    if (count % 50 === 0) yield;
  }
  while (index < codes.length) next();
}
