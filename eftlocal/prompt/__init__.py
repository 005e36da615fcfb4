"""From a conversation to the text each role reads: messages, chat templates, their sandbox."""
