"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Names as llama.cpp's server has them where it counts the same."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"eftlocal_{name}", about, labels, registry=registry)

        def gauge(name: str, about: str) -> Gauge:
            return Gauge(f"eftlocal_{name}", about, ["model"], registry=registry)

        self.requests = counter("requests", "Requests by model and status.", "model", "status")
        self.prompt = counter("prompt_tokens", "Tokens of prompts.", "model")
        self.reused = counter("prompt_tokens_reused", "Of them, held by a cache.", "model")
        self.predicted = counter("tokens_predicted", "Tokens of answers.", "model")
        self.drafted = counter("drafted_tokens", "Draft tokens.", "model")
        self.accepted = counter("accepted_tokens", "Of them, accepted.", "model")
        self.rounds = counter("rounds", "Rounds of decoding.", "model")
        self.deaths = gauge("engine_deaths", "Engines that died.")
        self.requests_now = {
            "processing": gauge("requests_processing", "Answers in the making."),
            "deferred": gauge("requests_deferred", "Answers that wait for a place."),
            "open": gauge("requests_open", "Requests that an engine holds."),
        }
        self.first = Histogram(
            "eftlocal_time_to_first_token_seconds",
            "From the request to the first token.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )

    def count(self, model: str, counts: Mapping[str, Any]) -> None:
        """Counts the answers to one request, as their engine has counted them."""
        for name in ("prompt", "reused", "predicted", "drafted", "accepted", "rounds"):
            getattr(self, name).labels(model).inc(counts[name])
        for seconds in counts["first"]:
            self.first.labels(model).observe(seconds)

    def text(self) -> bytes:
        """All of it, in Prometheus' form."""
        return generate_latest(self._registry)
