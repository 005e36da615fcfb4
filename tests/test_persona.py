"""A system prompt as the fine-tuning: the tuned model with it and without, added to the base."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import oracle
import pytest
from typer.testing import CliRunner, Result

from eftlocal import Defaults, Emulator, Recipe, Sampling, Speculation
from eftlocal.cli.app import app
from eftlocal.decoding.score import text_rows
from eftlocal.errors import PromptError, UsageError
from eftlocal.loading.roles import RoleSource, require_roles, with_made
from eftlocal.logits.recipe import MADE
from eftlocal.logits.recipe_text import parse_recipe
from eftlocal.prompt.messages import Message
from eftlocal.prompt.render import RolePrompt, render_roles
from eftlocal.request import RequestDefaults, read_request

PIRATE = "You are a pirate."
GREEDY = Sampling(temperature=0.0)
ASKED = [Message(role="user", content="What is a ship?")]
SYSTEM = Message(role="system", content="Be brief.")
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, prog_name="eftlocal")


@pytest.fixture(scope="module")
def pirate(demo_files: dict[str, Path]) -> Iterator[Emulator]:
    sources = {
        "base": RoleSource(demo_files["base"], prompt="same", threads=1),
        "tuned": RoleSource(demo_files["tuned"], prompt=TEMPLATE, threads=1),
    }
    defaults = Defaults(Recipe.persona(PIRATE, 1.3), GREEDY, max_tokens=16)
    with Emulator.from_sources(sources, defaults=defaults) as em:
        yield em


@pytest.mark.parametrize(
    ("messages", "tuned", "persona"),
    [
        (ASKED, "", f"system: {PIRATE}\n"),
        ([SYSTEM, *ASKED], "system: Be brief.\n", f"system: Be brief.\n\n{PIRATE}\n"),
        ([{**SYSTEM, "content": " "}, *ASKED], "system:  \n", f"system: {PIRATE}\n"),
    ],
)
def test_only_the_role_persona_reads_it(messages: list[Message], tuned: str, persona: str) -> None:
    chat, same = RolePrompt(TEMPLATE), RolePrompt("same")
    roles = {"base": same, "tuned": chat, "persona": chat, "reference": same}
    rest = f"user: {ASKED[0]['content']}\nassistant:"
    told = render_roles(messages, roles, persona=PIRATE)
    assert {role: str(text) for role, text in told.items()} == {
        **dict.fromkeys(("base", "tuned", "reference"), tuned + rest),
        "persona": persona + rest,
    }
    # A role that reads the tuned model's text reads it with the persona, too.
    told = render_roles(messages, {**roles, "persona": same}, persona=PIRATE)
    assert str(told["persona"]) == persona + rest
    no_system = RolePrompt(TEMPLATE, without_system=True)
    told = render_roles(messages, {**roles, "persona": no_system}, persona=PIRATE)
    assert str(told["persona"]) == f"system: {PIRATE}\n{rest}"


def test_a_template_without_system_prompts() -> None:
    users = RolePrompt("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    roles = {"tuned": users, "persona": RolePrompt("chat", template=users.format)}
    with pytest.raises(PromptError, match=r"^persona's chat template leaves .*--system-in-user"):
        render_roles(ASKED, roles, persona=PIRATE)
    roles["persona"] = RolePrompt("chat", template=users.format, system_in_user=True)
    told = render_roles(ASKED, roles, persona=PIRATE)
    assert str(told["persona"]) == f"{PIRATE}\n\n{ASKED[0]['content']}"


@pytest.mark.parametrize(
    ("text", "dials", "weights"),
    [
        (None, {}, {"base": 1, "persona": 1, "tuned": -1}),
        (None, {"alpha": 0.5}, {"base": 1, "persona": 0.5, "tuned": -0.5}),
        ("persona", {"alpha": -2}, {"base": 1, "persona": -2, "tuned": 2}),
        (
            "base=1,persona=1,reference=-1",
            {},
            {"base": 1, "persona": 1, "reference": -1},
        ),
    ],
)
def test_it_is_written(text: str | None, dials: dict[str, float], weights: object) -> None:
    recipe = parse_recipe(text, persona=PIRATE, **dials)
    assert (recipe.weights, recipe.persona_prompt) == (weights, PIRATE)
    assert recipe.stabilise(delta_clip=2).persona_prompt == PIRATE and PIRATE in str(recipe)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"text": "persona"}, "recipe persona needs persona"),
        ({"text": "base", "persona": PIRATE}, "recipe base has no persona"),
        ({"text": "base=1", "persona": PIRATE}, "no weight for the role persona"),
        ({"beta": 1, "persona": PIRATE}, "no recipe takes beta and persona together"),
        ({"persona": ""}, "persona is ''; it must be a system prompt"),
        ({"persona": "\ud800"}, "persona is not valid text"),
        ({"persona": PIRATE, "alpha": 101}, "alpha is 101"),
    ],
)
def test_it_is_refused(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_recipe(**arguments)  # type: ignore[arg-type]


def test_its_role_is_made_of_the_tuned_one() -> None:
    base, tuned = RoleSource(Path("b.gguf")), RoleSource(Path("t.gguf"))
    two = {"base": base, "tuned": tuned}
    for recipe in (Recipe.persona(PIRATE), Recipe.persona(PIRATE, 0.0)):  # 0 can be turned up
        assert with_made(two, recipe) == {**two, "persona": tuned}
    own = {**two, "persona": RoleSource(Path("p.gguf"))}
    assert with_made(own, Recipe.persona(PIRATE)) == own
    assert not with_made({"tuned": tuned}, Recipe.proxy()).keys() & {*MADE}
    assert with_made({"tuned": tuned}, Recipe.guidance(0.0))["unguided"].without_system


@pytest.mark.parametrize("role", ["base", "tuned"])
def test_one_model_alone_is_base_and_pair(role: str) -> None:
    only = {role: RoleSource(Path("m.gguf"))}
    made = with_made(only, Recipe.persona(PIRATE))
    assert made == dict.fromkeys(("base", "tuned", "persona"), only[role])
    require_roles(Recipe.persona(PIRATE), only, to_load=True)
    fewer = Recipe({"base": -0.5, "persona": 1.5}, persona_prompt=PIRATE)  # the same, two rows
    assert with_made({"base": only[role]}, fewer).keys() == {"base", "persona"}
    with pytest.raises(UsageError, match=r"needs the role persona, .*; load with this recipe"):
        require_roles(fewer, ["base"])
    with pytest.raises(UsageError, match="tuned and reference, and there is only base; give them,"):
        require_roles(Recipe.proxy(), ["base"], to_load=True)
    for roles in (["base", "reference"], ["reference"]):  # where a tuned model was forgotten
        with pytest.raises(UsageError, match=r"tuned.*; give "):
            require_roles(Recipe.persona(PIRATE), roles, to_load=True)


def test_it_is_loaded_once_and_read_by_one_role(pirate: Emulator) -> None:
    assert pirate.roles == ("base", "tuned", "persona")
    assert pirate.models["persona"] is pirate.models["tuned"]
    ids = pirate.tokenize(ASKED)
    assert (
        ids["persona"] == pirate.tokenize([{"role": "system", "content": PIRATE}, *ASKED])["tuned"]
    )
    assert ids["tuned"] == pirate.tokenize("What is a ship?")["tuned"] != ids["persona"]
    other = pirate.tokenize(ASKED, recipe=Recipe.persona("You are a monk."))
    assert other["persona"] != ids["persona"] and other["tuned"] == ids["tuned"]


def test_alpha_0_is_the_base(pirate: Emulator) -> None:
    alone = pirate.chat(ASKED, recipe="base")
    assert pirate.chat(ASKED, recipe=Recipe.persona(PIRATE, 0.0)).tokens == alone.tokens
    with_it = pirate.chat(ASKED)
    assert with_it.tokens != alone.tokens
    with pirate.stream(ASKED) as turned:  # alpha turned to 0 within the answer
        first = [next(turned).token for _ in range(3)]
        turned.recipe = Recipe.persona(PIRATE, 0.0)
        assert first == list(with_it.tokens[:3]) and list(turned)


def test_the_combination_is_the_oracles(pirate: Emulator) -> None:
    """Of each role's own row, read alone with the prompt that is meant for it."""
    answer = pirate.chat(ASKED, max_tokens=4)
    prompts = {**pirate.tokenize(ASKED, recipe="base")}
    prompts["persona"] = pirate.tokenize([{"role": "system", "content": PIRATE}, *ASKED])["tuned"]
    for recipe in (Recipe.persona(PIRATE, 1.3), Recipe.persona(PIRATE, -0.5)):
        scored = list(
            text_rows(pirate.ensemble, prompts, answer.tokens, recipe=recipe, roles=pirate.roles)
        )
        found = pirate.logprobs(answer.text, prompt=ASKED, recipe=recipe)
        for i, (token, _, rows) in enumerate(scored):
            lp = {
                role: oracle.log_softmax(np.asarray(row, np.float64)) for role, row in rows.items()
            }
            alpha = recipe.weights["persona"]
            z = oracle.log_softmax(lp["base"] + alpha * (lp["persona"] - lp["tuned"]))
            assert found.logprobs[i] == pytest.approx(z[token], abs=1e-4)


def test_drafts_do_not_change_the_text(pirate: Emulator) -> None:
    options = {"sampling": Sampling(temperature=0.9, seed=4), "max_tokens": 24}
    plain = pirate.chat(ASKED, speculation="off", **options)
    drafted = pirate.chat(ASKED, speculation=Speculation(length=4, source="model"), **options)
    assert drafted.tokens == plain.tokens and drafted.speculation.drafts


def test_a_small_model_beside_itself_is_the_one_that_reads_it(smollm2: Path) -> None:
    """base + 1 (with - without), all of one model, is the model with it."""
    defaults = Defaults(Recipe.persona(PIRATE), GREEDY, max_tokens=12)
    with Emulator.from_files(base=smollm2, n_ctx=256, threads=1, defaults=defaults) as em:
        assert "base and tuned are one model, so this is guidance" in em.notes()[0]
        assert len({id(model) for model in em.models.values()}) == 1
        told = em.chat([{"role": "system", "content": PIRATE}, *ASKED], recipe="tuned")
        assert em.chat(ASKED).tokens == told.tokens
        assert em.chat(ASKED, recipe="base").tokens != told.tokens


def test_another_persona_waits_for_the_next_answer(pirate: Emulator) -> None:
    with pirate.stream(ASKED, recipe="base") as stream:
        next(stream)
        stream.recipe = Recipe.persona(PIRATE, 0.7)  # the emulator's own was read with the prompt
        with pytest.raises(UsageError, match="persona is part of the prompt; another holds from"):
            stream.recipe = Recipe.persona("You are a monk.")
    with pytest.raises(UsageError, match="raw text has no system prompt, so no persona"):
        pirate.stream("Ahoy", raw=True)
    with pytest.raises(UsageError, match=r"persona is given as recipe=Recipe\.persona"):
        pirate.stream(ASKED, persona=PIRATE)  # type: ignore[call-arg]


def test_it_is_given_on_the_command_line(demo_files: dict[str, Path], tmp_path: Path) -> None:
    files = ["--base", str(demo_files["base"]), "--tuned", str(demo_files["tuned"])]
    quick = ["--max-tokens", "6", "--n-ctx", "256", "--threads", "1"]
    result = run("run", "Hello", *files, *quick, "--persona", PIRATE, "--alpha", "0.5", "--json")
    recipe = json.loads(result.stdout)["recipe"]
    assert recipe["weights"] == {"base": 1.0, "persona": 0.5, "tuned": -0.5}
    alone = run("run", "Hello", *files[2:], *quick, "--persona", PIRATE)
    assert alone.exit_code == 0 and "this is guidance" in alone.stderr, alone.output
    lines, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    asked = [{"prompt": "Hello", "custom_id": "plain"}]
    asked += [{"prompt": "Hello", "custom_id": "monk", "persona": "You are a monk.", "alpha": 2}]
    lines.write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    result = run("batch", str(lines), str(out), *files, *quick, "--persona", PIRATE)
    assert result.exit_code == 0, result.output
    rows = {row["custom_id"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert PIRATE in json.dumps(rows["plain"]["response"])
    assert "You are a monk." in json.dumps(rows["monk"]["response"])
    prompts, swept = tmp_path / "p.txt", tmp_path / "swept.jsonl"
    prompts.write_text("Hello\n", encoding="utf-8")
    result = run("eval", str(prompts), "--compare", "none", *files, *quick, "--persona", PIRATE,
                 "--alpha", "0,1", "--out", str(swept), "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    points = json.loads(result.stdout)["points"]
    assert [PIRATE in point["recipe"] for point in points] == [True, True]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"persona": 1}, "persona is 1; it must be a system prompt, as in"),
        ({"persona": ""}, "persona is an empty string; it must be a system prompt"),
        ({"persona": PIRATE, "recipe": "base"}, "recipe base has no persona"),
        ({"persona": PIRATE, "raw": True}, "recipe persona has a persona, and raw text no system"),
        ({"persona": PIRATE}, "needs the role persona, .*; load with this recipe"),
    ],
)
def test_a_line_is_refused(body: dict[str, object], says: str) -> None:
    roles = ("base", "tuned") if says.startswith("needs") else ("base", "tuned", "persona")
    with pytest.raises(UsageError, match=says):
        read_request({"prompt": "Ahoy", **body}, defaults=RequestDefaults(roles=roles))
