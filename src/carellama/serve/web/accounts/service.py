"""What a page with accounts works with: the database, asked in threads, a few at once; and conversations that end.

    accounts = open_accounts(access, options)
    account = await accounts.ask(lambda: get_account(accounts.database, id))
    account = await accounts.check_password(lambda: verify_login(accounts.database, name, password, address))

A fault of the database becomes status 503 without its words, which name a file; what a person can mend keeps them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from fastapi import FastAPI

from carellama.config.serve import Profile, WebOptions
from carellama.errors import UserError
from carellama.records import JSONObject
from carellama.serve.api.auth import database_unavailable
from carellama.serve.api.errors import InvalidRequest, Rejected
from carellama.serve.api.streaming import run_in_thread
from carellama.serve.web.access import Access
from carellama.serve.web.accounts.oidc import OidcProvider, provider_of
from carellama.serve.web.accounts.session_auth import SessionAuth
from carellama.serve.web.page_files import STATIC, PagePaths, page_paths

if TYPE_CHECKING:
    from carellama.store.accounts import Account
    from carellama.store.conversations import ConversationStore
    from carellama.store.database import Database

CALLS = 8  # to the database at once; more wait
PASSWORDS = 2  # checked at once: argon2id takes 64 MiB and a core for each
WAITING_PASSWORDS = 32  # past them: status 503
LOGINS = 16  # that wait for the provider at once
PRUNE_SECONDS = 3600.0
PROFILES: dict[str, Profile] = {"patient": "patient", "clinician": "clinician", "admin": "researcher"}
STATUSES = {
    "name_taken": 409,
    "last_admin": 409,
    "account_not_found": 404,
    "invitation_not_found": 404,
    "conversation_conflict": 409,
    "conversation_not_found": 404,
}
Result = TypeVar("Result")
log = logging.getLogger(__name__)


class Accounts:
    """The accounts of one server. For one event loop."""

    def __init__(
        self,
        database: Database,
        options: WebOptions,
        *,
        conversations: ConversationStore | None = None,
        provider: OidcProvider | None = None,
        page: PagePaths,
    ) -> None:
        self.database, self.options = database, options
        self.conversations, self.provider = conversations, provider
        self.auth = SessionAuth(database, page)
        self._calls, self._passwords = asyncio.Semaphore(CALLS), asyncio.Semaphore(PASSWORDS)
        self._logins = asyncio.Semaphore(LOGINS)
        self._waiting = 0  # passwords

    async def ask(self, function: Callable[[], Result]) -> Result:
        """Return what a function of the store returns.

        Raises `InvalidRequest` for what a person can mend, `Rejected` for a wrong login (401, 429), and where the
        database is away (503).
        """
        async with self._calls:
            return await self._run(function)

    async def check_password(self, function: Callable[[], Result]) -> Result:
        """As `ask`, for a function that hashes a password. Raises `Rejected` (503) where too many wait."""
        if self._waiting >= WAITING_PASSWORDS:
            raise Rejected(503, "busy", "too many people log in at this moment; try again in a few seconds", 5.0)
        self._waiting += 1
        try:
            async with self._passwords:
                return await self._run(function)
        finally:
            self._waiting -= 1

    async def call_provider(self, function: Callable[[], Result]) -> Result:
        """Return what a function of the provider returns; a few wait for it at once. Raises `OidcError`."""
        async with self._logins:
            return await asyncio.shield(run_in_thread(function))

    async def _run(self, function: Callable[[], Result]) -> Result:
        from carellama.store.account_errors import AccountError, LoginFailed, LoginLocked
        from carellama.store.conversations import ConversationError

        try:
            return await asyncio.shield(run_in_thread(function))
        except LoginLocked as locked:
            text = "too many wrong passwords; wait, and try again"
            raise Rejected(429, "login_locked", text, locked.retry_after) from None
        except LoginFailed as failed:
            raise Rejected(401, failed.code, str(failed)) from None
        except (AccountError, ConversationError) as error:
            raise InvalidRequest(str(error), None, error.code, STATUSES.get(error.code, 400)) from None
        except UserError as error:
            raise database_unavailable(error, "accounts") from error

    def prune(self) -> int:
        """Delete what is over: sessions, invitations, conversations by `--retention_days`; return how many of these."""
        from carellama.store.invitations import prune_invitations
        from carellama.store.sessions import prune_sessions

        prune_sessions(self.database)
        prune_invitations(self.database)
        days = self.options.retention_days
        return 0 if days is None or self.conversations is None else self.conversations.prune(days)

    @asynccontextmanager
    async def retention(self) -> AsyncIterator[None]:
        """Delete what is too old now and every hour, while the block runs."""
        task = asyncio.create_task(self._prune_hourly())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _prune_hourly(self) -> None:
        while True:
            try:
                if count := await self.ask(self.prune):
                    log.info("%d conversations were deleted: --retention_days", count)
            except (Rejected, InvalidRequest):  # `database_unavailable` has logged why
                log.warning("what is too old could not be deleted; the next try is in an hour")
            await asyncio.sleep(PRUNE_SECONDS)


def add_retention(app: FastAPI, accounts: Accounts) -> None:
    """Let the application delete what is too old, from its start to its end."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[None]:
        async with inner(application), accounts.retention():
            yield

    app.router.lifespan_context = lifespan


def open_accounts(access: Access, options: WebOptions, page: PagePaths | None = None) -> Accounts:
    """Open what a page with accounts needs. Raises `UserError` for a database, a key or a provider that is wrong."""
    from carellama.store.cipher import read_cipher
    from carellama.store.conversations import ConversationStore
    from carellama.store.database import open_database

    provider = provider_of(options)
    database = open_database(access.place, durable=True)  # a power cut takes no message
    assert database is not None  # it is made where it is not
    try:
        conversations = None
        if access.keep == "server":
            conversations = ConversationStore(database, read_cipher(options.encryption_key_file))
    except BaseException:
        database.close()
        raise
    return Accounts(database, options, conversations=conversations, provider=provider, page=page or page_paths(STATIC))


def no_conversation() -> InvalidRequest:
    """Return the error of a conversation that the account does not have."""
    return InvalidRequest("there is no such conversation", "id", "conversation_not_found", 404)


def account_json(account: Account) -> JSONObject:
    """Return what the page shows of the account of who asks."""
    return {"id": account.id, "name": account.name, "role": account.role, "issuer": account.issuer}
