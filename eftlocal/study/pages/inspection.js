
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const MOST = 20, MIDDLE = 0.3, HIGH = 0.6;
  let measure = data.first, current = 0;

  function make(tag, className, ...content) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...content);
    return element;
  }
  // What does not show, or would reorder what shows, is written out. Joiners make emoji: they stay.
  function visible(text) {
    return text.replace(/(?![\n\u200c\u200d])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}]/gu,
      (c) => "⟨U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "⟩");
  }
  const quoted = (text) => "“" + visible(text).replace(/\n/g, "↵") + "”";
  const piece = (text) => make("span", "piece", quoted(text));
  const size = (value) => Math.min(1, Math.abs(value ?? 0));
  const number = (value) => value === null ? "–"
    : value !== 0 && Math.abs(value) < 0.0005 ? value.toExponential(0) : value.toFixed(3);
  function winner(name) {
    if (name === "agreed") return "first choice of all of: " + data.sides.join(", ");
    if (name === "shared") return "first choice of some, not all, of: " + data.sides.join(", ");
    if (name === "nobody") return "nobody’s first choice";
    return name === "combination" ? "first choice of the combination, and of no side"
      : "first choice of " + name + " alone";
  }
  function shade(element, value) {
    element.style.setProperty("--size", size(value));
    element.classList.toggle("lost", (value ?? 0) < 0);
    element.classList.toggle("middle", size(value) >= MIDDLE && size(value) < HIGH);
    element.classList.toggle("high", size(value) >= HIGH);
  }
  const valueOf = (i) => data.tokens[i].measures[measure];

  // The head of the page
  $("prompt").textContent = visible(data.prompt);
  const facts = [data.recipe];
  if (data.preset) facts.unshift("preset " + data.preset);
  facts.push(data.tokens.length + " tokens");
  facts.push(data.seed === null ? "answer given" : "seed " + data.seed);
  $("facts").textContent = visible(facts.join(" · "));
  const wins = new Map();
  for (const token of data.tokens) wins.set(token.won, (wins.get(token.won) || 0) + 1);
  $("tally").textContent = data.tally;
  $("won").textContent = [...wins].sort((a, b) => b[1] - a[1])
    .map(([name, count]) => Math.round(100 * count / data.tokens.length) + "% " + winner(name)).join(" · ");
  for (const [name, about] of Object.entries(data.measures)) {
    const option = make("option", "", name + ": " + about);
    option.value = name;
    option.selected = name === measure;
    $("measure").append(option);
  }

  // The answer
  const tokens = data.tokens.map((token, i) => {
    const text = token.control ? token.label : visible(token.text || token.label);
    const breaks = token.control ? "" : text.match(/\n*$/)[0];
    const body = text.slice(0, text.length - breaks.length).replace(/\n/g, "↵\n");
    const element = make("span", token.control ? "token control" : "token",
      token.control ? visible(body) : body, breaks.replace(/\n/g, "↵\n"));
    element.id = "t" + i;
    element.setAttribute("role", "option");
    element.tabIndex = -1;
    element.addEventListener("mouseenter", () => show(i));
    element.addEventListener("mouseleave", () => show(current));
    element.addEventListener("click", () => go(i));
    element.addEventListener("focus", () => select(i));
    $("text").append(element);
    return element;
  });

  function select(i) {
    tokens[current].tabIndex = -1;
    tokens[current].classList.remove("current");
    tokens[current].setAttribute("aria-selected", "false");
    current = i;
    tokens[i].tabIndex = 0;
    tokens[i].classList.add("current");
    tokens[i].setAttribute("aria-selected", "true");
    show(i);
  }
  function go(i) { tokens[i].focus(); }
  function moved(step) {
    for (let i = current + step; i >= 0 && i < tokens.length; i += step) {
      if (size(valueOf(i)) >= MIDDLE) return i;
    }
    return current;
  }
  // The nearest token of the next line above or below.
  function line(step) {
    const from = tokens[current].getClientRects()[0];
    let best = current, distance = Infinity, top = null;
    for (let i = current + step; i >= 0 && i < tokens.length; i += step) {
      const to = tokens[i].getClientRects()[0];
      if (!to || Math.abs(to.top - from.top) < from.height / 2) continue;
      if (top === null) top = to.top;
      if (Math.abs(to.top - top) > from.height / 2) break;
      if (Math.abs(to.left - from.left) < distance) { best = i; distance = Math.abs(to.left - from.left); }
    }
    return best;
  }
  $("text").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const backwards = getComputedStyle($("text")).direction === "rtl" ? 1 : -1;
    const to = {
      ArrowLeft: () => current + backwards, ArrowRight: () => current - backwards,
      ArrowUp: () => line(-1), ArrowDown: () => line(1),
      Home: () => 0, End: () => tokens.length - 1, n: () => moved(1), p: () => moved(-1),
    }[event.key];
    if (!to) return;
    event.preventDefault();
    go(Math.max(0, Math.min(tokens.length - 1, to())));
  });

  // One token under every model
  function show(i) {
    const token = data.tokens[i];
    const rows = data.distributions.map((name) => make("tr", "", make("td", "", name),
      make("td", "", number(token.probability[name])),
      make("td", "", token.rank[name].toLocaleString("en"))));
    const measures = Object.entries(token.measures).map(([name, value]) =>
      make("tr", name === measure ? "chosen" : "",
        make("td", "", name), make("td", "", number(value))));
    const head = (...names) => make("thead", "", make("tr", "", ...names.map((n) => make("th", "", n))));
    const lists = data.distributions.flatMap((name) => [make("h3", "", name),
      make("ol", "", ...token.candidates[name].map((other) => {
        const bar = make("span", "bar"), same = other.token === token.token;
        bar.style.setProperty("--size", size(other.probability));
        return make("li", same ? "chosen" : "", make("span", "", same ? "✓" : ""),
          piece(other.label), bar, make("span", "", number(other.probability)));
      }))]);
    $("details").replaceChildren(
      make("h2", "", "Token " + i + " ", piece(token.label)),
      make("p", "", visible(token.verdict.text)),
      make("table", "", head("", "probability", "rank"), make("tbody", "", ...rows)),
      ...lists,
      make("h3", "", "Measures"),
      make("table", "", make("tbody", "", ...measures)));
  }

  // What depends on the measure
  function paint() {
    const signed = data.signed.includes(measure);
    tokens.forEach((element, i) => {
      shade(element, valueOf(i));
      const said = visible(data.tokens[i].verdict.text);
      element.setAttribute("aria-label", said + ", " + measure + " " + number(valueOf(i)));
    });
    const steps = (signed ? [-1, -0.6, -0.3, 0, 0.3, 0.6, 1] : [0, 0.1, 0.3, 0.6, 1]).map((value) => {
      const step = make("span", "token", (signed && value > 0 ? "+" : "") + value);
      shade(step, value);
      return step;
    });
    $("legend").replaceChildren(measure + ": ", ...steps, "dotted line from 0.3, solid from 0.6"
      + (signed ? "; above the text where probability was lost" : ""));
    const names = data.distributions;
    $("most-head").replaceChildren(make("tr", "", ...["token", measure, ...names.map((n) => "p " + n), "first choice of"]
      .map((n, k) => make("th", k > names.length + 1 ? "left" : "", n))));
    const order = data.tokens.map((_, i) => i).sort((a, b) => size(valueOf(b)) - size(valueOf(a)) || a - b);
    $("most").replaceChildren(...order.slice(0, MOST).map((i) => {
      const button = make("button", "", piece(data.tokens[i].label));
      button.addEventListener("click", () => { go(i); });
      const won = data.tokens[i].won;
      return make("tr", "", make("td", "", button), make("td", "", number(valueOf(i))),
        ...names.map((n) => make("td", "", number(data.tokens[i].probability[n]))),
        make("td", "left", won));
    }));
  }
  $("measure").addEventListener("change", (event) => {
    measure = event.target.value;
    paint();
    show(current);
  });
  paint();
  select(0);
})();
