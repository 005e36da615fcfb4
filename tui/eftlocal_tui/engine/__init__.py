"""What the engine says of itself and of its answers, as the screens know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from eftlocal.disk import readable
from eftlocal.errors import EftlocalError
from eftlocal.generation import Step
from eftlocal.study.inspection import InspectedToken
from eftlocal_tui.dials import Dials
from eftlocal_tui.history import Figures

_SHORT, _LONG = 32, 256  # tokens: a sixteenth of a context is an answer's least room, within these


@dataclass(frozen=True)
class Progress:
    """How far a file, its trial, weights or measuring have come; done and total in one unit.
    Waiting for a server has no total, and is told again and again."""

    stage: Literal["waiting", "download", "checking", "weights", "measuring"]
    name: str
    done: float
    total: float


Report = Callable[[Progress], None]
"""May be called often; what it raises ends the work that reports."""


class DownloadNeededError(EftlocalError):
    """Files are missing, and nobody has said that they may be downloaded.

    Attributes:
        name: of the models.
        size: bytes that are still to come; None where nobody says.
        begun: bytes of them that are here.
        free: bytes on the disk.
    """

    def __init__(self, name: str, size: int | None, begun: int, free: int) -> None:
        super().__init__(f"{name} is not on this machine")
        self.name, self.size, self.begun, self.free = name, size, begun, free


@dataclass(frozen=True)
class Offer:
    """A preset as it can be had here.

    Attributes:
        roles: that it has.
        size: bytes of its files; None where nobody says.
        to_come: bytes that are not here; 0 where all are, None where nobody says.
        begun: whether some are here.
        n_ctx: tokens of the shortest context; None where that is not known yet.
        needs: bytes of memory, by the loader's plan; where the files are not here, what their
            weights take at least, and None where their size is not known either.
        free: bytes of memory that there would be; None where that cannot be found out.
        fits: whether that is enough; None where nobody knows.
        problem: why it cannot be loaded.
    """

    name: str
    roles: tuple[str, ...] = ()
    size: int | None = None
    to_come: int | None = None
    begun: bool = False
    n_ctx: int | None = None
    needs: int | None = None
    free: int | None = None
    fits: bool | None = None
    problem: str = ""

    @property
    def here(self) -> bool:
        return self.to_come == 0


@dataclass(frozen=True)
class Reading:
    """How far the models have read what they were given: tokens of the longest of their prompts,
    as if all of them read it at once (a token of a larger model counts for more)."""

    done: int
    total: int


class Watch(Protocol):
    """Who waits while prompts are read. A task is one."""

    def check(self) -> None:
        """Called often, by any thread, and between the tokens of several answers; what it raises
        ends the work there and comes out of the call. What came before is not lost."""

    def put(self, event: Reading, /) -> None:
        """Called by the decoding threads, before and after every part that is read."""


@dataclass(frozen=True)
class Loaded:
    """What is ready.

    Attributes:
        name: the preset's, or of the files.
        roles: that are loaded.
        dials: what answers begin with.
        notes: what a person should know before using it.
        files: role to the short name of its model file.
        about: what a person should know of the preset.
        questions: that show what it is for.
        preset: what the preset's dials would be, without a person's own options and settings.
    """

    name: str
    roles: tuple[str, ...]
    dials: Dials
    notes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    about: str = ""
    questions: tuple[str, ...] = ()
    preset: Dials | None = None

    def file_of(self, role: str) -> str:
        """The short name of its file; empty where that says no more than the role."""
        name = self.files.get(role, "")
        return "" if name == role else name


Load = Callable[[Report], Loaded]
"""Loads, on the engine's thread, what was prepared, in the place of what is loaded.

Raises EftlocalError where it cannot be loaded; `LocalEngine.restore` says what is loaded then."""


@dataclass(frozen=True)
class Again:
    """The same models, to be loaded again with more beside their weights.

    Attributes:
        needs: bytes of memory that the models take then, on the host and on devices.
        slower: layers that have to leave the devices for it.
        load: loads them so.
    """

    needs: int
    slower: int
    load: Load

    @property
    def costs(self) -> str:
        """What a person should know before."""
        slower = f"; slower: {self.slower} layers leave the GPU" * bool(self.slower)
        return f"loads the models again; they take {readable(self.needs)} of memory then{slower}"


@dataclass(frozen=True)
class Larger(Again):
    """A larger context that the same models can have.

    Attributes:
        sizes: tokens by role.
    """

    sizes: Mapping[str, int]


@dataclass(frozen=True)
class Came:
    """What one of several answers brought: a token, or the error that was its end."""

    index: int
    step: Step | None
    error: str = ""


@dataclass(frozen=True)
class Live:
    """Figures of an answer so far, and of what it runs in.

    Attributes:
        draft_length: mean tokens of a draft; 0 without drafts.
        context_used, context_size: tokens, of the role whose context is fullest.
    """

    figures: Figures
    draft_length: float
    context_used: int
    context_size: int


@dataclass(frozen=True)
class Fit:
    """What a conversation takes of the contexts, by role, before it is answered.

    Attributes:
        tokens: of its prompt; of one that is far too long, as many at least.
        sizes: tokens that the role's context holds, the answer included.
        trained: tokens that the role's model was trained for; 0 where unknown.
    """

    tokens: Mapping[str, int]
    sizes: Mapping[str, int]
    trained: Mapping[str, int]

    def room_of(self, role: str) -> int:
        """Tokens that are left for the answer in a role."""
        return self.sizes[role] - self.tokens[role]

    @property
    def fullest(self) -> str:
        """The role with the least room, which decides."""
        return min(self.tokens, key=self.room_of)

    @property
    def room(self) -> int:
        return self.room_of(self.fullest)

    @property
    def enough(self) -> bool:
        """Whether there is room for an answer that is of use."""
        least = self.sizes[self.fullest] // 16
        return self.room >= min(max(least, _SHORT), _LONG)

    def with_sizes(self, sizes: Mapping[str, int]) -> Fit:
        """The same in contexts of these sizes."""
        return replace(self, sizes=sizes)

    def leaves(self, share: float) -> bool:
        """Whether this share of every context is free."""
        return all(self.room_of(role) >= share * size for role, size in self.sizes.items())


@dataclass(frozen=True)
class Moved:
    """An answer under every model, token by token.

    Attributes:
        tokens: in order.
        sides: models of which the combination's distance is in each token's `distances`, the one
            that tells most first.
    """

    tokens: tuple[InspectedToken, ...]
    sides: tuple[str, ...]
