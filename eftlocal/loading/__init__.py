"""From files to running roles."""
