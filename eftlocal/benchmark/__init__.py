"""Speed of the ways to answer: base alone, plain and speculative emulation, side by side."""
