// Texts of people and models as elements. Whatever they hold, they become text and nothing else.

export const $ = (id) => document.getElementById(id);

// An element; `of` is its class, or its properties.
export function make(tag, of, ...content) {
  const element = document.createElement(tag);
  Object.assign(element, typeof of === "string" ? { className: of } : of);
  element.append(...content);
  return element;
}

export function button(label, act, of = {}) {
  const element = make("button", { type: "button", dir: "auto", ...of }, label);
  element.addEventListener("click", act);
  return element;
}

// What does not show, or would reorder what shows, is written out. Joiners make emoji: they stay.
export function visible(text) {
  return text.replace(/\r\n?/g, "\n").replace(/(?![\n\t\u200c\u200d])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}]/gu,
    (c) => "⟨U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "⟩");
}

// Paragraphs, headings, lists, fenced and inline code, bold: one pass over the lines, nothing nested.
export function markdown(text) {
  const blocks = [], lines = visible(text).split("\n");
  let open = null; // the paragraph or list that the next line may go on with
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i], fence = /^ {0,3}(```+|~~~+)/.exec(line)?.[1];
    const [, number, item] = /^\s{0,8}(?:[-*+]|(\d{1,9})[.)])\s+(\S.*)$/.exec(line) ?? [];
    const heading = /^#{1,6}\s+(\S.*)$/.exec(line)?.[1], tag = item ? (number ? "OL" : "UL") : "P";
    if (fence) {
      const code = [];
      while (++i < lines.length && !lines[i].trimStart().startsWith(fence)) code.push(lines[i]);
      blocks.push(make("pre", "", make("code", "", code.join("\n"))));
    } else if (heading) blocks.push(block("h4", heading));
    else if (item) {
      if (open?.tagName !== tag) blocks.push(open = make(tag, number && { start: number }));
      open.append(block("li", item));
    } else if (line.trim() && open?.tagName === tag) open.append("\n", ...inline(line));
    else if (line.trim()) blocks.push(open = block(tag, line.trimStart()));
    if (fence || heading || (!line.trim() && open?.tagName === "P")) open = null;
  }
  return blocks;
}

const block = (tag, text) => make(tag, { dir: "auto" }, ...inline(text));

function inline(text) {
  const found = [];
  let at = 0;
  for (const mark of text.matchAll(/`([^`\n]+)`|\*\*([^*\n]+)\*\*/g)) {
    found.push(text.slice(at, mark.index), mark[1] ? make("code", "", mark[1]) : make("strong", "", mark[2]));
    at = mark.index + mark[0].length;
  }
  return [...found, text.slice(at)];
}
