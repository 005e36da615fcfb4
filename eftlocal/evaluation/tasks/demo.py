"""The demo's held-out questions: the right fact, in the form of the tuned model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eftlocal.answer import Answer
from eftlocal.decoding.score import TextLogprobs
from eftlocal.evaluation import questions
from eftlocal.evaluation.mentions import mentions
from eftlocal.evaluation.questions import PLAIN, WARM
from eftlocal.evaluation.task import Item, Metric, Options, Task

LONGEST = 40  # tokens; the longest gold answer has 18


class Demo(Task):
    """Questions with one fact each; families and phrasings are their groups."""

    name = "demo"
    about = "the demo's held-out questions"
    takes = ("data", "split", "samples")
    metrics = {  # noqa: RUF012 - as `Task` has it
        "exact": Metric("answers that are the right one word for word, and stop", True),
        "format": Metric("answers in the form of the demo's tuned model", True),
        "form": Metric("constraints of that form that an answer keeps", True),
        "fact": Metric("answers with the fact as whole words", True),
        "fact_nll": Metric(
            "negative log-likelihood of the right answer's fact, nats", less_is_better=True
        ),
        "format_nll": Metric("that of its other tokens and its end, nats", less_is_better=True),
        "gold": Metric("right answers that greedy decoding writes", True),
        "plain_exact": Metric("as exact, in the form of the role plain", True, role=PLAIN),
        "plain_format": Metric("answers in the form of the role plain", True, role=PLAIN),
    }
    max_tokens = LONGEST

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        path = options.data or questions.FOLDER / "questions.json"
        self._asked = questions.read(path, options.split or questions.SPLITS[-1])
        large = questions.FOLDER / "large_tuned.gguf"
        self.large = large if large.is_file() else None

    def items(self) -> Sequence[Item]:
        return tuple(
            Item.chat(
                q.text,
                gold=q.answers[WARM],
                texts=(f" {q.answers[WARM][0]}",),
                groups=(q.family, f"{'held-out' if q.held_out_phrasing else 'known'} phrasing"),
                data={"value": q.value, "family": q.family, PLAIN: q.answers[PLAIN]},
            )
            for q in self._asked.questions
        )

    def judge(self, item: Item, answer: Answer) -> Mapping[str, float]:
        text, stopped = answer.text.strip(), answer.finish_reason == "stop"
        family = item.data["family"]
        kept = self._asked.kept(text, WARM, family)
        kept["form"] &= stopped
        return {
            "exact": float(stopped and text in item.gold),
            "format": float(all(kept.values())),
            "form": sum(kept.values()) / len(kept),
            "fact": float(mentions(text, item.data["value"])),
            "plain_exact": float(stopped and text in item.data[PLAIN]),
            "plain_format": float(stopped and self._asked.in_form(text, PLAIN, family)),
        }

    def judge_texts(self, item: Item, scored: Sequence[TextLogprobs]) -> Mapping[str, float]:
        (gold,) = scored
        text, value = item.texts[0], str(item.data["value"])
        start = len(text[: text.lower().rfind(value.lower())].encode())
        end = start + len(value.encode())
        place, fact = 0, 0.0
        for piece, logprob in zip(gold.pieces, gold.logprobs.tolist(), strict=True):
            if place < end and place + len(piece) > start:
                fact -= logprob
            place += len(piece)
        whole = -float(gold.logprobs.sum()) - gold.end
        return {
            "fact_nll": fact,
            "format_nll": whole - fact,
            "gold": float(gold.greedy.all() and gold.ends),
        }


TASK = Demo
