"""Which engine answers: by the options, the hardware, what is installed; said in one line, refused in one line."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, get_args, get_type_hints

import pytest

from carellama.config.data import DataOptions
from carellama.config.engine import EngineOptions
from carellama.config.model import ModelOptions
from carellama.engine import load as module
from carellama.engine.load import choose
from carellama.engine.scripted import ScriptedEngine
from carellama.errors import UserError
from carellama.model.gguf.converter import NotConvertible
from carellama.model.paths import check_model
from carellama.model.zoo import pull

REST = (DataOptions(),)
MODEL = ModelOptions("a-model")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engines that were loaded, in turn; none of them is a real one."""
    names: list[str] = []
    for name in module.LOADERS:
        double: Any = ModuleType(f"double_{name}")

        def load(model, data, arguments, name=name):
            names.append(name)
            return ScriptedEngine(name)

        double.load = load
        monkeypatch.setitem(sys.modules, double.__name__, double)
        monkeypatch.setitem(module.LOADERS, name, f"{double.__name__}:load")
    monkeypatch.setattr(module, "has_gpu", lambda: False)
    monkeypatch.setattr(module, "installed", lambda package: False)
    return names


def test_all_engines_have_a_loader() -> None:
    assert {"auto", *module.LOADERS} == set(get_args(get_type_hints(EngineOptions)["engine"]))


@pytest.mark.parametrize(
    ("gpu", "packages", "options", "expected"),
    [
        (False, {"xllamacpp"}, {}, "llamacpp"),
        (False, {"vllm"}, {}, "transformers"),
        (True, {"vllm", "xllamacpp"}, {}, "vllm"),
        (True, {"xllamacpp"}, {}, "transformers"),
        (True, {"vllm"}, {"quantization_bit": 4}, "transformers"),
        (False, {"xllamacpp"}, {"rope_scaling": "yarn"}, "transformers"),
        (True, {"vllm"}, {"endpoint": "http://localhost:8000/v1"}, "openai"),
    ],
)
def test_auto_takes_what_suits_and_says_why(gpu, packages, options, expected, made, monkeypatch, capsys) -> None:
    monkeypatch.setattr(module, "has_gpu", lambda: gpu)
    monkeypatch.setattr(module, "installed", packages.__contains__)
    endpoint = {name: value for name, value in options.items() if name == "endpoint"}
    model = ModelOptions("a-model", **{name: value for name, value in options.items() if name != "endpoint"})
    choose(model, *REST, EngineOptions(**endpoint))
    assert made == [expected]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"engine {expected}: ")


@pytest.mark.parametrize("name", module.LOADERS)
def test_what_is_asked_for_is_taken_without_a_word(name: Any, made: list[str], capsys) -> None:
    choose(MODEL, *REST, EngineOptions(engine=name, endpoint="http://localhost:8000/v1"))
    assert made == [name] and not capsys.readouterr().err


@pytest.mark.parametrize("name", ["llamacpp", "openvino"])
def test_an_option_that_an_engine_can_not_keep_to_is_refused(name: str, made: list[str]) -> None:
    with pytest.raises(UserError, match=r"--quantization_bit.*--gguf_type"):
        choose(ModelOptions("a-model", quantization_bit=8), *REST, EngineOptions(engine=name))  # type: ignore[arg-type]
    assert not made


def test_what_can_not_be_converted_is_answered_by_transformers(made: list[str], monkeypatch, capsys) -> None:
    def refuse(*arguments: object) -> None:
        raise NotConvertible("Model Strange is not supported")

    monkeypatch.setattr(module, "installed", lambda package: package == "xllamacpp")
    double: Any = ModuleType("double_refusing")
    double.load = refuse
    monkeypatch.setitem(sys.modules, "double_refusing", double)
    monkeypatch.setitem(module.LOADERS, "llamacpp", "double_refusing:load")
    choose(MODEL, *REST, EngineOptions())
    assert made == ["transformers"]
    assert "engine transformers instead: Model Strange is not supported" in capsys.readouterr().err
    with pytest.raises(NotConvertible):
        choose(MODEL, *REST, EngineOptions(engine="llamacpp"))


def test_adapters_may_be_released_weights(tmp_path, monkeypatch) -> None:
    """`--adapters med=CareLlama2-7b-chat-sft-med` was a folder that is not there."""
    (tmp_path / "adapter_config.json").write_text("{}")
    monkeypatch.setattr(pull, "pull_adapter", lambda entry, model: tmp_path)
    given: list[EngineOptions] = []
    double: Any = ModuleType("double_of_named")
    double.load = lambda model, data, arguments: given.append(arguments)
    monkeypatch.setitem(sys.modules, double.__name__, double)
    monkeypatch.setitem(module.LOADERS, "transformers", f"{double.__name__}:load")
    monkeypatch.setattr(module, "as_trained", lambda model, data, folders: data)
    monkeypatch.setattr(module, "check", lambda name, model: None)
    arguments = EngineOptions(engine="transformers", adapters=f"med=CareLlama2-7b-chat-sft-med,own={tmp_path}")
    check_model(MODEL, arguments.adapter_folders)  # before anything is fetched
    choose(MODEL, *REST, arguments)
    assert given[0].adapter_folders == {"med": str(tmp_path), "own": str(tmp_path)}
    monkeypatch.setattr(pull, "pull_adapter", lambda entry, model: None)
    with pytest.raises(UserError, match="is a whole model"):
        choose(MODEL, *REST, arguments)
