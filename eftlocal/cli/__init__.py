"""The command line: one small file per verb, put together in `app`."""
