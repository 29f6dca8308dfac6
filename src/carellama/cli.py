"""The `carellama` command. A command imports its module when it runs: `carellama --help` loads little.

    carellama train examples/sft.yaml
    carellama chat --model_name_or_path smollm2-135m --checkpoint_dir output

The options of a command are the dataclasses of `carellama.config`, which parses them: `carellama train --help`.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from carellama.config.environment import patient_threads, world
from carellama.errors import UserError, import_object
from carellama.files import disk_full_message, is_disk_full

if TYPE_CHECKING:
    from fastapi import FastAPI

    from carellama.assistant import Assistant, Consultant
    from carellama.config.consultation import ConsultOptions
    from carellama.config.data import PromptOptions
    from carellama.config.engine import EngineOptions, GenerationOptions
    from carellama.config.model import ModelOptions
    from carellama.config.safety import SafetyOptions
    from carellama.safety.layer import SafetyLayer

ABOUT = "Fine-tune, evaluate, export and serve medical language models. Models inform and refer; they do not diagnose."
# verb -> (where it is done, what it is for)
VERBS = {
    "train": ("carellama.train.run:train", "Fine-tune or pretrain a model."),
    "plan": ("carellama.train.plan:main", "Estimate memory, steps and time before training."),
    "recipe": ("carellama.train.recipe:run", "Run several training stages and compare results."),
    "predict": ("carellama.train.run:predict", "Answer a dataset and score it (BLEU-4, ROUGE)."),
    "eval": ("carellama.train.run:evaluate", "Loss and perplexity of a model on a dataset."),
    "export": (
        "carellama.export.command:main",
        "Merge adapters; write a folder, GGUF, Ollama, OpenVINO or web.",
    ),
    "tokenizer": ("carellama.data.vocabulary:run", "Learn Chinese tokens for a tokenizer."),
    "chat": ("carellama.cli:chat", "Talk to a model in the terminal."),
    "ask": ("carellama.cli:ask", "Answer one question, for scripts."),
    "task": ("carellama.batch.clinical_command:run", "Run a task of a hospital on each row of a file."),
    "web": ("carellama.cli:web", "Talk to a model in the browser."),
    "api": ("carellama.cli:api", "Serve a model over OpenAI's API."),
    "demo": ("carellama.demo:run", "Run the whole pipeline once on the bundled data."),
}
DATA_VERBS = {
    "list": ("carellama.data.catalogue.show:list_datasets", "List the datasets of the field."),
    "show": ("carellama.data.catalogue.show:show", "Show one dataset: where it lives, its terms, its parts."),
    "pull": ("carellama.data.catalogue.pull:run", "Fetch a dataset."),
    "convert": ("carellama.data.catalogue.convert:run", "Convert a dataset, a file or documents to records."),
    "clean": ("carellama.data.clean.clean:run", "Remove duplicates, exam questions and identifiers."),
    "from-feedback": ("carellama.data.from_feedback:run", "Make training data of feedback on the page."),
    "synthesize": ("carellama.batch.synthesize:run", "Write training data from documents with a model."),
    "mix": ("carellama.data.mixture:run", "Mix several datasets into one file."),
    "stats": ("carellama.data.stats:run", "Count lengths, turns, languages and departments."),
    "view": ("carellama.data.view:run", "Page through records, with the encoded example."),
    "check": ("carellama.data.check.check:run", "Report every problem of a file, with line numbers."),
}
KEY_VERBS = {
    "add": ("carellama.store.commands:add", "Create a key; it is printed only once."),
    "list": ("carellama.store.commands:list_keys", "List the keys, their limits and usage."),
    "revoke": ("carellama.store.commands:revoke", "Revoke a key for good."),
}
ACCOUNT_VERBS = {
    "add": ("carellama.store.account_commands:add", "Create an account; asks for the password."),
    "invite": ("carellama.store.account_commands:invite", "Create a link by which a person makes an account."),
    "list": ("carellama.store.account_commands:list_accounts", "List accounts and open invitations."),
    "reset": ("carellama.store.account_commands:reset", "Create a link by which a person sets a new password."),
    "disable": ("carellama.store.account_commands:disable", "Disable an account and end its sessions."),
    "enable": ("carellama.store.account_commands:enable", "Enable an account again."),
    "forget": ("carellama.store.account_commands:forget", "Delete an account with all that it has."),
}
STORE_VERBS = {
    "backup": ("carellama.store.store_commands:backup", "Write the database into one file."),
    "restore": ("carellama.store.store_commands:restore", "Put a backup in place of the database."),
    "prune": ("carellama.store.store_commands:prune", "Delete old conversations, sessions and invitations."),
    "encrypt": ("carellama.store.store_commands:encrypt", "Encrypt what people wrote, or change the key."),
    "new-key": ("carellama.store.store_commands:new_key", "Create an encryption key."),
}
CONVERT_VERBS = {
    "llama": ("carellama.model.llama_weights:main", "Convert original LLaMA and Llama 2 weights."),
}
MODEL_VERBS = {
    "list": ("carellama.model.zoo.show:list_models", "List the models that CareLlama knows by name."),
    "show": ("carellama.model.zoo.show:show", "Show all that is known of one, with sources and licence clashes."),
    "pull": ("carellama.model.zoo.pull_command:run", "Fetch one; an adapter brings its base."),
    "verify": ("carellama.model.zoo.verify:run", "Check a folder or a fetched model: digests, signature."),
    "add": ("carellama.model.zoo.own:run", "Add an entry of your own."),
}
TEMPLATE_VERBS = {
    "list": ("carellama.evaluate.chat_formats.command:list_formats", "List the chat formats by name."),
    "show": ("carellama.evaluate.chat_formats.command:show", "Show a format, or the one of a model, with an example."),
    "check": ("carellama.evaluate.chat_formats.command:check", "Find which format a model was trained with."),
    "audit": ("carellama.evaluate.chat_formats.command:audit", "Compare training, tokenizer, .gguf and Modelfile."),
}
CONSULT_VERBS = {
    "report": ("carellama.consultation.files:report", "Write the report of a saved conversation."),
    "eval": ("carellama.evaluate.consultation.run:evaluate", "Measure consultations on simulated patients."),
}
GUARD_VERBS = {
    "eval": ("carellama.evaluate.guard:evaluate", "Measure what the guard lets through and refuses wrongly."),
    "train": ("carellama.evaluate.train_guard:train", "Learn the guard's classifier from labelled requests."),
}
SAFETY_VERBS = {
    "eval": ("carellama.evaluate.triage:evaluate", "Measure missed emergencies and false alarms."),
    "train": ("carellama.evaluate.train_triage:train", "Learn the classifier from labelled texts."),
    "check": ("carellama.safety.check:check", "Check rules (triage, guard, answers, medicines) and their examples."),
}
# commands of two words
GROUPS = {
    "data": DATA_VERBS,
    "keys": KEY_VERBS,
    "accounts": ACCOUNT_VERBS,
    "store": STORE_VERBS,
    "models": MODEL_VERBS,
    "template": TEMPLATE_VERBS,
    "convert": CONVERT_VERBS,
    "safety": SAFETY_VERBS,
    "consult": CONSULT_VERBS,
    "guard": GUARD_VERBS,
}
GROUP_TEXTS = {
    "data": "Datasets: fetch, convert, check, clean.",
    "keys": "API keys: who may use `carellama api`, and how much.",
    "accounts": "Accounts: who may log in to `carellama web`.",
    "store": "The database of keys, accounts and conversations: backups, retention, encryption.",
    "models": "Models by name: released weights and embedded ones.",
    "template": "Chat formats: which there are, which one a model has.",
    "convert": "Weights of other formats to a model folder.",
    "safety": "Emergencies: measure what is missed, check rules.",
    "consult": "Consultations: reports, and figures on simulated patients.",
    "guard": "Requests to refuse: measure what gets through, learn the classifier.",
}
BROKEN_PIPE = 128 + signal.SIGPIPE  # the exit code of Unix tools whose output nobody reads
PATIENCE = 5.0  # seconds that the other processes wait before they say what went wrong


@contextmanager
def _ends_with_its_reader() -> Iterator[None]:
    """End without a word where nobody reads the output any more, as in `carellama train --help | head -1`."""
    _open_closed_streams()
    ended: SystemExit | None = None
    try:
        try:
            yield
        except SystemExit as end:
            ended = end
        if ended is None or not ended.code:
            print(end="", flush=True)
    except BrokenPipeError:
        if not (left := [descriptor for descriptor in (1, 2) if _is_broken(descriptor)]):
            raise  # it was another pipe
        for descriptor in left:  # what is in their buffers goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        raise SystemExit(BROKEN_PIPE) from None
    if ended is not None:
        raise ended


def _open_closed_streams() -> None:
    """Let what is written to a stream that the shell closed (`>&-`) go nowhere, and not into the next file opened."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def _is_broken(descriptor: int) -> bool:
    """Whether nobody reads what is written there: the other end of the pipe is closed."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


@_ends_with_its_reader()
def call(verb: str, argv: Sequence[str]) -> None:
    """Run a command (`train`, `data pull`) in this process; a `UserError` is one line and ends with exit code 2."""
    group, _, word = verb.rpartition(" ")
    table = GROUPS[group] if group else VERBS
    quieten()
    patient_threads()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that unfinished files are removed
    try:
        import_object(table[word][0])(argv)
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if is_disk_full(error):
            fail(disk_full_message(error))
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS):
            fail(f"{error.strerror}: {error.filename or 'while writing'}")
        raise


def fail(message: str) -> NoReturn:
    """Print one line and leave with exit code 2.

    What stops all processes of a run is said by the first: the launcher ends the others while they wait to say it.
    """
    if world()[0]:
        time.sleep(PATIENCE)
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def quieten() -> None:
    """Send our notes to stderr, one line each, and keep the libraries to what a user can act on."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("carellama").setLevel(logging.INFO)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of a kernel that it does without


def chat(argv: Sequence[str]) -> None:
    """Hand an assistant to the terminal."""
    from carellama.config.reader import parse_options
    from carellama.config.serve import CHAT_OPTIONS

    model, data, generating, engine, *rest = parse_options(CHAT_OPTIONS, argv, "carellama chat")
    with open_assistant(model, data, generating, engine, *rest) as assistant:
        from carellama.export.known import read_cards
        from carellama.serve import terminal

        assistant.cards = tuple(read_cards(model, engine.adapter_folders))
        terminal.chat(assistant)


def ask(argv: Sequence[str]) -> None:
    """Answer the question of the command line, or of stdin."""
    from carellama.config.commands import AskOptions
    from carellama.config.reader import parse_options
    from carellama.config.serve import CHAT_OPTIONS

    *options, asked = parse_options((*CHAT_OPTIONS, AskOptions), argv, "carellama ask QUESTION", positional="question")
    from carellama.serve import terminal

    question = terminal.read_question(asked.question)
    with open_assistant(*options) as assistant:
        terminal.ask(assistant, question, as_json=asked.json)


def web(argv: Sequence[str]) -> None:
    """Serve the web page until it is stopped."""
    from carellama.config.consultation import ConsultOptions
    from carellama.config.reader import parse_options
    from carellama.config.serve import CHAT_OPTIONS, WebOptions
    from carellama.errors import need

    groups = parse_options((*CHAT_OPTIONS, WebOptions), argv, "carellama web")
    model, data, generating, engine, safety, consult, page = groups
    from carellama.serve.web.access import decide_access

    access = decide_access(page)  # what is wrong with it shows before the weights are read
    _check_consult(consult, _safety(safety, with_model=False))
    need("fastapi", extra="serve", why="the web page")
    from carellama.export.known import read_cards
    from carellama.serve.web.app import serve_page

    cards = read_cards(model, engine.adapter_folders)
    with open_assistant(model, data, generating, engine, safety, ConsultOptions()) as assistant:
        assistant.cards = tuple(cards)
        serve_page(assistant, page, access, consultant=_consultant(assistant, consult), mode=consult.mode)


@contextmanager
def open_assistant(
    model: ModelOptions,
    data: PromptOptions,
    generating: GenerationOptions,
    engine: EngineOptions,
    safety: SafetyOptions,
    consult: ConsultOptions,
) -> Iterator[Assistant]:
    """Load the engine that the options name; close it afterwards."""
    _check_paths(model, engine)
    from carellama.assistant import Assistant
    from carellama.engine.base import Sampling
    from carellama.engine.load import choose
    from carellama.model.zoo.entries import find_entry

    layer = _safety(safety)  # faulty rules show before the weights are read
    consult.refuse_unread()
    _check_consult(consult, layer)
    entry = None if model.checkpoints else find_entry(model.model_name_or_path)  # training may have taught it more
    assistant = Assistant(
        choose(model, data, engine), data.system_prompt, Sampling.of(generating),
        entry.languages if entry else (), layer,
    )  # fmt: skip
    try:
        yield (_consultant(assistant, consult) or assistant) if consult.mode == "consult" else assistant
    finally:
        assistant.close()


def _check_paths(model: ModelOptions, engine: EngineOptions) -> None:
    """Answer a model that is not there before anything is loaded."""
    from carellama.model.paths import check_model

    if engine.engine != "openai" and not engine.endpoints:
        check_model(model, engine.adapter_folders)


def _safety(options: SafetyOptions, *, with_model: bool = True) -> SafetyLayer | None:
    """Return the safety layer that the options ask for; without its guard model, to see whether its rules are right."""
    if options.safety == "off":
        return None
    from pathlib import Path

    from carellama.config.safety import split_files
    from carellama.safety.guard.model import GuardModel, guard_format
    from carellama.safety.layer import SafetyLayer

    model = None
    if options.guard_model:
        form = guard_format(options.guard_format, options.guard_model)
        if with_model:
            from carellama.engine.load import guard_engine

            model = GuardModel(guard_engine(options.guard_model, options.guard_endpoint), form)
    return SafetyLayer(
        options.safety,
        options.country,
        split_files(options.safety_rules),
        options.classifier,
        Path(options.policy) if options.policy else None,
        options.guard_classifier,
        model,
    )


def _check_consult(consult: ConsultOptions, layer: SafetyLayer | None) -> None:
    """Raise `UserError` for mode consult without the layer that finds emergencies."""
    if consult.mode == "consult" and layer is None:
        raise UserError("--mode consult stops at emergencies, which --safety off does not look for; take warn or on")


def _consultant(assistant: Assistant, options: ConsultOptions) -> Consultant | None:
    """Return the assistant that asks before it advises; None where there is no safety layer."""
    from carellama.assistant import Consultant
    from carellama.consultation.interview import Interview

    if assistant.safety is None:
        return None
    interview = Interview(
        assistant.safety, engine=assistant.engine, max_questions=options.max_questions,
        wording=options.consult_wording, reading=options.consult_reading,
    )  # fmt: skip
    return Consultant(assistant, interview)


def api(argv: Sequence[str]) -> None:
    """Load the engine and hand it to the server."""
    from carellama.config.reader import parse_options
    from carellama.config.serve import API_OPTIONS
    from carellama.errors import need

    model, _, engine, safety, consult, settings = parse_options(API_OPTIONS, argv, "carellama api")
    _check_paths(model, engine)
    _check_consult(consult, _safety(safety, with_model=False))  # faulty rules show before the weights are read
    need("fastapi", extra="serve", why="carellama api")
    from carellama.serve.api.server import serve

    serve(settings, functools.partial(_application, list(argv)))


def _application(argv: Sequence[str]) -> FastAPI:
    """The application of `carellama api` with its assistant; each worker makes its own."""
    from carellama.assistant import Assistant
    from carellama.config.reader import parse_options
    from carellama.config.serve import API_OPTIONS
    from carellama.serve.api.app import create_app
    from carellama.serve.api.auth import auth_for

    quieten()  # a worker is a process of its own
    model, data, engine, safety, consult, settings = parse_options(API_OPTIONS, argv, "carellama api")
    access = auth_for(settings.host, settings.database)  # before the model is loaded: it may refuse
    from carellama.engine.load import choose
    from carellama.hardware import physical_cores
    from carellama.knowledge.embed import load_embedder

    score = None
    if settings.reward_model:
        from carellama.model.paths import check_reward_model

        check_reward_model(settings.reward_model)
        from carellama.train.reward.model import load_scorer

        score = load_scorer(settings.reward_model, model)
    embedder = load_embedder(settings.embedding_model, max(1, physical_cores() // 2))  # the chat has the others
    assistant = Assistant(choose(model, data, engine), data.system_prompt, safety=_safety(safety))
    return create_app(
        assistant, settings, auth=access, score=score, embedder=embedder,
        consultant=_consultant(assistant, consult), mode=consult.mode,
    )  # fmt: skip


@_ends_with_its_reader()
def main() -> None:
    """Run the command line; an unknown command is answered in one line."""
    from carellama.errors import nearest

    group, words = "", sys.argv[1:]
    if words and words[0] in GROUPS:
        group, *words = words
    table = GROUPS[group] if group else VERBS | {name: ("", text) for name, text in GROUP_TEXTS.items()}
    if not words or words[0] in ("-h", "--help"):
        print(_help(group, table))
        raise SystemExit(0 if words else 2)
    word, *argv = words
    if word == "--version" and not group:
        from carellama import __version__

        print(__version__)
    elif word in table:
        call(f"{group} {word}".strip(), argv)
    elif word.startswith("-"):
        fail(f"unknown option {word!r} of {f'carellama {group}'.strip()}; options follow a command: {', '.join(table)}")
    else:
        fail(f"unknown command {word!r}.{nearest(word, table)} Commands: {', '.join(table)}.")


def _help(group: str, table: Mapping[str, tuple[str, str]]) -> str:
    """The commands, or those of a group, with what they are for."""
    wide = max(map(len, table))
    lines = [f"  {word:{wide}}  {about}" for word, (_, about) in table.items()]
    usage = " ".join(filter(None, ("usage: carellama", group, "COMMAND [options]")))
    more = f"carellama {group} COMMAND --help" if group else "carellama COMMAND --help"
    about = GROUP_TEXTS[group] if group else ABOUT
    version = [] if group else ["", "--version prints the version."]
    return "\n".join([usage, "", about, "", "Commands:", *lines, *version, "", f"Options of a command: {more}"])
