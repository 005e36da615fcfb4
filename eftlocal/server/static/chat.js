// The conversation: asked, streamed, compared.
import { RefusedError, get, streamed } from "./api.js";
import { fields, resetDials, setDials, summary } from "./dials.js";
import { forget, keep, kept } from "./history.js";
import { influence } from "./influence.js";
import { $, button, make, markdown, visible } from "./text.js";

const ENDS = { length: "cut at its limit", context: "cut: no room left", repetition: "stopped: it repeated itself" };
const TITLES = { "": "Emulation", tuned: "Tuned model", base: "Base" };
let models = [], conversation = null, running = null, following = true;

const say = (...told) => $("status").replaceChildren(...told);
const isOne = (model) => model.includes(":"); // one of the models by itself
const talk = $("talk"); // which follows its end, until a person scrolls away from it
talk.addEventListener("scroll", () => {
  following = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 40;
});
const toEnd = (from = following) => { if (following = from) talk.scrollTop = talk.scrollHeight; };

// Conversations of this browser
function list() {
  $("conversations").replaceChildren(...kept().map((one) => {
    const name = visible(one.title), isThis = one.id === conversation.id;
    return make("li", "", button(name, () => begin(one), isThis && { ariaCurrent: "true" }),
      button("✕", () => {
        if (!confirm(`Delete “${name}”?`)) return;
        forget(one.id);
        isThis ? begin() : list();
      }, { ariaLabel: `Delete “${name}”` }));
  }));
  $("forget").hidden = !kept().length;
}
function begin(one = { id: String(Date.now()), turns: [] }) {
  running?.abort();
  conversation = one;
  talk.replaceChildren(...one.turns.map(shown));
  toEnd(true);
  list();
  again();
  open(null);
  $("question").focus();
}

// A turn on the page: the question, and an answer of each model
function shown(turn) {
  const question = make("p", { className: "question", dir: "auto" }, visible(turn.question));
  turn.views = turn.answers.map(view);
  turn.element = make("article", "", question,
    make("div", "answers", ...turn.views.map((one) => one.element)),
    make("p", "quiet made", visible(turn.made)));
  return turn.element;
}
function view(answer) {
  const body = make("div", "body"), note = make("p", "quiet note", visible(answer.note));
  const title = TITLES[answer.model.split(":")[1] ?? ""] ?? answer.model;
  const element = make("section", "answer", make("h3", "", visible(title)), body, note);
  const draw = () => body.replaceChildren(...markdown(answer.text));
  draw();
  return { element, body, note, draw };
}

// Asking
function messages(turn) {
  const system = $("system").value.trim(), earlier = conversation.turns;
  const said = earlier.slice(0, earlier.indexOf(turn)).filter((one) => one.answers[0].text)
    .flatMap((one) => [["user", one.question], ["assistant", one.answers[0].text]]);
  return [...(system ? [["system", system]] : []), ...said, ["user", turn.question]]
    .map(([role, content]) => ({ role, content }));
}
function newAnswers() {
  const chosen = $("model").value, preset = chosen.split(":")[0];
  const wanted = $("compare").checked ? [preset, preset + ":tuned", preset + ":base"] : [chosen];
  return wanted.filter((name) => models.includes(name)).map((model) => ({ model, text: "", note: "" }));
}
async function answer(turn, i, signal) {
  const one = turn.answers[i], { body, note, draw } = turn.views[i];
  let end = null, drawn = 0, failed = false;
  one.text = one.note = "";
  draw();
  note.replaceChildren();
  body.ariaBusy = "true";
  try {
    const more = { model: one.model, messages: messages(turn), influence: $("influence").checked };
    for await (const { choices: [choice] } of streamed({ ...fields(isOne(one.model)), ...more }, signal)) {
      one.text += choice.delta.content ?? "";
      end = choice.eftlocal ?? end;
      if (performance.now() - drawn < 80) continue; // milliseconds between two drawings
      draw();
      toEnd();
      drawn = performance.now();
    }
    one.note = ENDS[end.finish_reason] ?? "";
  } catch (error) {
    const stopped = error.name === "AbortError";
    if (!stopped && !(error instanceof RefusedError)) throw error;
    failed = !stopped;
    one.note = stopped ? "stopped" : error.message;
  } finally {
    draw();
    body.ariaBusy = "false";
    note.replaceChildren(one.note);
    note.classList.toggle("failed", failed);
    if (failed) note.append(" ", button("Retry", () => run(turn, [i])));
    if (end?.influence?.length) body.replaceChildren(...influence(end.influence));
    toEnd();
  }
}
async function run(turn, which = [...turn.answers.keys()]) {
  if (running) return;
  const own = conversation;
  running = new AbortController();
  busy(true);
  turn.made = isOne($("model").value) ? "" : `${$("model").value}: ${summary()}`;
  turn.element.querySelector(".made").textContent = visible(turn.made);
  say("Answering…");
  let isKept = keep(own);
  list();
  toEnd(true);
  try {
    await Promise.all(which.map((i) => answer(turn, i, running.signal)));
  } finally {
    isKept &&= keep(own, true);
    say(isKept ? "" : "This conversation is not kept: it was deleted, or this browser has no room.");
    running = null;
    busy(false);
    again();
    toEnd();
  }
}
function busy(is) {
  $("stop").hidden = !is;
  $("send").disabled = is;
}
// Under the last turn: asks it once more, as the dials are now.
function again() {
  document.getElementById("again")?.remove();
  const turn = conversation.turns.at(-1);
  if (!turn || running) return;
  turn.element.append(button("Ask again", () => {
    const before = turn.element;
    turn.answers = newAnswers();
    before.replaceWith(shown(turn));
    run(turn);
  }, { id: "again" }));
}
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const turn = { question: $("question").value.trim(), made: "", answers: newAnswers() };
  if (!turn.question || running || !turn.answers.length) return;
  $("again")?.remove();
  conversation.turns.push(turn);
  conversation.title ??= turn.question.slice(0, 60);
  talk.append(shown(turn));
  $("question").value = "";
  run(turn);
});
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("ask").requestSubmit();
});
$("stop").addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("key").open) return;
  running ? running.abort() : open(null);
});

// Panels, which a narrow screen shows one at a time
const panels = ["history", "dials"];
function open(id) {
  for (const panel of panels) {
    const opener = $("open-" + panel), was = $(panel).classList.contains("open");
    if (was && !id) opener.focus();
    $(panel).classList.toggle("open", panel === id);
    opener.ariaExpanded = String(panel === id);
  }
  if (id) $(id).focus();
}
for (const panel of panels) {
  $("open-" + panel).addEventListener("click",
    () => open($(panel).classList.contains("open") ? null : panel));
}
$("new").addEventListener("click", () => begin());
$("forget").addEventListener("click", () => {
  if (!confirm("Delete all conversations of this browser?")) return;
  forget();
  begin();
});

// Models and their dials
async function loaded(work) {
  say("Loading the model…");
  try {
    await work();
    say("");
  } catch (error) {
    if (!(error instanceof RefusedError)) throw error;
    say(error.message, " ", button("Retry", () => loaded(work)));
  }
}
const dials = async () => {
  setDials(await get("/v1/eftlocal/dials?model=" + encodeURIComponent($("model").value)));
};
$("model").addEventListener("change", () => loaded(dials));
$("reset").addEventListener("click", resetDials);
begin();
loaded(async () => {
  models = (await get("/v1/models")).data.map((model) => model.id);
  $("model").replaceChildren(...models.map((name) => make("option", "", name)));
  await dials();
});
