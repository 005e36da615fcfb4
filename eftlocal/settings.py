"""Every setting, declared once: its name, its values, what switches it off, its default, its help.

From this table come the options of the command line, the fields of requests and presets, the
user's settings file and environment variables, a sweep's axes, the chat's dials, the checks of
the Python API, and docs/dials.md.

Beyond these ranges float32 loses count: a weight or temperature of 1e39 ends in inf and NaN.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from keyword import iskeyword
from typing import Any, Final, Literal

from eftlocal.errors import UsageError
from eftlocal.json_text import TextError, parse_json
from eftlocal.terminal_text import one_line, shown

OFF: Final = "off"
Off = Literal["off"]

_NEVER: Final = object()  # for what a number cannot be
INT32: Final = 2**31 - 1  # llama.cpp's numbers: what is larger would wrap around
MAX_DRAFT: Final = 16  # tokens of a draft; measured costs reach one row more
CACHE_TYPES: Final = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
LONGEST_STOP, MOST_STOPS = 1000, 64  # characters of a stop string, and how many


class RefusedError(ValueError):
    """What a value is, and what it must be.

    Attributes:
        where: the place inside of a list or mapping, as in [2]; else empty.
    """

    where = ""

    def __init__(self, value: Any, rule: str, why: str = "") -> None:
        super().__init__(why or f"is {shown(value)}; it must be {rule}")
        self.value, self.rule = value, rule

    def told(self, name: str) -> str:
        """The line that says it of what has this name."""
        return f"{name}{self.where} {self}"


class Kind:
    """What a setting's values are.

    Attributes:
        rule: in words, after "it must be".
        metavar: how help shows a value; empty where there is none.
    """

    rule: str
    metavar: str = "<text>"

    def read(self, value: Any) -> Any:
        """The value that the program works with; a RefusedError where it is none."""
        raise NotImplementedError

    def given(self, value: Any) -> Any:
        """As `read`, but a word such as off stays as it was written."""
        return self.read(value)

    def parse(self, text: str) -> Any:
        """As `given`, from text that a person wrote."""
        return self.given(text)

    def checked(self, name: str, value: Any) -> Any:
        """As `read`; what is refused is a UsageError that begins with the name."""
        try:
            return self.read(value)
        except RefusedError as error:
            raise UsageError(error.told(name)) from None

    def refuse(self, value: Any) -> RefusedError:
        return RefusedError(value, self.rule)


@dataclass(frozen=True)
class Range(Kind):
    """The values of one number.

    Attributes:
        least, most: the ends of the range. `above` leaves out the first, `below` the last.
        off: the value that switches the dial off, also written as the word `off`.
        auto: the value that leaves the choice to the program, also written as the word `auto`.
        whole: whole numbers only.
        switch: in Python, False is off and True is auto.
    """

    least: float
    most: float
    off: Any = _NEVER
    auto: Any = _NEVER
    above: bool = False
    below: bool = False
    whole: bool = False
    switch: bool = False

    @property
    def words(self) -> dict[str, Any]:
        """The words that may stand for a number, and what they mean."""
        words = {"auto": self.auto, OFF: self.off}
        return {word: value for word, value in words.items() if value is not _NEVER}

    @property
    def rule(self) -> str:  # type: ignore[override]
        kind = "a whole number" if self.whole else "a number"
        least, most = (int(e) if self.whole else f"{e:g}" for e in (self.least, self.most))
        range_ = f"{kind} from {least} to {most}"
        if self.above:
            range_ = f"{kind} above {least} and at most {most}"
        elif self.below:
            range_ = f"{kind} of {least} or more and below {most}"
        elif self.most >= INT32:
            range_ = f"{kind}, {least} or more"
        words = " or ".join(self.words)
        return f"{range_}, {'or ' * (len(self.words) == 1)}{words}" if words else range_

    @property
    def metavar(self) -> str:  # type: ignore[override]
        return f"<{'|'.join(['number', *self.words])}>"

    def read(self, value: Any) -> Any:
        """The value as a float or an int; what a word means where it is one.

        Any real number is taken, numpy's too; never a bool.
        """
        if isinstance(value, str) and value in self.words:
            return self.words[value]
        if value is None and None in (self.off, self.auto):
            return None
        if self.switch and (value is False or (value is True and self.auto is not _NEVER)):
            return self.auto if value else self.off
        kind: Any = numbers.Integral if self.whole else numbers.Real
        if isinstance(value, kind) and not isinstance(value, bool):
            if value == self.off:  # may lie outside: no clipping is inf
                return self.off
            # Compared before it is converted: an int may be too large for a float.
            if (
                self.least <= value <= self.most
                and not (self.above and value == self.least)
                and not (self.below and value == self.most)
            ):
                return int(value) if self.whole else float(value)
            if value > self.most >= INT32:
                raise RefusedError(value, f"{int(self.most)} or less")
        raise self.refuse(value)

    def given(self, value: Any) -> Any:
        if isinstance(value, bool):  # a switch is one in Python only
            raise self.refuse(value)
        found = self.read(value)
        return value if isinstance(value, str) else found

    def parse(self, text: str) -> Any:
        return self.given(number(text))


@dataclass(frozen=True)
class Choice(Kind):
    """One of several words."""

    choices: tuple[str, ...]

    @property
    def rule(self) -> str:  # type: ignore[override]
        return f"{', '.join(self.choices[:-1])} or {self.choices[-1]}"

    @property
    def metavar(self) -> str:  # type: ignore[override]
        return f"<{'|'.join(self.choices)}>"

    def read(self, value: Any) -> str:
        if isinstance(value, str) and value in self.choices:
            return value
        raise self.refuse(value)


@dataclass(frozen=True)
class Flag(Kind):
    rule: str = "true or false"
    metavar: str = ""

    def read(self, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        raise self.refuse(value)

    def parse(self, text: str) -> bool:
        words = {"1": True, "true": True, "yes": True, "on": True}
        words |= {"0": False, "false": False, "no": False, OFF: False}
        return self.read(words.get(text.lower(), text))


@dataclass(frozen=True)
class Text(Kind):
    """Text that UTF-8 can hold.

    Attributes:
        least, most: characters of it.
    """

    rule: str = "a string"
    least: int = 0
    most: int = INT32

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or not self.least <= len(value) <= self.most:
            raise self.refuse(value)
        try:
            value.encode()
        except UnicodeEncodeError:
            why = "is not valid text: it holds an unpaired surrogate"
            raise RefusedError(value, self.rule, why) from None
        return value


def _inside(place: object, part: Any, kind: Kind) -> Any:
    """The value of a part of a list or mapping; a refusal names its place."""
    try:
        return kind.read(part)
    except RefusedError as refused:
        refused.where = f"[{place}]"
        raise


@dataclass(frozen=True)
class Texts(Kind):
    """A list of strings; on the command line, an option that may be repeated."""

    rule: str = "a list of strings"
    each: Text = field(default_factory=Text)
    most: int = INT32

    def read(self, value: Any) -> tuple[str, ...]:
        is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
        if not is_list or len(value) > self.most:
            raise self.refuse(value)
        return tuple(_inside(i, part, self.each) for i, part in enumerate(value))

    def parse(self, text: str) -> tuple[str, ...]:
        return self.read([text])


@dataclass(frozen=True)
class File(Kind):
    """A file's name, for the command line."""

    rule: str = "the name of a file"
    metavar: str = "<file>"

    def read(self, value: Any) -> str:
        if "\0" in (found := Text(self.rule, least=1).read(value)):
            raise self.refuse(value)
        return found


@dataclass(frozen=True)
class Variables(Kind):
    """Names with JSON values."""

    rule: str = "an object with a value for each name"
    metavar: str = "<json>"

    def read(self, value: Any) -> Mapping[str, Any]:
        if isinstance(value, Mapping):
            return value
        raise self.refuse(value)

    def parse(self, text: str) -> Mapping[str, Any]:
        try:
            return self.read(parse_json(text))
        except TextError as error:
            raise RefusedError(text, self.rule, f"is {error}") from None


@dataclass(frozen=True)
class Lambda(Kind):
    """A number, or one for each role: a mapping, or text such as warm=0.3,plain=0.7."""

    each: Range
    rule: str = "a number, or one for each tuned role, as in tuned=0.3,plain=0.7"
    metavar: str = "<number|role=number,...>"

    def read(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.parse(value)
        if isinstance(value, Mapping):
            return {role: _inside(role, number, self.each) for role, number in value.items()}
        if not isinstance(value, numbers.Number):
            raise self.refuse(value)
        return self.each.read(value)

    def parse(self, text: str) -> Any:
        if "=" in text:
            return text  # the recipe reads it
        return self.each.parse(text)


LINE, BODY, PRESET, FILE, CHAT, AXIS = (
    *("command line", "request", "preset", "settings file"),
    *("chat", "sweep"),
)
_DIAL: Final = (LINE, BODY, PRESET, FILE, CHAT, AXIS)


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: as files and requests write it; the option is --name, with dashes.
        kind: its values.
        help: a line of plain English.
        group: what it is about; a verb takes whole groups.
        default: the program's own; None where there is none, or where it is not one value.
        where: the surfaces it may be given on. FILE is the user's settings file, and an
            environment variable EFTLOCAL_NAME.
        completion: what the shell completes: a function of `cli.completion`.
    """

    name: str
    kind: Kind
    help: str
    default: Any = None
    group: str = ""
    where: tuple[str, ...] = _DIAL
    completion: str = ""

    @property
    def parameter(self) -> str:
        """Its name in Python."""
        return f"{self.name}_" if iskeyword(self.name) else self.name

    @property
    def default_text(self) -> str:
        """The default in words; empty where there is none."""
        off = getattr(self.kind, "off", _NEVER)
        if off is not _NEVER and self.default in (None, off):
            return OFF
        return "" if self.default is None else str(self.default)

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"EFTLOCAL_{self.name.upper()}"

    def checked(self, name: str, value: Any) -> Any:
        """See `Kind.checked`."""
        return self.kind.checked(name, value)


_SHARE = Range(0.0, 1.0, off=1.0, above=True)
_STRENGTH = Range(-100.0, 100.0)
_PENALTY = Range(-100.0, 100.0, off=0.0)
_COUNT = Range(1, INT32, whole=True)
_FLAG, _TEXT, _FILE = Flag(), Text(), File()
STOP: Final = Text(f"a string of 1 to {LONGEST_STOP} characters", 1, LONGEST_STOP)
# Where the settings of a group may be given, unless one says otherwise.
_recipe = partial(Setting, group="recipe")
_limit = partial(Setting, group="limits")
_sampling = partial(Setting, group="sampling")
_length = partial(Setting, group="length", where=(LINE, BODY, PRESET, FILE))
_form = partial(Setting, group="form", where=(LINE,))
_draft = partial(Setting, group="drafts", where=(LINE, BODY, PRESET, FILE))
_prompt = partial(Setting, group="prompt", where=(LINE, PRESET, FILE))
_engine = partial(Setting, group="engine", where=(LINE, PRESET, FILE))
_role = partial(Setting, group="role", where=(PRESET,))
_models = partial(Setting, group="models", where=(LINE,))

_ALL: Final = (
    _recipe(
        *("recipe", Text("a name, or weights such as base=1,tuned=1,reference=-1")),
        "upscale, proxy, dials, downscale, steer, interpolate, realign, contrast, guidance, base, "
        "tuned, reference, or weights: base=1,tuned=1,reference=-1.",
        completion="recipes",
    ),
    _recipe("alpha", _STRENGTH, "Weight of tuned - reference (proxy-tuning)."),
    _recipe("beta", _STRENGTH, "Weight of base - reference (up-scaling)."),
    _recipe(
        *("lambda", Lambda(_STRENGTH)),
        "Strength of realignment; or a weight for each tuned role: tuned=0.3,plain=0.7.",
    ),
    _recipe("strength", _STRENGTH, "Strength of contrast or guidance."),
    _recipe("any_sum", _FLAG, "Allow weights that do not sum to 1.", where=(LINE, BODY, FILE)),
    _limit("delta_top_p", _SHARE, "Apply the delta inside the tuned model's top-p set only."),
    _limit(
        *("plausibility", Range(0.0, 1.0, off=0.0, below=True)),
        "Drop tokens below this fraction of the tuned model's best token.",
    ),
    _limit(
        *("delta_clip", Range(0.0, 1000.0, off=math.inf)),
        "Limit the delta to this many nats.",
    ),
    _limit(
        *("first_tokens", Range(0, INT32, off=None, whole=True)),
        "Apply the delta to the first N tokens only.",
    ),
    _limit(
        *("unsure_below", _SHARE),
        "Apply the delta only where the best token of the anchor is less probable than this.",
    ),
    _sampling("temperature", Range(0.0, 100.0), "Divides the logits; 0 is greedy.", 0.7),
    _sampling(
        *("top_k", Range(0, INT32, off=0, whole=True)),
        "Sample from the k most probable tokens.",
        default=0,
    ),
    _sampling(
        *("top_p", _SHARE),
        "Sample from the smallest set of tokens whose probabilities reach p.",
        default=0.95,
    ),
    _sampling(
        *("min_p", Range(0.0, 1.0, off=0.0, below=True)),
        "Sample from tokens of at least this fraction of the best token's probability.",
        default=0.0,
    ),
    _sampling(
        *("repeat_penalty", Range(0.01, 100.0, off=1.0)),
        "Divides the logits of tokens already in the answer.",
        default=1.0,
    ),
    _sampling(
        *("presence_penalty", _PENALTY),
        "Subtracted once from every token already in the answer.",
        default=0.0,
    ),
    _sampling(
        *("frequency_penalty", _PENALTY),
        "Subtracted once per occurrence in the answer.",
        default=0.0,
    ),
    _sampling(
        *("seed", Range(0, 2**63 - 1, off=None, whole=True)),
        "The same seed gives the same text; off: a new one each time.",
        where=(LINE, BODY, PRESET, FILE, CHAT),
    ),
    _length(
        *("max_tokens", Range(1, INT32, off=INT32, whole=True)),
        "Maximum length of the answer in tokens; off: as long as the context holds.",
    ),
    _length(
        *("stop", Texts(f"a list of at most {MOST_STOPS} strings", STOP, MOST_STOPS)),
        "End the answer before this text. Repeatable.",
        where=(LINE, BODY, FILE),
    ),
    _length(
        *("loop_guard", Range(16, INT32, off=0, whole=True, switch=True)),
        "Stop when the last N tokens are one phrase repeated.",
        default=1024,
    ),
    _form("grammar", _FILE, "The answer matches the GBNF grammar in this file."),
    _form("json_schema", _FILE, "The answer is JSON that fits the schema in this file."),
    _form("regex", _TEXT, "The whole answer matches this regex."),
    _form("lark", _FILE, "The answer matches the Lark grammar in this file."),
    _draft(
        *("speculative", Range(1, MAX_DRAFT, off=0, auto=None, whole=True, switch=True)),
        f"Draft length in tokens: auto (measured), off, or 1 to {MAX_DRAFT}.",
        default="auto",
        where=(LINE, BODY, PRESET, FILE, CHAT),
    ),
    _draft(
        *("draft_rule", Choice(("coupled", "rejection"))),
        "coupled: a seed gives the same text at every draft length; rejection: accepts more.",
        default="coupled",
    ),
    _draft(
        *("draft_source", Choice(("auto", "model", "lookup"))),
        "model: the tuned model drafts; lookup: what followed the last tokens earlier in the "
        "conversation; auto: what measures faster.",
        default="auto",
    ),
    _prompt(
        *("chat_template", Texts()),
        "Chat template of a role, as in base=plain: a FILE of jinja2, a name llama.cpp knows "
        "(chatml, llama3, ...), plain text (plain), the one in its model file (chat), or the "
        "tuned role's text (same). Without ROLE= it is for the tuned role. Repeatable.",
        where=(LINE,),
        completion="chat_templates",
    ),
    _prompt(
        *("chat_template_kwargs", Variables()),
        """Variables for chat templates, as JSON: '{"enable_thinking": false}'.""",
        where=(LINE, BODY, PRESET, FILE),
    ),
    _prompt(
        *("system_in_user", _FLAG),
        "Put the system prompt at the start of the user message, for templates that take none.",
    ),
    Setting(
        *("special", _FLAG),
        "With --raw: parse special tokens, such as <|im_start|>.",
        group="raw",
        where=(LINE, BODY),
    ),
    _engine("n_ctx", _COUNT, "Context length in tokens, of every role."),
    _engine(
        *("threads", Range(1, 512, whole=True)),  # GGML_MAX_N_THREADS; many more end the process
        "CPU threads (default: one for each physical core).",
    ),
    _engine(
        *("gpu_layers", Range(-1, INT32, auto=None, whole=True)),
        "Layers on the GPU, of every role; -1 is all.",
        default="auto",
    ),
    _engine("force", _FLAG, "Load even if memory seems too small.", where=(LINE, FILE)),
    Setting("verbose", _FLAG, "Show llama.cpp's own log.", group="log", where=(LINE,)),
    _role("n_batch", _COUNT, "Maximum number of tokens decoded in one call.", 512),
    _role("cache_type_k", Choice(CACHE_TYPES), "Element type of the K cache.", "f16"),
    _role("cache_type_v", Choice(CACHE_TYPES), "Element type of the V cache.", "f16"),
    _role("flash_attention", _FLAG, "Flash attention.", "auto"),
    _role("swa_full", _FLAG, "Keep the whole cache of sliding-window layers."),
    _models(
        *("preset", Text("the name of a preset", least=1)),
        "A preset of `eftlocal models list`.",
        default="demo",
        where=(LINE, FILE),
        completion="presets",
    ),
    _models("base", _FILE, "GGUF of the base model."),
    _models("tuned", _FILE, "GGUF of the tuned model."),
    _models("reference", _FILE, "GGUF of what the tuned model was before."),
    _models("role", Texts(), "A further role, as in plain=FILE.gguf. Repeatable."),
    _models("offline", _FLAG, "Never download.", where=(LINE, FILE)),
    _models("trust", _FLAG, "Skip the trial load of new files in a child process."),
    Setting("models", _FILE, "The folder of downloaded models.", group="folders", where=(FILE,)),
)

SETTINGS: Final[Mapping[str, Setting]] = {setting.name: setting for setting in _ALL}

RANGES: Final[Mapping[str, Range]] = {
    **{s.name: s.kind for s in _ALL if isinstance(s.kind, Range)},
    "lambda": _STRENGTH,
    "weight": Range(-1000.0, 1000.0),  # 1 - alpha - beta reaches 201
    "logit_bias": Range(-1000.0, 1000.0),  # forces a token under any recipe
}


def named(*groups: str, where: str | None = None) -> dict[str, Setting]:
    """The settings of these groups by name; of one surface, where it is given."""
    return {
        setting.name: setting
        for setting in _ALL
        if setting.group in groups and (where is None or where in setting.where)
    }


LIMITS: Final = tuple(named("limits"))
"""The dials that limit a recipe's delta: the arguments of `Recipe.stabilise`."""

SAMPLING: Final = tuple(named("sampling"))
"""The dials of `Sampling`, all but the biases of single tokens."""


def checked(name: str, value: Any) -> Any:
    """The value of a number by its name; see `Kind.checked`."""
    return RANGES[name].checked(name, value)


def read_table(table: Mapping[str, Any], known: Mapping[str, Setting]) -> dict[str, Any]:
    """The values of a table of settings, checked; a word such as off stays.

    Raises:
        ValueError: one line that names the key.
    """
    found = {}
    for key, value in table.items():
        if key not in known:
            raise ValueError(unknown_key(key, known))
        try:
            found[key] = known[key].kind.given(value)
        except RefusedError as error:
            raise ValueError(error.told(key)) from None
    return found


def unknown_key(key: object, known: Iterable[str]) -> str:
    """What to say of a key that is not known."""
    text = one_line(str(key), 60)
    return f'unknown key "{text}"; {nearest(text, known)}'


def nearest(key: str, known: Iterable[str]) -> str:
    """The known key that is nearest, or all of them."""
    near = get_close_matches(key, known, 1, 0.5)
    return f'did you mean "{near[0]}"?' if near else "known: " + ", ".join(sorted(known))


def number(text: str) -> float | str:
    """A number that a person wrote, a whole one as an int; what is none stays as it is."""
    text = text.strip()
    try:
        return int(text) if text.lstrip("+-").isdecimal() else float(text)
    except ValueError:
        return text
