"""What people ask small models: to tell, explain, list, write, correct, sum up, code."""

from __future__ import annotations

from eftlocal.study.benchmark import BUILT_IN

PROMPTS = (
    *BUILT_IN,
    "How do I get better at running?",
    "What should I cook tonight?",
    "How do I sleep better?",
    "Explain how a bicycle stays upright.",
    "My friend is moving away and I am sad. What can I do?",
    "Name three things to see in Rome and say why.",
    "Write a short poem about the first snow.",
    "What is a good way to learn a new language?",
    "How does a refrigerator keep food cold?",
    "I have a lot of work and little time. How do I begin?",
)
