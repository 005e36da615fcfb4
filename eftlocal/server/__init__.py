"""An OpenAI-compatible server: HTTP in one process, the models of each preset in another."""
