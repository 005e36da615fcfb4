"""What users hold: an ensemble with its prompts and defaults. Generate, stream, chat, score.

An `Emulator` is made by `eftlocal.load` (a preset) or `Emulator.from_files`. As many streams may be
open at once as it was loaded for (n_seq_max). Threads may share one: their calls take turns, the
tokens of their streams alternate, and who finds no free sequence waits for one.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypedDict, TypeVar
from weakref import WeakSet

from eftlocal import arguments
from eftlocal.answer import Answer, AnswerStream
from eftlocal.arguments import checked, checked_all, needed, refuse, refuse_unknown
from eftlocal.bases import Closing
from eftlocal.constraint import Constraint
from eftlocal.decoding.rounds import Rounds
from eftlocal.decoding.score import TextLogprobs, score
from eftlocal.decoding.sequence import RunningSequence
from eftlocal.defaults import Defaults
from eftlocal.errors import EngineError, PromptError, UsageError
from eftlocal.generation import Generation
from eftlocal.llama.answer_mask import answer_mask
from eftlocal.llama.model import special_text_in
from eftlocal.loading.loader import Loaded, Progress, UpTo, load_roles, prepare
from eftlocal.loading.roles import (
    RoleSource,
    file_sources,
    require_roles,
    with_settings,
    with_unguided,
)
from eftlocal.logits.recipe import BASE, TUNED, Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.prompt.messages import Message, is_ids
from eftlocal.prompt.render import PromptReader, special_note
from eftlocal.settings import Off
from eftlocal.speculation.costs import Costs, measurable, measure, recall, remember, rows_for
from eftlocal.speculation.drafting import Acceptance
from eftlocal.speculation.settings import OFF, DraftLength, Speculation, read_speculation
from eftlocal.terminal_text import shown

if TYPE_CHECKING:
    from typing_extensions import Unpack

Prompt = str | Sequence[Message] | Sequence[int]
T = TypeVar("T")

_KNOWN = 16  # recipes whose acceptance is kept for the next answer
_PAUSE = 0.005  # seconds between two looks for a sequence that another thread has given back


class AnswerOptions(TypedDict, total=False):
    """What one answer may be asked for; see `Emulator.stream`."""

    raw: bool
    special: bool
    recipe: Recipe | str | None
    sampling: Sampling | None
    max_tokens: int | Off | None
    stop: Sequence[str] | None
    logprobs: bool
    top_logprobs: int
    prompt_logprobs: bool
    continue_last: bool
    chat_template_kwargs: Mapping[str, Any] | None
    speculation: Speculation | DraftLength | None
    grammar: str | None
    json_schema: str | Mapping[str, Any] | None
    regex: str | None
    lark: str | None
    loop_guard: int | Literal["off"] | None
    ignore_end: bool


class Emulator(Closing):
    """Emulated fine-tuning over loaded models. Close it, or use it in a `with` block.

    Made by `eftlocal.load` or `Emulator.from_files`; the arguments here are loaded parts.

    Args:
        loaded: running roles.
        defaults: recipe, sampling, limits where a call says nothing.
        name: what to call it in messages.

    Raises:
        UsageError: the default recipe needs a role that is not there.
    """

    def __init__(self, loaded: Loaded, defaults: Defaults, *, name: str = "") -> None:
        self.ensemble = loaded.ensemble
        self.rounds = Rounds(loaded.ensemble)
        self._fingerprint = loaded.fingerprint
        self._known: dict[Recipe, Acceptance] = {}
        self.models = dict(loaded.models)
        self.prompts = dict(loaded.prompts)
        n_ctx = {role: context.n_ctx for role, context in self.ensemble.contexts.items()}
        self._reader = PromptReader(self.models, self.prompts, n_ctx, self.ensemble.vocab_size)
        self.defaults = defaults
        self.name = name
        self._resources = loaded.resources
        self._streams: WeakSet[AnswerStream] = WeakSet()
        self._text_role = TUNED if TUNED in self.models else next(iter(self.models))
        self._text_model = self.models[self._text_role]

    @classmethod
    def from_files(
        cls,
        *,
        prompts: Mapping[str, str] | None = None,
        defaults: Defaults | None = None,
        system_in_user: bool | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        n_ctx: int | None = None,
        n_seq_max: int | UpTo = 1,
        threads: int | None = None,
        gpu_layers: int | None = None,
        force: bool = False,
        trust: bool = False,
        progress: Progress | None = None,
        checking: Progress | None = None,
        **files: str | os.PathLike[str],
    ) -> Emulator:
        """Loads one GGUF file per role: base=..., tuned=..., reference=..., and further roles.

        Args:
            files: role to path; a path may play several roles and is loaded once.
            prompts: role to "chat", "same", "plain", a chat format that llama.cpp knows by name
                ("chatml"), or a template's source. By default the tuned role sees its own chat
                template, and the others the same text.
            system_in_user: put system messages at the beginning of the user's, for templates
                that take none.
            chat_template_kwargs: variables for templates, such as {"enable_thinking": False}.
            defaults: recipe, sampling and limits; None is up-scaling.
            n_ctx, threads, gpu_layers: for every role; None leaves them to the program.
            n_seq_max: sequences that may run side by side; UpTo() is as many as fit the memory.
            force: load even where the memory seems too small.
            trust: the files are known to be good. Otherwise a file that is new, and whose
                checksum no preset pins, is first loaded in a child process.
            progress: called while weights are loaded.
            checking: called with a file's name and the share done of its load in a child.

        Raises:
            EftlocalError: see eftlocal.errors; nothing stays loaded.
        """
        paths = {role: arguments.path(role, file) for role, file in files.items()}
        if not paths:
            raise UsageError("from_files: give at least one file, as in base=...")
        loading = checked_all(
            prompts=prompts,
            system_in_user=system_in_user,
            chat_template_kwargs=chat_template_kwargs,
            n_ctx=n_ctx,
            threads=threads,
            gpu_layers=gpu_layers,
        )
        return cls.from_sources(
            with_settings(file_sources(paths), **loading),
            defaults=defaults,
            n_seq_max=n_seq_max,
            force=force,
            trust=trust,
            progress=progress,
            checking=checking,
        )

    @classmethod
    def from_sources(
        cls,
        sources: Mapping[str, RoleSource],
        *,
        defaults: Defaults | None = None,
        vocabulary_exceptions: Collection[int] = (),
        n_seq_max: int | UpTo = 1,
        force: bool = False,
        trust: bool = False,
        progress: Progress | None = None,
        checking: Progress | None = None,
        name: str = "",
    ) -> Emulator:
        """Loads roles with settings of their own; the other arguments are those of from_files."""
        defaults = Defaults() if defaults is None else defaults
        if not isinstance(defaults, Defaults):
            refuse("defaults", defaults, "Defaults, as in Defaults(recipe=..., sampling=...)")
        checked("progress", progress)
        asked = checked_all(n_seq_max=n_seq_max, force=force, trust=trust, checking=checking)
        sources = with_unguided(sources, defaults.recipe)
        require_roles(defaults.recipe, sources)
        prepared = prepare(sources, vocabulary_exceptions=vocabulary_exceptions, **asked)
        loaded = load_roles(prepared, progress=progress)
        return cls(loaded, defaults, name=name)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self.models)

    def stream(
        self,
        prompt: Prompt,
        *,
        raw: bool = False,
        special: bool = False,
        recipe: Recipe | str | None = None,
        sampling: Sampling | None = None,
        max_tokens: int | Off | None = None,
        stop: Sequence[str] | None = None,
        logprobs: bool = False,
        top_logprobs: int = 0,
        prompt_logprobs: bool = False,
        continue_last: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        speculation: Speculation | DraftLength | None = None,
        grammar: str | None = None,
        json_schema: str | Mapping[str, Any] | None = None,
        regex: str | None = None,
        lark: str | None = None,
        loop_guard: int | Literal["off"] | None = None,
        ignore_end: bool = False,
        **unknown: NoReturn,
    ) -> AnswerStream:
        """Answers a prompt token by token. The prompt is checked before this returns.

        Where no sequence is free, one is taken from a stream that was interrupted or that this
        thread has left unfinished (reading such a stream on is an error that says so); or this
        waits until another thread's stream ends.

        Args:
            prompt: a conversation, a string (one message of the user), or token ids, which are read
                as they stand.
            raw: the string is text to go on with as it stands, without a chat template.
            special: in raw text, the texts of special tokens (`<|im_start|>`) are those tokens.
            recipe, sampling, max_tokens, speculation, loop_guard: None takes the emulator's
                defaults; a recipe may be given by its name, as in `recipe_text.parse_recipe`, and
                a speculation by its length: 0, False or "off"; True or "auto"; 1 to 16 tokens.
            stop: strings that end the answer, beside those of the emulator's defaults.
            logprobs: give each step its log-probability under the combination.
            top_logprobs: and those of so many most probable tokens; with logprobs.
            prompt_logprobs: give the answer those of a raw prompt, or of token ids, too; then
                max_tokens may be 0, for the prompt alone.
            continue_last: the conversation ends with the beginning of the answer.
            chat_template_kwargs: variables for templates, on top of those it was loaded with.
            grammar: the answer matches this GBNF, from its rule `root`.
            json_schema: the answer is JSON of this schema; {} is any.
            regex: the whole answer matches this regular expression (the Rust regex syntax, without
                look-around and word boundaries).
            lark: the answer matches this Lark grammar, as llguidance reads it, from its rule
                `start`. Of grammar, json_schema, regex and lark one may be given.
            loop_guard: end the answer once it has repeated one phrase over this many tokens; 0 or
                "off" is never. It does not act under one of these constraints; see
                `repetition`.
            ignore_end: go on after an end token, up to max_tokens, without a loop guard (for
                measuring).

        Raises:
            PromptError: empty, too long for a context, or its template fails.
            UsageError: an option is not known, of a wrong type or out of its range, or the recipe
                names a missing role.
        """
        refuse_unknown(unknown, tuple(AnswerOptions.__annotations__))
        only_prompt = prompt_logprobs is True and type(max_tokens) is int and max_tokens == 0
        asked = checked_all(
            raw=raw,
            special=special,
            recipe=recipe,
            sampling=sampling,
            max_tokens=1 if only_prompt else max_tokens,
            stop=stop,
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            prompt_logprobs=prompt_logprobs,
            continue_last=continue_last,
            chat_template_kwargs=chat_template_kwargs,
            speculation=speculation,
            grammar=grammar,
            json_schema=json_schema,
            regex=regex,
            lark=lark,
            loop_guard=loop_guard,
            ignore_end=ignore_end,
        )
        started = time.perf_counter()
        asked["only_prompt"] = only_prompt
        asked["constraint"] = Constraint.of(asked)
        return self.with_place(lambda: self._stream(prompt, asked, started))

    def _stream(self, prompt: Prompt, asked: Mapping[str, Any], started: float) -> AnswerStream:
        defaults = self.defaults
        recipe = self.checked(defaults.recipe if asked["recipe"] is None else asked["recipe"])
        sampling = defaults.sampling if asked["sampling"] is None else asked["sampling"]
        seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        drafting = self._speculation(read_speculation(asked["speculation"], defaults.speculation))
        max_tokens, loop_guard = asked["max_tokens"], asked["loop_guard"]
        ids = self.tokenize(
            prompt,
            raw=asked["raw"],
            special=asked["special"],
            continue_last=asked["continue_last"],
            chat_template_kwargs=asked["chat_template_kwargs"],
        )
        scored = None
        if asked["prompt_logprobs"]:
            if not asked["raw"] and not is_ids(prompt):
                raise UsageError("prompt_logprobs are for raw text or token ids; add raw=True")
            scored = self._score_prompt(ids, recipe, asked["top_logprobs"])
        with ExitStack() as undone:
            mask = None
            if asked["constraint"]:
                ends = self.ensemble.stop_tokens
                mask = answer_mask(self._text_model, asked["constraint"], ends)
                undone.callback(mask.close)
            sequence = self.ensemble.open(
                ids,
                mask=mask.allowed if mask else None,
                recipe=recipe,
                sampling=sampling,
                seed=seed,
                speculation=drafting,
                logprobs=asked["logprobs"],
                top_logprobs=asked["top_logprobs"],
                acceptance=self._acceptance(recipe) if drafting.rule == "coupled" else None,
                ends=frozenset() if asked["ignore_end"] else None,
            )
            undone.callback(self.ensemble.close, sequence)
            stream = AnswerStream(
                self.rounds,
                Generation(
                    self.ensemble,
                    sequence,
                    piece=self._text_model.piece,
                    max_tokens=defaults.max_tokens if max_tokens is None else max_tokens,
                    stop=(*defaults.stop, *(asked["stop"] or ())),
                    loop_guard=0
                    if asked["ignore_end"]
                    else (defaults.loop_guard if loop_guard is None else loop_guard),
                ),
                started=started,
                check=self.checked,
                allow=self._speculation,
                mask=mask,
                prompt=scored,
                only_prompt=asked["only_prompt"],
            )
            self._streams.add(stream)
            undone.pop_all()
            if asked["only_prompt"]:
                stream.close()
            return stream

    def _score_prompt(
        self, ids: Mapping[str, Sequence[int]], recipe: Recipe, top: int
    ) -> TextLogprobs:
        """A raw prompt under the combination. BOS, and a first token that no role has BOS before,
        stand at the beginning without a probability."""
        whole = ids[self._text_role]
        shortest = min(map(len, ids.values()))
        same = next(
            (n for n in range(shortest) if len({tokens[-1 - n] for tokens in ids.values()}) > 1),
            shortest,
        )
        same -= same == shortest  # each role needs a token before the first that is predicted
        return score(
            self.ensemble,
            {role: tokens[: len(tokens) - same] for role, tokens in ids.items()},
            whole[len(whole) - same :],
            recipe=recipe,
            piece=self._special_piece,
            unpredicted=whole[: len(whole) - same],
            top=top,
        )

    def generate(self, prompt: Prompt, **options: Unpack[AnswerOptions]) -> Answer:
        """The whole answer at once; the same arguments as `stream`."""
        stream = self.stream(prompt, **options)
        try:
            for _ in stream:
                continue
        finally:
            stream.close()
        return stream.answer()

    def chat(self, messages: Sequence[Message], **options: Unpack[AnswerOptions]) -> Answer:
        """The answer to a conversation; the same arguments as `stream`."""
        if isinstance(messages, str):
            raise UsageError("chat takes a list of messages; for one string use generate")
        return self.generate(messages, **options)

    def logprobs(
        self,
        text: str,
        *,
        prompt: Prompt | None = None,
        raw: bool = False,
        special: bool = False,
        recipe: Recipe | str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> TextLogprobs:
        """Log-probabilities of a given text under the combination and under each role.

        Args:
            text: what is scored, token by token: it goes on where the prompt ends, so a space
                between the two belongs to one of them.
            prompt: what stands before it, as in `stream`; None scores the text by itself.
            raw: the prompt is text as it stands.
            special: the texts of special tokens are those tokens, in `text` and a raw prompt.
            chat_template_kwargs: as in `stream`.

        Raises:
            PromptError: there is nothing to score, or it does not fit a context.
        """
        arguments.text("text", text)
        checked_all(raw=raw, special=special)
        chosen = self.checked(self.defaults.recipe if recipe is None else recipe)
        model = self._text_model

        def work() -> TextLogprobs:
            first: Sequence[int] = ()
            if prompt is None:
                whole = self._reader.raw_ids(self._text_role, text, special=special)
                ids, tokens = dict.fromkeys(self.roles, whole[:1]), whole[1:]
                if whole[:1] != [model.bos]:
                    first = whole[:1]
            else:
                ids = self.tokenize(
                    prompt,
                    raw=raw,
                    special=special and raw,
                    chat_template_kwargs=chat_template_kwargs,
                )
                self._reader.check_length(self._text_role, text, "text")
                tokens = model.tokenize(text, parse_special=special, continues=True)
            if not tokens:
                raise PromptError(
                    "there is no token to score; give a longer text, or a prompt before it"
                )
            return score(
                self.ensemble,
                ids,
                tokens,
                recipe=chosen,
                piece=self._special_piece,
                unpredicted=first,
            )

        return self.with_place(work)

    def with_place(self, work: Callable[[], T]) -> T:
        """Does something that opens a sequence, once one is free, alone with the models."""
        found: list[T] = []

        def try_it() -> None:
            if self.make_place():
                found.append(work())

        while True:
            self.ensemble.alone(try_it)
            if found:
                return found[0]
            time.sleep(_PAUSE)

    def make_place(self) -> bool:
        """Whether a sequence is free, after one was taken from a stream that nobody reads.

        To be called by work of `Ensemble.alone`.

        Returns:
            False where all belong to other threads, which will give them back.

        Raises:
            EngineError: all are a scheduler's.
        """
        if self.ensemble.free:
            return True
        me = threading.current_thread()
        streams = {stream.sequence: stream for stream in self._streams}
        left: list[tuple[bool, float, RunningSequence]] = []
        for sequence in self.ensemble.running:
            stream = streams.get(sequence)
            # Other work is done alone: what it has left here was interrupted.
            abandoned = stream is None or stream.abandoned
            if abandoned or (stream is not None and stream.reader is me):
                left.append((not abandoned, stream.started if stream else 0.0, sequence))
        if left:
            self.ensemble.close(min(left, key=lambda one: one[:2])[2])
            return True
        if all(stream.reader is None for stream in streams.values() if stream.open):
            most = self.ensemble.n_seq_max
            raise EngineError(f"a scheduler uses all {most} sequences; add this call to it")
        return False

    def _special_piece(self, token: int) -> bytes:
        return self._text_model.piece(token, special=True)

    def tokenize(
        self,
        prompt: Prompt,
        *,
        raw: bool = False,
        special: bool = False,
        continue_last: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> dict[str, list[int]]:
        """The token ids that each role is given of a prompt; the arguments are those of `stream`.

        Raises:
            PromptError: it is empty or far too long, or its template fails.
            UsageError: options that do not go together.
        """
        if not isinstance(prompt, (str, Sequence)) or isinstance(prompt, bytes):
            raise PromptError(
                f"the prompt is {shown(prompt)}; it must be a string or a list of messages"
            )
        asked = checked_all(
            raw=raw,
            special=special,
            continue_last=continue_last,
            chat_template_kwargs=chat_template_kwargs,
        )
        return self.ensemble.alone(lambda: self._reader.ids(prompt, **asked))

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of a token, as they stand in an answer.

        Args:
            special: a special token, which has none there, has its text.

        Raises:
            UsageError: there is no such token.
        """
        id = arguments.token("token", token)
        return self.ensemble.alone(lambda: self._text_model.piece(id, special=special))

    def notes(self, recipe: Recipe | str | None = None, *, raw_text: str = "") -> tuple[str, ...]:
        """What a person should know before using a recipe (None: the default) with these models.

        Args:
            raw_text: that is to be gone on with, without `special`.
        """
        recipe = self.defaults.recipe if recipe is None else self.checked(recipe)
        raw_text = arguments.text("raw_text", raw_text)
        found: list[str] = []
        base = self.models.get(BASE)
        if recipe.name == "steer" and base is not None and base.chat_template:
            found.append(
                f"{base.path.name} has a chat template, so it may be tuned already: steering such "
                "a base gains little (arXiv 2401.17256)"
            )
        beyond: dict[tuple[int, int], list[str]] = {}
        for role, model in self.models.items():
            n_ctx = self.ensemble.contexts[role].n_ctx
            if 0 < model.n_ctx_train < n_ctx:
                beyond.setdefault((n_ctx, model.n_ctx_train), []).append(role)
        for (n_ctx, trained), roles in beyond.items():
            found.append(
                f"n_ctx is {n_ctx}, and {', '.join(roles)} learned from texts of {trained} tokens: "
                "beyond that an answer may make no sense"
            )
        if spelled := special_text_in(raw_text, self.prompts[self._text_role].special_texts):
            found.append(special_note(spelled))
        return tuple(found)

    def measure(self, progress: Progress | None = None) -> Costs | None:
        """Seconds of decodes on this machine, from which draft lengths are chosen.

        They are measured once, in a few seconds, and remembered for these files and settings.
        `stream` does it when it is first asked for drafts of a length that is chosen.

        Args:
            progress: called with a role and the share of its measuring that is done.

        Returns:
            None where drafting is impossible or has no room, or while sequences run that the
            measuring would disturb.
        """
        return self.ensemble.alone(lambda: self._measure(progress))

    def _measure(self, progress: Progress | None) -> Costs | None:
        if self.rounds.costs is not None or self._cannot_rewind():
            return self.rounds.costs
        rows = rows_for(self.ensemble.n_seq_max)
        key = f"{self._fingerprint}-{rows[-1]}"
        costs = recall(key, self.roles)
        if costs is None and not self.ensemble.running and measurable(self.ensemble.contexts):
            pool = self.ensemble.pool
            costs = measure(self.ensemble.contexts, 0, pool=pool, rows=rows, progress=progress)
            remember(costs, key)
        if costs is not None:
            self.rounds.use(costs)
        return costs

    def _speculation(self, asked: Speculation) -> Speculation:
        asked = checked("speculation", asked)
        if asked.off:
            return asked
        if stuck := self._cannot_rewind():
            if asked.length is None:
                return OFF
            raise UsageError(f"speculation is impossible: {stuck}; turn it off")
        if asked.length is None:
            self.measure()
        return asked

    def _acceptance(self, recipe: Recipe) -> Acceptance:
        """What answers under this recipe taught; of the recipes used last.

        Only for the coupled rule: under the other, answers that share a seed would no longer be
        independent of what chose their drafts.
        """
        known = self._known.pop(recipe, None) or Acceptance()
        self._known[recipe] = known
        if len(self._known) > _KNOWN:
            del self._known[next(iter(self._known))]
        return known

    def _cannot_rewind(self) -> str:
        """Why refused drafts could not be dropped from some role's cache; empty if they can."""
        for role, context in self.ensemble.contexts.items():
            if why := context.cannot_rewind:
                return f"the model of {role} {why}"
        return ""

    def close(self) -> None:
        """Frees contexts and models. A second call does nothing.

        An answer in the making, in whatever thread, ends with an EngineError.
        """
        self.ensemble.end(self._resources.close)

    def checked(self, recipe: Recipe | str) -> Recipe:
        """The recipe, or the one of that name.

        Raises:
            UsageError: it names a role that is not loaded, or is no recipe.
        """
        return require_roles(needed("recipe", recipe), self.models)
