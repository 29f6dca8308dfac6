"""The servers behind an engine: which one is asked next, what is tried again, and which of them rest.

    upstreams = UpstreamPool(["http://a:8000/v1", "http://b:8000/v1"], key=endpoint_key())
    future = upstreams.run(upstreams.request(call))     # `call` is handed the upstream and its `ServerInfo`

A request goes to the server with the fewest under way; one that could not be begun goes to the next. A server that
fails rests for a time that grows, is asked for its health, and is used while it rests only where no other is left.
Everything happens in one event loop in a thread of its own, so a request is given up at once wherever it waits, and
nothing here needs a lock. One connection pool lives as long as the engine. Redirects are not followed; what a server
says in words stands in no message, as it may repeat the prompt.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from carellama.engine.base import OnEvent, Reply, Unavailable
from carellama.errors import UserError
from carellama.files import print_status
from carellama.retry import RETRY_DELAYS, RETRYABLE_STATUSES, retry_after, retry_delay

if TYPE_CHECKING:
    import httpx2

MAX_COOLDOWN = 60.0  # seconds
CONNECT_TIMEOUT = 20.0  # most seconds to wait for a connection
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server tells of itself: its models, the kind that it is, and how long a context may be."""

    names: tuple[str, ...] = ()
    adapters: tuple[str, ...] | None = None  # of the names; None: it does not tell adapters from models
    dialect: str = ""  # "vllm", "llamacpp", ...: `owned_by` of its models
    context_tokens: int | None = None


@dataclass(eq=False)
class Upstream:
    """A server, and what is known of it."""

    base: httpx2.URL  # as in http://localhost:8000/v1
    host: str  # with its port: how messages name it
    active_requests: int = 0  # requests under way
    failures: int = 0  # since it last answered
    resting: bool = False
    has_responded: bool = False  # whether it ever did
    listing: ServerInfo | None = None  # None: not asked since it last failed

    def url(self, path: str) -> httpx2.URL:
        """The address of `path`; one that begins with / stands beside /v1."""
        below = self.base.path.rstrip("/")
        return self.base.copy_with(path=below.removesuffix("/v1") + path if path.startswith("/") else f"{below}/{path}")


Call = Callable[[Upstream, ServerInfo], Awaitable[Answer]]


class UpstreamError(Exception):
    """A try that came to nothing. `retry_after`: seconds that the server asks for."""

    def __init__(self, problem: str, *, retry_after: float = 0.0, is_connect_error: bool = False) -> None:
        super().__init__(problem)
        self.problem, self.retry_after, self.is_connect_error = problem, retry_after, is_connect_error


class UpstreamPool:
    """Sends requests to servers that are alike. `run` is for any thread; the coroutines are for its loop only.

    `timeout`: seconds without a byte; `delays`: seconds before each further round of tries. A server rests for
    `rest` seconds after its first failure, twice as long after each further one.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        key: str | None = None,
        timeout: float = 120.0,
        delays: Sequence[float] = RETRY_DELAYS,
    ) -> None:
        import httpx2

        if key is not None and not (key.isascii() and key.isprintable()):
            raise UserError("the key of the endpoint has characters that no key has; set CARELLAMA_API_KEY again")
        self.all = [_upstream(endpoint) for endpoint in endpoints]
        self.hosts = ", ".join(one.host for one in self.all)  # with their ports, for messages
        self.timeout, self.delays, self.rest = timeout, tuple(delays), 1.0
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(timeout, connect=min(CONNECT_TIMEOUT, timeout), pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=100),
            trust_env=any(one.base.host not in LOOPBACK_HOSTS for one in self.all),  # no proxy leads back to here
        )
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closed = False
        self._probes: set[asyncio.Task[None]] = set()

    def run(self, work: Coroutine[object, object, Answer]) -> Future[Answer]:
        """Start a coroutine in the loop's thread. Cancelling the future closes the connection that it holds."""
        with self._starting:
            if self._closed:
                work.close()
                raise Unavailable("the engine was closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop.run_forever, name="carellama-upstreams", daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Give up all requests and close the connections."""
        with self._starting:
            closed, self._closed = self._closed, True
        if closed:
            return
        if self._thread is not None:
            asyncio.run_coroutine_threadsafe(self._release(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    async def request(self, call: Call[Answer], *, begun: Callable[[], bool] = lambda: False) -> Answer:
        """Return what `call` makes of the first server that answers, and of what that tells of itself.

        All servers are tried in turn, then again after a pause; not where none has ever answered: then an address is
        wrong. Nothing is tried again once `begun` says that a part of the answer was handed on. Raises `Unavailable`
        with what each server did; other errors of `call` are the caller's.
        """
        for delay in (*self.delays, None):
            tried: list[Upstream] = []
            failures: list[UpstreamError] = []
            while len(tried) < len(self.all):
                upstream = self._pick(tried)
                tried.append(upstream)
                try:
                    return await self._attempt(upstream, call)
                except UpstreamError as failure:
                    self._mark_down(upstream, failure)
                    if begun():
                        raise Unavailable(f"{upstream.host}: the answer broke off; ask again") from failure
                    failures.append(failure)
            lost = all(each.is_connect_error for each in failures) and not any(one.has_responded for one in self.all)
            said = "; ".join(each.problem for each in failures)
            if delay is None or lost:
                raise Unavailable(said + ("; check --endpoint and the network" if lost else "; ask again later"))
            delay = retry_delay(delay, min(each.retry_after for each in failures))
            print_status(f"{said}; trying again in {delay:g} s")
            await asyncio.sleep(delay)
        raise AssertionError("the last round returns or raises")

    @asynccontextmanager
    async def open(
        self, upstream: Upstream, method: str, path: str, body: object = None
    ) -> AsyncIterator[httpx2.Response]:
        """Send a request; the response's body is to be read. Raises `UpstreamError` for what is worth another try."""
        import httpx2

        try:
            async with self._http.stream(method, upstream.url(path), json=body) as response:
                if response.status_code in RETRYABLE_STATUSES:
                    problem = f"{upstream.host} answers {response.status_code} {response.reason_phrase}"
                    raise UpstreamError(problem, retry_after=retry_after(response.headers))
                yield response
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            raise UpstreamError(f"nothing answers at {upstream.host}", is_connect_error=True) from error
        except httpx2.TimeoutException as error:
            raise UpstreamError(f"{upstream.host} said nothing for {self.timeout:g} s") from error
        except httpx2.RequestError as error:
            raise UpstreamError(f"{upstream.host} broke off ({type(error).__name__})") from error

    async def json(self, upstream: Upstream, method: str, path: str, body: object = None) -> tuple[int, object]:
        """Return the status and the JSON of an answer; None where it is none."""
        async with self.open(upstream, method, path, body) as response:
            await response.aread()
            with suppress(ValueError):
                return response.status_code, response.json()
            return response.status_code, None

    async def _attempt(self, upstream: Upstream, call: Call[Answer]) -> Answer:
        upstream.active_requests += 1
        try:
            if upstream.listing is None:
                upstream.listing = await self._fetch_info(upstream)
            answer = await call(upstream, upstream.listing)
        finally:
            upstream.active_requests -= 1
        upstream.failures, upstream.resting, upstream.has_responded = 0, False, True
        return answer

    async def _fetch_info(self, upstream: Upstream) -> ServerInfo:
        """Ask /v1/models; an empty listing where there is no such thing."""
        status, answer = await self.json(upstream, "GET", "models")
        upstream.has_responded = True
        rows = answer.get("data") if status == 200 and isinstance(answer, dict) else None
        models = [row for row in rows or () if isinstance(row, dict) and isinstance(row.get("id"), str)]
        if not models:
            return ServerInfo()
        kind, longest = str(models[0].get("owned_by") or ""), models[0].get("max_model_len")
        if kind == "llamacpp":  # the model's card tells the length of its training, not that of a place for an answer
            _, properties = await self.json(upstream, "GET", "/props")
            settings = properties.get("default_generation_settings") if isinstance(properties, dict) else None
            longest = settings.get("n_ctx") if isinstance(settings, dict) else None
        tells = any("parent" in row for row in models)
        adapters = tuple(row["id"] for row in models if row.get("parent")) if tells else None
        names = tuple(row["id"] for row in models)
        return ServerInfo(names, adapters, kind, longest if isinstance(longest, int) else None)

    def _pick(self, tried: Sequence[Upstream]) -> Upstream:
        """The one with the least to do, of those that do not rest if there are any; ties go by their order."""
        return min((one for one in self.all if one not in tried), key=lambda one: (one.resting, one.active_requests))

    def _mark_down(self, upstream: Upstream, failure: UpstreamError) -> None:
        """Let a server rest that failed, where there are others."""
        upstream.failures += 1
        upstream.listing = None
        if len(self.all) == 1 or upstream.resting:
            return
        upstream.resting = True
        seconds = min(max(self.rest * 2 ** min(upstream.failures - 1, 16), failure.retry_after), MAX_COOLDOWN)
        print_status(f"{failure.problem}; it rests for {seconds:g} s")
        task = self._loop.create_task(self._probe(upstream, seconds))
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _probe(self, upstream: Upstream, seconds: float) -> None:
        """Wait, and wake the server once it says that it is well."""
        while upstream.resting:
            await asyncio.sleep(seconds)
            seconds = min(2 * seconds, MAX_COOLDOWN)
            with suppress(UpstreamError):
                status, _ = await self.json(upstream, "GET", "/health")
                if status in (404, 405, 501):
                    status, _ = await self.json(upstream, "GET", "models")
                if upstream.resting and status < 500:
                    upstream.resting = False
                    print_status(f"{upstream.host} is well again")

    async def _release(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.aclose()


class RemoteRequest:
    """An answer that a coroutine of the loop reads, and its handle; see `carellama.engine.base.RequestHandle`."""

    def __init__(self, future: Future[Reply], on_event: OnEvent) -> None:
        self._future, self._on_event = future, on_event
        self._cancelled = False
        future.add_done_callback(self._end)

    def cancel(self) -> None:
        """Close the connection."""
        self._cancelled = True
        self._future.cancel()

    def join(self) -> None:
        """Nothing: the computation is another machine's."""

    def _end(self, future: Future[Reply]) -> None:
        try:
            self._on_event(result_of(future))
        except Exception as error:  # noqa: BLE001 - raised again by who reads the events
            if not self._cancelled:
                self._on_event(error)


def result_of(future: Future[Answer]) -> Answer:
    """Return what a coroutine returns, or raise what it raises; `Unavailable` where the engine was closed."""
    try:
        return future.result()
    except CancelledError:
        raise Unavailable("the engine was closed") from None


def _upstream(endpoint: str) -> Upstream:
    import httpx2

    try:
        url = httpx2.URL(endpoint)
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise UserError("the endpoint must be an address as in http://localhost:8000/v1")
    base = url.copy_with(path=url.path.rstrip("/").removesuffix("/chat/completions"), query=None)
    return Upstream(base, url.netloc.decode("ascii"))
