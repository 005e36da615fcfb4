"""The comparison with other programs: each way gives the combination that the formula gives."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import bench_peers
import pytest
from peers import measuring
from peers.figures import agreement, markdown
from peers.llama_way import Completion
from peers.measuring import Yardstick
from peers.ours import Ours
from peers.table import PLAIN, TOGETHER, WAYS, Asked, Heard

PROMPTS = [list(range(40, 52)), list(range(60, 69))]
ALPHA, TOKENS = 0.5, 6


def asked(kind: str, files: dict[str, str], adapters: dict[str, str], places: int = 1) -> Asked:
    return Asked(kind, files, adapters, ALPHA, 1, 64, TOKENS, (), places)


def test_every_way_gives_the_tokens_of_the_formula(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", exc_type=ImportError)
    import peft
    from peers.torch_way import Proxy, converted
    from tiny_transformers import tiny_model, write_gguf

    from eftlocal.gguf_file.header import read_header
    from eftlocal.gguf_file.peft import convert

    model = tiny_model("llama", tied=False)
    base, lora = write_gguf(tmp_path / "base.gguf", model, "llama"), tmp_path / "lora.gguf"
    torch.manual_seed(1)
    config = peft.LoraConfig(
        target_modules="all-linear",
        r=4,
        lora_alpha=8,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    tuned = peft.get_peft_model(model, config).eval()
    tuned.save_pretrained(tmp_path / "peft")
    convert(tmp_path / "peft", lora, read_header(base))

    def expected(prompt: list[int]) -> list[int]:
        answer: list[int] = []
        while len(answer) < TOKENS:
            given = torch.tensor([prompt + answer])
            with torch.no_grad():
                moved = tuned(given).logits[0, -1]
                with tuned.disable_adapter():
                    plain = tuned(given).logits[0, -1]
            answer.append(int((plain + ALPHA * (moved - plain)).argmax()))
        return answer

    right = [expected(prompt) for prompt in PROMPTS]
    files = dict.fromkeys(("base", "tuned", "reference"), str(base))
    adapters = {"tuned": str(lora)}
    for way in (
        Ours(asked("plain", files, adapters)),
        Ours(asked("drafts", files, adapters)),
        Completion(asked("processor", files, adapters)),
    ):
        for prompt, tokens in zip(PROMPTS, right, strict=True):
            heard = way.answer([prompt])
            assert heard.tokens == [tokens]
            assert 0.0 < heard.first <= heard.seconds and heard.at_first >= 1
    folders = converted(files, adapters, tmp_path)
    for together in (
        Ours(asked("together", files, adapters, places=2)),
        Proxy(asked("together", folders, {})),
    ):
        assert together.answer(PROMPTS).tokens == right
    alone = [Completion(asked(kind, files, {})) for kind in ("alone", "lookup")]
    assert alone[0].answer(PROMPTS[:1]).tokens == alone[1].answer(PROMPTS[:1]).tokens != [right[0]]


def test_a_rate_does_not_count_what_came_first() -> None:
    assert Heard([[1, 2, 3, 4, 5]], first=2.0, at_first=1, seconds=4.0).rate == 2.0
    assert Heard([[1, 2, 3], [4]], first=1.0, at_first=2, seconds=2.0).rate == 2.0
    assert Heard([[1]], first=1.0, at_first=1, seconds=1.0).rate != 0.0  # none


def test_agreement_ends_where_answers_part() -> None:
    ours = Yardstick([[0]] * 3, [[1, 2, 3], [4, 5], [6]], [[0.1, 0.2, 0.3], [0.4, 0.5], [0.6]], ())
    found = agreement([[1, 9, 3], [4, 5, 7], [6]], ours)
    assert found == {"tokens": 6, "agreed": 4, "gaps": [0.2]}
    assert agreement(ours.answers, ours)["gaps"] == []


def test_a_run_measures_every_way_in_its_process(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    demo_files: dict[str, Path],
) -> None:
    pytest.importorskip("matplotlib")
    few = {name: WAYS[name] for name in (PLAIN, TOGETHER)}
    monkeypatch.setattr(measuring, "WAYS", few)
    files = [part for role, file in demo_files.items() for part in (f"--{role}", str(file))]
    out, drawn = tmp_path / "peers.json", tmp_path / "peers.svg"
    given = ["--prompts", "2", "--tokens", "4", "--turns", "2", "--threads", "1"]
    written = ["--cpu-time", "--no-transformers", "--json", str(out), "--plot", str(drawn)]
    monkeypatch.setattr(sys, "argv", ["bench_peers.py", *files, *given, *written])
    assert bench_peers.main() == 0
    report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert list(report["ways"]) == list(few) and drawn.stat().st_size
    for of in report["ways"].values():
        assert of["agreed"] == of["tokens"] > 0 and of["peak_bytes"] > 1 << 20
    assert report["ways"][PLAIN]["over_plain"] == [1.0, 1.0, 1.0]
    assert markdown(report) in capsys.readouterr().out


def test_what_cannot_be_measured_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], demo_files: dict[str, Path]
) -> None:
    for given, said in (
        (["--base", str(demo_files["base"])], "give --base, --tuned and --reference"),
        (["--cpu-time", "--threads", "2"], "give --threads 1"),
    ):
        monkeypatch.setattr(sys, "argv", ["bench_peers.py", *given])
        with pytest.raises(SystemExit) as ended:
            bench_peers.main()
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
