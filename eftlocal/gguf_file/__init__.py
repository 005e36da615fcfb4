"""What a GGUF file says of itself, read safely before llama.cpp sees it; PEFT adapters as GGUF."""
