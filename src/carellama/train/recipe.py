"""Stages of training in turn, each from the checkpoints of the one before, and a table of what each has brought.

    carellama recipe examples/full_chain.yaml

A recipe is a YAML file:

    output_dir: output/chain
    settings: {model_name_or_path: smollm2-135m, lora_target: all}     # options of every stage
    stages:                                                            # name: its own options
      sft: {stage: sft, dataset: consult_en}
      rm: {stage: rm, dataset: preference_en}
      ppo: {stage: ppo, dataset: consult_en, after: sft, reward_model: rm}
      dpo: {stage: dpo, dataset: preference_en, after: sft}
    measure:                                                           # name: options of `carellama eval`
      answers: {stage: sft, dataset: consult_en_heldout}
      scores: {stage: ppo, dataset: consult_en_heldout, reward_model: rm}

A stage begins from the one named by `after`; without it from the last one before it that is no reward model. The
`reward_model` of a stage or a measure may be a stage as well. `launch`
(in settings or a stage) stands before the command, as in `torchrun --nproc_per_node 2`. Each stage is a process of its
own and lies in a folder of its own: the same command goes on where it was stopped. What was run with other settings is
not taken for done, and not replaced unless --redo says so. Every stage is measured, and the base.
"""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from carellama.config.commands import RecipeOptions
from carellama.config.options import switch_of
from carellama.config.reader import parse_options, to_flags
from carellama.config.run import RunOptions
from carellama.config.yaml_file import read_yaml
from carellama.data.datasets import load_datasets
from carellama.errors import UserError, lookup, nearest
from carellama.evaluate.metrics import Metric
from carellama.evaluate.table import compare
from carellama.files import atomic_write, print_status, write_json
from carellama.model.adapter_plan import trained_checkpoints
from carellama.stages import STAGES, Stage
from carellama.train.options import shared_run_options

KEYS = ("output_dir", "settings", "stages", "measure")
OWN = ("after", "launch")  # keys of a stage that are not options
MADE, MEASURES = "settings", "measured"  # folders beside those of the stages: what each was made with, and measured
MEASURE = "measure.json"  # the options of a measure, beside its finished results
MEASURED = ("loss", "perplexity", "accuracy", "margin", "reward", "score")
BASE = "base"
DATA = "data"  # key of the digests beside the options
log = logging.getLogger("carellama")


@dataclass(frozen=True)
class Step:
    """One stage of a recipe."""

    name: str
    options: dict[str, object]  # of `carellama train`
    after: Step | None
    reward: Step | None  # the stage that made its reward model
    launch: tuple[str, ...]
    folder: Path
    checkpoints: tuple[Path, ...]  # that hold what it learned, on the base
    adapter: bool = True  # whether its folder holds one, rather than whole weights
    unused: frozenset[str] = frozenset()  # options of all stages that this one has no use for

    @property
    def stage(self) -> Stage:
        """The stage of training."""
        return stage_of(self.options)

    @property
    def done(self) -> bool:
        """Whether its folder holds a finished run."""
        return (self.folder / "train_results.json").is_file()

    @property
    def flags(self) -> list[str]:
        """The options that it uses as flags."""
        return to_flags({name: value for name, value in self.options.items() if name not in self.unused})

    @property
    def account(self) -> Path:
        """The file of the settings that its folder was made with."""
        return self.folder.parent / MADE / f"{self.name}.json"

    @property
    def made(self) -> dict[str, object]:
        """What its outcome depends on: its options and those of the stages before it."""
        reward = {"reward": self.reward.made} if self.reward else {}
        return {"options": self.options, "after": self.after.made if self.after else None, **reward}


def run(argv: Sequence[str]) -> None:
    """`carellama recipe`."""
    (arguments,) = parse_options((RecipeOptions,), argv, "carellama recipe FILE.yaml", positional="recipe")
    folder, steps, measures = read_chain(arguments.recipe)
    if arguments.dry_run:
        for step in steps:
            print(shlex.join(_command(step.launch, "train", step.flags)))
        return
    data = {step.name: data_of(step.flags) for step in steps}
    again = _again(steps, arguments.redo or [])
    for step in steps:
        _refuse_other_settings(step, again, data[step.name])
    for number, step in enumerate(steps, 1):
        if step.name in again:
            shutil.rmtree(step.folder, ignore_errors=True)
            _forget_measures(folder, step, measures)
        if step.done:
            print_status(f"stage {number} of {len(steps)}, {step.name}: done before")
            continue
        print_status(f"stage {number} of {len(steps)}, {step.name}: {shlex.join(['carellama', 'train', *step.flags])}")
        _train(step, data[step.name])
    results = {BASE: _measured(folder, BASE, (), STAGES["sft"], measures)}
    for step in steps:
        results[step.name] = _measured(folder, step.name, step.checkpoints, step.stage, measures)
    _write_table(folder, results)
    if command := _next_command(steps):
        print(f"next: {command}")


def read_chain(path: str) -> tuple[Path, list[Step], dict[str, dict[str, object]]]:
    """Read a recipe: its folder, stages and measures. `UserError` for anything that one of them would refuse."""
    recipe = read_yaml(path, {"settings": 2, "stages": 3, "measure": 3})  # how deep their options lie
    for key in recipe:
        lookup(dict.fromkeys(KEYS), key, f"key of {path}")
    if not isinstance(recipe.get("output_dir"), str):
        raise UserError(f"{path} names no output_dir")
    folder = Path(recipe["output_dir"])
    stages, measures = _mapping(recipe, "stages", path), _mapping(recipe, "measure", path)
    settings = recipe.get("settings") or {}
    if not stages:
        raise UserError(f"{path} has no stages")
    steps: dict[str, Step] = {}
    for name, own in stages.items():
        if name in (BASE, MADE, MEASURES) or not name.replace("-", "").replace("_", "").isalnum():
            raise UserError(
                f"{path}: {name!r} cannot be a stage's name: it names a folder, and these are taken: "
                f"{BASE}, {MADE}, {MEASURES}"
            )
        steps[name] = _step(name, own, settings, steps, folder, path)
    found = {name: settings | own for name, own in measures.items()}
    for name, options in found.items():
        options = {key: value for key, value in options.items() if key not in OWN}
        _reward(options, steps, path, name)
        flags = to_flags(_for_eval(options, folder / MEASURES))
        _, unused = shared_run_options(flags, settings.keys() - measures[name].keys(), "carellama eval", do_eval=True)
        found[name] = {key: value for key, value in options.items() if key not in unused}
    return folder, list(steps.values()), found


def stage_of(options: Mapping[str, object]) -> Stage:
    """Return the stage that options of a recipe name; a wrong name is answered by `carellama train`."""
    return STAGES.get(str(options.get("stage", "sft")), STAGES["sft"])


def _mapping(recipe: Mapping[str, object], key: str, path: str) -> dict[str, dict[str, object]]:
    value = recipe.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(own, dict) for own in value.values()):
        raise UserError(f"{path}: {key} holds 'name: {{option: value, ...}}' lines")
    return {str(name): own for name, own in value.items()}


def _step(
    name: str,
    own: Mapping[str, object],
    settings: Mapping[str, object],
    steps: dict[str, Step],
    folder: Path,
    path: str,
) -> Step:
    """Resolve what a stage begins from, and what holds its model. Raises `UserError` for what its training refuses."""
    options = {**settings, **own}
    launch = tuple(shlex.split(str(options.pop("launch", "") or "")))
    after = options.pop("after", None)
    before: Step | None = None
    if after is not None:
        before = steps.get(str(after))
        if before is None:
            hint = nearest(str(after), list(steps))
            raise UserError(f"{path}: stage {name} comes after {after!r}, which does not stand before it.{hint}")
    else:
        before = next((step for step in reversed(steps.values()) if step.stage.model_kind != "reward"), None)
    reward = _reward(options, steps, path, name)
    if before is not None:
        if "checkpoint_dir" in own:
            raise UserError(
                f"{path}: stage {name} comes after {before.name}, whose checkpoints it begins from, and has a "
                "checkpoint_dir: give it in settings, for all, or to the first stage"
            )
        options["checkpoint_dir"] = ",".join(map(str, before.checkpoints))
    home = folder / name
    options |= {"do_train": True, "output_dir": str(home)}
    run, unused = shared_run_options(to_flags(options), settings.keys() - own.keys(), "carellama train")
    last = before.stage.model_kind if before is not None and before.adapter else None
    checkpoints = tuple(map(Path, trained_checkpoints(run, last)))
    adapter = run.finetuning.finetuning_type == "lora"
    return Step(name, options, before, reward, launch, home, checkpoints, adapter, frozenset(unused))


def _reward(options: dict[str, object], steps: Mapping[str, Step], path: str, name: str) -> Step | None:
    """The stage that `reward_model` names, if it names one; its folders take the place of the name."""
    step = steps.get(str(options.get("reward_model")))
    if step is None:
        return None
    if step.stage.model_kind != "reward":
        raise UserError(f"{path}: {name}: reward_model {step.name} is --stage {step.stage.name}, not rm")
    options["reward_model"] = ",".join(map(str, step.checkpoints))
    return step


def _command(launch: Sequence[str], verb: str, argv: Sequence[str]) -> list[str]:
    return [*(launch or [sys.executable]), "-m", "carellama", verb, *argv]


def _again(steps: Sequence[Step], redo: Sequence[str]) -> set[str]:
    """The stages to run again: those named, and those after them."""
    known = {step.name: step for step in steps}
    for name in redo:
        lookup(known, name, "stage")
    found = set(redo)
    for step in steps:
        if any(other is not None and other.name in found for other in (step.after, step.reward)):
            found.add(step.name)
    return found


def data_of(flags: Sequence[str]) -> dict[str, str]:
    """The digest of each dataset that a run of these options reads."""
    level = log.level
    log.setLevel(logging.ERROR)  # the run itself says how it reads them
    try:
        options: RunOptions = shared_run_options(flags, (), "carellama train")[0]
        names = list(dict.fromkeys([*options.data.datasets, *options.data.eval_datasets]))
        return {dataset.name: dataset.digest() for dataset in load_datasets(names, options.data)}
    finally:
        log.setLevel(level)


def _refuse_other_settings(step: Step, again: set[str], data: Mapping[str, str]) -> None:
    """A folder that was made with other settings or data is neither taken for done nor written over."""
    try:
        made = json.loads(step.account.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    now = json.loads(json.dumps(step.made, default=str))
    was = made.pop(DATA, data)  # an earlier version did not write it
    same = _comparable(made) == _comparable(now)
    if step.name in again or (same and was == data):
        return
    if same:
        names = [name for name in {**was, **data} if was.get(name) != data.get(name)]
        raise UserError(
            f"stage {step.name} in {step.folder} was made with other contents of {', '.join(names)}: give "
            f"--redo {step.name} to run it and what comes after it again, or another output_dir"
        )
    old, new = made["options"], now["options"]
    names = [key for key in {**old, **new} if _comparable(old.get(key)) != _comparable(new.get(key))]
    what = ", ".join(names) or "those of a stage before it"
    raise UserError(
        f"stage {step.name} in {step.folder} was made with other settings ({what}): give --redo {step.name} to run it "
        "and what comes after it again, or another output_dir"
    )


def _comparable(value: object) -> object:
    """Settings without the way in which they are written: an earlier version read 1e-3 as 0.001, and yes as true."""
    if isinstance(value, dict):
        return {key: _comparable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_comparable(one) for one in value]
    if not isinstance(value, (str, int, float)):
        return value
    try:
        return float(value)
    except ValueError:
        return value if switch_of(str(value)) is None else switch_of(str(value))


def _train(step: Step, data: Mapping[str, str]) -> None:
    """Run a stage to its end in a process of its own, which a signal to this one reaches as well."""
    step.account.parent.mkdir(parents=True, exist_ok=True)
    write_json(step.account, step.made | {DATA: data})
    code = _run(_command(step.launch, "train", step.flags))
    if code == 130:
        raise SystemExit(130)
    if code or not step.done:
        raise UserError(
            f"stage {step.name} ended with exit code {code}, for the reason above; when its cause is fixed, the same "
            "command goes on from there"
        )


def _run(command: Sequence[str]) -> int:
    """Run a command, pass signals on, and return its exit code."""
    from carellama.train.callbacks import handled_signals

    process = subprocess.Popen(command, start_new_session=True)
    with handled_signals(lambda number, _: process.send_signal(number)):
        return process.wait()


def _forget_measures(folder: Path, step: Step, measures: Mapping[str, Mapping[str, object]]) -> None:
    """Remove what was measured of a stage, and of all stages with it as the reward model."""
    shutil.rmtree(folder / MEASURES / step.name, ignore_errors=True)
    for measure, options in measures.items():
        if options.get("reward_model") == ",".join(map(str, step.checkpoints)):
            for home in (folder / MEASURES).glob(f"*/{measure}"):
                shutil.rmtree(home, ignore_errors=True)


def _for_eval(options: Mapping[str, object], folder: Path) -> dict[str, object]:
    """The options of a measure without those of training."""
    return {**options, "do_eval": True, "output_dir": str(folder)}


def _measured(
    folder: Path, name: str, checkpoints: Sequence[Path], stage: Stage, measures: Mapping[str, Mapping[str, object]]
) -> dict[str, Metric]:
    """Measure a stage's model by what fits it, unless that was done before; return the metrics."""
    found: dict[str, Metric] = {}
    for measure, options in measures.items():
        if stage_of(options).model_kind != stage.model_kind:
            continue
        home = folder / MEASURES / name / measure
        options = _for_eval(options, home)
        if checkpoints:
            options["checkpoint_dir"] = ",".join(map(str, checkpoints))
        data = data_of(to_flags(options))
        if not _measured_so(home, options, data):
            shutil.rmtree(home, ignore_errors=True)
            print_status(f"measuring {name}: {measure}")
            if code := _run(_command((), "eval", to_flags(options))):
                raise SystemExit(130) if code == 130 else UserError(f"measuring {name} ended with exit code {code}")
            write_json(home / MEASURE, options | {DATA: data})
        results = json.loads((home / "eval_results.json").read_text(encoding="utf-8"))
        for metric in MEASURED:
            key = f"eval_{metric}"
            if key in results:
                interval = results.get(f"{key}_low"), results.get(f"{key}_high")
                found[f"{measure}: {metric}"] = Metric(results[key], *interval, int(results["eval_samples"]))
    return found


def _measured_so(home: Path, options: Mapping[str, object], data: Mapping[str, str]) -> bool:
    """Whether a folder holds what these options measure on this data; with others it is measured again."""
    try:
        made = json.loads((home / MEASURE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    same_data = made.pop(DATA, data) == data
    return bool(same_data and _comparable(made) == _comparable(json.loads(json.dumps(options, default=str))))


def _write_table(folder: Path, results: Mapping[str, Mapping[str, Metric]]) -> None:
    """Print the table of all stages, and write it into the folder."""
    measured = {name: metrics for name, metrics in results.items() if metrics}
    if not measured:
        print_status("the recipe names nothing to measure")
        return
    with atomic_write(folder / "table.md") as file:
        file.write(compare(measured, markdown=True))
    print(compare(measured), end="")
    print(f"  table  {folder / 'table.md'}")


def _next_command(steps: Sequence[Step]) -> str:
    """Return the command that talks to the model of the last stage that answers; "" if there is none."""
    last = next((step for step in reversed(steps) if step.stage.can_chat), None)
    if last is None:
        return ""
    names = ("model_name_or_path", "model_revision", "cache_dir", "rope_scaling", "rope_factor", "trust_remote_code",
             "allow_pickle", "accept_licence")  # fmt: skip
    options = {name: last.options[name] for name in names if last.options.get(name)}
    options["checkpoint_dir"] = ",".join(map(str, last.checkpoints))
    return shlex.join(["carellama", "chat", *to_flags(options)])
