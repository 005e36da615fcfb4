"""The terminal chat over eftlocal: three models at work, and dials that turn while it speaks."""
