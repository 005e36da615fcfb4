"""What the shell completes, asked as the shell asks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from eftlocal.presets.reading import load_presets, user_path

# llama.cpp is not there: completing must not load it.
PROGRAM = "import sys; sys.modules['llama_cpp'] = None; from eftlocal.__main__ import main; main()"


def completed(words: str) -> list[str]:
    """What bash is given for the last word of a command line, which may be empty."""
    asked = {
        "_EFTLOCAL_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("eftlocal run --preset qwen2", ["qwen2.5-7b", "qwen2.5-14b"]),
        ("eftlocal models show demo-", ["demo-blend", "demo-cross", "demo-down"]),
        (
            "eftlocal run --preset demo-blend --show base,",
            ["base,tuned", "base,plain", "base,reference"],
        ),
        ("eftlocal inspect --recipe co", ["contrast"]),
        ("eftlocal eval --recipe up", ["upscale"]),
        ("eftlocal batch a b --draft-rule ", ["coupled", "rejection"]),
        ("eftlocal chat --chat-template tuned=p", ["tuned=plain"]),
        ("eftlocal eval d", ["demo"]),
    ],
)
def test_what_is_completed(words: str, expected: list[str]) -> None:
    assert sorted(completed(words)) == sorted(expected)


def test_every_preset_and_the_persons_own_and_nothing_of_a_broken_file() -> None:
    user_path().parent.mkdir(parents=True, exist_ok=True)
    roles = "".join(f'[preset.roles.{r}]\nfile = "x"\n' for r in ("base", "tuned", "reference"))
    user_path().write_text(f'[[preset]]\nname = "my-own"\n{roles}')
    assert completed("eftlocal run --preset ") == [*load_presets()]
    assert "my-own" in load_presets()
    user_path().write_text("[[preset]")
    assert completed("eftlocal run --preset ") == []
    assert completed("eftlocal run --show ") == ["base", "tuned", "reference"]
