"""The first load of a file that nothing vouches for, tried in a child process.

A header check cannot know all that llama.cpp's native code trips over, and Python cannot catch a
crash. So a child does with a new file what the program will do with it; only its death tells.
"""

from eftlocal.loading.trial.exemptions import is_vouched
from eftlocal.loading.trial.trial import Candidate, Checking, Limits, Trial

__all__ = ["Candidate", "Checking", "Limits", "Trial", "is_vouched"]
