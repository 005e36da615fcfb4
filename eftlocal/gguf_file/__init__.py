"""What a GGUF file says of itself, read safely before llama.cpp sees the file."""
