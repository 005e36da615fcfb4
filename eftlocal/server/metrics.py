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

        self.requests = counter("requests", "Requests by model and status.", "model", "status")
        self.prompt = counter("prompt_tokens", "Tokens of prompts.", "model")
        self.reused = counter("prompt_tokens_reused", "Of them, held by a cache.", "model")
        self.predicted = counter("tokens_predicted", "Tokens of answers.", "model")
        self.drafted = counter("drafted_tokens", "Draft tokens.", "model")
        self.accepted = counter("accepted_tokens", "Of them, accepted.", "model")
        self.rounds = counter("rounds", "Rounds of decoding.", "model")
        self.deaths = counter("engine_deaths", "Engines that ended by themselves.", "model")
        self.processing = Gauge(
            "eftlocal_requests_processing", "On their way.", ["model"], registry=registry
        )
        self.first = Histogram(
            "eftlocal_time_to_first_token_seconds",
            "From the request to the first token.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )

    def count(self, model: str, body: Mapping[str, Any]) -> None:
        """Counts the answers to one request, from their whole object."""
        usage = body["usage"]
        self.prompt.labels(model).inc(usage["prompt_tokens"])
        self.reused.labels(model).inc(usage["prompt_tokens_details"]["cached_tokens"])
        self.predicted.labels(model).inc(usage["completion_tokens"])
        for choice in body["choices"]:
            own = choice["eftlocal"]
            self.first.labels(model).observe(own["timings"]["first_token"])
            for counter, name in (
                (self.drafted, "drafted"),
                (self.accepted, "accepted"),
                (self.rounds, "rounds"),
            ):
                counter.labels(model).inc(own["speculation"][name])

    def text(self) -> bytes:
        """All of it, in Prometheus' form."""
        return generate_latest(self._registry)
