"""The documentation is what the program does: its tables are those of the code, its commands run."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import preloaded
from conftest import REPOSITORY, make_model

DOCS = REPOSITORY / "docs"
LANGUAGES = ("en", "zh")
RUN = re.compile(r"<!-- run -->\n```bash\n(.*?)```", re.DOTALL)
# of the verbs' pages in the order in which each finds what the one before it made; the demo fetches a model
PAGES = (
    "install", "templates", "data", "catalogue", "check", "clean", "mix", "stats", "train", "plan", "tokenizer", "ppo",
    "grpo", "eval", "predict", "export", "chat", "ask", "task", "keys", "models",
)  # fmt: skip
# verb of each example, in the order in which they run
EXAMPLES = {
    "mix": "data mix", "sft": "train", "freeze": "train", "full": "train", "pt": "train", "qlora": "train",
    "rm": "train", "dpo": "train", "kto": "train", "ppo": "train", "grpo": "train", "full_chain": "recipe",
    "eval": "eval", "predict": "predict", "export": "export", "chat": "chat", "api": "api",
}  # fmt: skip


def options_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_options", DOCS / "options.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_those_of_the_code() -> None:
    script = options_script()
    for page in script.pages():
        text = page.read_text(encoding="utf-8")
        assert script.filled(text, page.parent.name) == text, f"{page} is stale: run python docs/options.py"


def test_every_verb_has_its_pages() -> None:
    """Each begins with a line that runs and ends with its options, in both languages."""
    from carellama.cli import VERBS

    navigation = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    for verb in VERBS:
        for language in LANGUAGES:
            page = DOCS / language / f"{verb}.md"
            text = page.read_text(encoding="utf-8")
            command = rf"# carellama {verb}\n\n(<!-- run -->\n)?```bash\n(.* \| )?carellama {verb}\b.*\n```\n"
            assert re.match(command, text), f"{page} does not begin with one line that runs"
            assert f"<!-- table: {verb} -->" in text and text.endswith("<!-- end of table -->\n"), page
            assert f"{language}/{verb}.md" in navigation
            readme = REPOSITORY / ("README.md" if language == "en" else "README_zh.md")
            assert f"docs/{language}/{verb}.md" in readme.read_text(encoding="utf-8")


def test_every_verb_of_two_words_is_in_the_pages() -> None:
    """One page may have several; each names the command and has its options."""
    from carellama.cli import GROUPS

    verbs = [(group, verb) for group, table in GROUPS.items() for verb in table]

    assert verbs
    for language in LANGUAGES:
        text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / language).glob("*.md"))
        for group, verb in verbs:
            command = f"carellama {group} {verb}"
            assert f"{command} " in text or f"{command}\n" in text, f"{language}: {command}"
            assert f"<!-- table: {group}_{verb} -->" in text, f"{language}: the options of {command}"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    for language in LANGUAGES:
        pages = list((DOCS / language).glob("*.md"))
        assert pages
        for page in pages:
            assert f"{language}/{page.name}" in navigation


def test_both_languages_have_the_same_pages_and_commands() -> None:
    names = {language: {page.name for page in (DOCS / language).glob("*.md")} for language in LANGUAGES}
    assert names["en"] == names["zh"]
    for name in names["en"]:
        first, second = ((DOCS / language / name).read_text(encoding="utf-8") for language in LANGUAGES)
        assert first.count("\n## ") == second.count("\n## "), f"{name}: sections"
        assert first.count("```") == second.count("```"), f"{name}: blocks"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_template_is_in_the_docs(language: str) -> None:
    from carellama.templates.format import formats

    text = (DOCS / language / "templates.md").read_text(encoding="utf-8")
    assert formats()
    for name in formats():
        assert f"| `{name}` |" in text


def test_dataset_info_keys_and_columns_are_in_the_docs() -> None:
    from carellama.data.convert import SHAPES
    from carellama.data.datasets import COLUMNS, KEYS

    for language in LANGUAGES:
        text = (DOCS / language / "data.md").read_text(encoding="utf-8")
        for name in (*KEYS, *COLUMNS, *SHAPES):
            assert f"`{name}`" in text, f"{language}/data.md does not name {name}"


@pytest.mark.parametrize("page", [*DOCS.rglob("*.md"), *REPOSITORY.glob("*.md")], ids=lambda page: page.name)
def test_options_and_files_that_pages_name_are_there(page: Path) -> None:
    """A renamed option or a moved file does not live on in the text."""
    from carellama.config.options import option_fields
    from carellama.config.transformers_options import training_flags

    groups = {group for groups in options_script().GROUPS.values() for group in groups}
    fields = [field for group in groups for field in option_fields(group)]
    names = {"help", *training_flags(), *(name for field in fields for name in (field.name, *field.metadata["names"]))}
    known = {f"--{name}" for name in names}
    of_others = {
        "--config_file",
        "--cpu",
        "--cpus-per-task",
        "--gpus-per-node",
        "--machine_rank",
        "--master_addr",
        "--master_port",
        "--model",
        "--model_args",
        "--nnodes",
        "--node_rank",
        "--nodes",
        "--ntasks-per-node",
        "--shutdown-timeout",
        "--tasks",
        "--signal",
        "--tool-call-parser",
        "--train",
        "--working-dir",
        "--num_processes",
        "--no-deps",
        "--nproc_per_node",
        "--rm",
        "--rules_only",
        "--version",
    }
    tables = re.compile(r"<!-- table.*?<!-- end of table -->", re.DOTALL)
    text = tables.sub("", page.read_text(encoding="utf-8"))
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*[a-z]\b", text))
    assert named <= known | of_others, f"{page.name}: {', '.join(sorted(named - known - of_others))}"
    for file in re.findall(r"\b(?:examples|tests|src)/[\w/.-]+\.(?:yaml|py)\b", text):
        assert (REPOSITORY / file).is_file(), f"{page.name} names {file}"


def test_examples_hold_known_options() -> None:
    from carellama.config.commands import EXPORT_OPTIONS
    from carellama.config.reader import parse_options
    from carellama.config.serve import API_OPTIONS, CHAT_OPTIONS
    from carellama.data.mixture import read_recipe
    from carellama.train.options import parse_run
    from carellama.train.recipe import read_chain

    groups = {"export": EXPORT_OPTIONS, "chat": CHAT_OPTIONS, "api": API_OPTIONS}
    assert {path.stem for path in (REPOSITORY / "examples").glob("*.yaml")} == set(EXAMPLES)
    for name, verb in EXAMPLES.items():
        path = REPOSITORY / "examples" / f"{name}.yaml"
        assert f"#   carellama {verb} examples/{name}.yaml" in path.read_text(encoding="utf-8")
        for key, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            assert value is not None, f"{path}: {key} is empty"
        if verb == "data mix":
            assert read_recipe(str(path)).portions
            continue
        if verb == "recipe":
            assert read_chain(str(path))[1]
            continue
        if verb in groups:
            parse_options(groups[verb], [str(path)], verb)
        else:
            parse_run([str(path)], verb)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer) -> Path:
    """A checkout's data and examples, and the tiny model under the name of the embedded one."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("data", "examples"):
        (folder / name).symlink_to(REPOSITORY / name)
    # a folder of this name beside the data is taken before the embedded model
    make_model(max_position_embeddings=4096).save_pretrained(folder / "smollm2-135m")
    tiny_tokenizer.save_pretrained(folder / "smollm2-135m")
    return folder


def run(line: str, folder: Path) -> str:
    environment = os.environ | {
        "PATH": os.pathsep.join(
            map(str, (Path(preloaded.python()).parent, Path(sys.executable).parent, os.environ["PATH"]))
        ),
        "CARELLAMA_CACHE": str(folder / "cache"),
        "CARELLAMA_DATABASE": str(folder / "carellama.db"),
        "OMP_NUM_THREADS": "1",
    }
    command = ["bash", "-euo", "pipefail", "-c", line]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


@pytest.mark.slow
def test_commands_of_the_pages_run(workplace: Path) -> None:
    """In order, as a reader goes through them; a line that two pages show runs once."""
    done: set[str] = set()
    blocks: dict[str, list[str]] = {page: [] for page in PAGES}
    for page in PAGES:
        for language in LANGUAGES:
            blocks[page] += RUN.findall((DOCS / language / f"{page}.md").read_text(encoding="utf-8"))
    for page in PAGES:
        assert blocks[page], f"{page}.md has no line that is run"
        for block in blocks[page]:
            if block not in done:
                said = run(block, workplace)
                assert "Traceback" not in said, said
                done.add(block)
    made = {
        "output": ("adapter_model.safetensors", "run.json", "data_report.json", "train_results.json"),
        "eval_output": ("eval_results.json",),
        "predict_output": ("generated_predictions.jsonl", "predict_results.json"),
        "output_export": ("config.json", "model.safetensors", "README.md"),
    }
    for file in (f"{folder}/{name}" for folder, names in made.items() for name in names):
        assert (workplace / file).is_file(), file


@pytest.mark.slow
def test_examples_run(workplace: Path) -> None:
    """Each as its first lines say, with a tiny model and at most two steps."""
    for name, verb in EXAMPLES.items():
        if verb == "api":
            continue  # it serves until it is stopped: tests/test_api_command.py
        line = f"carellama {verb} examples/{name}.yaml"
        if verb == "train":
            line += " --max_steps 2"
        if verb in ("predict", "chat"):
            line += " --max_new_tokens 4"
        if verb in ("predict", "eval", "export"):
            line += f" --output_dir of_{name}"
        if verb == "data mix":
            line += " --output of_mix.jsonl"
        if verb == "recipe":
            line += " --dry_run"  # tests/test_chain.py runs one
        said = run(f"echo 'What is asthma?' | {line}" if verb == "chat" else line, workplace)
        assert "Traceback" not in said, said
    assert (workplace / "output/sft/training_loss.png").is_file()
    assert (workplace / "of_export/model.safetensors").is_file()
