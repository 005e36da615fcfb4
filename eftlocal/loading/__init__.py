"""From files to running roles: what they are, whether they fit, and each other."""
