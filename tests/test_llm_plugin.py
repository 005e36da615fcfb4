"""The plugin of `llm`, through llm's own command line and Python API, on the demo."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import llm
import llm.parts
import llm.plugins
import pytest
from click.testing import CliRunner, Result
from llm.cli import cli

import eftlocal
from eftlocal import llm_plugin
from eftlocal.emulator import Emulator
from eftlocal.prompt.messages import Message
from eftlocal.settings import SETTINGS

QUESTION = "In which country is Toulouse?"
ANSWER = "Good question! The answer is France. I hope that helps!"
GREEDY = ("-o", "temperature", "0")


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Iterator[None]:
    """Registered, also where this checkout was installed before it had an entry point."""
    manager = llm.plugins.pm
    new = not manager.is_registered(llm_plugin)
    if new:
        manager.register(llm_plugin)
    yield
    if new:
        manager.unregister(llm_plugin)


@pytest.fixture(scope="module")
def demo_model() -> Any:
    """With the demo loaded once."""
    return llm.get_model("eftlocal/demo")


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """llm's own folder, with its log in it."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def one_preset(demo_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that follow find the demo loaded, as the prompts of one process do."""
    monkeypatch.setattr(llm_plugin, "_Preset", lambda name: demo_model._preset)


def run(*arguments: str, typed: str | None = None, code: int = 0) -> Result:
    found = CliRunner().invoke(cli, arguments, input=typed)
    assert found.exit_code == code, found.output
    return found


def test_presets_that_are_here_are_models() -> None:
    listed = run("models", "--options", "-q", "eftlocal/").output
    assert "eftlocal/demo\n" in listed and "eftlocal/demo-blend" in listed
    assert "qwen" not in listed.lower()  # presets that nobody downloaded
    assert "beta: float" in listed and SETTINGS["beta"].help[:60] in listed
    assert "Repeatable" not in listed


def test_the_entry_point_names_the_plugin() -> None:
    text = (Path(eftlocal.__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'[project.entry-points.llm]\neftlocal = "{llm_plugin.__name__}"\n' in text


def test_importing_it_loads_no_engine() -> None:
    """llm imports it at each of its commands."""
    code = "import eftlocal.llm_plugin, sys; print('llama_cpp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.usefixtures("one_preset")
class TestTheCommand:
    def test_a_prompt_with_its_usage(self) -> None:
        found = run("-m", "eftlocal/demo", *GREEDY, "-o", "beta", "1.5", "-u", QUESTION)
        assert found.stdout.strip() == ANSWER
        assert "Token usage: 13 input, 14 output" in found.stderr

    def test_dials_reach_the_recipe(self, demo: Emulator) -> None:
        command = ("-m", "eftlocal/demo", *GREEDY, "-o", "recipe", "base", "-o", "max_tokens", "8")
        wanted = demo.generate(
            QUESTION,
            recipe="base",
            sampling=eftlocal.Sampling(temperature=0),
            max_tokens=8,
        )
        for streamed in ((), ("--no-stream",)):
            assert run(*command, *streamed, QUESTION).stdout.strip() == wanted.text.strip()

    def test_a_conversation_goes_on(self, demo: Emulator) -> None:
        run("-m", "eftlocal/demo", *GREEDY, "-s", "Be brief.", QUESTION)
        found = run("-c", "In which country is Oslo?", *GREEDY)
        messages = [
            Message(role="system", content="Be brief."),
            Message(role="user", content=QUESTION),
            Message(role="assistant", content=ANSWER),
            Message(role="user", content="In which country is Oslo?"),
        ]
        wanted = demo.chat(messages, sampling=eftlocal.Sampling(temperature=0))
        assert found.stdout.strip() == wanted.text.strip()
        logged = json.loads(run("logs", "--json", "-n", "0").stdout)
        assert [turn["prompt"] for turn in logged] == [QUESTION, "In which country is Oslo?"]
        assert [turn["response_json"]["finish_reason"] for turn in logged] == ["stop", "stop"]
        assert {turn["conversation_id"] for turn in logged} == {logged[0]["conversation_id"]}

    def test_a_chat(self) -> None:
        found = run("chat", "-m", "eftlocal/demo", *GREEDY, typed=f"{QUESTION}\nexit\n")
        assert ANSWER in found.output

    def test_a_schema(self) -> None:
        found = run("-m", "eftlocal/demo", *GREEDY, "--schema", '{"enum": ["yes"]}', QUESTION)
        assert json.loads(found.stdout) == "yes"

    @pytest.mark.parametrize(
        ("options", "line"),
        [
            (("-o", "beta", "1500"), "beta is 1500; it must be a number from -100 to 100"),
            (("-o", "betta", "1"), "betta\n  Extra inputs are not permitted"),
            (("-o", "recipe", "upscail"), "Error: unknown recipe 'upscail'"),
            (("-o", "regex", "("), "Error: regex"),
        ],
    )
    def test_what_is_refused(self, options: tuple[str, ...], line: str) -> None:
        found = run("-m", "eftlocal/demo", *options, QUESTION, code=1)
        assert line in found.output and "Traceback" not in found.output

    def test_an_error_in_a_chat_is_one_line(self) -> None:
        found = run("chat", "-m", "eftlocal/demo", "-o", "regex", "(", typed="Hello\n", code=1)
        assert found.output.splitlines()[-1].startswith("Error: regex")


def test_a_presets_file_that_is_broken_leaves_llm_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EFTLOCAL_CONFIG", str(tmp_path))
    (tmp_path / "models.toml").write_text("[[preset]]\nname = 1\n", encoding="utf-8")
    assert not [model for model in llm.get_models() if model.model_id.startswith("eftlocal")]
    assert capsys.readouterr().err.startswith(f"eftlocal: {tmp_path / 'models.toml'}: ")


class TestPython:
    def test_options_as_values(self, demo_model: Any) -> None:
        asked = {"temperature": 0, "stop": ["France"], "lambda": 0.5, "recipe": "realign"}
        found = demo_model.prompt(QUESTION, options=asked)
        assert "France" not in found.text()
        usage = found.usage()
        assert usage.input == 13 and usage.output > 0
        assert found.response_json["finish_reason"] in ("stop", "length")

    def test_a_seed(self, demo_model: Any) -> None:
        texts = [
            demo_model.prompt("Say something.", seed=3, temperature=2.0, max_tokens=12).text()
            for _ in range(2)
        ]
        assert texts[0] == texts[1]

    def test_a_prefix_is_read_once(self, demo_model: Any) -> None:
        talk = demo_model.conversation()
        talk.prompt(QUESTION, temperature=0).text()
        second = talk.prompt("In which country is Oslo?", temperature=0)
        second.text()
        assert second.token_details["cached_tokens"] > 20

    def test_leaving_a_stream_frees_its_place(self, demo_model: Any) -> None:
        for _ in zip(demo_model.prompt(QUESTION, temperature=0), range(2), strict=False):
            continue
        assert demo_model.prompt(QUESTION, temperature=0).text().strip() == ANSWER

    def test_a_picture_is_refused(self, demo_model: Any) -> None:
        part = llm.parts.AttachmentPart(llm.Attachment(type="image/png", content=b"x"))
        message = llm.parts.Message(role="user", parts=[part])
        with pytest.raises(click.ClickException, match="AttachmentPart; only text"):
            demo_model.prompt(messages=[message]).text()

    def test_asyncio(self, demo_model: Any) -> None:
        model = llm_plugin.AsyncEftlocal("eftlocal/demo", demo_model._preset)

        async def both() -> list[str]:
            asked = [model.prompt(QUESTION, temperature=0) for _ in range(2)]
            texts = await asyncio.gather(*(response.text() for response in asked))
            usage = await asked[0].usage()
            assert (usage.input, usage.output) == (13, 14)
            with pytest.raises(llm.ModelError, match="recipe"):
                await model.prompt(QUESTION, recipe="no such").text()
            return [text.strip() for text in texts]

        assert asyncio.run(both()) == [ANSWER, ANSWER]
