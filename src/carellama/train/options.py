"""The options of a run, read and cross-checked.

    config = run_options(["--do_train", "--model_name_or_path", "smollm2-135m", ...])

`parse_run` answers what is misspelt and loads no library; `build_run` has transformers read its flags.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from carellama.config.environment import world
from carellama.config.reader import ParsedOptions, Reader
from carellama.config.run import RUN_OPTIONS, RunOptions, TrainingOptions
from carellama.config.transformers_options import training_flags
from carellama.errors import UserError, nearest

log = logging.getLogger(__name__)


def parse_run(
    argv: Sequence[str], command: str = "carellama train", defaults: Mapping[str, object] | None = None, *more: type
) -> ParsedOptions:
    """Read the options of a run; `more` are groups that the command has beside them, which come last."""
    reader = Reader((*RUN_OPTIONS, *more), command, training_flags())
    parsed = reader.read(argv, defaults)
    for name in parsed.groups[RUN_OPTIONS.index(TrainingOptions)].changed:
        if name not in reader.names:
            hint = nearest(name, reader.names)
            raise UserError(f"--resume_changed takes names of options, as in max_steps; {name!r} is none.{hint}")
    return parsed


def build_run(parsed: ParsedOptions, shared: Collection[str] = ()) -> RunOptions:
    """Build the arguments of transformers and cross-check all; a line names options without effect, but `shared`."""
    from carellama.train.arguments import build_arguments  # it loads transformers, which takes seconds
    from carellama.train.checks import check_run
    from carellama.train.no_effect import options_without_effect

    groups = parsed.groups[: len(RUN_OPTIONS)]
    asked = {name: value for name, value in parsed.asked.items() if not name.endswith("_token")}
    options = _with_data(RunOptions.of(groups, build_arguments(groups[-1], parsed.training), asked))
    check_run(options)
    if world()[0] == 0:
        own = {name: value for name, value in parsed.asked.items() if name not in shared}
        for line in options_without_effect(options, own):
            log.warning("%s", line)
    return options


def _with_data(options: RunOptions) -> RunOptions:
    """Take --eval_dataset as the data of a run that trains nothing and has no --dataset."""
    data = options.data
    if options.training.do_train or data.datasets or not data.eval_datasets:
        return options
    return replace(options, data=replace(data, dataset=data.eval_dataset, eval_dataset=None))


def run_options(argv: Sequence[str], command: str = "carellama train", **defaults: object) -> RunOptions:
    """Read and cross-check the options of one run."""
    return build_run(parse_run(argv, command, defaults))


def shared_run_options(
    argv: Sequence[str], shared: Collection[str], command: str, **defaults: object
) -> tuple[RunOptions, set[str]]:
    """Read and cross-check as `run_options` does; `shared` options are those of several runs, which need not use all.

    Returns with the options the shared ones that have no effect on this run. A line names the others of that kind.
    """
    from carellama.train.no_effect import without_effect

    parsed = parse_run(argv, command, defaults)
    options = build_run(parsed, shared)
    return options, {name for names, _ in without_effect(options, parsed.asked) for name in names if name in shared}
