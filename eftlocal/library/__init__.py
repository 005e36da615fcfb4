"""The models on this machine, whichever program put them there, and the trios that they make.

`places.py` finds the files, `inventory.py` reads their headers, `guess.py` tells base from tuned,
`trios.py` proposes what to run.
"""
