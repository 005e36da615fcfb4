"""Which model moved which token: probabilities, ranks and distances of every role, side by side."""

from eftlocal.influence.inspecting import inspect
from eftlocal.influence.inspection import Candidate, InspectedToken, Inspection
from eftlocal.influence.sides import COMBINATION

__all__ = ["COMBINATION", "Candidate", "InspectedToken", "Inspection", "inspect"]
