"""The parts of scripts/picture_chat.py: a walk through every screen."""
