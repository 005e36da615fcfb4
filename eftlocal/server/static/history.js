// Conversations, kept in this browser alone. What is found there may be anything.
const STORE = "eftlocal.conversations";
const isText = (...texts) => texts.every((text) => typeof text === "string");
const isList = (list, holds) => Array.isArray(list) && list.every((one) => one && holds(one));
const isTurn = ({ question, made, answers }) => isText(question, made) && answers?.length
  && isList(answers, ({ model, text, note }) => isText(model, text, note));

export function kept() {
  try {
    return JSON.parse(localStorage.getItem(STORE)).filter((one) => one && isText(one.id, one.title)
      && isList(one.turns, isTurn));
  } catch {
    return [];
  }
}

// Whether it could be kept; `again` is for one that must still be there.
export function keep({ id, title, turns }, again = false) {
  const all = kept(), others = all.filter((one) => one.id !== id);
  const plain = turns.map(({ question, made, answers }) => ({ question, made, answers }));
  return !(again && others.length === all.length) && write([{ id, title, turns: plain }, ...others]);
}

export const forget = (id) => write(id === undefined ? [] : kept().filter((one) => one.id !== id));

function write(all) {
  try {
    localStorage.setItem(STORE, JSON.stringify(all));
    return true;
  } catch {
    return false;
  }
}
