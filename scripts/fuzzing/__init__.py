"""The parts of scripts/fuzz_files.py: edits of GGUF files, tiny models to edit, whole loads."""
