"""A model as a folder that a browser runs without a server and, once it was opened, without a network.

    write_web(Path("web"), Path("model.q4_K_M.gguf"), template, name="my-model", language="zh", country="CN")

The folder is static files: a page (built from `web/offline/`), llama.cpp as WebAssembly (wllama), the .gguf in pieces
with their check sums, the chat format, the rules of triage, a service worker that keeps all of it, and a manifest, so
that the page can be installed. It has to be served over https or on localhost: elsewhere browsers keep no page.

It converts nothing: the .gguf is given. What the page does not do is in docs/en/offline.md.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from carellama import __version__
from carellama.config.engine import GenerationOptions
from carellama.errors import UserError
from carellama.export.web.chat import chat_data
from carellama.export.web.triage import triage_data
from carellama.model.gguf.read import Header, read_header
from carellama.model.paths import filled_folder
from carellama.safety.notices import known_country
from carellama.safety.triage.rules import load_red_flags
from carellama.templates.template import Template

STATIC = "export/web/static"
LLAMA_CPP = "b7179"  # release in wllama 2.3.7; later wllamas need 64-bit memory, which Safari on phones lacks
MOST_BYTES = 2**31 - 1  # a file of wllama: its ftell() counts in 32 bits
PIECE_BYTES = 24 * 2**20  # several static hosts take no file above 25 MiB
CONTEXT_TOKENS = 2048
LEAST_CONTEXT = 256
CACHE_BYTES = 2  # keys and values are kept as f16
DEFAULTS = GenerationOptions()
Language = Literal["en", "zh"]


def write_web(
    folder: Path,
    gguf: Path,
    template: Template,
    *,
    name: str,
    language: str,
    country: str,
    system: str = "",
    context_tokens: int = CONTEXT_TOKENS,
    generating: GenerationOptions = DEFAULTS,
) -> None:
    """Fill a folder with the page and the model; an older one is replaced when all is written.

    `language` (en, zh): of the page where the browser asks for neither; `country`: whose telephone numbers it shows
    until somebody chooses others. `system`: a message before every conversation. `context_tokens`: of prompt and
    answer together, at most what the model was trained on. Raises `UserError` for a file that is too large, damaged or
    of a kind that the llama.cpp in it does not know, an unknown country, and a template that the page cannot write.
    """
    if language not in ("en", "zh"):
        raise UserError(f"the language of the page is {language!r}; allowed: en, zh")
    code = known_country(country)
    header = _checked_header(gguf)
    most = header.of_architecture("context_length") or context_tokens
    if context_tokens < LEAST_CONTEXT:
        raise UserError(f"the context is {context_tokens} tokens; the page needs {LEAST_CONTEXT} or more")
    context_tokens = min(context_tokens, most)
    rules = triage_data(load_red_flags())
    with filled_folder(folder, overwrite=True) as made:
        pieces, digest = _write_pieces(gguf, made)
        config = {
            "name": name,
            "version": __version__,
            "language": language,
            "country": code,
            "model": {
                "digest": digest,
                "bytes": gguf.stat().st_size,
                "pieces": pieces,
                "context_bytes": _context_bytes(gguf, header, context_tokens),
            },
            "context_tokens": context_tokens,
            "max_new_tokens": min(generating.max_new_tokens, context_tokens // 2),
            "sampling": _sampling(generating),
            "disclaimer": rules["notices"]["disclaimer"],
            "countries": rules["countries"],
            "usual_country": rules["usual_country"],
            "chat": chat_data(template, system),
        }
        _write_json(made / "carellama.json", config)
        _write_json(made / "triage.json", rules)
        _write_json(made / "manifest.webmanifest", _manifest(name, language))
        _copy_page(made, digest)


def _checked_header(gguf: Path) -> Header:
    header = read_header(gguf)
    if (size := gguf.stat().st_size) > MOST_BYTES:
        raise UserError(
            f"{gguf.name} has {size / 1e9:.1f} GB; in a browser a model may have at most {MOST_BYTES / 1e9:.2f} GB. "
            "Take a smaller --gguf_type (q4_0, iq4_xs) or a smaller model"
        )
    wasm = next(path for path in _static("assets") if path.name.endswith(".wasm")).read_bytes()
    for fact, what in (("general.architecture", "architecture"), ("tokenizer.ggml.pre", "tokenizer")):
        known = header.facts.get(fact, "default")
        if f"\0{known}\0".encode() not in wasm:
            raise UserError(
                f"{gguf.name} has the {what} {known!r}, which llama.cpp {LLAMA_CPP} in the page does not know; models "
                "that came later run by carellama api, not in a browser"
            )
    return header


def _context_bytes(gguf: Path, header: Header, tokens: int) -> int:
    """What the context keeps: for each layer and token a key and a value."""
    name = f"{header.facts['general.architecture']}.attention.head_count_kv"
    heads = read_header(gguf, arrays=(name,)).facts.get(name) or header.of_architecture("attention.head_count") or 1
    layers = header.of_architecture("block_count") or 1
    width = (header.of_architecture("embedding_length") or 0) // (header.of_architecture("attention.head_count") or 1)
    key = header.of_architecture("attention.key_length") or width
    value = header.of_architecture("attention.value_length") or width
    every = sum(heads) if isinstance(heads, list) else heads * layers
    return int(every * tokens * (key + value) * CACHE_BYTES)


def _write_pieces(gguf: Path, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Write the model in pieces, named by number and contents; return them and the digest of the whole."""
    (folder / "model").mkdir()
    whole, pieces = hashlib.sha256(), list[dict[str, Any]]()
    with gguf.open("rb") as file:
        for number, data in enumerate(iter(lambda: file.read(PIECE_BYTES), b""), 1):
            whole.update(data)
            digest = hashlib.sha256(data).hexdigest()
            path = f"model/{number:03}-{digest[:12]}.bin"
            (folder / path).write_bytes(data)
            pieces.append({"file": path, "bytes": len(data), "sha256": digest})
    return pieces, whole.hexdigest()


def _sampling(generating: GenerationOptions) -> dict[str, float]:
    return {
        "temperature": generating.temperature if generating.do_sample else 0.0,
        "top_p": generating.top_p,
        "top_k": generating.top_k,
        "repetition_penalty": generating.repetition_penalty,
    }


def _manifest(name: str, language: str) -> dict[str, Any]:
    png = [("icon-192.png", "192x192", "any"), ("icon-512.png", "512x512", "any")]
    png += [("icon-maskable-512.png", "512x512", "maskable")]
    icons = [{"src": f"./{file}", "sizes": size, "type": "image/png", "purpose": use} for file, size, use in png]
    return {
        "name": f"CareLlama · {name}",
        "short_name": "CareLlama",
        "id": "./",
        "start_url": "./",
        "scope": "./",
        "lang": "zh-CN" if language == "zh" else "en",
        "display": "standalone",
        "background_color": "#ffffff",
        "theme_color": "#0b6355",
        "icons": [{"src": "./icon.svg", "sizes": "any", "type": "image/svg+xml"}, *icons],
    }


def _copy_page(folder: Path, model: str) -> None:
    """Copy the built page, and give the service worker its version and the names of what it keeps."""
    for path in [*_static(), *_static("assets")]:
        target = folder / (f"assets/{path.name}" if path.parent.name == "assets" else path.name)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    worker = folder / "sw.js"
    shell = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    shell = {name: path for name, path in shell.items() if not name.startswith("model/") and path != worker}
    version = hashlib.sha256(worker.read_bytes())
    for name, path in shell.items():
        version.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
    filled = worker.read_text(encoding="utf-8").replace("__VERSION__", version.hexdigest()[:12])
    filled = filled.replace("__MODEL__", model[:12]).replace("__FILES__", json.dumps(list(shell)))
    worker.write_text(filled, encoding="utf-8")


def _static(folder: str = "") -> Iterator[Path]:
    """The files of a folder of the built page, by name."""
    above = resources.files("carellama").joinpath(STATIC)
    here = above.joinpath(folder) if folder else above
    names = sorted(one.name for one in here.iterdir() if one.is_file())
    return (Path(str(here)) / name for name in names)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
