// An answer whose tokens tell whose doing they were.
import { make, visible } from "./text.js";

const percent = (p) => p > 0 && p < 0.01 ? "<1%" : p > 0.99 && p < 1 ? ">99%" : Math.round(100 * p) + "%";
const quoted = (text) => "“" + visible(text).replace(/\n/g, "↵") + "”";

const USUAL = ["the base's knowledge", "the tuning", "compromise"]; // of whom c1 to c3 are in chat.css

export function influence(told) {
  const causes = [...new Set(told.map((token) => token.cause))].filter(Boolean);
  const look = (cause) => "token" + (cause ? " c" + (USUAL.indexOf(cause) + 1) : "");
  const details = make("div", { className: "details", ariaLive: "polite" });
  const ariaLabel = "Tokens of the answer; arrows move, n and p jump to moved ones";
  let current = 0;
  const show = (i) => details.replaceChildren(...about(told[i]));
  const tokens = told.map((token, i) => {
    const ariaLabel = quoted(token.token) + ": " + visible(token.verdict);
    const element = make("span", { className: look(token.cause), role: "option", ariaLabel },
      visible(token.token).replace(/\n/g, "↵\n"));
    element.addEventListener("mouseenter", () => show(i));
    element.addEventListener("click", () => element.focus());
    element.addEventListener("focus", () => select(i));
    return element;
  });
  function select(to) {
    for (const i of [current, to]) {
      Object.assign(tokens[i], { tabIndex: i === to ? 0 : -1, ariaSelected: String(i === to) });
    }
    show(current = to);
  }
  function moved(step) {
    for (let i = current + step; told[i]; i += step) if (told[i].cause) return i;
    return current;
  }
  const text = make("div", { className: "tokens", role: "listbox", ariaLabel }, ...tokens);
  text.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const to = {
      ArrowLeft: () => current - 1, ArrowRight: () => current + 1, Home: () => 0,
      End: () => told.length - 1, n: () => moved(1), p: () => moved(-1),
    }[event.key];
    if (!to) return;
    event.preventDefault();
    (tokens[to()] ?? tokens[current]).focus();
  });
  const legend = make("p", "quiet", causes.length ? "Moved by: " : "No token was moved.",
    ...causes.flatMap((cause) => [make("span", look(cause), visible(cause)), " "]));
  tokens[0].tabIndex = 0;
  return [text, legend, details];
}

function about(token) {
  const lists = Object.entries(token.candidates).map(([role, some]) => make("section", "",
    make("h4", "", `${role} ${percent(token.probability[role])}`),
    make("ol", "", ...some.map((other) => {
      const own = other.token === token.token;
      const meter = make("meter", { value: other.probability, ariaHidden: "true" });
      return make("li", own ? "own" : "", make("bdi", "", (own ? "✓ " : "") + quoted(other.token)),
        make("span", "", percent(other.probability)), meter);
    }))));
  return [make("p", "", make("strong", "", quoted(token.token)), " ", visible(token.verdict)),
    make("div", "candidates", ...lists)];
}
