"""What answers: the protocol that the screens know, the emulator behind it, and its one thread."""
