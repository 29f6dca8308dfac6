"""`--help`: every option of a command is in it once, by stage, and no library is loaded for it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from carellama.config.consultation import ConsultEvalOptions
from carellama.config.help import USUAL_FLAGS, format_help, training_help
from carellama.config.model import ModelOptions
from carellama.config.objectives import READ_BY, GRPOOptions, PreferenceOptions
from carellama.config.options import field_names
from carellama.config.run import RUN_OPTIONS
from carellama.config.safety import GuardEvalOptions, SafetyCheckOptions, SafetyEvalOptions
from carellama.config.transformers_options import training_flags
from carellama.stages import STAGES
from test_layout import HEAVY

OPTION = re.compile(r"^  --(\w+)", re.MULTILINE)


def test_every_option_of_a_command_is_shown_once_with_its_default() -> None:
    text = format_help((ModelOptions, PreferenceOptions), "carellama chat")
    assert OPTION.findall(text) == [*field_names(ModelOptions), *field_names(PreferenceOptions)]
    required = next(line for line in re.split(r"\n(?=  --|\n)", text) if "--model_name_or_path" in line)
    assert "Required." in " ".join(required.split())
    words = " ".join(text.split())
    assert "Default: main." in words and "One of sigmoid, ipo, hinge, orpo, simpo." in words


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_shows_the_options_that_it_reads(stage: str) -> None:
    """`train --help` had 1,001 lines: the options of seven stages and every flag of transformers."""
    shown = OPTION.findall(training_help(RUN_OPTIONS, "carellama train", stage))
    assert len(shown) == len(set(shown))
    for name, stages in READ_BY.items():
        assert (name in shown) == (stage in stages), name
    assert set(USUAL_FLAGS) <= set(shown) and "learning_rate" in shown


def test_all_of_it_has_every_flag_of_the_installed_transformers() -> None:
    shown = OPTION.findall(training_help(RUN_OPTIONS, "carellama train", "sft", every=True))
    own = {name for group in RUN_OPTIONS for name in field_names(group)}
    assert set(shown) == own | set(training_flags()) and len(shown) == len(set(shown))
    assert set(field_names(GRPOOptions)) <= set(shown)


def test_help_is_printed_without_loading_a_library() -> None:
    code = (
        "import contextlib, io, sys\n"
        "from carellama.train import plan, run\n"
        "for argv in (['--help'], ['--stage', 'dpo', '-h'], ['--help', 'all']):\n"
        "    for command in (run.train, run.evaluate, run.predict, plan.main):\n"
        "        with contextlib.redirect_stdout(io.StringIO()) as text:\n"
        "            command(argv)\n"
        "        reads = command in (run.train, plan.main) or argv == ['--help', 'all']\n"
        "        assert ('--lora_rank' in text.getvalue()) == reads\n"
        "        assert ('--pref_beta' in text.getvalue()) == (argv != ['--help']), argv\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("group", "option", "ends"),
    [
        (SafetyEvalOptions, "by", "Default: rules layer."),
        (ConsultEvalOptions, "by", "Default: rules."),
        (GuardEvalOptions, "files", "Required."),
        (SafetyCheckOptions, "files", "that CareLlama ships."),
    ],
)
def test_a_list_shows_its_default(group: type, option: str, ends: str) -> None:
    """--by had none, and the tables of the pages called it required."""
    text = re.split(r"\n  --", format_help((group,), "carellama"))
    shown = next(one for one in text if one.startswith(f"{option} "))
    assert " ".join(shown.split()).endswith(ends)
