"""The rules of the code that no linter knows: who imports whom, names, sizes, the environment, the README."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from conftest import REPOSITORY

SOURCE = REPOSITORY / "src"
PACKAGE = SOURCE / "carellama"
MODULES = sorted(PACKAGE.rglob("*.py"))
PYTHON = [
    *sorted(SOURCE.rglob("*.py")),
    *sorted((REPOSITORY / "tests").glob("*.py")),
    *sorted((REPOSITORY / "docs").glob("*.py")),
]

# Which room of the package may import which, from the ground floor up: a room imports only what stands above it in this
# table, and of that only what its row names: a whole room, or `room.module` alone. Each may import itself, and all may
# import `errors` and the version in `__init__`. `cli` puts the parts together, inside functions only.
IMPORTS: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "records": set(),
    "text": set(),
    "retry": set(),
    "intervals": set(),
    "files": set(),
    "hardware": set(),
    "mention_table": set(),
    "package_data": set(),
    "rules": {"mention_table", "package_data", "text"},
    "stages": {"records"},
    "weights": set(),
    "adapter_json": {"weights"},
    "config": {"hardware", "package_data", "stages"},  # hardware: defaults depend on what the machine computes in
    "run_record": {"adapter_json", "config", "files", "stages", "weights"},
    "templates": {"package_data", "records", "text"},
    "privacy": {"package_data", "text"},
    "download": {"files", "retry", "text"},
    "store": {"config", "files", "records"},
    # templates.format: an entry of one's own names a chat format that exists
    "model": {
        *("adapter_json", "config", "download", "files", "hardware", "package_data", "run_record", "stages"),
        *("templates.format", "weights"),
    },
    # model.load: positions; model.tokenizer, model.zoo.pull: the tokenizer that counts tokens, also of a named model
    "data": {
        *("config", "download", "files", "package_data", "privacy", "records", "stages", "templates", "text"),
        *("model.load", "model.tokenizer", "model.vocabulary", "model.zoo.pull"),
        *("store.cipher", "store.database", "store.feedback"),  # what persons thought of answers
    },
    "engine": {
        *("config", "files", "hardware", "model", "privacy", "records", "retry", "run_record", "templates", "text"),
    },
    "knowledge": {"config"},
    # these and the server are handed an engine: they name the types of engine.base and load none
    "safety": {"config", "engine.base", "engine.generate", "mention_table", "package_data", "records", "rules", "text"},
    "consultation": {
        *("config", "files", "engine.base", "engine.generate", "intervals", "package_data", "records"),
        *("rules", "safety", "text"),
    },
    "evaluate": {
        *("config", "consultation", "data", "files", "engine", "intervals", "model", "package_data", "records"),
        *("rules", "run_record", "safety", "templates", "text"),
    },
    # evaluate, safety: answers of written models are compared as `safety eval` reads them; a page without a server
    # has the rules of triage; data.catalogue.entries: the licence of a dataset, for the model card
    "export": {
        *(
            "adapter_json",
            "config",
            "data.catalogue.entries",
            "evaluate.triage",
            "evaluate.triage_cases",
            "files",
            "hardware",
            "model",
            "package_data",
        ),
        *("records", "rules", "run_record", "safety", "stages", "templates", "text", "weights"),
    },
    # privacy.word_lists: names of medicines; safety.rules.measures: numbers in words
    "batch": {
        *("config", "data", "files", "engine", "package_data", "records", "run_record", "text"),
        *("privacy.word_lists", "safety.rules.measures"),
    },
    "assistant": {
        *("consultation", "engine.base", "engine.generate", "engine.prompts", "engine.worker_pool"),
        *("records", "safety", "text"),
    },
    # engine: ppo and grpo learn from answers of their own
    "train": {
        *("config", "data", "files", "engine", "evaluate", "hardware", "model", "records", "retry", "run_record"),
        *("stages", "templates", "text", "export.card"),
    },
    # data.documents.uploaded: a file that is attached to a question; privacy.deidentify: of feedback, before it is kept
    "serve": {
        *("assistant", "config", "consultation.files", "data.documents.uploaded", "files", "engine.base"),
        *("engine.generate", "engine.token_text", "engine.worker_pool", "knowledge", "package_data"),
        *("privacy.deidentify", "records"),
        *("safety.layer", "safety.notices", "store"),  # layer: a screening, which it hands from call to call
    },
    "demo": {
        "config",
        "files",
        "model.zoo.resolve",
        "engine",
        "evaluate",
        "export",
        "package_data",
        "records",
        "train",
    },
}
IMPORTS |= {"cli": set(IMPORTS), "__main__": {"cli"}}
NOT_NAMES = {"utils", "util", "misc", "common", "helpers", "helper", "extras", "core", "manager", "managers"}
RUN_CHECKS = (
    "check_run",
    "check_method",
    "check_held_out",
    "check_stage",
    "check_ppo",
    "check_grpo",
)  # train/checks.py
HEAVY = ("torch", "transformers", "gradio", "datasets", "peft", "numpy", "jieba", "pyarrow", "matplotlib")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(tree_of(path)))


def name_of(path: Path) -> str:
    """`data.readers` for src/carellama/data/readers.py, `data` for its __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


NAMES = {name_of(module) for module in MODULES}


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, anywhere in it, or names as `"module:name"`."""
    for node in nodes_of(path):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = [node.value.partition(":")[0]]
        for name in found:
            inner = name.removeprefix("carellama.")
            if inner != name and inner in NAMES:
                yield inner


def test_imports_keep_to_the_table() -> None:
    assert MODULES
    refused = []
    for path in MODULES:
        part = name_of(path).partition(".")[0]
        assert part in IMPORTS, f"{part} is new: say in IMPORTS what it may import"
        allowed = IMPORTS[part] | {part, "errors", "__init__"}
        for name in imported(path):
            folder, _, module = name.partition(".")
            if not module and (PACKAGE / folder).is_dir():
                continue  # `from carellama.model import attention` is seen as model.attention as well
            if not {folder, name} & allowed:
                refused.append(f"{name_of(path)} imports {name}; {part} may import {sorted(allowed)}")
    assert not refused, "\n".join(refused)


def test_no_files_import_each_other_in_a_circle() -> None:
    """Late imports and those for types alone count as well."""
    known = {name_of(path): path for path in MODULES}
    imports = {name: set(imported_modules(path)) & known.keys() for name, path in known.items()}
    assert sum(map(len, imports.values())) > 1000
    while free := [name for name, others in imports.items() if not others & imports.keys()]:
        for name in free:
            del imports[name]
    assert imports == {}, "these are in circles, or import files that are"


def imported_modules(path: Path) -> Iterator[str]:
    """The modules that import statements name; a package only where something of its own `__init__` is imported."""
    known = {name_of(module) for module in MODULES}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("carellama"):
            base = (node.module or "").removeprefix("carellama").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                yield inner if inner in known else base or "__init__"


def test_stages_are_compared_by_their_rows_alone() -> None:
    """What a stage needs is a fact of `carellama.stages`; only its own options and trainer may ask for its name."""
    own = {"stages.py", "train/checks.py"}
    name = re.compile(
        r"""stage(?:\.name)?["')\]]*\)? *(?:==|!=|(?:not )?in) *[("'][^)]*\b(?:pt|sft|rm|dpo|kto|ppo|grpo)\b"""
    )
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in MODULES
        if path.relative_to(PACKAGE).as_posix() not in own
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if name.search(line)
    ]
    assert name.search('if config.finetuning.stage == "rm":') and name.search('options.get("stage") != "pt"')
    assert found == []


def test_the_table_has_no_part_that_is_gone() -> None:
    parts = {name_of(path).partition(".")[0] for path in MODULES}
    assert set(IMPORTS) == parts


def test_the_floors_are_strict() -> None:
    """A room imports from floors below it: from rows that stand above its own."""
    above: set[str] = set()
    for room, imports in IMPORTS.items():
        assert {name.partition(".")[0] for name in imports} <= above, room
        above.add(room)
    assert len(above) > 20
    known = {name_of(path) for path in MODULES}
    assert {name for allowed in IMPORTS.values() for name in allowed} <= known


def test_cannot_is_one_word() -> None:
    """In what the program says and in its pages; "Can not map tensor" is the converter's own message."""
    pages = [*MODULES, *(REPOSITORY / "docs").rglob("*.md")]
    apart = re.compile(r"\bcan not\b(?! (?:only|just|merely)\b)|\bCan not\b(?! map tensor)")
    assert [str(path) for path in pages if apart.search(path.read_text(encoding="utf-8"))] == []


def test_names_are_words_of_the_field() -> None:
    """`base` is refused for folders only: engine/base.py holds the protocol, not a pile of base classes."""
    assert MODULES
    for path in PACKAGE.rglob("*"):
        if "__pycache__" in path.parts:
            continue
        refused = NOT_NAMES | ({"base"} if path.is_dir() else set())
        words = re.split(r"[_.]", path.name.lower())
        assert not refused & set(words), f"{path.relative_to(SOURCE)}: a name that says nothing"


def test_sizes() -> None:
    assert PYTHON
    large = []
    for path in PYTHON:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines >= 500:
            large.append(f"{path} has {lines} lines; the hard stop is 500")
        for node in nodes_of(path):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length >= 80:
                    large.append(f"{path}:{node.lineno}: {node.name} has {length} lines; the hard stop is 80")
    assert not large, "\n".join(large)


def test_only_config_reads_the_environment() -> None:
    others = [path for path in MODULES if name_of(path).partition(".")[0] != "config"]
    assert others
    found = []
    for path in others:
        # the command line is handed to the reader from cli
        barred = {"environ", "environb", "getenv", "putenv"} | ({"argv"} if name_of(path) != "cli" else set())
        for node in nodes_of(path):
            names = {node.attr} if isinstance(node, ast.Attribute) else set()
            if isinstance(node, ast.ImportFrom) and node.module in ("os", "sys"):
                names = {alias.name for alias in node.names}
            read = names & barred
            found += [f"{path}:{node.lineno}: {name} belongs into config/" for name in sorted(read)]  # type: ignore[attr-defined]
    assert not found, "\n".join(found)


def test_modules_say_what_they_do() -> None:
    silent = [
        str(path)
        for path in MODULES
        if path.read_text(encoding="utf-8").strip() and not ast.get_docstring(tree_of(path))
    ]
    assert MODULES and not silent, f"no docstring: {silent}"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "-h"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from carellama.cli import main; sys.argv = ['carellama', *sys.argv[1:]]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print('loaded', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("loaded []"), done.stdout


@pytest.mark.parametrize("own", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}], ids=str)
def test_threads_wait_without_spinning_before_a_command_loads_torch(own: dict[str, str]) -> None:
    """Fault T20: torch's threads took the cores from the work that they waited for; what the user sets is kept."""
    code = (
        "import importlib, os, sys; from carellama import cli\n"
        "def load(name): print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT')); sys.exit()\n"
        "importlib.import_module = load; assert 'torch' not in sys.modules; cli.call('train', [])"
    )
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=clean | own)
    expected = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "10000"} | own
    if own.get("OMP_WAIT_POLICY"):
        expected["GOMP_SPINCOUNT"] = "None"
    assert done.stdout.split() == [expected[name] for name in names], done.stderr


def test_importing_the_package_loads_nothing() -> None:
    code = f"import sys, carellama; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_verbs_and_stages_can_be_called() -> None:
    from carellama.cli import GROUPS, VERBS
    from carellama.config.finetuning import FinetuningOptions
    from carellama.stages import STAGES
    from carellama.train import PREPARE, TRAINERS

    verbs = [place for table in (VERBS, *GROUPS.values()) for place, _ in table.values()]
    for place in [*verbs, *TRAINERS.values(), *PREPARE.values()]:
        module, _, name = place.partition(":")
        assert callable(getattr(importlib.import_module(module), name)), place
    assert set(get_args(get_type_hints(FinetuningOptions)["stage"])) == set(STAGES) == set(TRAINERS)


def reads(path: Path) -> set[str]:
    """Names of attributes that a file reads. Checks of the options do not count: to check is not to use."""
    checks = [
        node
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef) and (node.name == "__post_init__" or node.name in RUN_CHECKS)
    ]
    checked = {id(node) for check in checks for node in ast.walk(check)}
    return {
        node.attr
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in checked
    }


def option_groups() -> set[type]:
    """The dataclasses of options."""
    from carellama import demo
    from carellama.config import (
        commands,
        consultation,
        data,
        data_commands,
        engine,
        finetuning,
        model,
        objectives,
        safety,
        serve,
        store,
    )
    from carellama.config import run as config
    from carellama.config.options import Options

    parts = (
        commands,
        consultation,
        data,
        data_commands,
        demo,
        engine,
        finetuning,
        model,
        objectives,
        safety,
        serve,
        store,
    )
    return {
        value
        for part in (*parts, store, config)
        for value in vars(part).values()
        if isinstance(value, type) and issubclass(value, Options) and value is not Options
    }


def option_fields() -> Iterator[tuple[str, str]]:
    """(class, field) of the dataclasses of options, with their properties; not what transformers reads."""
    from carellama.config.run import RunOptions

    for group in sorted(option_groups() | {RunOptions}, key=lambda group: group.__name__):
        theirs = {
            field.name
            for base in group.__mro__[1:]
            if dataclasses.is_dataclass(base)
            for field in dataclasses.fields(base)
        }
        names = {field.name for field in dataclasses.fields(group)}
        names |= {name for name, value in vars(group).items() if isinstance(value, property)}
        for name in sorted(names - theirs):
            yield group.__name__, name


def test_options_are_frozen() -> None:
    """A trainer and the options of `task` wrote into what was asked, which run.json then called asked."""
    assert len(option_groups()) > 40
    for group in option_groups():
        assert group.__dataclass_params__.frozen, group  # type: ignore[attr-defined]
    writes = re.compile(r"config\.(?:training|own|model|data|finetuning|generating)\.\w+ [-+|]?= ")
    for path in MODULES:
        written = writes.search(path.read_text(encoding="utf-8"))
        assert not written, f"{path}: {written[0]}"


def test_every_option_is_read() -> None:
    read = {name for path in MODULES for name in reads(path)}
    unread = [f"{group}.{name}" for group, name in option_fields() if name not in read]
    assert not unread, f"options that nothing reads: {', '.join(unread)}"


def test_commands_that_answer_show_only_options_that_they_read() -> None:
    """`chat --help` had some sixty options of training, which changed nothing."""
    from carellama.config.commands import AskOptions
    from carellama.config.options import field_names
    from carellama.config.serve import API_OPTIONS, CHAT_OPTIONS, WebOptions

    others = {"config", "train", "data", "export", "evaluate", "batch", "demo"}
    read = {name for path in MODULES if name_of(path).partition(".")[0] not in others for name in reads(path)}
    assert "template" in read and "lora_rank" in read
    for group in {*CHAT_OPTIONS, *API_OPTIONS, AskOptions, WebOptions}:
        by_property = {
            used
            for name, value in vars(group).items()
            if isinstance(value, property) and name in read and value.fget
            for used in value.fget.__code__.co_names
        }
        unread = [
            name for name in field_names(group) if name not in read | by_property | {"password_file"}
        ]  # by `credentials`
        assert not unread, f"{group.__name__}: {unread}"
        assert not {"dataset", "lora_rank", "attention", "stage"} & set(field_names(group))


def test_the_tree_is_complete_and_true() -> None:
    """Every module and folder has its line in the tree of CONTRIBUTING.md, and nothing else does."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = text[text.index("src/\n") : text.index("```", text.index("src/\n"))]
    named, folders = set(), {0: ""}
    for line in block.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        path = folders[depth] + name
        if name.endswith("/"):
            folders[depth + 1] = path
        named.add(path)
    there = {
        f"{path.relative_to(REPOSITORY).as_posix()}{'/' if path.is_dir() else ''}"
        for path in [SOURCE, *SOURCE.rglob("*")]
        if (path.is_dir() or path.suffix == ".py")
        and path.name != "__init__.py"
        and not any(part == "__pycache__" or part.endswith(".egg-info") for part in path.parts)
    }
    assert named == there


@pytest.mark.parametrize("readme", ["README.md", "README_zh.md"])
def test_the_readme_names_what_lies_at_the_top(readme: str) -> None:
    text = (REPOSITORY / readme).read_text(encoding="utf-8")
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    tops = {line.partition("/")[0] + "/" * ("/" in line) for line in tracked.stdout.splitlines()}
    hidden = {".gitignore", ".dockerignore", ".ci/", "README.md", "README_zh.md"}
    for top in tops - hidden:
        assert top in text, f"{readme} does not name {top}"
