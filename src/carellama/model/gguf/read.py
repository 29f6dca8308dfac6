"""A .gguf file turned into a Hugging Face folder, so that it can be trained like any other model.

    python -c "from carellama.model.zoo.resolve import model_folder; print(model_folder('model.gguf'))"

transformers unpacks the weights and rebuilds the tokenizer. What it does not know of a tokenizer is set right
here, or refused: a tokenizer that is nearly right would go unnoticed and spoil all that is trained with it.
The other direction, from a folder to a .gguf, is `carellama.model.gguf.write`.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from carellama.config.environment import model_home
from carellama.errors import UserError
from carellama.files import create_once, print_status
from carellama.model.gguf.facts import KINDS, TOKENS, check_facts
from carellama.model.gguf.layout import read_layout
from carellama.model.gguf.positions import scaled_positions
from carellama.model.quiet import quiet_bars, quiet_loading
from carellama.model.readers import make_readable
from carellama.model.sentencepiece_file import BPE, BYTES, UNKNOWN
from carellama.weights import adapter_as_model, unpacked_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Byte-level vocabularies whose merges were learned with every digit apart, by llama.cpp's name for them
# (llama.cpp, src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM and those beside it). transformers 5 knows none
# of them and would keep numbers whole, as GPT-2 does: other tokens than the model was trained on.
DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
PIECES = (TOKENS, "tokenizer.ggml.scores", KINDS)
TOKEN_KEYS = {"bos": "bos", "eos": "eos", "pad": "padding"}
FACTORS = "rope_f"  # begins the names of tensors that hold factors of positions and no weights
MODEL_PAGE = re.compile(r"base_model\.\d+\.repo_url")  # facts that name what the model was trained from
ON_HUB = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)/?")
AS_GPT2 = {"gpt-2", "phi-2", "jina-es", "jina-de", "roberta-bpe", "mpt", "olmo", "jais"}


@dataclass(frozen=True)
class Header:
    """What a .gguf says about itself: its metadata (of an array the length, unless asked for), and how many weights."""

    facts: dict[str, Any]
    weights: int
    tensors: frozenset[str] = frozenset()  # their names

    def of_architecture(self, name: str) -> Any:
        """A fact that stands under the name of the architecture, as `llama.context_length`; None: not stated."""
        return self.facts.get(f"{self.facts.get('general.architecture')}.{name}")

    @property
    def kind(self) -> str:
        """Return what the file holds: a model where it does not say; else adapter, imatrix, ..."""
        return str(self.facts.get("general.type", "model"))

    @property
    def scales_positions(self) -> bool:
        """Return whether positions are scaled: by a fact (linear, YaRN) or by a tensor of factors (Llama 3.1)."""
        kind = self.of_architecture("rope.scaling.type") or "none"
        return kind != "none" or any(name.startswith(FACTORS) for name in self.tensors)


def is_gguf(path: Path) -> bool:
    """Whether the file begins as a GGUF does. Raises `UserError` for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def read_header(path: Path, arrays: Collection[str] = ()) -> Header:
    """Read the beginning of a .gguf; `arrays` are the names of those facts whose arrays are wanted whole.

    Raises `UserError` for a damaged file, for one that ends before its weights do, and as `check_facts` does.
    """
    layout = read_layout(path)
    check_facts(path, layout)
    facts = {name: layout.fact(name, whole=name in arrays) for name in layout.metadata}
    weights = sum(one.weights for one in layout.tensors if not one.name.startswith(FACTORS))
    return Header(facts, weights, frozenset(one.name for one in layout.tensors))


def is_model(path: Path) -> bool:
    """Whether a .gguf is a model, and no adapter or importance matrix. Raises `UserError` for a damaged file."""
    return read_header(path).kind == "model"


def check_adapter_file(path: Path) -> None:
    """Raise `UserError` for a file that is no adapter in GGUF."""
    if not is_gguf(path):
        raise UserError(f"{path} is neither a folder nor a GGUF file: give the folder or the .gguf of an adapter")
    if read_header(path).kind != "adapter":
        raise UserError(f"{path} is no adapter but a whole model: give it as --model_name_or_path")


def read_model_header(path: Path, arrays: Collection[str] = ()) -> Header:
    """Read the beginning of a model, as `read_header`. Raises `UserError` for a file that is something else, too."""
    header = read_header(path, arrays)
    if header.kind == "adapter":
        raise adapter_as_model(path)
    if header.kind != "model":
        raise UserError(f"{path} is no model (its general.type is {header.kind})")
    return header


def folder_of_gguf(path: Path, papers: Sequence[Path] = ()) -> Path:
    """Return the model folder (bfloat16 safetensors, tokenizer) of a .gguf file, made on first use.

    It is kept in the cache by the file's content, so a changed file is converted again; `papers` (licence
    texts) are copied into it. From then on the model loads like any other: in 4 bit, in parts, on any device.
    Raises `UserError` for a damaged file, and for an architecture or tokenizer that cannot be converted
    faithfully.
    """
    folder = model_home() / unpacked_name(path)
    with create_once(folder) as making:
        if making:
            print_status(f"turning {path.name} into a model folder (once)")
            _convert(path, making)
            for paper in papers:
                shutil.copy(paper, making)
    return folder


def _convert(path: Path, folder: Path) -> None:
    """Write the model folder of a .gguf."""
    header = read_model_header(path, ("general.license", "general.languages"))
    if (parts := header.facts.get("split.count", 1)) > 1:
        raise UserError(
            f"{path} is one of {parts} parts of a model: join them (llama-gguf-split --merge of llama.cpp), or take "
            "the model's folder"
        )
    needed, free = 2 * header.weights, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{path.name} takes {needed / 1e9:.1f} GB as a model folder, and {model_home()} has "
            f"{free / 1e9:.1f} GB free: make room, or set CARELLAMA_CACHE to a folder on another disk"
        )
    with _alone(path) as link:
        try:
            model, tokenizer, info = _read_model(path, link, header)
        except (ValueError, NotImplementedError, LookupError, TypeError) as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(
                f"{path} cannot be converted ({first}): if it is whole, take the model's folder instead"
            ) from error
    _check_whole(path, header, model, info)
    from transformers import GenerationConfig

    tokenizer.model_max_length = model.config.max_position_embeddings
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with quiet_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    make_readable(folder)
    (folder / "README.md").write_text(_card(path, header), encoding="utf-8")


@contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """A folder with nothing but the file: transformers reads tokenizer files that lie beside a .gguf."""
    with tempfile.TemporaryDirectory(prefix="carellama-") as temporary:
        link = Path(temporary) / path.name
        link.symlink_to(path.resolve())
        yield link


def _read_model(
    path: Path, link: Path, header: Header
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Mapping[str, Collection[object]]]:
    """(network, tokenizer, what transformers missed); `link` leads to `path` and lies in a folder of its own."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, name = str(link.parent), link.name
    config = AutoConfig.from_pretrained(source, gguf_file=name)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name, config=config)
    set_pre_tokenizer(tokenizer, header.facts, path)
    if header.facts.get("tokenizer.ggml.model") == "llama":
        set_pieces(tokenizer, read_header(path, PIECES))
    if header.scales_positions:
        config.rope_parameters |= scaled_positions(path, header.facts, header.tensors, config)
    with quiet_loading(link.parent):
        model: PreTrainedModel
        info: dict[str, Collection[object]]
        model, info = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
            source,
            gguf_file=name,
            config=config,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            output_loading_info=True,
        )
    return model, tokenizer, info


def _check_whole(path: Path, header: Header, model: PreTrainedModel, info: Mapping[str, Collection[object]]) -> None:
    """Refuse a file that lacks weights, which transformers makes up, and one with weights that it would leave out."""
    if lacking := sorted(str(one) for key in ("missing_keys", "mismatched_keys") for one in info[key]):
        raise UserError(
            f"{path} lacks {len(lacking)} of the weights of its model (the first: {lacking[0]}): it is incomplete, "
            "or of another architecture than it says"
        )
    more = header.weights - model.num_parameters()
    if more > 0:
        raise UserError(
            f"{path} has {more:,} weights that transformers does not read from a file of the architecture "
            f"{header.facts.get('general.architecture')}: take the model's folder instead"
        )


def set_pre_tokenizer(tokenizer: PreTrainedTokenizerBase, facts: dict[str, Any], path: Path) -> None:
    """Cut text into words as a byte-level vocabulary was learned; an unknown way is a `UserError`."""
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    if facts.get("tokenizer.ggml.model") != "gpt2" or not isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        return  # SentencePiece vocabularies have no such step, and what is not plain ByteLevel has been set
    split = facts.get("tokenizer.ggml.pre")
    if split in DIGITS_APART:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    elif split not in AS_GPT2:
        raise UserError(
            f"{path}: its tokenizer splits words as {split!r}, which is not known here; "
            "take the model's folder or hub id instead of the .gguf"
        )


def set_pieces(tokenizer: PreTrainedTokenizerBase, header: Header) -> None:
    """Cut text by the pieces of the file as llama.cpp does; transformers has Llama's rules for all of them.

    A file with user-defined pieces of several characters that are no markup (Gemma's) stays as transformers reads it.
    """
    from carellama.model.sentencepiece_tokenizer import SentencePieceModel, backend_of, has_user_words

    facts = header.facts
    texts, scores, kinds = (facts.get(name) or [] for name in PIECES)
    if not len(texts) == len(scores) == len(kinds):
        return
    numbers = {name: facts.get(f"tokenizer.ggml.{key}_token_id", -1) for name, key in TOKEN_KEYS.items()}
    pieces = SentencePieceModel(
        tuple(zip(texts, scores, kinds, strict=True)),
        BPE,
        byte_fallback=any(kind == BYTES for kind in kinds),
        named=numbers | {"unk": kinds.index(UNKNOWN) if UNKNOWN in kinds else 0},
        charsmap=b"",
        dummy_prefix=facts.get("tokenizer.ggml.add_space_prefix", True),
        removes_spaces=facts.get("tokenizer.ggml.remove_extra_whitespaces", False),
    )
    if has_user_words(pieces):
        return
    backend = backend_of(pieces)
    backend.post_processor = tokenizer.backend_tokenizer.post_processor
    tokenizer._tokenizer = backend  # noqa: SLF001 - transformers has no setter


def _card(path: Path, header: Header) -> str:
    """Where the folder comes from and under which licence, as front matter that the hub reads too."""
    facts = {name.removeprefix("general."): _texts(value) for name, value in header.facts.items()}
    bases = [one for name, value in facts.items() if MODEL_PAGE.fullmatch(name) for one in value]
    ids = [found[1] for one in bases if (found := ON_HUB.fullmatch(one))]
    licence, name = facts.get("license") or ["other" if facts.get("license.name") else "unknown"], facts.get("name")
    front = {
        "license": licence[0] if len(licence) == 1 else licence,
        "license_name": "".join(facts.get("license.name", ())),
        "license_link": "".join(facts.get("license.link", ())),
        "base_model": ids,
        "language": facts.get("languages"),
    }
    stated = yaml.safe_dump({key: one for key, one in front.items() if one}, allow_unicode=True, sort_keys=False)
    return (
        f"---\n{stated}---\n# {name[0] if name else path.stem}\n\n"
        f"Made from {path.name}, unpacked to bfloat16: "
        "no more precise than that file, and less where it holds float32 or float16.\n"
    )


def _texts(value: object) -> list[str]:
    """A text, or those of a list, each on one line; anything else states nothing."""
    values = value if isinstance(value, list) else [value]
    return [" ".join(one.split()) for one in values if isinstance(one, str) and one.split()]
