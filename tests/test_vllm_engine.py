"""vLLM as a child, played by a script: its command line, its start, its deaths, and that it never stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from carellama.config.data import DataOptions
from carellama.config.engine import EngineOptions
from carellama.config.environment import vllm_environment
from carellama.config.model import ModelOptions
from carellama.engine.base import Sampling, Unavailable, drain
from carellama.engine.generate import generate
from carellama.engine.generate import stream as stream_of
from carellama.engine.openai import vllm
from carellama.engine.openai.vllm import VLLMEngine, load
from carellama.errors import UserError
from carellama.records import Message
from conftest import REPOSITORY

ASKED = (Message("user", "What is asthma?"),)
SAMPLING = Sampling(9)
# It leaves its pid, that of a worker in its group, its words and its key in the folder beside it.
PLAYED = """\
import json, os, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

home = Path(__file__).parent
words = sys.argv[1:]
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
starts = len(list(home.glob("start-*")))
state = {"pid": os.getpid(), "worker": worker.pid, "words": words, "key": os.environ.get("VLLM_API_KEY")}
(home / "writing").write_text(json.dumps(state))
(home / "writing").rename(home / f"start-{starts}")
if (home / "dies").exists():
    print("loading", flush=True)
    sys.exit("no memory left for the cache")
listed = [{"id": "base", "owned_by": "vllm", "max_model_len": 512}]
listed += [{"id": word.partition("=")[0], "owned_by": "vllm"} for word in words if "=/" in word]

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(json.dumps({"data": listed}))
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            return self.answer(json.dumps({"tokens": [7] if body["prompt"].startswith("<|") else [1, 2, 3]}))
        if body["messages"][-1]["content"] == "wait":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b'data: {"choices": [{"delta": {"content": "he"}}]}\\n\\n')
            self.wfile.flush()
            time.sleep(600)
        said = json.dumps({name: body.get(name) for name in ("model", "stop", "stop_token_ids")})
        key = self.headers["Authorization"] == "Bearer " + state["key"]
        choice = {"message": {"content": said if key else "who are you?"}, "finish_reason": "stop"}
        self.answer(json.dumps({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}))
    def answer(self, text):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())
    def log_message(self, *args):
        pass

server = ThreadingHTTPServer(("127.0.0.1", int(words[words.index("--port") + 1])), Handler)
server.daemon_threads = True
server.serve_forever()
"""


class Played:
    """The folder of a program `vllm` that is a script."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "script.py").write_text(PLAYED)
        program = folder / "vllm"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -I {folder / "script.py"} "$@"\n')
        program.chmod(0o755)

    def states(self) -> list[dict]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("start-*"))]

    def words(self) -> list[str]:
        return self.states()[-1]["words"]


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    (tmp_path / "bin").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    played = Played(tmp_path / "bin")
    yield played
    left = [pid for state in played.states() for pid in (state["pid"], state["worker"]) if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "processes were left behind"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What looks like a model folder."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    return tmp_path / "model"


def adapter(folder: Path, **more: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 12} | more))
    return folder


def loaded(folder: Path, template: str | None = None, checkpoints: str | None = None, **options: Any) -> VLLMEngine:
    model: dict[str, Any] = {
        name: options.pop(name) for name in ("dtype", "quantization_bit", "rope_scaling") if name in options
    }
    return load(
        ModelOptions(str(folder), checkpoint_dir=checkpoints, **model),
        DataOptions(template=template),
        EngineOptions(engine="vllm", **options),
    )


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def test_it_starts_answers_and_is_gone_after_close(played: Played, folder: Path) -> None:
    engine = loaded(folder, parallel=3)
    (state,) = played.states()
    assert alive(state["pid"]) and alive(state["worker"])
    (reply,) = generate(engine, [ASKED], SAMPLING)
    assert json.loads(reply.text)["model"] == "base" and engine.context_tokens == 512
    key = engine.child.key
    assert state["key"] == key and key not in " ".join(state["words"])
    words = " ".join(state["words"])
    assert words.startswith(f"serve {folder} --host 127.0.0.1 ") and "--max-num-seqs 3" in words
    engine.close()
    assert not alive(state["pid"]) and not alive(state["worker"]) and not engine.child.folder.exists()
    engine.close()  # twice does nothing


def test_the_options_become_its_flags(played: Played, folder: Path, tmp_path: Path) -> None:
    named = f"cardiology={adapter(tmp_path / 'a')},tcm={adapter(tmp_path / 'b', r=40)}"
    more: dict[str, Any] = {"dtype": "bfloat16", "quantization_bit": 4, "context_tokens": 256, "adapters": named}
    with closing(loaded(folder, "alpaca", vllm_args="--seed 3 --note 'a b'", **more)) as engine:
        words = played.words()
        flags = dict(zip(words[2::2], words[3::2], strict=False))
        assert flags["--dtype"] == "bfloat16" and flags["--quantization"] == "bitsandbytes"
        assert flags["--max-model-len"] == "256" and flags["--tensor-parallel-size"] == "1"
        assert "### Instruction" in Path(flags["--chat-template"]).read_text()
        at = words.index("--enable-lora")
        assert words[at + 1 : at + 6] == ["--max-loras", "2", "--max-lora-rank", "64", "--lora-modules"]
        assert words[at + 6 : at + 8] == named.split(",")
        assert words[at + 8 : at + 12] == ["--seed", "3", "--note", "a b"]
        assert engine.adapters == ("cardiology", "tcm")
        by_name = [json.loads(generate(engine, [ASKED], Sampling(adapter=one))[0].text) for one in ("", "tcm")]
        assert [one["model"] for one in by_name] == [engine.model, "tcm"]


def test_a_checkpoint_is_an_adapter_that_answers_alone(played: Played, folder: Path, tmp_path: Path) -> None:
    checkpoint = str(adapter(tmp_path / "checkpoint"))
    with closing(loaded(folder, None, checkpoint)) as engine:
        words = played.words()
        assert words[words.index("--lora-modules") + 1] == f"checkpoint={checkpoint}"
        assert engine.adapters == () and engine.model == "checkpoint"
    with pytest.raises(UserError, match="one adapter on a model"):
        loaded(folder, None, checkpoint, adapters=f"tcm={checkpoint}")


def test_answers_end_where_the_format_ends_them(played: Played, folder: Path) -> None:
    """A mark that is a token is stopped at by its number: vLLM leaves such tokens out of the text."""
    with closing(loaded(folder, "chatml")) as engine:
        said = json.loads(generate(engine, [ASKED], Sampling(stop=("End",)))[0].text)
    assert said["stop"] == ["End"] and said["stop_token_ids"] == [7]


def test_ray_joins_the_machines_where_the_gpus_here_are_too_few(
    played: Played, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for gpus, size, ray in ((4, 8, True), (8, 8, False), (0, 8, False)):
        monkeypatch.setattr(vllm, "gpu_count", lambda gpus=gpus: gpus)
        with closing(loaded(folder, tensor_parallel_size=size // 2, pipeline_parallel_size=2)):
            words = " ".join(played.words())
            assert ("--distributed-executor-backend ray" in words) == ray
            assert "--tensor-parallel-size 4 --pipeline-parallel-size 2" in words


def test_a_death_at_the_start_shows_the_end_of_the_log(played: Played, folder: Path, capsys) -> None:
    (played.folder / "dies").touch()
    with pytest.raises(UserError, match="ended with code 1 while it started"):
        loaded(folder)
    told = capsys.readouterr().err
    log = Path(told.partition("its log: ")[2].splitlines()[0])
    assert "  no memory left for the cache" in told and log.is_file()
    assert len(played.states()) == 1


def test_a_death_at_work_ends_what_is_under_way_and_it_is_started_once_more(played: Played, folder: Path) -> None:
    with closing(loaded(folder)) as engine:
        stream = stream_of(engine, (Message("user", "wait"),), SAMPLING)
        assert next(piece.text for piece in stream if piece.text) == "he"
        (first,) = played.states()
        os.kill(first["pid"], signal.SIGKILL)
        with pytest.raises(Unavailable, match="broke off"):
            drain(stream)
        until(lambda: len(played.states()) == 2)
        until(lambda: not alive(first["worker"]))

        def answers() -> bool:
            with suppress(Unavailable):
                return bool(generate(engine, [ASKED], SAMPLING)[0].text)
            return False

        until(answers)
        os.kill(played.states()[1]["pid"], signal.SIGKILL)
        until(lambda: engine.child.starts == 2 and not engine.child._watcher.is_alive())
        with pytest.raises(Unavailable, match="nothing answers"):
            generate(engine, [ASKED], SAMPLING)
    assert len(played.states()) == 2 and engine.child.log.is_file()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_does_not_outlive_a_program_that_is_killed(played: Played, folder: Path, number: int) -> None:
    code = (
        "import sys, time; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; from test_vllm_engine import loaded\n"
        "engine = loaded(Path(sys.argv[1])); print('ready', flush=True); time.sleep(600)"
    )
    places = [str(REPOSITORY / "src"), str(REPOSITORY / "tests")]
    parent = subprocess.Popen([sys.executable, "-c", code, str(folder), *places], stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"ready\n"
        (state,) = played.states()
        assert alive(state["pid"]) and alive(state["worker"])
        parent.send_signal(number)
    until(lambda: not alive(state["pid"]) and not alive(state["worker"]))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a child of its parent's death")
def test_it_does_not_outlive_its_keeper(played: Played, folder: Path) -> None:
    with closing(loaded(folder)) as engine:
        (state,) = played.states()
        engine.child.starts = vllm.MAX_STARTS
        engine.child._process.kill()
        until(lambda: not alive(state["pid"]))
    with suppress(ProcessLookupError):
        os.kill(state["worker"], signal.SIGKILL)  # the worker of a real vLLM watches its parent itself
    until(lambda: not alive(state["worker"]))


def test_what_vllm_can_not_serve_is_refused_before_it_is_started(played: Played, folder: Path, tmp_path: Path) -> None:
    dora = adapter(tmp_path / "dora", use_dora=True)
    large, plain = adapter(tmp_path / "large", r=1000), adapter(tmp_path / "plain")
    for options, hint in (
        ({"checkpoints": str(dora)}, "use_dora.*carellama export"),
        ({"checkpoints": f"{plain},{plain}"}, "carellama export"),
        ({"checkpoints": str(tmp_path)}, "neither"),
        ({"adapters": f"big={large}"}, "rank 1000"),
        ({"adapters": f"base={plain}"}, "take another"),
        ({"rope_scaling": "linear"}, "--hf-overrides"),
        ({"quantization_bit": 8}, "--quantization fp8"),
        ({"template": "alpacca"}, "Did you mean 'alpaca'"),
    ):
        with pytest.raises(UserError, match=hint) as error:
            loaded(folder, **options)
        assert "\n" not in str(error.value)
    assert not played.states() and not list((tmp_path / "tmp").iterdir())


def test_without_vllm_it_says_how_to_get_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(UserError, match="pip install vllm"):
        loaded(folder)


def test_its_environment_has_its_key_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARELLAMA_API_KEY", "mine")
    monkeypatch.setenv("OPENAI_API_KEY", "mine too")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    found = vllm_environment("drawn", "hub")
    assert found["VLLM_API_KEY"] == "drawn" and found["HF_TOKEN"] == "hub" and found["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert found["VLLM_NO_USAGE_STATS"] == "1" and not {"mine", "mine too"} & set(found.values())
