// The dials of a model, what they mean, and how far they are turned.
import { $, make, visible } from "./text.js";

let known = { recipe: "", recipes: [], sampling: [] };
const turned = new Map(); // name to value, of those that a person turned

export function setDials(told) {
  known = told;
  turned.clear();
  $("recipe").replaceChildren(...known.recipes.map((recipe) => make("option", "", recipe.name)));
  $("recipe").value = known.recipe;
  $("recipe").disabled = known.recipes.length < 2;
  draw();
}

export const resetDials = () => setDials(known);

// The fields of a request: what differs from the model's own.
export function fields(alone) {
  const recipe = chosen(), other = recipe?.name !== known.recipe;
  const isGiven = (dial) => turned.has(dial.name);
  const own = alone || !recipe ? [] : recipe.dials.filter((dial) => other || isGiven(dial));
  const given = [...own, ...known.sampling.filter(isGiven)].map((dial) => [dial.name, valueOf(dial)]);
  const named = !alone && recipe && (other || own.length) ? { recipe: recipe.name } : {};
  return { ...named, ...Object.fromEntries(given) };
}

export function summary() {
  const recipe = chosen();
  const dials = shown().filter((dial) => recipe?.dials.includes(dial) || turned.has(dial.name));
  return [recipe?.name ?? "", ...dials.map((dial) => `${dial.name} ${valueOf(dial)}`)].join(", ");
}

const chosen = () => known.recipes.find((recipe) => recipe.name === $("recipe").value);
const valueOf = (dial) => turned.get(dial.name) ?? dial.value;
const shown = () => [...(chosen()?.dials ?? []), ...known.sampling];

function draw() {
  $("does").textContent = visible(chosen()?.does ?? "One model by itself.");
  $("turned").replaceChildren(...shown().map((dial) => {
    const id = "dial-" + dial.name, [min, max] = dial.usual;
    const slider = make("input", { type: "range", id, min, max, step: 0.05 });
    const ariaLabel = dial.name + " as a number", ends = { min: dial.least, max: dial.most };
    const number = make("input", { type: "number", ...ends, step: "any", ariaLabel });
    slider.value = number.value = valueOf(dial);
    slider.setAttribute("aria-describedby", id + "-means");
    const turn = (from, to) => {
      if (from.value === "" || !from.validity.valid) return;
      to.value = from.value;
      turned.set(dial.name, Number(from.value));
    };
    slider.addEventListener("input", () => turn(slider, number));
    number.addEventListener("input", () => turn(number, slider));
    return make("div", "dial", make("label", { htmlFor: id }, dial.name), slider, number,
      make("p", { className: "quiet", id: id + "-means" }, visible(dial.meaning)));
  }));
}

$("recipe").addEventListener("change", draw);
