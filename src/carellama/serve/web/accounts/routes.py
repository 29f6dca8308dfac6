"""Log in and out, open an account by an invitation, change the password, be forgotten.

GET /web/session              {"access", "oidc", "disclaimer"}: what the login page has to know
POST /web/session             {"name", "password"}: log in
DELETE /web/session           log out, here and on the server
POST /web/invitations/read    {"token"}: what an invitation is for
POST /web/accounts            {"token", "name", "password"}: accept it
POST /web/account/password    {"old", "new"}
DELETE /web/account           {"password"}, or {"name"} for an account of a provider: delete everything of it
"""

from __future__ import annotations

import hmac
import unicodedata
from dataclasses import asdict
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from carellama.records import JSONObject
from carellama.safety.notices import DEFAULT_COUNTRY, disclaimer
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.json_body import JsonRoute
from carellama.serve.web.access import Access
from carellama.serve.web.accounts.service import Accounts, account_json
from carellama.serve.web.accounts.session_auth import (
    AccountCaller,
    cookie_name,
    csrf_token,
    drop_cookie,
    drop_session,
    session_token,
    set_cookie,
    set_session,
)

if TYPE_CHECKING:
    from carellama.store.accounts import Account

public_router = APIRouter(prefix="/web", route_class=JsonRoute)  # of every page
router = APIRouter(prefix="/web", route_class=JsonRoute)  # of a page with accounts
DEVICE = "carellama_device"  # the cookie of a browser that has logged in before
DEVICE_SECONDS = 180 * 86400
LONGEST = 2000  # characters of a name or a password as it is sent; the store has the limits of an account


class Body(BaseModel):
    """What comes in; fields that are not known are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Login(Body):
    """A name and a password."""

    name: str = Field(max_length=LONGEST)
    password: str = Field(max_length=LONGEST, repr=False)


class InvitationToken(Body):
    """The secret of an invitation."""

    token: str = Field(max_length=LONGEST, repr=False)


class NewAccount(Login, InvitationToken):
    """An invitation that is accepted."""


class NewPassword(Body):
    """A password in place of another."""

    old: str = Field(max_length=LONGEST, repr=False)
    new: str = Field(max_length=LONGEST, repr=False)


class Farewell(Body):
    """Who wants to be forgotten says so again."""

    password: str | None = Field(None, max_length=LONGEST, repr=False)
    name: str | None = Field(None, max_length=LONGEST)


def accounts_of(request: Request) -> tuple[Accounts, AccountCaller]:
    """Return the accounts of the server, and who asks."""
    caller = request.state.context.caller
    assert isinstance(caller, AccountCaller), "a route for visitors is in FOR_VISITORS"
    return request.app.state.accounts, caller


def address_of(request: Request) -> str:
    """Return the network address of who asks."""
    return request.client.host if request.client is not None else ""


@public_router.get("/session")
async def read_login(request: Request) -> Response:
    """What the login page has to know."""
    access: Access = request.app.state.access
    accounts: Accounts | None = request.app.state.accounts
    provider = accounts.provider if accounts is not None else None
    found: JSONObject = {
        "access": access.kind,
        "oidc": None if provider is None else {"name": provider.name},
        "disclaimer": {language: disclaimer(language) for language in DEFAULT_COUNTRY},
    }
    return JSONResponse(found)


@router.post("/session")
async def log_in(request: Request, body: Login) -> Response:
    """Begin a session. Raises `Rejected` (401, 429)."""
    from carellama.store.accounts import verify_login

    accounts: Accounts = request.app.state.accounts
    address = address_of(request)
    device = request.cookies.get(cookie_name(request, DEVICE), "")[:128]
    account = await accounts.check_password(
        lambda: verify_login(accounts.database, body.name, body.password, address, device=device)
    )
    return await _know_device(request, account, await begin_session(request, account))


async def _know_device(request: Request, account: Account, response: Response) -> Response:
    """Let the browser be known at the next login: others' wrong passwords do not lock it out."""
    from carellama.store.accounts import new_device

    accounts: Accounts = request.app.state.accounts
    if token := await accounts.ask(lambda: new_device(accounts.database, account.id)):
        set_cookie(request, response, cookie_name(request, DEVICE), token, DEVICE_SECONDS)
    return response


async def begin_session(
    request: Request, account: Account, response: Response | None = None, status: int = 200
) -> Response:
    """Return the answer to a login, or `response` with its session; the session that the browser had ends."""
    from carellama.store.sessions import create_session, end_session

    accounts: Accounts = request.app.state.accounts
    before, address, hours = session_token(request), address_of(request), accounts.options.session_hours

    def begin() -> str:
        if before:
            end_session(accounts.database, before)
        return create_session(accounts.database, account.id, idle_hours=hours, address=address)

    token = await accounts.ask(begin)
    if response is None:
        response = JSONResponse({"account": account_json(account), "csrf": csrf_token(token)}, status)
    set_session(request, response, token)
    return response


@router.delete("/session", status_code=204)
async def log_out(request: Request) -> Response:
    """End the session."""
    from carellama.store.sessions import end_session

    accounts, caller = accounts_of(request)
    await accounts.ask(lambda: end_session(accounts.database, caller.token))
    response = Response(status_code=204, headers={"clear-site-data": '"cache"'})
    drop_session(request, response)
    return response


@router.post("/invitations/read")
async def read_invitation(request: Request, body: InvitationToken) -> Response:
    """What an invitation is for. Raises `InvalidRequest` (404)."""
    from carellama.store.accounts import get_account
    from carellama.store.invitations import read_invitation as read

    accounts: Accounts = request.app.state.accounts
    invitation = await accounts.ask(lambda: read(accounts.database, body.token))
    if invitation is None:
        raise no_invitation()
    account_id = invitation.account_id
    account = await accounts.ask(lambda: get_account(accounts.database, account_id)) if account_id else None
    name = None if account is None else account.name
    return JSONResponse({"role": invitation.role, "expires": invitation.expires, "name": name})


def no_invitation() -> InvalidRequest:
    """Return the error of an invitation that nobody can accept."""
    text = "there is no such invitation: it was used, it is over, or it was withdrawn; ask for a new one"
    return InvalidRequest(text, "token", "invitation_not_found", 404)


@router.post("/accounts", status_code=201)
async def create_account(request: Request, body: NewAccount) -> Response:
    """Accept an invitation and log in. Raises `InvalidRequest` (400, 404, 409)."""
    from carellama.store.invitations import accept_invitation

    accounts: Accounts = request.app.state.accounts
    account = await accounts.check_password(
        lambda: accept_invitation(accounts.database, body.token, body.name, body.password)
    )
    return await _know_device(request, account, await begin_session(request, account, status=201))


@router.post("/account/password", status_code=204)
async def change_password(request: Request, body: NewPassword) -> Response:
    """Take another password; the other sessions of the account end. Raises `Rejected` (401, 429)."""
    from carellama.store.accounts import change_password as change
    from carellama.store.sessions import end_sessions

    accounts, caller = accounts_of(request)

    def replace() -> None:
        change(accounts.database, caller.id, body.old, body.new)
        end_sessions(accounts.database, caller.id, but=caller.token)

    await accounts.check_password(replace)
    return Response(status_code=204)


@router.delete("/account")
async def forget_me(request: Request, body: Farewell) -> Response:
    """Delete the account and all that is kept of it. Raises `Rejected` (401, 429), `InvalidRequest` (409)."""
    from carellama.store.accounts import check_own_password, forget_account

    accounts, caller = accounts_of(request)
    if caller.account.issuer:
        if not hmac.compare_digest(_folded(body.name or ""), _folded(caller.account.name)):
            raise InvalidRequest("to be forgotten, write your name as the page shows it", "name", "login_failed", 401)
    else:
        given = body.password or ""
        await accounts.check_password(lambda: check_own_password(accounts.database, caller.id, given))
    deleted = await accounts.ask(lambda: forget_account(accounts.database, caller.id))
    request.app.state.answers.forget_owner(caller.id)
    # not "storage": others of this browser have their conversations there; the page deletes its own
    response = JSONResponse({"deleted": deleted}, headers={"clear-site-data": '"cache"'})
    drop_session(request, response)
    drop_cookie(request, response, cookie_name(request, DEVICE))
    return response


def _folded(name: str) -> bytes:
    return unicodedata.normalize("NFKC", name).casefold().strip().encode()


def listed(account: Account) -> JSONObject:
    """Return what an administrator sees of an account."""
    found = asdict(account)
    names = ("id", "name", "role", "created", "last_login", "disabled", "issuer")
    return {name: found[name] for name in names}
