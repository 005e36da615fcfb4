"""What users hold: an ensemble with its prompts and defaults. Generate, stream, chat, score.

An `Emulator` is made by `eftlocal.load` (a preset) or `Emulator.from_files`. As many streams may be
open at once as it was loaded for (n_seq_max). Threads may share one: their calls take turns, the
tokens of their streams alternate, and who finds no free sequence waits for one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eftlocal import arguments, hub
from eftlocal.answer import Answer, AnswerStream
from eftlocal.arguments import (
    AnswerOptions,
    LoadOptions,
    PromptOptions,
    checked_all,
    refuse,
    refuse_unknown,
)
from eftlocal.bases import Closing
from eftlocal.decoding.rounds import Rounds
from eftlocal.decoding.score import TextLogprobs, finished, score_under
from eftlocal.decoding.sequence import RunningSequence
from eftlocal.defaults import Defaults
from eftlocal.errors import UsageError
from eftlocal.llama.model import special_text_in
from eftlocal.loading.loader import Loaded, Progress, UpTo, load_roles
from eftlocal.loading.roles import RoleSource, file_sources, text_role, with_adapted
from eftlocal.logits.recipe import Recipe
from eftlocal.notes import notes_of, slow_notes
from eftlocal.opener import Opener, persona_of
from eftlocal.output_file import check_outputs
from eftlocal.preparation import prepare_roles
from eftlocal.prompt.answer_marks import AnswerMarks
from eftlocal.prompt.messages import Message, Prompt
from eftlocal.prompt.reader import PromptReader, ReadPrompt
from eftlocal.prompt.render import special_note
from eftlocal.saved_state import SavedState, load, read, save
from eftlocal.settings import CONTEXT
from eftlocal.slots import Slots
from eftlocal.speculation.costs import Costs

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from eftlocal.async_stream import AsyncAnswerStream
    from eftlocal.dispatcher import Dispatcher


class Emulator(Closing):
    """Emulated fine-tuning over loaded models. Close it, or use it in a `with` block.

    Made by `eftlocal.load` or `Emulator.from_files`; the arguments here are loaded parts.

    Args:
        loaded: running roles.
        defaults: recipe, sampling, limits where a call says nothing.
        name: what to call it in messages.
    """

    def __init__(self, loaded: Loaded, defaults: Defaults, *, name: str = "") -> None:
        self.ensemble = loaded.ensemble
        self.rounds = Rounds(loaded.ensemble, fingerprint=loaded.fingerprint)
        self.slots = Slots(loaded.ensemble)
        self.models = dict(loaded.models)
        self.prompts = dict(loaded.prompts)
        n_ctx = {role: context.n_ctx for role, context in self.ensemble.contexts.items()}
        others = self.ensemble.translations
        self.text_role = text_role(self.models, others)
        self.text_model = self.models[self.text_role]
        self.reader = PromptReader(
            self.models,
            self.prompts,
            n_ctx,
            self.ensemble.vocab_size,
            text_model=self.text_model,
            others=frozenset(others),
        )
        self.defaults = defaults
        self.name = name
        self._starting = threading.Lock()
        self._dispatcher: Dispatcher | None = None
        self.identity = loaded.identity
        self._latest: RunningSequence | None = None  # of the stream that was opened last
        self.held = loaded.held
        self._slow = loaded.slow
        self._resources = loaded.resources
        told = text_role(self.models)
        marks = AnswerMarks(self.text_model, told, self.prompts[told], self.models[told])
        self._opener = Opener(self.rounds, self.reader, self.text_role, self.text_model, marks)

    @classmethod
    def from_files(
        cls,
        *,
        prompts: Mapping[str, str] | None = None,
        adapters: Mapping[str, arguments.AdapterPath] | None = None,
        defaults: Defaults | None = None,
        system_in_user: bool | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        n_seq_max: int | UpTo = 1,
        threads: int | None = None,
        gpu_layers: int | None = None,
        rpc: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
        reproducible: bool | None = None,
        force: bool = False,
        trust: bool = False,
        progress: Progress | None = None,
        checking: Progress | None = None,
        **files: Any,
    ) -> Emulator:
        """Loads one GGUF file per role: base=..., tuned=..., reference=..., and further roles.

        Args:
            files: role to path, or to a file of the hub (hf:owner/name/file.gguf, with @revision
                or without), which is downloaded where it is missing; one may play several roles
                and is loaded once. Beside them, how contexts are made
                (`arguments.ContextOptions`): n_ctx, n_batch, cache_type_k, cache_type_v,
                flash_attention, translation, swa_full, rope_scaling, rope_freq_base,
                rope_freq_scale, yarn_orig_ctx, yarn_ext_factor, yarn_beta_fast, yarn_beta_slow,
                as in cache_type_k="q8_0" or rope_scaling={"base": "yarn"}.
            prompts: role to "chat", "same", "plain", a chat format that llama.cpp knows by name
                ("chatml"), or a template's source. By default the tuned role sees its own chat
                template, and the others the same text.
            adapters: role to its LoRA adapter (GGUF), or to (path, scale). A role that has one and
                no file takes the reference's, which is loaded once: from_files(base=...,
                reference=..., adapters={"tuned": "mine.gguf"}).
            system_in_user: put system messages at the beginning of the user's, for templates
                that take none.
            chat_template_kwargs: variables for templates, such as {"enable_thinking": False}.
            defaults: recipe, sampling and limits; None is up-scaling.
            threads, gpu_layers: for every role; None leaves them to the program.
            rpc: role to workers ("host:port") whose devices take its layers, or those of all roles.
            reproducible: the same seed gives the same text with drafts and without, alone or beside
                others, asked once or again: calls keep to numbers of rows that measured the bits
                of one row at a time, for these files on this machine.
            n_seq_max: sequences that may run side by side; UpTo() is as many as fit the memory.
            force: load even where the memory seems too small.
            trust: the files are known to be good. Otherwise a file that is new, and whose
                checksum no preset pins, is first loaded in a child process.
            progress: called while weights are loaded.
            checking: called with a file's name and the share done of its load in a child.

        Raises:
            EftlocalError: see eftlocal.errors; nothing stays loaded.
        """
        context = {name: files.pop(name) for name in CONTEXT if name in files}
        rule = "a path (every further keyword is a role)"
        paths = {r: hub.fetched(arguments.path(r, file, rule)) for r, file in files.items()}
        if not paths:
            raise UsageError("from_files: give at least one file, as in base=...")
        put_on = arguments.checked("adapters", adapters) or {}
        adapters = {role: (hub.fetched(file), scale) for role, (file, scale) in put_on.items()}
        return cls.from_sources(
            file_sources(with_adapted(paths, adapters)),
            defaults=defaults,
            prompts=prompts,
            adapters=adapters,
            system_in_user=system_in_user,
            chat_template_kwargs=chat_template_kwargs,
            n_seq_max=n_seq_max,
            threads=threads,
            gpu_layers=gpu_layers,
            rpc=rpc,
            reproducible=reproducible,
            force=force,
            trust=trust,
            progress=progress,
            checking=checking,
            **context,
        )

    @classmethod
    def from_sources(
        cls,
        sources: Mapping[str, RoleSource],
        *,
        defaults: Defaults | None = None,
        vocabulary_exceptions: Collection[int] = (),
        name: str = "",
        **options: Unpack[LoadOptions],
    ) -> Emulator:
        """Loads roles with settings of their own; the other arguments are those of from_files."""
        defaults = Defaults() if defaults is None else defaults
        if not isinstance(defaults, Defaults):
            refuse("defaults", defaults, "Defaults, as in Defaults(recipe=..., sampling=...)")
        progress = arguments.checked("progress", options.pop("progress", None))
        prepared = prepare_roles(sources, defaults.recipe, vocabulary_exceptions, **options)
        return cls(load_roles(prepared, progress=progress), defaults, name=name)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self.models)

    def stream(self, prompt: Prompt, **options: Unpack[AnswerOptions]) -> AnswerStream:
        """Answers a prompt token by token. The prompt is checked before this returns.

        Where no sequence is free, one is taken from a stream that was interrupted or that this
        thread has left unfinished (reading such a stream on is an error that says so); or this
        waits until another thread's stream ends.

        Args:
            prompt: a conversation, a string (one user message), or token ids, used as they are.
            raw: continue the string as it is, without a chat template.
            special: in raw text, parse special tokens such as `<|im_start|>`.
            recipe, sampling, max_tokens, speculation, loop_guard: None takes the emulator's
                defaults. A recipe may be given as text (`recipe_text.parse_recipe`), a speculation
                by its draft length: 0, False or "off"; True or "auto"; 1 to 16 tokens. The persona
                of a recipe is read of conversations only.
            stop: strings that end the answer, in addition to those of the emulator's defaults.
            logprobs: give each step its log-probability under the combination.
            top_logprobs: with logprobs, also those of this many most probable tokens.
            prompt_logprobs: also give those of a raw prompt, or of token ids; max_tokens may then
                be 0, for the prompt alone.
            continue_last: the last message is the beginning of the answer.
            chat_template_kwargs: variables for templates, on top of those it was loaded with.
            grammar: the answer matches this GBNF, from its rule `root`.
            json_schema: the answer is JSON of this schema; {} is any.
            regex: the whole answer matches this regular expression (the Rust regex syntax, without
                look-around and word boundaries).
            lark: the answer matches this Lark grammar, as llguidance reads it, from its rule
                `start`. Of grammar, json_schema, regex and lark one may be given.
            loop_guard: end the answer once it has repeated one phrase over this many tokens; 0 or
                "off" is never. It does not act under one of these constraints; see `generation`.
            ignore_end: continue after an end token, up to max_tokens and without a loop guard (for
                benchmarks).

        Raises:
            PromptError: empty, too long for a context, or its template fails.
            UsageError: an option is not known, of a wrong type or out of its range, or the recipe
                names a missing role.
        """
        opening = self.opening(prompt, **options)
        return self.slots.when_free(lambda: finished(opening))

    def opening(
        self, prompt: Prompt | ReadPrompt, **options: Unpack[AnswerOptions]
    ) -> Generator[int, None, AnswerStream]:
        """What `stream` does, in parts: a scheduler advances other answers between them.

        To be run inside `Ensemble.alone`, with a sequence free. It yields how many tokens of a
        prompt were scored meanwhile, and returns the stream.

        Raises:
            PromptError, UsageError: as `stream`, the first by the generator.
        """
        refuse_unknown(options, tuple(AnswerOptions.__annotations__))
        return self._opening(self._opener.open(prompt, options, time.perf_counter(), self.defaults))

    def _opening(
        self, opened: Generator[int, None, AnswerStream]
    ) -> Generator[int, None, AnswerStream]:
        stream = yield from opened
        self._latest = stream.sequence
        self.slots.streams.add(stream)
        return stream

    def generate(self, prompt: Prompt, **options: Unpack[AnswerOptions]) -> Answer:
        """The whole answer at once; the same arguments as `stream`."""
        stream = self.stream(prompt, **options)
        try:
            for _ in stream:
                continue
        finally:
            stream.close()
        return stream.answer()

    def astream(self, prompt: Prompt, **options: Unpack[AnswerOptions]) -> AsyncAnswerStream:
        """The answer to a prompt, for asyncio: `async for step in em.astream("Hello"): ...`.

        Up to `n_seq_max` answers run side by side, in a thread of their own. Leaving the loop ends
        the answer. Arguments are those of `stream`; what is wrong with them the first step raises.
        """
        from eftlocal.async_stream import AsyncAnswerStream

        return AsyncAnswerStream(self.dispatcher(), prompt, options)

    async def agenerate(self, prompt: Prompt, **options: Unpack[AnswerOptions]) -> Answer:
        """The whole answer at once, for asyncio; the same arguments as `stream`."""
        return await self.astream(prompt, **options).whole()

    def dispatcher(self) -> Dispatcher:
        """What advances the answers of `astream`; it begins with the first."""
        from eftlocal.dispatcher import Dispatcher

        with self._starting:
            if self._dispatcher is None:
                self._dispatcher = Dispatcher(self)
            return self._dispatcher

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
            text: what is scored, token by token. It continues the prompt, so a space between the
                two has to be in one of them.
            prompt: what comes before it, as in `stream`; None scores the text by itself.
            raw: the prompt is raw text.
            special: parse special tokens, in `text` and in a raw prompt.
            chat_template_kwargs: as in `stream`.

        Raises:
            PromptError: there is nothing to score, or it does not fit a context.
        """
        more: Any = {"raw": raw, "special": special, "chat_template_kwargs": chat_template_kwargs}
        chosen = self.defaults.recipe if recipe is None else recipe
        return self.logprobs_under(text, [chosen], prompt=prompt, **more)[0]

    def logprobs_under(
        self,
        text: str,
        recipes: Sequence[Recipe | str],
        *,
        prompt: Prompt | None = None,
        raw: bool = False,
        special: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        ending: bool = False,
    ) -> tuple[TextLogprobs, ...]:
        """Log-probabilities of a given text under many recipes; each role is decoded once.

        Args:
            recipes: at least one, of the same persona.
            ending: also how probable it is that the answer ends after the text.
            text, prompt, raw, special, chat_template_kwargs: as in `logprobs`.

        Raises:
            UsageError: no recipe, or their personas differ.
            PromptError: as in `logprobs`.
        """
        arguments.text("text", text)
        options = checked_all(raw=raw, special=special, chat_template_kwargs=chat_template_kwargs)
        chosen = [self.checked(recipe) for recipe in recipes]
        personas = {persona_of(recipe, self.defaults) for recipe in chosen}
        if len(personas) != 1:
            raise UsageError("recipes: give at least one, all of the same persona")
        options["persona"] = personas.pop()

        def work() -> tuple[TextLogprobs, ...]:
            ids, tokens, first = self.reader.scored_ids(text, self.text_role, prompt, **options)
            return score_under(
                self.ensemble,
                ids,
                tokens,
                recipes=chosen,
                piece=self._opener.piece,
                unpredicted=first,
                ending=ending,
            )

        return self.slots.when_free(work)

    def tokenize(
        self,
        prompt: Prompt,
        *,
        recipe: Recipe | str | None = None,
        **options: Unpack[PromptOptions],
    ) -> dict[str, list[int]]:
        """The token ids that each role is given of a prompt; the arguments are those of `stream`.
        Of a recipe only the persona matters here.

        Raises:
            PromptError: it is empty or far too long, or its template fails.
            UsageError: an option is not known, of a wrong type, or does not go with another.
        """
        refuse_unknown(options, tuple(PromptOptions.__annotations__))
        asked = checked_all(**options)
        persona = persona_of(arguments.checked("recipe", recipe), self.defaults)
        return self.ensemble.alone(lambda: self.reader.ids(prompt, persona=persona, **asked))

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of a token in an answer.

        Args:
            special: give a special token's text; in an answer it has none.

        Raises:
            UsageError: there is no such token.
        """
        id = arguments.token("token", token)
        return self.ensemble.alone(lambda: self.text_model.piece(id, special=special))

    def notes(self, recipe: Recipe | str | None = None, *, raw_text: str = "") -> tuple[str, ...]:
        """Warnings about a recipe (None: the default) with these models, for people.

        Args:
            raw_text: a raw prompt, read without `special`.
        """
        recipe = self.defaults.recipe if recipe is None else self.checked(recipe)
        raw_text = arguments.text("raw_text", raw_text)
        found = notes_of(self.ensemble, recipe, self.models)
        if self.name:
            found += slow_notes(self.name, self._slow, self.rounds.planner.costs)
        if spelled := special_text_in(raw_text, self.prompts[self.text_role].special_texts):
            found.append(special_note(spelled))
        return tuple(found)

    def save_state(
        self,
        path: str | PathLike[str],
        prompt: Prompt | None = None,
        **options: Unpack[PromptOptions],
    ) -> SavedState:
        """Writes what the caches hold of a conversation, so that `load_state` goes on from there,
        in another process too, without reading it again.

        The file holds the conversation: only its user may read it. It is bound to the model files
        and adapters, the build of llama.cpp, the settings of contexts, n_seq_max, and to this
        machine. It is written whole or not at all.

        Args:
            prompt: the conversation, as in `stream`, with its options; what no cache holds of it
                is read first, for the roles of the default recipe. None is the one answered last.

        Raises:
            UsageError: the file cannot be written, or nothing has been answered, or other calls
                have taken its place in the caches.
        """
        file = arguments.path("path", path)
        check_outputs({"path": file})
        if prompt is None:
            if options:
                raise UsageError(f"{next(iter(options))} is of a prompt; give prompt, too")
            return self.ensemble.alone(lambda: self._save(file, self._latest))
        ids = self.tokenize(prompt, **options)
        recipe = self.defaults.recipe
        return self.slots.when_free(lambda: self._save(file, read(self.ensemble, ids, recipe)))

    def _save(self, file: Path, sequence: RunningSequence | None) -> SavedState:
        if sequence is None:
            raise UsageError("there is nothing to save yet; answer something first, or give prompt")
        return save(self.ensemble, self.identity(), sequence, file)

    def load_state(self, path: str | PathLike[str]) -> SavedState:
        """Reads what `save_state` wrote, into a free sequence. The next prompt that begins as the
        saved conversation did reads only what is new.

        Raises:
            UsageError: the file cannot be read, is damaged, from elsewhere, or bound to something
                else, which the line names. Of a damaged part the free sequence is empty then.
        """
        file = arguments.path("path", path)
        if not self.defaults.speculation.off:
            self.measure()  # at the first answer it would empty what was loaded
        return self.slots.when_free(lambda: load(self.ensemble, self.identity(), file))

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
        return self.ensemble.alone(lambda: self.rounds.planner.measure(progress))

    def close(self) -> None:
        """Frees contexts and models. A second call does nothing.

        An answer in the making, in whatever thread, ends with an EngineError.
        """
        if self._dispatcher is not None:
            self._dispatcher.close()
        self.ensemble.end(self._resources.close)

    def checked(self, recipe: Recipe | str) -> Recipe:
        """The recipe, or the one of that name.

        Raises:
            UsageError: it names a role that is not loaded, or is no recipe.
        """
        return self._opener.checked(recipe)
