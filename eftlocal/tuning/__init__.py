"""Tuning: a LoRA adapter for a GGUF model, from prompts with the answers they should get.

PyTorch, transformers and PEFT are imported only where a tuning is run.
"""

DEVICES = ("auto", "cpu", "cuda", "mps")
