// Markdown of an answer as DOM nodes. Model text only ever becomes text nodes: nothing of it is parsed as HTML.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

function element(name, ...children) {
  const node = document.createElement(name);
  node.append(...children);
  return node;
}

/** Shows `text` in `root`; blocks that have not changed since the last call are left as they are. */
export function render(root, text) {
  const blocks = split(text);
  const shown = root.blockSources ?? [];
  let same = 0;
  while (same < blocks.length && same < shown.length && shown[same] === blocks[same].join("\n")) same += 1;
  while (root.childNodes.length > same) root.lastChild.remove();
  for (const lines of blocks.slice(same)) root.append(block(lines));
  root.blockSources = blocks.map((lines) => lines.join("\n"));
}

/** Lines grouped into blocks; a fence that is still open reaches to the end. */
function split(text) {
  const blocks = [];
  let current = [];
  let fence = null;
  const flush = () => {
    if (current.length) blocks.push(current);
    current = [];
  };
  const lines = text.split("\n");
  for (const [index, line] of lines.entries()) {
    if (fence) {
      current.push(line);
      if (line.trim().startsWith(fence) && !line.trim().replaceAll(fence[0], "")) {
        fence = null;
        flush();
      }
      continue;
    }
    const opening = FENCE.exec(line);
    if (opening) {
      flush();
      fence = opening[1];
      current.push(line);
    } else if (!line.trim()) {
      // a list goes on after an empty line if the next line belongs to it
      const next = lines[index + 1] ?? "";
      const inList = current.length > 0 && ITEM.test(current[0]);
      if (inList && (ITEM.test(next) || /^\s{2,}\S/.test(next))) current.push(line);
      else flush();
    } else if (HEADING.test(line) || RULE.test(line)) {
      flush();
      blocks.push([line]);
    } else {
      const first = current[0];
      if (first !== undefined && kind(first) !== "list" && kind(line) !== kind(first) && kind(line) !== "text") flush();
      current.push(line);
    }
  }
  flush();
  return blocks;
}

function kind(line) {
  if (ITEM.test(line)) return "list";
  if (QUOTE.test(line)) return "quote";
  return "text";
}

function block(lines) {
  const first = lines[0];
  const fence = FENCE.exec(first);
  if (fence) return code(lines, fence);
  const heading = HEADING.exec(first);
  if (heading) {
    // the page has h1 and h2 already
    const node = element(`h${Math.min(heading[1].length + 2, 6)}`);
    inline(node, heading[2]);
    return node;
  }
  if (RULE.test(first)) return element("hr");
  if (QUOTE.test(first)) {
    const node = element("blockquote");
    for (const inner of split(lines.map((line) => QUOTE.exec(line)?.[1] ?? line).join("\n"))) node.append(block(inner));
    return node;
  }
  if (ITEM.test(first)) return list(lines);
  if (lines.length > 1 && first.includes("|") && TABLE_RULE.test(lines[1])) return table(lines);
  const paragraph = element("p");
  lines.forEach((line, index) => {
    if (index) paragraph.append(element("br"));
    inline(paragraph, line.trim());
  });
  return paragraph;
}

function code(lines, [, marks, language]) {
  const last = lines.at(-1).trim();
  const closed = lines.length > 1 && last.startsWith(marks) && !last.replaceAll(marks[0], "");
  const text = lines.slice(1, closed ? -1 : undefined).join("\n");
  const copy = element("button", "Copy");
  copy.type = "button";
  copy.className = "quiet copy-code";
  copy.addEventListener("click", () => copyText(text, copy));
  const head = element("div", element("span", language.trim() || "text"), copy);
  head.className = "code-head";
  const pre = element("pre", element("code", text));
  pre.tabIndex = 0; // it scrolls sideways, also by keyboard
  const box = element("div", head, pre);
  box.className = "code";
  return box;
}

function list(lines) {
  const [, , marker] = ITEM.exec(lines[0]);
  const ordered = /\d/.test(marker);
  const root = element(ordered ? "ol" : "ul");
  if (ordered && Number.parseInt(marker, 10) !== 1) root.start = Number.parseInt(marker, 10);
  const indent = /^\s*/.exec(lines[0])[0].length;
  let item = null;
  let nested = [];
  const close = () => {
    if (!item) return;
    const depth = Math.min(...nested.filter((line) => line.trim()).map((line) => /^\s*/.exec(line)[0].length));
    if (Number.isFinite(depth)) {
      for (const inner of split(nested.map((line) => line.slice(depth)).join("\n"))) item.append(block(inner));
    }
    nested = [];
  };
  for (const line of lines) {
    const match = ITEM.exec(line);
    if (match && match[1].length <= indent + 1) {
      close();
      item = element("li");
      inline(item, match[3]);
      root.append(item);
    } else nested.push(line);
  }
  close();
  return root;
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|");
  const row = (line, name) => {
    const node = element("tr");
    for (const cell of cells(line)) {
      const box = element(name);
      inline(box, cell.trim());
      node.append(box);
    }
    return node;
  };
  const body = element("tbody", ...lines.slice(2).map((line) => row(line, "td")));
  const box = element("div", element("table", element("thead", row(lines[0], "th")), body));
  box.className = "table";
  box.tabIndex = 0;
  return box;
}

// one alternative per kind of span; the first that fits wins
const SPAN =
  /(`+)(.+?)\1(?!`)|\*\*(?=\S)(.+?)\*\*|__(?=\S)(.+?)__(?!\w)|\*(?=[^\s*])(.+?)\*|(?<!\w)_(?=[^\s_])(.+?)_(?!\w)|\[([^\]]+)\]\(([^\s)]+)\)/;

function inline(parent, text) {
  let rest = text;
  for (;;) {
    const match = SPAN.exec(rest);
    if (!match) break;
    parent.append(rest.slice(0, match.index));
    const [whole, , codeText, strong, strong2, em, em2, label, target] = match;
    if (codeText !== undefined) parent.append(element("code", codeText.trim() || codeText));
    else if (label !== undefined) parent.append(link(label, target));
    else {
      const node = element((strong ?? strong2) !== undefined ? "strong" : "em");
      inline(node, strong ?? strong2 ?? em ?? em2);
      parent.append(node);
    }
    rest = rest.slice(match.index + whole.length);
  }
  parent.append(rest);
}

function link(label, target) {
  if (!/^(https?:|mailto:)/i.test(target)) return document.createTextNode(`${label} (${target})`);
  const anchor = element("a", label);
  anchor.href = target;
  anchor.target = "_blank";
  anchor.rel = "noopener noreferrer";
  return anchor;
}

/** Copies, and says so on the button for a moment. */
export async function copyText(text, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = fallbackCopy(text) ? "Copied" : "Could not copy";
  }
  setTimeout(() => {
    button.textContent = label;
  }, 1500);
}

/** The clipboard API is there on https and localhost only. */
function fallbackCopy(text) {
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "unseen";
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}
