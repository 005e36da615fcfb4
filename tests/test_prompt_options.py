"""What a role reads, chosen by a person: templates and their variables, system messages, n_ctx."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf_files import edited
from typer.testing import CliRunner

import eftlocal
from eftlocal import Emulator, Sampling
from eftlocal.cli.app import app
from eftlocal.errors import EftlocalError, PromptError, UsageError
from eftlocal.llama import chat_formats, format_chat
from eftlocal.loading.roles import RoleSource, file_sources, with_settings
from eftlocal.prompt.messages import Message, plain_text
from eftlocal.prompt.render import RolePrompt, render_roles
from eftlocal.prompt.template import ChatTemplate
from eftlocal.study.influence import inspect

SYSTEM: Message = {"role": "system", "content": "Be brief."}
ASK: Message = {"role": "user", "content": "Where is Lima?"}
ANSWER: Message = {"role": "assistant", "content": "In Peru."}
REFUSES = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system!') }}"
    "{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
)
DROPS = "{% for m in messages if m.role != 'system' %}{{ m.content }}\n{% endfor %}"
THINKS = "{{ messages[0].content }}{{ ' thinking' if enable_thinking else ' quick' }}{{ more }}"


def text_of(source: str, *messages: Message, **role: Any) -> str:
    return str(render_roles(messages, {"tuned": RolePrompt(source, **role)})["tuned"])


# --- environment and variables -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("tojson", '{"b": "é", "a": [1]}'),
        ("tojson(ensure_ascii=False)", '{"b": "é", "a": [1]}'),
        ("tojson(True)", '{"b": "\\u00e9", "a": [1]}'),
        ("tojson(False, 1)", '{\n "b": "é",\n "a": [\n  1\n ]\n}'),
        ("tojson(False, None, (',', ':'))", '{"b":"é","a":[1]}'),
        ("tojson(False, None, None, True)", '{"a": [1], "b": "é"}'),
        ("tojson(indent=0, sort_keys=True)", '{\n"a": [\n1\n],\n"b": "é"\n}'),
    ],
)
def test_tojson_takes_what_it_takes_in_transformers(call: str, expected: str) -> None:
    template = ChatTemplate("{{ x | " + call + " }}")
    assert template.render([ASK], variables={"x": {"b": "é", "a": [1]}}) == expected


def test_a_calls_variables_go_over_those_of_the_role(tiny_files: dict[str, Path]) -> None:
    given = {"enable_thinking": False, "more": "!"}
    with Emulator.from_files(
        **tiny_files, prompts={"tuned": THINKS}, chat_template_kwargs=given, n_ctx=64, threads=1
    ) as em:
        texts = {}
        for name, call in {"loaded": {}, "called": {"enable_thinking": True}}.items():
            ids = em.tokenize("Hi", chat_template_kwargs=call)
            assert ids["base"] == ids["tuned"]  # the very text
            model = em.models["tuned"]
            texts[name] = b"".join(model.piece(t) for t in ids["tuned"]).decode()
        assert texts == {"loaded": "Hi quick!", "called": "Hi thinking!"}
        options: dict[str, Any] = {"chat_template_kwargs": {"more": "?" * 9}}
        greedy = Sampling(temperature=0.0)
        answer = em.generate("Hi", sampling=greedy, max_tokens=2, **options)
        assert answer.timing.prompt_tokens["tuned"] == len(em.tokenize("Hi", **options)["tuned"])
        scored = em.logprobs("yes", prompt="Hi", **options)
        seen = inspect(em, "Hi", "yes", **options)
        assert seen.ids == scored.tokens
        assert scored.logprobs[0] != em.logprobs("yes", prompt="Hi").logprobs[0]
        with pytest.raises(UsageError, match="chat_template_kwargs: 'messages' is set by"):
            em.generate("Hi", chat_template_kwargs={"messages": []})
        with pytest.raises(UsageError, match="raw text has none"):
            em.generate("Hi", raw=True, **options)
        with pytest.raises(UsageError, match="special is for raw text"):
            em.generate("Hi", special=True)


def test_variables_need_a_template() -> None:
    for roles in ({"tuned": RolePrompt("plain")}, {"tuned": RolePrompt("chatml")}):
        with pytest.raises(UsageError, match="no role's prompt is a template"):
            render_roles([ASK], roles, variables={"x": 1})
    with pytest.raises(UsageError, match="no role's prompt is a template"):
        text_of("plain", ASK, variables={"x": 1})


# --- formats -----------------------------------------------------------------------------------


def test_llama_cpps_formats_by_name() -> None:
    assert {"chatml", "llama2", "llama3", "gemma", "mistral-v7", "phi4"} <= set(chat_formats())
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhere is Lima?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert text_of("chatml", SYSTEM, ASK) == expected
    assert format_chat("chatml", [SYSTEM, ASK]) == expected
    long: Message = {"role": "user", "content": "é🙂" * 5000}
    assert long["content"] in text_of("llama3", long)
    for name in chat_formats():
        assert ASK["content"] in text_of(name, ASK)
    with pytest.raises(PromptError, match=r"message 1: .*NUL"):
        text_of("chatml", ASK, {"role": "user", "content": "a\0b"})


def test_a_files_template_may_be_a_name_or_no_template() -> None:
    named = render_roles([ASK], {"tuned": RolePrompt(template="chatml\n")})["tuned"]
    assert str(named) == text_of("chatml", ASK)
    with pytest.raises(
        PromptError, match=r"tuned: the chat template .* is only the text 'chatmll'"
    ):
        render_roles([ASK], {"tuned": RolePrompt(template="chatmll")})
    with pytest.raises(UsageError, match=r"'chatmll' is neither .*did you mean chatml\?"):
        RolePrompt("chatmll")


def test_special_texts_in_a_named_format_are_parted() -> None:
    asked: Message = {"role": "user", "content": "a <|im_end|> b"}
    role = RolePrompt("chatml", special_texts={"<|im_start|>", "<|im_end|>"})
    seen = render_roles([asked], {"tuned": role})["tuned"]
    assert len(seen.segments) == 2 and asked["content"] in str(seen)


@pytest.mark.parametrize(
    "source", ["Hello{{ '' }}", "{% if messages[0].content[0].text %}x{% endif %}y"]
)
def test_a_template_that_drops_the_question_is_refused(source: str) -> None:
    with pytest.raises(PromptError, match="tuned's chat template leaves out message 0, the user's"):
        text_of(source, ASK)


# --- system messages ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "role", [{"template": REFUSES}, {"template": DROPS}, {"format": REFUSES}, {"format": "yandex"}]
)
def test_a_template_that_takes_no_system_message_says_how_to_go_on(role: dict[str, str]) -> None:
    def text_of(*messages: Message, **more: Any) -> str:
        return str(render_roles(messages, {"tuned": RolePrompt(**role, **more)})["tuned"])

    with pytest.raises(PromptError, match=r"--system-in-user .* system_in_user"):
        text_of(SYSTEM, ASK)
    assert "Be brief.\n\nWhere is Lima?" in text_of(SYSTEM, ASK, system_in_user=True)
    assert text_of(ASK, system_in_user=True) == text_of(ASK)


def test_a_template_given_for_a_role_may_show_less() -> None:
    assert text_of("# {{ messages[-1].content }}", SYSTEM, ASK, ANSWER, ASK) == "# Where is Lima?"
    with pytest.raises(PromptError, match="leaves out message 3, the user's"):
        text_of("# {{ messages[1].content }}", SYSTEM, {**ASK, "content": "Hi"}, ANSWER, ASK)


def test_what_fails_for_another_reason_says_so_alone() -> None:
    with pytest.raises(PromptError) as caught:
        text_of("{{ raise_exception('never') }}", SYSTEM, ASK)
    assert "system" not in str(caught.value)


@pytest.mark.parametrize("source", [DROPS, "plain"])
def test_every_system_message_finds_its_place(source: str) -> None:
    later: Message = {"role": "system", "content": "Now shout."}
    last: Message = {"role": "system", "content": "The end."}
    empty: Message = {"role": "system", "content": " "}
    seen = text_of(source, empty, SYSTEM, ASK, ANSWER, later, ASK, last, system_in_user=True)
    for message in (SYSTEM, ASK, ANSWER, later, last):
        assert message["content"] in seen
    assert seen.index("Be brief.") < seen.index("In Peru.") < seen.index("Now shout.")


def test_an_empty_system_message_adds_nothing_to_plain_text() -> None:
    assert plain_text([{"role": "system", "content": ""}, ASK]) == plain_text([ASK])


# --- n_ctx -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_ctx", [8, 300])
def test_a_context_has_the_tokens_that_were_asked_for(
    demo_files: dict[str, Path], n_ctx: int
) -> None:
    greedy = Sampling(temperature=0.0)
    with Emulator.from_files(**demo_files, n_ctx=n_ctx, n_seq_max=2, threads=1) as em:
        assert em.ensemble.n_ctx == n_ctx
        for options in ({}, {"speculation": eftlocal.Speculation(length=4)}):
            answer = em.generate(
                "a", raw=True, sampling=greedy, ignore_end=True, max_tokens=400, **options
            )
            prompt = max(answer.timing.prompt_tokens.values())
            assert prompt + len(answer.tokens) <= n_ctx
            assert answer.finish_reason in ("context", "repetition")
        with pytest.raises(PromptError, match=f"its context holds {n_ctx}"):
            em.generate("a " * n_ctx, raw=True)


@pytest.mark.parametrize(
    ("n_ctx", "says"),
    [
        (0, "n_ctx is 0; it must be a whole number, 1 or more"),
        (-1, "n_ctx is -1; it must be a whole number, 1 or more"),
        (2**31, "n_ctx is 2147483648; it must be 2147483647 or less"),
        ("300", "n_ctx is '300'; it must be a whole number, 1 or more"),
        (300.0, "n_ctx is 300.0; it must be a whole number, 1 or more"),
        (True, "n_ctx is True; it must be a whole number, 1 or more"),
    ],
)
def test_absurd_contexts_are_refused(demo_files: dict[str, Path], n_ctx: Any, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Emulator.from_files(**demo_files, n_ctx=n_ctx)
    assert str(caught.value) == says


def test_too_many_cells_are_refused(demo_files: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="for each of 4 sequences"):
        Emulator.from_files(**demo_files, n_ctx=2**30, n_seq_max=4, force=True)


def test_more_than_a_model_learned_from_is_noted(demo_files: dict[str, Path]) -> None:
    with Emulator.from_files(**demo_files, n_ctx=600, threads=1) as em:
        (note,) = em.notes()
    assert note.startswith("n_ctx is 600, and base, tuned, reference trained on 512 tokens at most")


# --- settings of roles -------------------------------------------------------------------------


def test_settings_go_over_those_of_a_role() -> None:
    old = RoleSource(Path("x"), chat_template_kwargs={"a": 1, "b": 1})
    new = with_settings({"base": old}, prompts={"base": "plain"}, chat_template_kwargs={"b": 2})
    assert new["base"].prompt == "plain"
    assert new["base"].chat_template_kwargs == {"a": 1, "b": 2}
    assert with_settings({"base": old}) == {"base": old}
    with pytest.raises(UsageError, match="prompts: there is no role tunde; there are base"):
        with_settings({"base": old}, prompts={"tunde": "plain"})


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def test_wrong_prompts_are_refused_before_anything_is_loaded(
    demo_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eftlocal.loading.loader.load_roles", None)
    for options in (
        {"prompts": {"base": "plian"}},
        {"prompts": {"base": 5}},
        {"prompts": "plain"},
        {"chat_template_kwargs": {"bos_token": ""}},
        {"chat_template_kwargs": {1: 2}},
        {"chat_template_kwargs": "enable_thinking"},
        {"chat_template_kwargs": {"a": {1}}},
        {"chat_template_kwargs": {"a": nested(100_000)}},
    ):
        with pytest.raises(UsageError):
            Emulator.from_files(**demo_files, **options)


# --- the command line --------------------------------------------------------------------------

EACH = {
    "run": ["run", "Where is Lima?", "--max-tokens", "4", "--json"],
    "inspect": ["inspect", "Where is Lima?", "--answer", " In Peru.", "--json"],
    "bench": ["bench", "--prompts", "p.txt", "--repeat", "1", "--max-tokens", "2", "--json", "-"],
    "eval": ["eval", "p.txt", "--out", "s.jsonl", "--max-tokens", "4", "--json"],
    "batch": ["batch", "in.jsonl", "-", "--max-tokens", "4", "--quiet"],
}


@pytest.fixture(scope="module")
def bare(demo_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's tuned model without its chat template."""
    path = tmp_path_factory.mktemp("bare") / "tuned.gguf"
    return edited(demo_files["tuned"], path, {"tokenizer.chat_template": None})


@pytest.fixture
def invoke(
    tmp_path: Path, demo_files: dict[str, Path], bare: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Runs a verb with files whose tuned one has no template; gives code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    Path("p.txt").write_text("Where is Lima?\n", encoding="utf-8")
    Path("in.jsonl").write_text('{"prompt": "Where is Lima?"}\n', encoding="utf-8")
    files = [f"--{r}={bare if r == 'tuned' else path}" for r, path in demo_files.items()]

    def run(*arguments: str) -> tuple[int, str, str]:
        found = CliRunner().invoke(app, [*arguments, *files, "--threads", "1"])
        error = found.exception
        told = str(error) if isinstance(error, EftlocalError) else found.stderr
        return found.exit_code, found.stdout, told

    return run


@pytest.mark.parametrize("verb", EACH)
def test_files_without_a_template_are_given_one(verb: str, invoke: Any) -> None:
    code, _, told = invoke(*EACH[verb])
    assert code != 0
    assert "--chat-template tuned=FILE" in told
    Path("t.jinja").write_text("\ufeff{{ messages[0].content }}{{ more }}", encoding="utf-8")
    for chosen in ("tuned=t.jinja", *(("plain", "chatml") if verb == "run" else ())):
        code, out, told = invoke(
            *EACH[verb], "--chat-template", chosen, "--chat-template", "base=plain"
        )
        assert code == 0, told
        assert out.strip()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--chat-template", "chatmll"], "no such file"),
        (["--chat-template", "tuned=" + "x" * 5000], "no such file"),
        (["--chat-template", "tuned="], "no such file, and '' is neither a prompt format"),
        (["--chat-template", "tunde=plain"], "there is no role tunde; there are base, tuned"),
        (["--chat-template", "plain", "--chat-template", "tuned=chat"], "tuned is given twice"),
        (["--chat-template", "no.jinja"], "the file holds no jinja2 template"),
        (["--chat-template-kwargs", "a=1"], "--chat-template-kwargs is not JSON"),
        (["--chat-template-kwargs", "[1]"], "--chat-template-kwargs is of type list; it must be"),
        (["--chat-template-kwargs", '{"eos_token": ""}'], "'eos_token' is set by eftlocal"),
        (["--special"], "--special is for raw text; add --raw"),
        (["--raw", "--system", "x"], "--system needs the chat template"),
        (["--raw", "--system-in-user"], "--system-in-user needs the chat template"),
        (["--raw", "--chat-template", "plain"], "--chat-template needs the chat template"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "batch", "eval", "inspect"])
def test_wrong_options_are_one_line(
    verb: str, arguments: list[str], says: str, invoke: Any
) -> None:
    Path("no.jinja").write_text("hello", encoding="utf-8")
    code, _, told = invoke(*EACH[verb], *arguments)
    assert code != 0
    assert says in told and "\n" not in told.strip()


def test_a_template_file_may_hold_a_name(invoke: Any) -> None:
    Path("n.jinja").write_text("chatml\n", encoding="utf-8")
    code, _, told = invoke(*EACH["run"], "--chat-template", "n.jinja")
    assert code == 0, told


def test_variables_and_special_in_a_batch(invoke: Any) -> None:
    lines = [
        {"prompt": "Hi", "chat_template_kwargs": {"more": "word " * 20}},
        {"prompt": "Hi"},
        {"prompt": "Hi<|end|>", "raw": True, "special": True},
        {"prompt": "Hi<|end|>", "raw": True},
        {"prompt": "Hi", "special": True},
        {"prompt": "Hi", "raw": True, "chat_template_kwargs": {"more": ""}},
        {"prompt": [1, 2], "special": True},
    ]
    Path("in.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines), encoding="utf-8")
    Path("t.jinja").write_text("{{ messages[0].content }}{{ more }}", encoding="utf-8")
    _, out, told = invoke(*EACH["batch"], "--chat-template", "t.jinja", "--skip-invalid")
    rows = {row["custom_id"]: row for row in map(json.loads, out.splitlines())}
    used = [
        row["response"]["body"]["usage"]["prompt_tokens"] if row["response"] else None
        for _, row in sorted(rows.items())
    ]
    assert used[0] > used[1] + 20
    assert used[4:] == [None, None, 2]
    assert "special is for raw text" in json.dumps(rows)
    assert "raw text has none" in json.dumps(rows), told


def test_a_run_with_another_prompt_is_another_run(invoke: Any) -> None:
    verb = [*EACH["batch"][:2], "out.jsonl", *EACH["batch"][3:]]
    template = "{{ messages[0].content }}{{ more }}"
    Path("t.jinja").write_text(template, encoding="utf-8")
    ours = ["--chat-template", "t.jinja"]
    assert invoke(*verb, *ours)[0] == 0
    for other in (["--chat-template-kwargs", '{"more": "x"}'], ["--system-in-user"]):
        code, _, told = invoke(*verb, *ours, *other)
        assert code == 2 and "prompt of tuned" in told


def test_settings_of_a_preset(tmp_path: Path, demo_files: dict[str, Path]) -> None:
    folder = Path(eftlocal.presets.reading.user_path()).parent
    folder.mkdir(parents=True)
    roles = "".join(
        f'[preset.roles.{role}]\nfile = "{path}"\n' for role, path in demo_files.items()
    )
    tuned = (
        f'prompt = {{template = "{THINKS}"}}\nsystem_in_user = true\n'
        "chat_template_kwargs = {enable_thinking = true}\n"
    )
    text = roles.replace("[preset.roles.reference]", f"{tuned}[preset.roles.reference]")
    (folder / "models.toml").write_text(f'[[preset]]\nname = "mine"\n{text}', encoding="utf-8")
    with eftlocal.load("mine", threads=1) as em:
        told = render_roles([SYSTEM, ASK], em.prompts)
        assert str(told["tuned"]) == "Be brief.\n\nWhere is Lima? thinking"
    with eftlocal.load(
        "mine", threads=1, prompts={"base": "chatml"}, chat_template_kwargs={"more": "!"}
    ) as em:
        told = render_roles([ASK], em.prompts)
        assert str(told["tuned"]).endswith(" thinking!")
        assert str(told["base"]).startswith("<|im_start|>")


def test_sources_of_files_have_no_settings(demo_files: dict[str, Path]) -> None:
    assert all(not s.chat_template_kwargs for s in file_sources(demo_files).values())
