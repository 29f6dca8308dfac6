"""What administrators do: see the accounts, change their role, lock them, invite. Others get status 403.

GET /web/accounts             {"accounts": [...], "invitations": [...]}
PATCH /web/accounts/{id}      {"role"?, "disabled"?}
POST /web/invitations         {"role", "days"?}, or {"account_id"} for a new password of an account
DELETE /web/invitations/{id}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from carellama.serve.api.errors import InvalidRequest, Rejected
from carellama.serve.api.json_body import JsonRoute
from carellama.serve.web.accounts.routes import Body, accounts_of, listed
from carellama.serve.web.accounts.service import Accounts
from carellama.serve.web.accounts.session_auth import AccountCaller

if TYPE_CHECKING:
    from carellama.store.accounts import Account

router = APIRouter(prefix="/web", route_class=JsonRoute)
MOST_DAYS = 90


class AccountChange(Body):
    """What becomes of an account."""

    role: Literal["patient", "clinician", "admin"] | None = None
    disabled: bool | None = None


class NewInvitation(Body):
    """For whom an invitation is: one new account of a role, or the new password of an account."""

    role: Literal["patient", "clinician", "admin"] | None = None
    days: int = Field(7, ge=1, le=MOST_DAYS)
    account_id: str | None = Field(None, max_length=64)


def admin_of(request: Request) -> tuple[Accounts, AccountCaller]:
    """Return the accounts of the server, and the administrator who asks. Raises `Rejected` (403)."""
    accounts, caller = accounts_of(request)
    if caller.account.role != "admin":
        raise Rejected(403, "forbidden", "only administrators may do this")
    return accounts, caller


@router.get("/accounts")
async def list_accounts(request: Request) -> Response:
    """All accounts, and the invitations that can be accepted."""
    from carellama.store.accounts import list_accounts as all_accounts
    from carellama.store.invitations import list_invitations

    accounts, _ = admin_of(request)
    found = await accounts.ask(lambda: all_accounts(accounts.database))
    invitations = await accounts.ask(lambda: list_invitations(accounts.database))
    names = ("id", "role", "created", "expires", "account_id")
    return JSONResponse(
        {
            "accounts": [listed(account) for account in found],
            "invitations": [{name: getattr(one, name) for name in names} for one in invitations],
        }
    )


@router.patch("/accounts/{id}")
async def change_account(request: Request, id: str, body: AccountChange) -> Response:
    """Change the role of an account, or lock it, which ends its sessions. Raises `InvalidRequest` (404, 409)."""
    from carellama.store import accounts as store

    accounts, _ = admin_of(request)

    def change() -> store.Account:
        _require_account(store.get_account(accounts.database, id))
        if body.role is not None:
            store.set_role(accounts.database, id, body.role)
        if body.disabled is not None:
            store.set_disabled(accounts.database, id, disabled=body.disabled)
        return _require_account(store.get_account(accounts.database, id))

    changed = await accounts.ask(change)
    if changed.disabled is not None:
        request.app.state.answers.forget_owner(id)
    return JSONResponse(listed(changed))


@router.post("/invitations", status_code=201)
async def create_invitation(request: Request, body: NewInvitation) -> Response:
    """Make an invitation; its token is shown once. Raises `InvalidRequest` (400, 404)."""
    from carellama.store.accounts import get_account
    from carellama.store.invitations import create_invitation as create

    accounts, caller = admin_of(request)
    if (body.role is None) == (body.account_id is None):
        raise InvalidRequest("send either role, for a new account, or account_id, for a new password", "role")
    role, of = body.role, body.account_id
    if of is not None:
        account = _require_account(await accounts.ask(lambda: get_account(accounts.database, of)))
        if account.issuer:
            raise InvalidRequest(f"{account.name} logs in at {account.issuer} and has no password here", "account_id")
        role = account.role
    assert role is not None
    invitation, token = await accounts.ask(
        lambda: create(accounts.database, role, days=body.days, created_by=caller.id, account_id=of)
    )
    found = {"id": invitation.id, "token": token, "path": f"/invite#{token}", "expires": invitation.expires}
    return JSONResponse(found, 201)


@router.delete("/invitations/{id}", status_code=204)
async def delete_invitation(request: Request, id: str) -> Response:
    """Withdraw an invitation. Raises `InvalidRequest` (404)."""
    from carellama.store.invitations import delete_invitation as delete

    accounts, _ = admin_of(request)
    if not await accounts.ask(lambda: delete(accounts.database, id)):
        raise InvalidRequest("there is no such invitation", "id", "invitation_not_found", 404)
    return Response(status_code=204)


def _require_account(account: Account | None) -> Account:
    if account is None:
        raise InvalidRequest("there is no such account", "id", "account_not_found", 404)
    return account
