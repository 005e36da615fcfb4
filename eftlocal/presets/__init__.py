"""Presets: which files play which role, as models.toml says it."""
