"""The settings file: what it may say, and how it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from eftlocal.errors import UsageError
from eftlocal.presets.reading import user_path
from eftlocal_tui.keys import KEYS, check_keys, display, spelled, split
from eftlocal_tui.settings import FIRST, Settings, read_settings, settings_path


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "chat.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_there_are_defaults() -> None:
    assert settings_path().parent == user_path().parent
    assert read_settings() == Settings()


def test_the_file_is_read() -> None:
    settings_path().parent.mkdir(parents=True, exist_ok=True)
    settings_path().write_text('theme = "nord"\npanel = false\n[keys]\n"chat.edit" = "f2"\n')
    settings = read_settings()
    assert settings.theme == "nord"
    assert settings.panel is False
    assert settings.keys == {"chat.edit": "f2"}


def test_the_first_file_is_valid_with_its_values_set(tmp_path: Path) -> None:
    assert read_settings(written(tmp_path, FIRST)) == Settings()
    lines = [line.removeprefix("# ") for line in FIRST.splitlines()[1:]]
    settings = read_settings(written(tmp_path, "\n".join(lines)))
    assert set(settings.model_fields_set) == set(Settings.model_fields)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('tehme = "nord"', 'unknown key "tehme"; did you mean "theme"?'),
        ('theme = "nrod"', 'unknown theme "nrod"; did you mean "nord"?'),
        ("panel = 1", "panel"),
        ('[keys]\n"chat.regenrate" = "f3"', 'did you mean "chat.regenerate"?'),
        ('[keys]\n"chat.edit" = " "', '"chat.edit" has no key'),
        ('[keys]\n"chat.edit" = "f2"\n"chat.code" = "f3,f2"', '"chat.code" both want f2'),
        ('[keys]\n"app.theme" = "f2"\n"turn.copy" = "F2"', '"app.theme" and "turn.copy" both'),
        ('[keys]\n"prompt.send" = "f2"\n"chat.edit" = "f2"', '"prompt.send" and "chat.edit" both'),
        ('[keys]\n"chat.edit" = "ctrl+i"', '"chat.edit": to most terminals ctrl+i is tab'),
        ('[keys]\n"chat.edit" = "Ctrl+M"', "ctrl+m is enter; take another key"),
        ('[keys]\n"chat.edit" = "ctrl+h"', "ctrl+h is backspace"),
        ('[keys]\n"chat.edit" = "ctrl+["', "is escape"),
        ('[keys]\n"chat.edit" = "x"', '"x" is needed to write'),
        ('[keys]\n"app.help" = "?"', '"question_mark" is needed to write'),
        ('[keys]\n"chat.edit" = "space"', '"space" is needed to write'),
        ('[keys]\n"chat.edit" = "cntrl+x"', 'there is no key "cntrl+x"'),
        ('[keys]\n"chat.edit" = "escap"', 'did you mean "escape"?'),
        ('[keys]\n"chat.edit" = "f2,"', '"chat.edit" has no key'),
        ('[keys]\n"chat.edit" = "enter"', '"chat.edit" takes the last key of "prompt.send": enter'),
        ('[keys]\n"app.theme" = "escape"', '"app.theme" takes the last key of "menu.close"'),
        ('[keys]\n"turn.copy" = "escape"', '"turn.copy" takes the last key of "turn.back": escape'),
        ("theme = ", "chat.toml"),
        ("theme = " + "[" * 100_000, "chat.toml: nested more than 200 deep"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_settings(written(tmp_path, text))
    message = str(refused.value)
    assert said in message
    assert "chat.toml" in message
    assert "\n" not in message


def test_not_utf8_and_not_there(tmp_path: Path) -> None:
    path = tmp_path / "chat.toml"
    path.write_bytes(b'theme = "\xff"')
    with pytest.raises(UsageError, match="not valid UTF-8"):
        read_settings(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_settings(tmp_path / "missing.toml")


def test_no_two_keys_of_a_place_clash_and_names_are_unique() -> None:
    names = [key.name for key in KEYS]
    assert len(set(names)) == len(names)
    check_keys({key.name: key.keys for key in KEYS})


@pytest.mark.parametrize(
    ("mine", "without", "instead"),
    [
        ({"chat.edit": "f5"}, "chat.compare", "/compare"),
        ({"chat.edit": "ctrl+q"}, "app.quit", "/exit"),
        ({"app.theme": "ctrl+b"}, "chat.panel", "Ctrl+P “Panel”"),
        ({"app.theme": "ctrl+b", "chat.edit": "ctrl+p"}, "chat.panel", "“Panel” (no key)"),
        ({"prompt.send": "ctrl+r"}, "chat.regenerate", "/regen"),
        ({"turn.copy": "Ctrl+N"}, "chat.new", "/clear"),
        ({"turn.copy": "e"}, "turn.edit", "“Edit” (no key)"),
        ({"chat.edit": "f12"}, "chat.code", "Shift+F9"),
    ],
)
def test_a_default_gives_way_to_a_key_of_the_person(
    mine: dict[str, str], without: str, instead: str
) -> None:
    keymap = check_keys(mine)
    lost = {key.lower() for key in mine.values()}
    assert not lost & set(split(keymap[without]))
    assert spelled(f"{{{without}}}.", keymap) == f"{instead}."


def test_keys_are_taken_as_people_write_them() -> None:
    written = {"chat.edit": "Ctrl+X, F2", "turn.copy": "+", "turn.code": "R", "turn.back": ";"}
    assert check_keys(written) == {
        "chat.edit": "ctrl+x,f2",
        "turn.copy": "plus",
        "turn.code": "R",
        "turn.back": "semicolon",
    }
    check_keys({"chat.edit": "f5", "chat.compare": "f4"})  # they swap places
    further_in = {"chat.stop": "escape,f2", "influence.next": "ctrl+r", "turn.copy": "y,space"}
    check_keys(further_in | {"turn.unfold": "enter"})


def test_keys_as_people_read_them() -> None:
    keymap = {"chat.edit": "plus,ctrl+pageup", "chat.stop": "ctrl+x"}
    assert display("prompt.newline", {}) == ["Ctrl+J", "Shift+Enter", "Alt+Enter"]
    assert display("history.search", {}) == ["/", "Ctrl+F"]
    assert display("turn.up", {}) == ["↑", "k"]
    assert display("chat.edit", keymap) == ["+", "Ctrl+PgUp"]
    assert spelled("{chat.stop} stops {chat.nothing}", keymap) == "Ctrl+X stops {chat.nothing}"
