"""The two configurations: `cpu` fits 40 minutes on two cores, `gpu` is for one large card."""

from __future__ import annotations

from dataclasses import dataclass

from corpus import Mix, TuneMix
from model import ModelConfig
from train import Schedule
from vocabularies import VOCABULARIES, Vocabulary


@dataclass(frozen=True)
class Config:
    """Everything that decides what the shipped files contain."""

    facts: dict[str, int]
    mix: Mix
    large: ModelConfig
    small: ModelConfig
    row_lengths: tuple[tuple[float, int], ...]
    """Shares of the stream and the length of their rows, in order; the first is for tuning too."""
    pretrain: Schedule
    second: Schedule
    second_texts: int
    tune: Schedule
    tune_mix: TuneMix
    vocabulary: Vocabulary = VOCABULARIES["demo"]
    validation_each: int = 150
    test_each: int = 300
    seed: int = 1
    device: str = "cpu"
    compiled: bool = False


CPU = Config(
    facts={"city": 900, "state": 700, "kind": 800, "person": 500, "clock": 200, "nation": 250},
    mix=Mix(
        exposures=48,
        side_exposures=12,
        prose_chars=800_000,
        dialogue_chars=700_000,
        quiz_texts=16_000,
    ),
    large=ModelConfig(layers=4, dim=256, heads=4, ffn=1024),
    small=ModelConfig(layers=3, dim=64, heads=2, ffn=96),
    row_lengths=((0.85, 128), (0.15, 512)),
    pretrain=Schedule(muon_lr=0.02, adam_lr=0.004, tokens=2_048),
    second=Schedule(muon_lr=0.005, adam_lr=0.001, tokens=2_048),
    second_texts=7_000,
    tune=Schedule(muon_lr=0.002, adam_lr=0.0006, tokens=1_024),
    tune_mix=TuneMix(passes=3),
)

GPU = Config(
    facts={"city": 6000, "state": 2000, "kind": 4000, "person": 1000, "clock": 600, "nation": 400},
    mix=Mix(
        exposures=60,
        side_exposures=20,
        prose_chars=40_000_000,
        dialogue_chars=11_000_000,
        quiz_texts=120_000,
    ),
    large=ModelConfig(layers=8, dim=512, heads=8, ffn=1536),
    small=ModelConfig(layers=4, dim=128, heads=4, ffn=256),
    row_lengths=((0.85, 256), (0.15, 512)),
    pretrain=Schedule(muon_lr=0.02, adam_lr=0.003, tokens=16_384),
    second=Schedule(muon_lr=0.005, adam_lr=0.001, tokens=16_384),
    second_texts=60_000,
    tune=Schedule(muon_lr=0.002, adam_lr=0.0006, tokens=8_192),
    tune_mix=TuneMix(passes=3),
    device="cuda",
    compiled=True,
)

CONFIGS = {"cpu": CPU, "gpu": GPU}
