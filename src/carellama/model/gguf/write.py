"""A Hugging Face folder turned into a .gguf, for the engines that read that: llama.cpp and OpenVINO.

    gguf_of(ModelOptions("smollm2-135m", checkpoint_dir="output"), "f16")     # a file of the cache
    convert_folder(Path("output_export"), {"q4_K_M": Path("model.q4_K_M.gguf")})   # files of one's own

Checkpoints of `--checkpoint_dir` are merged first; LoRA adapters that are chosen at each request become files of their
own (`lora_gguf_of`). The work is done by llama.cpp's converter (`carellama.model.gguf.converter`), and Python code that
lies in a model's folder is kept from it. What it writes is made smaller by `carellama.model.gguf.quantize`.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from carellama.adapter_json import read_adapter_json
from carellama.config.commands import WITH_IMPORTANCE
from carellama.config.environment import model_home
from carellama.config.model import ModelOptions
from carellama.errors import UserError, lookup
from carellama.files import atomic_write, create_once, print_status
from carellama.model.gguf.converter import (
    CONVERT_AS,
    CONVERT_MODEL,
    CONVERTER,
    ConverterRefuses,
    NotConvertible,
    UnknownPreTokenizer,
    run_converter,
)
from carellama.model.gguf.importance import Importance
from carellama.model.gguf.pre_tokenizers import advise, check_pre_tokenizer
from carellama.model.gguf.quantize import quantize, type_counts
from carellama.model.gguf.read import check_adapter_file, read_header
from carellama.model.gguf.tensor_types import FILE_TYPES
from carellama.model.load_errors import as_user_error
from carellama.model.paths import check_space
from carellama.model.readers import make_readable, spell_papers
from carellama.model.sentencepiece_file import llamacpp_reason
from carellama.model.zoo.resolve import model_folder, resolve
from carellama.weights import content_key, weight_files

if TYPE_CHECKING:
    import torch

PHI3 = re.compile(r"(phi)3", re.IGNORECASE)
MAKING = 8  # raised when the same folder becomes another .gguf: those of the cache are made again
WEIGHTS = ("*.safetensors",)
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
PICKLES = ("*.bin", "*.pth", "*.pt")
PAPERS = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")
UNKNOWN = ("use_dora", "trainable_token_indices", "modules_to_save", "alpha_pattern", "fan_in_fan_out")
CONVERT_LORA = "from carellama.model.gguf.lora import write; write(*sys.argv[1:])"
READ_LORA = "from carellama.model.gguf.lora import read; read(*sys.argv[1:])"


def gguf_of(model: ModelOptions, gguf_type: str, pre: str | None = None) -> Path:
    """Return the model as a .gguf: the file that was given, or one in the cache, made on first use.

    gguf_type: number format of a converted folder, one of `FILE_TYPES`. pre: llama.cpp's name of a pre-tokenizer, for a
    tokenizer that its converter does not know. Raises `NotConvertible`, and `UserError` for a model that is not there
    and a pre-tokenizer that gives other ids.
    """
    if model.quantization_bit:
        raise UserError(
            f"--quantization_bit {model.quantization_bit} is for --engine transformers: "
            f"a .gguf takes --gguf_type {'q8_0' if model.quantization_bit == 8 else 'q4_0'}"
        )
    if model.rope_scaling:
        raise UserError("--rope_scaling is for --engine transformers: a .gguf keeps its positions as they are")
    place = resolve(model.model_name_or_path, accept_licence=model.accept_licence)
    if isinstance(place, Path) and place.is_file() and not model.checkpoints:
        if pre:
            raise UserError(f"--gguf_pre {pre} is for a model's folder: a .gguf says itself how words are split")
        return place
    folder = base_folder(model)
    sources = [folder, *(Path(name).expanduser() for name in model.checkpoints)]
    key = _key(sources, gguf_type, model.dtype, *([pre] if pre else _pre_tokenizers_beside(folder)))
    name = f"{Path(model.model_name_or_path).expanduser().resolve().name.removesuffix('.gguf')}-{gguf_type}"
    target = model_home() / f"{name}-{key}"
    with _refusal_kept(target), create_once(target) as making:
        if making:
            print_status(f"turning {model.model_name_or_path} into a .gguf of {gguf_type} (once)")
            files, what = {gguf_type: making / f"{name}.gguf"}, model.model_name_or_path
            if not model.checkpoints:
                convert_folder(folder, files, what=what, pickles=model.allow_pickle, pre=pre)
            else:
                with tempfile.TemporaryDirectory(dir=making.parent, prefix=f".{target.name}.tmp-") as temporary:
                    vocabulary, merged = Path(temporary) / "vocabulary.gguf", Path(temporary) / name
                    check_convertible(folder, vocabulary, what, pickles=model.allow_pickle, pre=pre)
                    _merge(model, merged)  # takes minutes: only what the converter knows
                    convert_folder(merged, files, what=what, pre=pre)
    return target / f"{name}.gguf"


def lora_gguf_of(model: ModelOptions, adapter: Path) -> Path:
    """Return a LoRA adapter (its folder) as a .gguf for llama.cpp, from the cache or made now.

    Raises `NotConvertible` for adapters of other kinds and with rows of new tokens: they can be merged.
    """
    from carellama.model.adapters import load_adapter
    from carellama.model.meta import meta_model
    from carellama.model.tokenizer import check_base_tokens

    adapter = adapter.expanduser()
    settings = read_adapter_json(adapter)
    if reason := _no_plain_lora(settings):
        raise NotConvertible(f"{adapter} {reason}: give it as --checkpoint_dir, which merges it")
    base = base_folder(model)
    check_base_tokens(model, adapter)
    target = model_home() / f"{adapter.name}-lora-{_key([adapter], 'lora', content_key(base / 'config.json'))}"
    with create_once(target) as making:
        if making:
            bare = replace(model, checkpoint_dir=None, quantization_bit=None)
            load_adapter(meta_model(bare, dtype="float32", attention=None), adapter, "checked")  # refuses half a file
            with _without_code(base, pickles=model.allow_pickle) as safe:
                words = [str(safe), str(adapter), str(making / "adapter.gguf")]
                run_converter(CONVERT_LORA, words, f"the adapter {adapter}")
    return target / "adapter.gguf"


def lora_folder_of_gguf(model: ModelOptions, adapter: Path) -> Path:
    """Return a LoRA adapter in GGUF as a folder of peft's, from the cache or made now.

    `model` is what it was made for. Raises `UserError` for another file, and for the adapter of another model.
    """
    adapter = adapter.expanduser()
    check_adapter_file(adapter)
    base = base_folder(model)
    target = model_home() / f"{adapter.stem}-folder-{_key([base], 'folder', content_key(adapter))}"
    with create_once(target) as making:
        if making:
            with _without_code(base, pickles=model.allow_pickle) as safe:
                words = [str(safe), str(adapter), str(making)]
                run_converter(READ_LORA, words, str(adapter), made="an adapter of this model")
    return target


def base_folder(model: ModelOptions) -> Path:
    """The folder of the base: as given, made from a .gguf, or fetched from the hub."""
    place = model_folder(model.model_name_or_path, accept_licence=model.accept_licence)
    if isinstance(place, Path):
        return place
    from huggingface_hub import snapshot_download

    with as_user_error(place, "files"):
        return Path(
            snapshot_download(
                place,
                revision=model.model_revision,
                cache_dir=model.cache_dir,
                token=model.hf_auth_token,
                allow_patterns=[*WEIGHTS, *PAPERS, *(PICKLES if model.allow_pickle else ())],
            )
        )


def _key(sources: Iterable[Path], *what: str) -> str:
    """12 hex digits that change with the files of the folders, what is made of them, and the converter."""
    digest = hashlib.sha256(repr((CONVERTER, MAKING, what)).encode())
    for folder in sources:
        for path in sorted(one for pattern in (*WEIGHTS, *PICKLES, *PAPERS) for one in folder.glob(pattern)):
            digest.update(f"{path.name} {content_key(path)}\n".encode())
    return digest.hexdigest()[:12]


def _merge(model: ModelOptions, folder: Path) -> None:
    """Write the model with its checkpoints merged, in the precision that the base is stored in."""
    from carellama.model.adapter_plan import plan_adapters
    from carellama.model.adapters import apply_adapters, merge_adapters
    from carellama.model.load import load_model, stored_dtype
    from carellama.model.tokenizer import load_tokenizer, match_tokenizer, tokenizer_checkpoint

    if model.dtype == "auto":
        model = replace(model, dtype=stored_dtype(model))  # type: ignore[arg-type]
    tokenizer = load_tokenizer(model)
    network = load_model(model, dtype=model.dtype, attention=None)
    match_tokenizer(network, tokenizer, extended=tokenizer_checkpoint(model) is not None)
    merge_adapters(apply_adapters(network, plan_adapters(model))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    make_readable(folder)


def convert_folder(
    folder: Path,
    files: Mapping[str, Path],
    *,
    importance: Importance | None = None,
    what: str | None = None,
    pickles: bool = False,
    pre: str | None = None,
    about: Mapping[str, object] | None = None,
) -> dict[str, dict[str, int]]:
    """Write the model of a folder as .gguf files; return for each how many tensors have which number format.

    files: where each of `FILE_TYPES` is written. importance: which columns matter most, for those below 8 bits
    (`carellama.model.gguf.importance`). what: the model's name in errors. pre: as for `gguf_of`. about: what the files
    say of themselves: `name`, and the keys that the head of a model card has. The converter runs once and writes the
    weights as they are stored; `quantize` makes each file from that. A file appears when it is whole. Raises
    `NotConvertible`, and `UserError` as `gguf_of` and `quantize` do.
    """
    for gguf_type, target in files.items():
        lookup(FILE_TYPES, gguf_type, "gguf_type")
        target.parent.mkdir(parents=True, exist_ok=True)
    beside = next(iter(files.values()))
    with tempfile.TemporaryDirectory(dir=beside.parent, prefix=f".{beside.name}.tmp-") as temporary:
        whole = Path(temporary) / "model.gguf"
        half = {*files} == {"f16"}
        stored = _convert(folder, whole, what or str(folder), half=half, pickles=pickles, pre=pre, about=about)
        found = {
            gguf_type: quantize(whole, target, gguf_type, importance if gguf_type in WITH_IMPORTANCE else None)
            for gguf_type, target in files.items()
            if gguf_type != stored
        }
        if stored in files:  # the last, since the others are made from it
            found[stored] = type_counts(whole)
            whole.replace(files[stored])
    return found


def check_convertible(folder: Path, target: Path, what: str, *, pickles: bool = False, pre: str | None = None) -> None:
    """Raise `NotConvertible` or `UserError` as `convert_folder` does, in seconds: the vocabulary alone is written."""
    _convert(folder, target, what, "--vocab-only", half=True, pickles=pickles, pre=pre)


def _convert(
    folder: Path, target: Path, what: str, *flags: str, half: bool, pickles: bool = False, pre: str | None = None,
    about: Mapping[str, object] | None = None,
) -> str:  # fmt: skip
    """Let the converter write a folder, called `what` in errors; return the format of its matrices.

    That is f16 (`half`), or the one that they are stored in.
    """
    check_space(target, sum(path.stat().st_size for path in folder.glob("*") if path.suffix in WEIGHT_SUFFIXES))
    with _without_code(folder, pickles=pickles, about=about) as safe:
        kind = "f16" if half else _stored_type(safe)
        words = [str(safe), "--outfile", str(target), "--outtype", kind, *flags]
        try:
            if pre:
                check_pre_tokenizer(safe, pre, what)
            run_converter(CONVERT_AS + CONVERT_MODEL if pre else CONVERT_MODEL, [*([pre] if pre else ()), *words], what)
        except UnknownPreTokenizer as error:
            known = next((name for name in _pre_tokenizers_beside(folder) if _has_equal_ids(safe, name, what)), None)
            if known is None:
                raise ConverterRefuses(advise(error, safe, what)) from error
            run_converter(CONVERT_AS + CONVERT_MODEL, [known, *words], what)
        if "--vocab-only" not in flags:
            _check_head(safe, target, what)
    return kind


def _check_head(folder: Path, target: Path, what: str) -> None:
    """Refuse a .gguf that lacks the output head of a folder: llama.cpp would take the embedding in its place.

    The converter leaves a head out where config.json says that it is the embedding (or always, of Gemma), and does not
    look at its numbers; transformers 5 does.
    """
    if "output.weight" in read_header(target).tensors:
        return
    import torch

    head, entry = (_tensor_named(folder, name) for name in ("lm_head.weight", "embed_tokens.weight"))
    if head is not None and entry is not None and not torch.equal(head, entry):
        raise ConverterRefuses(
            f"{what} has an output head of its own, which llama.cpp's converter leaves out: answers would differ; if "
            "its config.json says tie_word_embeddings true, carellama export --to hf writes a folder that says false, "
            "and that may be converted; else use --engine transformers"
        )


def _tensor_named(folder: Path, end: str) -> torch.Tensor | None:
    """The tensor of a folder's safetensors whose name ends so: of several the shortest, which is of no inner layer."""
    from safetensors import safe_open

    places: dict[str, Path] = {}
    for file in weight_files(folder):
        with safe_open(file, "pt") as opened:
            places |= {name: file for name in opened.keys() if name.endswith(end)}  # noqa: SIM118
    if not places:
        return None
    name = min(places, key=len)
    with safe_open(places[name], "pt") as opened:
        tensor: torch.Tensor = opened.get_tensor(name)
        return tensor


def _pre_tokenizers_beside(folder: Path) -> list[str]:
    """The pre-tokenizers of the .gguf files of a folder: an export with `--gguf_pre` says there what it was."""
    found = set[str]()
    for path in folder.glob("*.gguf"):
        with suppress(UserError):  # a damaged file
            found.add(str(read_header(path).facts.get("tokenizer.ggml.pre", "")))
    return sorted(found - {""})


def _has_equal_ids(folder: Path, pre: str, what: str) -> bool:
    try:
        check_pre_tokenizer(folder, pre, what)
    except UserError:
        return False
    return True


def _stored_type(folder: Path) -> str:
    """The converter's name of the precision that a folder's matrices are stored in; of pickles f32, which holds any."""
    from safetensors import safe_open

    for file in weight_files(folder):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                part = opened.get_slice(name)
                if len(part.get_shape()) > 1:
                    return {"BF16": "bf16", "F16": "f16"}.get(part.get_dtype(), "f32")
    return "f32"


@contextmanager
def _refusal_kept(target: Path) -> Iterator[None]:
    """Remember that the converter refused this model: it is asked once, not at every start."""
    note = target.with_name(f"{target.name}.refusal")
    if note.is_file():
        raise NotConvertible(note.read_text(encoding="utf-8"))
    try:
        yield
    except ConverterRefuses as error:
        with atomic_write(note) as file:
            file.write(str(error))
        raise


@contextmanager
def _without_code(folder: Path, *, pickles: bool, about: Mapping[str, object] | None = None) -> Iterator[Path]:
    """A folder of links to the weights and papers alone: the converter would run Python that lies beside them.

    Its papers are spelled as in the folders that CareLlama writes: the converter knows config.json by its old names and
    takes added tokens and the space before a text from tokenizer_config.json, where transformers 5 has none of them.
    `about`: the head of the only model card there.

    Raises `UserError` for a folder without weights, or with pickles only that are not allowed.
    """
    from carellama.model.load import check_weights

    check_weights(folder, allow_pickle=pickles)
    with tempfile.TemporaryDirectory(prefix="carellama-") as temporary:
        name = _name_for_llamacpp(folder, str(about["name"]) if about else folder.name)
        safe = Path(temporary) / name
        safe.mkdir()
        if about:
            head = yaml.safe_dump({**about, "name": name}, allow_unicode=True)
            (safe / "README.md").write_text(f"---\n{head}---\n", encoding="utf-8")
        for path in {*weight_files(folder, pickles=pickles), *(one for name in PAPERS for one in folder.glob(name))}:
            (safe / path.name).symlink_to(path.resolve())
        spell_papers(safe)
        if reason := llamacpp_reason(safe):
            raise ConverterRefuses(
                f"{folder} cannot be turned into a .gguf that gives the same answers: {reason}; "
                "use --engine transformers"
            )
        yield safe


def _name_for_llamacpp(folder: Path, name: str) -> str:
    """The model's name: of one called phi3, llama.cpp drops white space behind special tokens, and asks for `</s>`.

    It keeps that name only if its tokenizer does the same.
    """
    tokenizer = folder / "tokenizer.json"
    added = json.loads(tokenizer.read_text(encoding="utf-8")).get("added_tokens", []) if tokenizer.is_file() else []
    return name if any(token.get("rstrip") for token in added) else PHI3.sub(r"\1-3", name)


def _no_plain_lora(settings: dict[str, object]) -> str:
    """Say why an adapter is no plain LoRA, or nothing."""
    from carellama.model.adapter_plan import beyond_lora_reason

    if settings.get("peft_type") != "LORA":
        return f"is an adapter of the kind {settings.get('peft_type')}, which llama.cpp does not know"
    for name in UNKNOWN:
        if settings.get(name):
            return f"has {name}, which llama.cpp does not know"
    return f"{reason}, which llama.cpp does not know" if (reason := beyond_lora_reason(settings)) else ""
