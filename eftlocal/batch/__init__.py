"""Many requests from a JSONL file: checked before the first is run, answers kept as they come."""
