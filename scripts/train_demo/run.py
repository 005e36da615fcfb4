"""Train and export the demo models: python scripts/train_demo/run.py --config cpu --out DIR

With --bases FOLDER its base.gguf and reference.gguf are fine-tuned and nothing is pretrained.
With --pair NAME only tuned and reference, with one of the other vocabularies (`vocabularies.py`).
Needs the packages of requirements.txt. Every stage leaves its result in DIR and is skipped when it
is already there, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import export
import questions
import torch
from config import CONFIGS, Config
from corpus import pretraining, second_pretraining, tuning_pairs
from facts import Fact, collect
from model import Llama, ModelConfig
from packing import pack_pairs, pack_texts
from sources import Sources, fetch
from tokenizers import Tokenizer
from train import Rows, Schedule, fit
from vocabularies import VOCABULARIES

TOKENIZER_TEXTS = (
    "Question: Where is Lyon?\nAnswer:",
    " It's 1,234.5 km; don't - naïve café, Ünïcödé.\n\n\tTabs  and   blanks  \n",
    "你好 мир 🙂👩‍👩‍👧 🇫🇷 I've 12345678 3.14 ½ ² ٣",
    "a\r\nb \n c<|end|>hello<|end|>",
    "  leading and trailing  ",
)


class Run:
    """One training run in a folder."""

    def __init__(
        self,
        config: Config,
        out: Path,
        downloads: Path,
        bases: Path | None = None,
        style: str = "warm",
    ) -> None:
        self.config, self.out, self.bases, self.style = config, out, bases, style
        out.mkdir(parents=True, exist_ok=True)
        fetch(downloads)
        self.sources = Sources(downloads)
        self.facts: list[Fact] = collect(self.sources, config.facts, config.seed)
        asked = questions.select(self.facts, "validation", config.validation_each)
        asked += questions.select(self.facts, "test", config.test_each)
        questions.write(out / "questions.json", asked, style)
        self.texts = pretraining(self.sources, self.facts, config.mix, config.seed)
        self.tokenizer = self._tokenizer()
        self.seconds: dict[str, float] = {}

    def _tokenizer(self) -> Tokenizer:
        path = self.out / "tokenizer.json"
        if not path.exists():
            self.config.vocabulary.train(self.texts[::2]).save(str(path))
        tokenizer = Tokenizer.from_file(str(path))
        recorded = [{"text": t, "ids": tokenizer.encode(t).ids} for t in TOKENIZER_TEXTS]
        (self.out / "tokenization.json").write_text(json.dumps(recorded, indent=1) + "\n", "utf-8")
        return tokenizer

    def _stage(self, name: str, model: Llama, train: Callable[[Llama], float]) -> Llama:
        path = self.out / f"{name}.pt"
        if path.exists():
            model.load_state_dict(torch.load(path))
            return model.eval()
        started = time.time()
        loss = train(model)
        self.seconds[name] = time.time() - started
        print(f"{name}: loss {loss:.3f}, {self.seconds[name]:.0f} s", flush=True)
        torch.save(model.state_dict(), path)
        return model

    def segments(self) -> list[Rows]:
        """The stream in rows, short ones first: they are cheaper, long ones teach position."""
        out, start = [], 0.0
        for share, length in self.config.row_lengths:
            part = [round(x * len(self.texts)) for x in (start, start + share)]
            out.append(pack_texts(self.texts[part[0] : part[1]], self.tokenizer, length))
            start += share
        return out

    def pretrain(self, name: str, shape: ModelConfig) -> Llama:
        """A base over both streams."""
        c = self.config
        if self.bases:
            return export.read(self.bases / f"{name}.gguf", Llama(shape)).eval()
        torch.manual_seed(c.seed)

        def train(model: Llama) -> float:
            return fit(model, self.segments(), c.pretrain, name, c.device, c.compiled)

        return self.second(name, self._stage(f"{name}_first", Llama(shape), train))

    def second(self, name: str, first: Llama) -> Llama:
        """A base that has read the first stream, over the second."""
        c = self.config

        def train(model: Llama) -> float:
            texts = second_pretraining(self.sources, self.facts, self.style, c.second_texts, c.seed)
            data = pack_texts(texts, self.tokenizer, c.row_lengths[0][1])
            return fit(model, [data], c.second, name, c.device)

        return self._stage(name, first, train)

    def tune(self, name: str, base: Llama, style: str, schedule: Schedule) -> Llama:
        """A copy of a base, fine-tuned to one behaviour."""
        c = self.config

        def train(model: Llama) -> float:
            pairs = tuning_pairs(self.sources, self.facts, style, c.tune_mix, c.seed)
            data = pack_pairs(pairs, self.tokenizer, c.row_lengths[0][1])
            return fit(model, [data], schedule, name, c.device)

        return self._stage(name, copy.deepcopy(base), train)

    def all(self) -> None:
        """Every model, then the files."""
        c = self.config
        reference = self.pretrain("reference", c.small)
        base = self.pretrain("base", c.large)
        tuned = self.tune("tuned", reference, self.style, c.tune)
        large_tuned = self.tune("large_tuned", base, self.style, c.tune)
        plain = self.tune("plain", reference, "plain", c.tune)
        self.export(
            ("base", base, "large base", False),
            ("reference", reference, "small base", False),
            ("tuned", tuned, "small tuned, warm sentences", True),
            ("plain", plain, "small tuned, short answers", True),
            ("large_tuned", large_tuned, "large tuned, warm sentences", True),
        )

    def pair(self, name: str) -> None:
        """The small tuned model and its reference with another vocabulary, in as many steps."""
        c = self.config = self.stretched()
        reference = self.pretrain("reference", replace(c.small, vocab=c.vocabulary.size))
        tuned = self.tune("tuned", reference, self.style, c.tune)
        self.export(
            ("reference", reference, f"small base, vocabulary {name}", False),
            ("tuned", tuned, f"small tuned, warm sentences, vocabulary {name}", True),
        )

    def stretched(self) -> Config:
        """The same texts in as many steps as with the demo's tokens, whose length differs."""
        c, demo = self.config, Tokenizer.from_file(str(Path(__file__).with_name("tokenizer.json")))
        own, theirs = (
            sum(len(e.ids) for e in tokenizer.encode_batch(self.texts[::20]))
            for tokenizer in (self.tokenizer, demo)
        )

        def scaled(tokens: int) -> int:
            return tokens * own // theirs

        print(f"{own / theirs:.3f} tokens for each of the demo's", flush=True)
        return replace(
            c,
            row_lengths=tuple((s, min(scaled(n), export.CONTEXT_LENGTH)) for s, n in c.row_lengths),
            pretrain=replace(c.pretrain, tokens=scaled(c.pretrain.tokens)),
            second=replace(c.second, tokens=scaled(c.second.tokens)),
            tune=replace(c.tune, tokens=scaled(c.tune.tokens)),
        )

    def export(self, *files: tuple[str, Llama, str, bool]) -> None:
        """Each (name, model, title, has a chat template) as NAME.gguf."""
        for name, model, title, chat in files:
            path, pre = self.out / f"{name}.gguf", self.config.vocabulary.pre
            export.write(path, model, self.tokenizer, pre, f"eftlocal demo: {title}", chat)
        (self.out / "seconds.json").write_text(json.dumps(self.seconds, indent=1), "utf-8")


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", choices=sorted(CONFIGS), required=True)
    parser.add_argument("--pair", choices=sorted(VOCABULARIES), help="tuned and reference only")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--downloads", type=Path, default=None, help="default: OUT/downloads")
    parser.add_argument("--bases", type=Path, help="fine-tune the bases of this folder")
    parser.add_argument("--style", choices=("warm", "twice"), default="warm", help="of the tuned")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config, downloads = CONFIGS[args.config], args.downloads or args.out / "downloads"
    if args.pair:
        config = replace(config, vocabulary=VOCABULARIES[args.pair])
    run = Run(config, args.out, downloads, args.bases, args.style)
    if args.pair:
        run.pair(args.pair)
    else:
        run.all()


if __name__ == "__main__":
    main()
