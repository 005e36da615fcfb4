"""What scripts/setup.py does, one idea a file. Standard library only."""
