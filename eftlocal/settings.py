"""Every setting, declared once: its name, its values, what switches it off, its default, its help.

From this table come the options of the command line, the fields of requests and presets, the
user's settings file and environment variables, the axes of a grid, the chat's dials, the checks of
the Python API, and docs/dials.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from keyword import iskeyword
from typing import Any, Final

from eftlocal.kinds import (
    INT32,
    NEVER,
    OFF,
    ByRole,
    Choice,
    Endpoint,
    File,
    Flag,
    Kind,
    Lambda,
    Range,
    RefusedError,
    Switch,
    Text,
    Texts,
    Variables,
)
from eftlocal.terminal_text import one_line

MAX_DRAFT: Final = 16  # tokens of a draft; measured costs reach one row more
CACHE_TYPES: Final = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
LONGEST_STOP, MOST_STOPS = 1000, 64  # characters of a stop string, and how many

LINE, BODY, PRESET, FILE, CHAT, AXIS = (
    *("command line", "request", "preset", "settings file"),
    *("chat", "grid"),
)
_DIAL: Final = (LINE, BODY, PRESET, FILE, CHAT, AXIS)


def flag_of(name: str) -> str:
    """The option of the command line for a name, or for a parameter: `lambda_` is --lambda."""
    return f"--{name.rstrip('_').replace('_', '-')}"


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: as files and requests write it; the option is --name, with dashes.
        kind: its values.
        help: a line of plain English.
        ends: what some of its values do, where that is not plain.
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
    ends: str = ""

    @property
    def parameter(self) -> str:
        """Its name in Python."""
        return f"{self.name}_" if iskeyword(self.name) else self.name

    @property
    def default_text(self) -> str:
        """The default in words; empty where there is none."""
        off = getattr(self.kind, "off", NEVER)
        if off is not NEVER and self.default in (None, off):
            return OFF
        return "" if self.default is None else str(self.default)

    @property
    def flag(self) -> str:
        return flag_of(self.name)

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
_context = partial(Setting, group="context", where=(LINE, PRESET, FILE))
_models = partial(Setting, group="models", where=(LINE,))

TRANSLATIONS: Final = ("candidates", "prefix", "text")
"""How rows of another vocabulary are translated; see `translation.rows`."""

_ALL: Final = (
    _recipe(
        *("recipe", Text("a name, or weights such as base=1,tuned=1,reference=-1")),
        "upscale, proxy, dials, downscale, steer, interpolate, mix, realign, contrast, guidance, "
        "persona, base, tuned, reference, or weights: base=1,tuned=1,reference=-1.",
        completion="recipes",
    ),
    _recipe("alpha", _STRENGTH, "Weight of tuned - reference (proxy-tuning), or of the persona."),
    _recipe("beta", _STRENGTH, "Weight of base - reference (up-scaling)."),
    _recipe(
        *("lambda", Lambda(_STRENGTH)),
        "Strength of realignment; or a weight for each tuned role: tuned=0.3,plain=0.7.",
    ),
    _recipe("strength", _STRENGTH, "Strength of contrast or guidance."),
    _recipe(
        *("persona", Text("a system prompt, as in 'You are a patient teacher.'", least=1)),
        "A system prompt for the tuned model; what it changes there is added to the base, alpha "
        "times.",
        where=(LINE, BODY, PRESET, FILE, CHAT),
    ),
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
    _sampling(
        *("temperature", Range(0.0, 100.0)),
        "Divides the logits; 0 is greedy.",
        default=0.7,
        ends="0: always the most probable token; 1: as the models say; beyond 1: more random",
    ),
    _sampling(
        *("top_k", Range(0, INT32, off=0, whole=True)),
        "Sample from the k most probable tokens.",
        default=0,
    ),
    _sampling(
        *("top_p", _SHARE),
        "Sample from the smallest set of tokens whose probabilities reach p.",
        default=0.95,
        ends="small: only the most probable tokens; 1: all of them",
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
    Setting(
        *("prompt_cache", _FILE),
        "Read this file of caches where it is there, and write it at the end: a prompt that begins "
        "as an earlier one did is read from where they differ. It holds the text.",
        group="cache",
        where=(LINE,),
    ),
    _engine(
        *("threads", Range(1, 512, whole=True)),  # GGML_MAX_N_THREADS; many more end the process
        "CPU threads (default: one for each physical core).",
    ),
    _engine(
        *("gpu_layers", Range(-1, INT32, auto=None, whole=True)),
        "Layers on the GPU, of every role; -1 is all.",
        default="auto",
    ),
    _engine(
        *("rpc", ByRole(Texts("a list of host:port", Endpoint(), separator=","))),
        "Workers (`eftlocal worker`) whose devices take layers: HOST:PORT for every role, or "
        "ROLE=HOST:PORT,... for some; off: none. Repeatable.",
    ),
    _engine(
        *("reproducible", _FLAG),
        "The same seed gives the same text with drafts and without, alone or in a batch, asked "
        "once or again, on this machine. Prompts may be read more slowly; on the CPU, an f16 "
        "cache keeps its values in bf16.",
        where=(LINE, FILE),
    ),
    _engine("force", _FLAG, "Load even if memory seems too small.", where=(LINE, FILE)),
    _context("n_ctx", _COUNT, "Context length in tokens, of every role."),
    _context("n_batch", _COUNT, "Maximum number of tokens decoded in one call.", 512),
    _context("cache_type_k", ByRole(Choice(CACHE_TYPES)), "Element type of the K cache.", "f16"),
    _context(
        *("cache_type_v", ByRole(Choice(CACHE_TYPES))),
        "Element type of the V cache; a quantized one needs flash attention.",
        default="f16",
    ),
    _context(
        *("flash_attention", Switch()),
        "Flash attention. On the CPU, auto is off: answers after long texts come sooner, and long "
        "prompts are read more slowly. It is on there for a quantized V cache, with reproducible, "
        "and for contexts of up to 512 tokens.",
        default="auto",
    ),
    _context(
        *("translation", ByRole(Choice((*TRANSLATIONS, OFF)))),
        "Where a role has another vocabulary than the base. candidates: the base's likely tokens "
        "are read as a whole, the others by their first piece; prefix: all by their first piece; "
        "text: only tokens of equal text; off: refuse.",
        default="candidates",
    ),
    _context("swa_full", _FLAG, "Keep the whole cache of sliding-window layers."),
    _context(
        *("rope_scaling", ByRole(Choice(("none", "linear", "yarn")))),
        "How positions are scaled beyond the trained context (default: as the model says).",
    ),
    _context(
        *("rope_freq_base", ByRole(Range(1.0, 1e9))),
        "RoPE base frequency (default: the model's).",
    ),
    _context(
        *("rope_freq_scale", ByRole(Range(0.0001, 1.0))),
        "RoPE frequency scale: 0.25 stretches the trained context to four times its length.",
    ),
    _context(
        *("yarn_orig_ctx", ByRole(_COUNT)),
        "YaRN: context length the model was trained for (default: the model's).",
    ),
    _context(
        *("yarn_ext_factor", ByRole(Range(0.0, 1.0))),
        "YaRN: share of extrapolation; 0 is interpolation alone.",
    ),
    _context("yarn_beta_fast", ByRole(Range(0.0, 1000.0)), "YaRN: low correction dimension."),
    _context("yarn_beta_slow", ByRole(Range(0.0, 1000.0)), "YaRN: high correction dimension."),
    Setting("verbose", _FLAG, "Show llama.cpp's own log.", group="log", where=(LINE,)),
    _models(
        *("preset", Text("the name of a preset", least=1)),
        "A preset of `eftlocal models list`.",
        default="demo",
        where=(LINE, FILE),
        completion="presets",
    ),
    _models(
        "base",
        _FILE,
        "GGUF of the base model: a path, or hf:owner/name/file.gguf, with @revision or without.",
    ),
    _models("tuned", _FILE, "GGUF of the tuned model, given likewise."),
    _models("reference", _FILE, "GGUF of what the tuned model was before, given likewise."),
    _models("role", Texts(), "A further role, as in plain=FILE.gguf. Repeatable."),
    _models(
        *("adapter", Texts()),
        "LoRA adapter (GGUF) of a role, as in tuned=FILE, or tuned=FILE:0.5 for half of it. A role "
        "without a file of its own takes the reference's. Repeatable.",
    ),
    _models("offline", _FLAG, "Never download.", where=(LINE, FILE)),
    _models("trust", _FLAG, "Skip the trial load of new files in a child process."),
    Setting("models", _FILE, "The folder of downloaded models.", group="folders", where=(FILE,)),
)

SETTINGS: Final[Mapping[str, Setting]] = {setting.name: setting for setting in _ALL}

RANGES: Final[Mapping[str, Range]] = {
    **{s.name: s.kind for s in _ALL if isinstance(s.kind, Range)},
    "lambda": _STRENGTH,
    "weight": Range(-1000.0, 1000.0),  # 1 - alpha - beta reaches 201
    "adapter": Range(-100.0, 100.0),  # its scale
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

CONTEXT: Final = tuple(named("context"))
"""How a role's context is made: attributes of `loading.roles.RoleSource`."""

ROPE: Final = tuple(name for name in CONTEXT if name.startswith(("rope_", "yarn_")))
"""Those of them that say how positions are encoded."""

YARN: Final = tuple(name for name in ROPE if name.startswith("yarn_"))

SAMPLING: Final = tuple(named("sampling"))
"""The dials of `Sampling`, all but the biases of single tokens."""


def misplaced(scaling: str) -> tuple[str, ...]:
    """The settings of positions that do nothing under this rope_scaling."""
    return (*(YARN if scaling != "yarn" else ()), *(("rope_freq_scale",) * (scaling == "none")))


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
