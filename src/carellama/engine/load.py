"""Which engine answers: as `--engine` says, or by the options, the hardware and what is installed.

    engine = choose(model, data, EngineOptions())

A choice that nobody made is said in one line with its reason. The engines themselves are imported here, late.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from carellama.engine.base import Engine
from carellama.errors import UserError, import_object, install
from carellama.files import print_status
from carellama.model.gguf.converter import NotConvertible
from carellama.model.paths import check_model
from carellama.model.zoo.pull import with_named_folders, with_named_weights
from carellama.run_record import as_trained
from carellama.templates.format import named_format

if TYPE_CHECKING:
    from carellama.config.data import PromptOptions
    from carellama.config.engine import EngineOptions
    from carellama.config.model import ModelOptions

LOADERS = {
    "transformers": "carellama.engine.transformers.load:load",
    "llamacpp": "carellama.engine.llamacpp.engine:load",
    "openvino": "carellama.engine.openvino.engine:load",
    "openai": "carellama.engine.openai.engine:load",
    "vllm": "carellama.engine.openai.vllm:load",
}
OF_TRANSFORMERS = ("quantization_bit", "rope_scaling", "trust_remote_code")  # options of its alone
READS_GGUF = ("llamacpp", "openvino")


def choose(model: ModelOptions, data: PromptOptions, arguments: EngineOptions) -> Engine:
    """Return the engine of a model. Raises `UserError` where it cannot be made.

    An architecture that cannot be converted for llama.cpp is answered by transformers, if nobody chose otherwise.
    """
    if not arguments.endpoints:
        if arguments.engine != "openai":
            model, data = with_named_weights(model, data)
            folders = with_named_folders(arguments.adapter_folders, model)
            joined = ",".join(f"{name}={folder}" for name, folder in folders.items())
            arguments = replace(arguments, adapters=joined or None)
        if data.template is not None:
            named_format(data.template)  # before anything is said of what it does
        data = as_trained(model, data, arguments.adapter_folders.values())
    chosen = arguments.engine != "auto"
    name, reason = (arguments.engine, "") if chosen else pick(model, arguments)
    check(name, model)
    if name != "openai":
        check_model(model, arguments.adapter_folders)
    if not chosen:
        print_status(f"engine {name}: {reason}; --engine takes another")
    try:
        return load(name, model, data, arguments)
    except NotConvertible as error:
        if chosen:
            raise
        print_status(f"engine transformers instead: {error}")
    return load("transformers", model, data, arguments)


def pick(model: ModelOptions, arguments: EngineOptions) -> tuple[str, str]:
    """Return the engine that suits, and why."""
    own = [f"--{name}" for name in OF_TRANSFORMERS if getattr(model, name)]
    if arguments.endpoints:
        return "openai", "an --endpoint is given"
    if own:
        return "transformers", f"no other engine reads {', '.join(own)}"
    if has_gpu():
        if installed("vllm"):
            return "vllm", "there is a GPU, and vllm is installed"
        return "transformers", "there is a GPU, and vllm is not installed"
    if installed("xllamacpp"):
        return "llamacpp", "there is no GPU, and xllamacpp is installed"
    return "transformers", f"there is no GPU; for a faster engine on a CPU {install('llamacpp')}"


def check(name: str, model: ModelOptions) -> None:
    """Refuse options that the chosen engine cannot keep to."""
    wrong = [option for option in OF_TRANSFORMERS if getattr(model, option)]
    if name in READS_GGUF and wrong:
        hint = " (--gguf_type q8_0 or q4_0 makes its weights smaller)" if "quantization_bit" in wrong else ""
        raise UserError(f"--engine {name} does not know --{wrong[0]}{hint}: leave it out or give --engine transformers")


def load(
    name: str,
    model: ModelOptions,
    data: PromptOptions,
    arguments: EngineOptions,
) -> Engine:
    """Make the engine of this name."""
    load_engine: Callable[..., Engine] = import_object(LOADERS[name])
    if not arguments.mask_identifiers:
        return load_engine(model, data, arguments)
    from carellama.engine.masked import MaskedEngine
    from carellama.privacy.deidentify import Deidentifier

    deidentifier = Deidentifier()  # first: it says if a package is missing
    return MaskedEngine(load_engine(model, data, arguments), deidentifier)


def installed(package: str) -> bool:
    """Whether a package is there; it is not imported."""
    return importlib.util.find_spec(package) is not None


def has_gpu() -> bool:
    """Whether torch sees a GPU; it is only asked, which takes seconds, where the system has the device of one."""
    from carellama import hardware

    return hardware.gpu_device_file_exists() and hardware.has_gpu()


def guard_engine(model: str, endpoint: str | None) -> Engine:
    """Return the engine of a guard model: at an endpoint by its name there, or loaded here."""
    from carellama.config.data import PromptOptions
    from carellama.config.engine import EngineOptions
    from carellama.config.model import ModelOptions

    arguments = EngineOptions(endpoint=endpoint, endpoint_model=model if endpoint else None)
    return choose(ModelOptions(model_name_or_path=model), PromptOptions(), arguments)
