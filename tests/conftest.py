"""The smallest things that show a point: a byte-level tokenizer and a two-layer random Llama, made here.

No test reaches the network: sockets other than local ones are barred.
"""

from __future__ import annotations

import gc
import importlib
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; threads that wait for each other do not

import pytest
from hypothesis import HealthCheck, settings

import line_coverage
import preloaded

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's job in the background, and all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")  # other work may run beside the tests

REPOSITORY = Path(__file__).resolve().parent.parent
REAL_DATA = REPOSITORY.parent / "shared" / "data"

COVERAGE = pytest.StashKey[dict[str, tuple[int, int]]]()  # by room: lines that ran, and all

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "What are the symptoms of asthma? Asthma may cause wheezing, cough and shortness of breath.",
    "See a doctor if the fever lasts for more than three days, or at once if breathing is hard.",
    "发烧三天了怎么办？多喝水，注意休息，如果高烧不退请及时就医。",
    "[INST] <<SYS>>\nYou are helpful.\n<</SYS>>\n\nHuman: USER: ### Instruction: ### Response: ASSISTANT: ",
]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket.connect

    def connect(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "local"
        if host not in ("local", "127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address}")
        return real(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connect)


class ForkingPython:
    """Stands for `sys` where a module starts Python: what it starts are forks of one that has loaded its imports."""

    def __getattr__(self, name: str) -> object:
        return preloaded.python() if name == "executable" else getattr(sys, name)


@pytest.fixture(autouse=True, scope="session")
def _programs_are_forks() -> Iterator[None]:
    """llama.cpp's converter, and what reads an export back, would each take seconds to import torch."""
    from carellama.export.parity import readers
    from carellama.model.gguf import converter

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converter, "sys", ForkingPython())
        patch.setattr(readers, "sys", ForkingPython())
        yield


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A byte-level BPE of about 400 tokens with the ChatML special tokens and template."""
    return make_tokenizer()


def make_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        chat_template=CHATML,
    )


def make_model(vocabulary: int = 400, seed: int = 0, **changes):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**settings | changes)).eval()


@pytest.fixture
def tiny_model():
    """A random two-layer Llama in float32."""
    return make_model()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer) -> Path:
    """A Hugging Face folder of the tiny model and tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    make_model().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def real_data() -> Path:
    """Real files for tests that need them; such a test skips where they are not."""
    if not REAL_DATA.is_dir():
        pytest.skip("no folder of real files beside the repository")
    return REAL_DATA


def only_read(database) -> None:
    """Let a database be read only from now on: SQLite says then what it says of a file without the permission."""
    from sqlalchemy import event

    database.close()

    @event.listens_for(database.engine, "connect")
    def connected(connection, _) -> None:
        connection.execute("PRAGMA query_only = ON")


@pytest.hookimpl(trylast=True)  # the folder of the coverage is made by another one
def pytest_configure(config: pytest.Config) -> None:
    """Start one server of forks for all processes that run tests, where there are several."""
    if config.getoption("numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ:
        os.environ[preloaded.FOLDER] = preloaded.start()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a parameter of bytes by its argument: what it holds may differ between the processes that run the tests."""
    return argname if isinstance(val, (bytes, bytearray, memoryview)) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first, so that no worker begins a long one when the others have nothing left to do.

    The tests of a file stay together: what its module fixtures have made serves all of them.
    """
    named = [item.nodeid for item in items if re.search(r" at 0x[0-9a-f]{4}|<object", item.nodeid)]
    if named:
        raise pytest.UsageError(f"names of tests that differ between processes (give their parameters ids): {named}")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Keep the garbage collector away from what is imported once: walking over it took a third of the tests' time."""
    if "PYTEST_XDIST_WORKER" in os.environ:  # each worker needs these sooner or later
        for name in ("datasets", "peft", "transformers.trainer", "transformers.models.llama.modeling_llama"):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session that measures coverage, and whose tests all passed, below the least coverage."""
    folder = Path(os.environ.get("SLIPCOVER_COVERAGE_DIR", ""))
    if not line_coverage.enabled() or "PYTEST_XDIST_WORKER" in os.environ or not (folder / "merged.json").is_file():
        return
    session.config.stash[COVERAGE] = rooms = line_coverage.by_room(folder)
    if session.exitstatus == pytest.ExitCode.OK and line_coverage.percent(rooms) < line_coverage.LEAST:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the coverage that was measured."""
    if rooms := terminalreporter.config.stash.get(COVERAGE, None):
        terminalreporter.section("line coverage")
        terminalreporter.write_line(line_coverage.report(rooms))
