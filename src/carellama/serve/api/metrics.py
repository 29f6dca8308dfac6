"""What the server counts, for Prometheus: requests, tokens, times and the queue. No label holds a text.

    metrics = Metrics()
    metrics.requests.labels("/v1/models", "200", "carellama", "open").inc()
    metrics.render()

Several workers share a folder (`config.environment.share_metrics`), and the page of each tells of all.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from carellama.config.environment import shared_metrics
from carellama.serve.api.admission import AdmissionQueue

LABELS = ("route", "status", "model", "key")
FIRST_TOKEN_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)  # seconds
INTER_TOKEN_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)  # seconds
DURATION_BUCKETS = (0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)  # seconds


class Metrics:
    """Counters and histograms of one application."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = here = CollectorRegistry()
        whose = ("model", "key")
        self.requests = Counter("carellama_requests", "Requests by their outcome; 499: hung up.", LABELS, registry=here)
        self.seconds = Histogram(
            "carellama_request_seconds", "Time of a request.", ("route",), buckets=DURATION_BUCKETS, registry=here
        )
        self.prompt_tokens = Counter("carellama_prompt_tokens", "Tokens of prompts.", whose, registry=here)
        self.answer_tokens = Counter("carellama_answer_tokens", "Tokens of answers.", whose, registry=here)
        name, about = "carellama_safety_notices", "Notices of the safety layer."
        self.notices = Counter(name, about, ("kind", "level"), registry=here)
        name, about = "carellama_time_to_first_token_seconds", "From the request to its first token."
        self.first_token_seconds = Histogram(name, about, ("model",), buckets=FIRST_TOKEN_BUCKETS, registry=here)
        name, about = "carellama_time_per_output_token_seconds", "Mean time of the tokens after the first."
        self.inter_token_seconds = Histogram(name, about, ("model",), buckets=INTER_TOKEN_BUCKETS, registry=here)
        name, about = "carellama_answers_running", "Answers at work."
        self.running = Gauge(name, about, multiprocess_mode="livesum", registry=here)
        name, about = "carellama_answers_waiting", "Answers that wait for a place."
        self.waiting = Gauge(name, about, multiprocess_mode="livesum", registry=here)

    def observe_queue(self, queue: AdmissionQueue) -> None:
        """Report the numbers of a queue from now on, whenever they change."""

        def on_change() -> None:
            self.running.set(queue.running)
            self.waiting.set(queue.waiting)

        queue.on_change = on_change

    def render(self) -> bytes:
        """The page that Prometheus reads."""
        folder = shared_metrics()
        if folder is None:
            return generate_latest(self.registry)
        for process in {int(path.stem.rpartition("_")[2]) for path in Path(folder).glob("gauge_live*.db")}:
            if not Path(f"/proc/{process}").exists():
                mark_process_dead(process)
        registry = CollectorRegistry()
        with suppress(FileNotFoundError):  # of a worker that ended just now
            MultiProcessCollector(registry)
        return generate_latest(registry)
