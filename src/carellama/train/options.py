"""The options of a run, read and cross-checked.

config = run_config(["--do_train", "--model_name_or_path", "smollm2-135m", ...])
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from carellama.config.environment import world
from carellama.config.parse import parse_asked
from carellama.config.run import RUN_GROUPS, RunConfig
from carellama.train.checks import check_run
from carellama.train.no_effect import options_without_effect, without_effect

log = logging.getLogger(__name__)


def run_config(argv: Sequence[str], prog: str = "carellama train", **extra: Any) -> RunConfig:
    """Read and cross-check the options of one run."""
    groups, asked = parse_asked(RUN_GROUPS, argv, prog, extra)
    return checked(RunConfig(*groups), asked)


def shared_config(argv: Sequence[str], shared: Collection[str], prog: str, **extra: Any) -> tuple[RunConfig, set[str]]:
    """Read and cross-check as `run_config` does; `shared` options are those of several runs, which need not use all.

    Returns with the options the shared ones that have no effect on this run. A line names the others of that kind.
    """
    groups, asked = parse_asked(RUN_GROUPS, argv, prog, extra)
    config = checked(RunConfig(*groups), asked, shared)
    return config, {name for names, _ in without_effect(config, asked) for name in names if name in shared}


def checked(config: RunConfig, asked: Mapping[str, str], shared: Collection[str] = ()) -> RunConfig:
    """Return the options with what was asked, cross-checked; a line names those that have no effect, but `shared`."""
    config = dataclasses.replace(config, asked={name: asked[name] for name in asked if not name.endswith("_token")})
    check_run(config)
    if world()[0] == 0:
        own = {name: value for name, value in asked.items() if name not in shared}
        for line in options_without_effect(config, own):
            log.warning("%s", line)
    return config
