"""What the environment says: the cache folder, the database, the key of an endpoint, the place among processes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from carellama.errors import UserError


def cache_home() -> Path:
    """The user's cache folder of CareLlama: `$CARELLAMA_CACHE`, or `$XDG_CACHE_HOME/carellama`, or ~/.cache."""
    if own := os.environ.get("CARELLAMA_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "carellama"


def model_home() -> Path:
    """Where models are kept."""
    return cache_home() / "models"


def environment_home() -> Path:
    """Where programs are kept whose pins clash with ours, each in an environment of its own."""
    return cache_home() / "environments"


def modelscope_endpoint() -> str:
    """Address of ModelScope: `$MODELSCOPE_ENDPOINT`, or that of `$MODELSCOPE_DOMAIN`, as its own program has it."""
    domain = os.environ.get("MODELSCOPE_DOMAIN") or "www.modelscope.cn"
    return (os.environ.get("MODELSCOPE_ENDPOINT") or f"https://{domain}").rstrip("/")


def check_hub(token: str | None) -> None:
    """Raise `UserError` for the address of a hub, or a token of Hugging Face, that no request can be made with.

    Their libraries fail on them deep in a request, or say that the network broke off.
    """
    places = {
        "HF_ENDPOINT": os.environ.get("HF_ENDPOINT"),
        "MODELSCOPE_ENDPOINT" if os.environ.get("MODELSCOPE_ENDPOINT") else "MODELSCOPE_DOMAIN": modelscope_endpoint(),
    }
    for name, place in places.items():
        if place is not None and not _is_address(place):
            raise UserError(f"{name} gives {place!r}, which is no address: set one as https://hf-mirror.com, or none")
    given = token or (os.environ.get("HF_TOKEN") or "").strip()
    if odd := re.search(r"[^!-~]", given):
        source = "--hf_auth_token" if token else "HF_TOKEN"
        raise UserError(f"{source} holds {odd[0]!r}, which is in no token: give it alone, as the hub's page shows it")


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and " " not in text
    except ValueError:
        return False


def dataset_home() -> Path:
    """Where the datasets of the catalogue are kept."""
    return cache_home() / "datasets"


def database() -> str:
    """Path or URL of the database: `$CARELLAMA_DATABASE`, or carellama.db in the user's data folder.

    That folder is `$XDG_DATA_HOME/carellama`, or ~/.local/share/carellama.
    """
    if own := os.environ.get("CARELLAMA_DATABASE"):
        return own
    return str(data_home() / "carellama.db")


def data_home() -> Path:
    """The user's data folder of CareLlama: `$XDG_DATA_HOME/carellama`, or ~/.local/share/carellama."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "carellama"


def own_models_file() -> Path:
    """The user's own entries of the list of models: `$CARELLAMA_MODELS`, or models.yaml in the data folder."""
    return Path(os.environ.get("CARELLAMA_MODELS") or data_home() / "models.yaml")


def store_keys() -> list[str]:
    """The keys that the words of persons are encrypted with in the database: `$CARELLAMA_STORE_KEY`, one a line."""
    return os.environ.get("CARELLAMA_STORE_KEY", "").split()


def endpoint_key() -> str | None:
    """The key of an OpenAI-compatible endpoint: `$CARELLAMA_API_KEY`, else `$OPENAI_API_KEY`; None: neither is set."""
    return (os.environ.get("CARELLAMA_API_KEY") or os.environ.get("OPENAI_API_KEY") or "").strip() or None


def own_key() -> str | None:
    """The key that was set for CareLlama itself, for servers that are no OpenAI endpoint: `$CARELLAMA_API_KEY`."""
    return (os.environ.get("CARELLAMA_API_KEY") or "").strip() or None


def web_password() -> str | None:
    """Who may use the web page, as `user:password`: `$CARELLAMA_WEB_PASSWORD`; None: it is not set."""
    return (os.environ.get("CARELLAMA_WEB_PASSWORD") or "").strip() or None


def oidc_secret() -> str | None:
    """The secret of the page at its OpenID Connect provider: `$CARELLAMA_OIDC_SECRET`; None: it has none."""
    return (os.environ.get("CARELLAMA_OIDC_SECRET") or "").strip() or None


def vllm_environment(key: str, token: str | None) -> dict[str, str]:
    """What a vLLM child is started with: this environment, its key, a hub token; without the keys of other servers.

    Settings of vLLM itself are passed on as they are (`$VLLM_CPU_KVCACHE_SPACE`, GiB of its cache on a CPU). It is told
    to send no statistics of its use anywhere.
    """
    passed = {name: value for name, value in os.environ.items() if name not in ("CARELLAMA_API_KEY", "OPENAI_API_KEY")}
    own = {"VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
    return passed | own | ({"HF_TOKEN": token} if token else {})


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def single_threaded_tokenizers() -> AbstractContextManager[None]:
    """Within this, `tokenizers` works in the thread that calls it: for callers with threads of their own."""
    return _variable("TOKENIZERS_PARALLELISM", "false")


def no_debugger() -> AbstractContextManager[None]:
    """Keep llama.cpp in new processes from starting gdb when it crashes, whose words hide its own."""
    return _variable("GGML_NO_BACKTRACE", "1")


def openmp_threads(count: int) -> AbstractContextManager[None]:
    """Within this, a library that loads OpenMP for itself gets so many threads, unless the user has set a number."""
    return _variable("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", str(count)))


SPINS = "10000"  # turns of a loop: about 0.1 ms, longer than the threads of one matrix product wait for each other


def patient_threads() -> None:
    """Limit how long the threads of an OpenMP library spin while they wait. Call it before torch is loaded.

    By default they spin without limit. If other work shares the cores, the thread that they wait for then gets no
    turn. Without any spinning, small products take twice as long on idle cores (benchmarks/RESULTS.md). A value that
    the user has set is kept.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # GNU's library: passive alone means no spinning


def few_kernels() -> None:
    """Let torch keep about as many of oneDNN's kernels as a step takes, unless told otherwise.

    They are compiled for one size of a product, and each batch has other sizes. torch and oneDNN would keep 1,024
    each, hundreds of MB of which little is used again.
    """
    for cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(cache, "256")


def world() -> tuple[int, int]:
    """(rank, processes) as set by torchrun or accelerate launch."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def launched() -> bool:
    """Whether a launcher started this process as one of a group (of one, perhaps)."""
    return "LOCAL_RANK" in os.environ


def asked_engine() -> str:
    """What the file of `accelerate launch` asks for: `fsdp`, `deepspeed`, or nothing of these."""
    for name in ("fsdp", "deepspeed"):
        if os.environ.get(f"ACCELERATE_USE_{name.upper()}", "").lower() == "true":
            return name
    return ""


def drop_mixed_precision() -> None:
    """Forget the precision that `accelerate launch` was told, which this machine does not have."""
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)


def lonely() -> bool:
    """Whether `accelerate launch` was told to start several processes on a CPU and started this one only.

    It says where they would meet, and starts more than one through mpirun alone.
    """
    told = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_ADDR" in os.environ
    return told and world()[1] == 1 and not launched()


def local_processes() -> int:
    """How many processes of the run share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or world()[1])


def shared_metrics() -> str | None:
    """The folder in which the workers of a server put what they count; None: there is one worker."""
    return os.environ.get("PROMETHEUS_MULTIPROC_DIR")


def share_metrics(folder: str) -> None:
    """Let this process and those that it starts count in a folder. Before prometheus_client is imported."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
