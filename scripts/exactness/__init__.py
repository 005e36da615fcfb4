"""Checks that speculation changes no distribution: the tests run them small, a script in full."""
