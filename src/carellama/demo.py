"""`carellama demo`: the whole way in a few minutes: fetch a model, fine-tune, measure before and after, export, ask.

Each step is the verb of that name with the options shown, so that everything here can be repeated by hand. A step
that was done with the same code, data and options is not done again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import carellama
from carellama.config.options import Options, option
from carellama.config.reader import parse_options, to_flags
from carellama.config.serve import CHAT_OPTIONS
from carellama.errors import UserError
from carellama.files import write_json
from carellama.model.zoo.resolve import check_terms
from carellama.package_data import package_yaml

log = logging.getLogger(__name__)

QUESTIONS = {
    "en": "I have had a sore throat and a fever since yesterday. What should I do?",
    "zh": "我从昨天开始嗓子疼、发烧，应该怎么办？",
}
MODELS = {"en": "smollm2-135m", "zh": "gemma3-270m"}
DATA = Path(__file__).resolve().parents[2] / "data"  # beside src/ in a checkout


@dataclass(frozen=True)
class DemoOptions(Options):
    """Options of the demo."""

    language: Literal["en", "zh"] = option("en: SmolLM2; zh: Gemma 3.", "en")
    output_dir: str = option("Folder for everything the demo makes.", "demo_output")
    accept_licence: bool = option("Accept the terms of the Chinese demo's model.", default=False)


class Steps:
    """Steps that are done once: each is remembered with a digest of what it depends on."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "demo.json"
        self.done: dict[str, str] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def do(self, name: str, verb: str, options: Mapping[str, str]) -> None:
        """Say the command line and do the work, unless it was done so before."""
        argv = to_flags(options)
        digest = hashlib.sha256(json.dumps([carellama.__version__, data_digest(), verb, argv]).encode()).hexdigest()
        print(f"\n{name}\n  carellama {verb} {shlex.join(argv)}", flush=True)
        if self.done.get(name) == digest:
            print("  done before: kept")
            return
        started = time.monotonic()
        run_verb(verb, argv)
        self.done[name] = digest
        write_json(self.path, self.done)
        print(f"  done in {time.monotonic() - started:.0f} s", flush=True)


def data_digest() -> str:
    """A digest of the bundled consultations."""
    found = hashlib.sha256()
    for path in sorted(DATA.glob("consult_*.json")):
        found.update(path.read_bytes())
    return found.hexdigest()


def run(argv: Sequence[str]) -> None:
    """Do the demo."""
    (arguments,) = parse_options([DemoOptions], argv, "carellama demo")
    if not (DATA / "dataset_info.json").exists():
        raise UserError(f"the demo needs the bundled data in {DATA}: run it from a checkout of CareLlama")
    language: str = arguments.language
    check_terms(MODELS[language], accept_licence=arguments.accept_licence)
    folder = Path(arguments.output_dir) / language
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    model = {"model_name_or_path": MODELS[language]} | ({"accept_licence": "true"} if arguments.accept_licence else {})
    steps = Steps(folder)
    places = {"data": DATA, "folder": folder, "language": language}
    for step in package_yaml("demo.yaml")["steps"]:
        if step["verb"] == "export":
            show_table(folder)
        options = {name: str(value).format(**places) for name, value in step["options"].items()}
        steps.do(step["title"], step["verb"], model | options)
    ask_both(folder, QUESTIONS[language], model)
    farewell(folder, model, time.monotonic() - started)


def run_verb(verb: str, argv: list[str]) -> None:
    """Do what `carellama export`, or one run of training or evaluation, does."""
    from carellama.export.command import main as export
    from carellama.train.options import run_options
    from carellama.train.run import run as run_all

    if verb == "export":
        export(argv)
    else:
        run_all(run_options(argv))


def show_table(folder: Path) -> None:
    """Print loss, BLEU-4 and ROUGE before and after, side by side, and keep the table."""
    from carellama.evaluate.table import compare, metrics_of

    runs = {}
    for name in ("before", "after"):
        files = [folder / name / f"{kind}_results.json" for kind in ("eval", "predict")]
        runs[name] = metrics_of(*(json.loads(path.read_text(encoding="utf-8")) for path in files))
    print("\n" + compare(runs), flush=True)
    (folder / "before_after.md").write_text(compare(runs, markdown=True) + "\n", encoding="utf-8")


def ask_both(folder: Path, question: str, model: dict[str, str]) -> None:
    """Answer one question with the base and with the exported model."""
    from carellama.engine.base import Sampling
    from carellama.engine.generate import generate
    from carellama.engine.transformers.load import load
    from carellama.records import Message

    print(f"\n5. One question, both models\n\n> {question}", flush=True)
    for title, options in (("before", model), ("after", {"model_name_or_path": folder / "model"})):
        argv = to_flags(options)
        asked = [*argv, "--do_sample", "false", "--max_new_tokens", "160"]
        models, data, generating, *_ = parse_options(CHAT_OPTIONS, asked, "carellama chat")
        engine = load(models, data)
        (reply,) = generate(engine, [(Message("user", question),)], Sampling.of(generating))
        print(f"\n[{title}]\n{reply.text.strip()}", flush=True)


def farewell(folder: Path, model: dict[str, str], seconds: float) -> None:
    """Say what was made and how to go on."""
    name = model["model_name_or_path"]
    print(f"""
Made in {seconds:.0f} s:
  {folder}/adapter                    the LoRA adapter, run.json, trainer_log.jsonl
  {folder}/adapter/training_loss.png  the loss curve
  {folder}/before_after.md            the table above
  {folder}/model                      the merged model with its model card

Go on with:
  .venv/bin/carellama chat --model_name_or_path {folder}/model
  .venv/bin/carellama chat --model_name_or_path {name} --checkpoint_dir {folder}/adapter
  .venv/bin/carellama train --help

This model informs and refers; it does not diagnose. 本模型仅供学习研究，不能代替医生。""")
    sys.stdout.flush()
