"""Results that survive a crash: rows appended to a file, a manifest that says whose they are."""
