"""What lies between the program and its terminal: keys and pastes, the clipboard, its size."""
