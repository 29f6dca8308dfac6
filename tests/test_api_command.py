"""`carellama api` and the seed's command, as people type them: ready, answering, and an end with status 0."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

import preloaded
from api_server import ASKED
from conftest import REPOSITORY, make_model

SEED = "--model_name_or_path ./model --checkpoint_dir output --finetuning_type lora --template llama2"


@pytest.fixture
def workplace(tmp_path: Path, tiny_folder: Path) -> Path:
    """A base model and an adapter of it in `output`."""
    from peft import LoraConfig, get_peft_model

    (tmp_path / "model").symlink_to(tiny_folder)
    get_peft_model(make_model(), LoraConfig(target_modules=["q_proj"])).save_pretrained(str(tmp_path / "output"))
    return tmp_path


@contextmanager
def started(where: Path, *words: str) -> Iterator[str]:
    """Run the command until the block ends; yield the server's address."""
    environment = os.environ | {"CARELLAMA_CACHE": str(where / "cache"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [preloaded.python(), *words, "--port", "0"], cwd=where, env=environment, stderr=subprocess.PIPE, text=True
    )
    said = ""
    try:
        assert process.stderr is not None
        for line in process.stderr:
            said += line
            if line.startswith("ready at "):
                break
        assert "ready at " in said, said
        yield said.rpartition("ready at ")[2].split()[0]
        process.terminate()
        said += process.communicate(timeout=60)[1]
        assert process.returncode == 0 and "Traceback" not in said, said
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_the_seeds_server_runs_verbatim(workplace: Path) -> None:
    with started(workplace, str(REPOSITORY / "src/api_demo.py"), *SEED.split()) as url:
        answer = httpx2.post(f"{url}/chat/completions", json={"messages": ASKED, "max_tokens": 4}, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] <= 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--model_name_or_path x --host 0.0.0.0", "needs keys"),
        ("--model_name_or_path x --queu 3", "Did you mean '--queue'?"),
        ("--model_name_or_path x --ssl_certfile cert.pem", "--ssl_keyfile"),
        ("--model_name_or_path x --cors_origins example.org", "https://chat.example.org"),
        ("--model_name_or_path x --port 99999", "at most 65535"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, words: str, says: str) -> None:
    done = subprocess.run(
        [preloaded.python(), "-m", "carellama", "api", *words.split()], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"CARELLAMA_CACHE": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
