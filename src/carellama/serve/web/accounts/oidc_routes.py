"""The way to the OpenID Connect provider and back.

GET /web/oidc/login           to the provider
GET /web/oidc/callback        from the provider: a session, and the page

What goes wrong is told on a page of a few fixed words; the reason is in the log.
"""

from __future__ import annotations

import logging

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from carellama.serve.api.errors import InvalidRequest, Rejected
from carellama.serve.web.accounts.oidc import LOGIN_SECONDS, OidcError, OidcProvider
from carellama.serve.web.accounts.routes import begin_session
from carellama.serve.web.accounts.service import Accounts
from carellama.serve.web.accounts.session_auth import cookie_name, drop_cookie, set_cookie

router = APIRouter(prefix="/web/oidc", include_in_schema=False)
COOKIE = "carellama_oidc"
PLACE = "/web/oidc/callback"
# code: status, words
FAILURES = {
    "unavailable": (
        503,
        "The login service of your organisation does not answer. Try again in some minutes.",
        "您所在机构的登录服务没有响应，请几分钟后再试。",
    ),
    "refused": (
        403,
        "The login service of your organisation did not let you in.",
        "您所在机构的登录服务未允许登录。",
    ),
    "expired": (
        400,
        "This login took too long, was begun in another browser, or was used before. Begin again.",
        "本次登录已超时、已被使用，或不是在这个浏览器中发起的，请重新登录。",
    ),
    "invalid": (
        502,
        "The login service of your organisation sent an answer that is not valid. Tell who runs this page.",
        "您所在机构的登录服务返回了无效的应答，请联系本页面的管理员。",
    ),
    "disabled": (
        403,
        "Your account on this page is locked. Ask who runs it.",
        "您在本页面的账号已被停用，请联系管理员。",
    ),
    "failed": (
        503,
        "This page cannot log you in at this moment. Try again in some minutes.",
        "本页面暂时无法登录，请几分钟后再试。",
    ),
}
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>CareLlama</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><main role="alert"><h1>CareLlama</h1>
<p>{english}</p><p lang="zh-CN">{chinese}</p><p><a href="/login">Log in · <span lang="zh-CN">登录</span></a></p></main>
</html>"""
log = logging.getLogger(__name__)


@router.get("/login")
async def go_to_provider(request: Request) -> Response:
    """Redirect to the provider."""
    accounts, provider = _provider_of(request)
    try:
        address, sealed = await accounts.call_provider(lambda: provider.begin(_redirect_uri(request)))
    except OidcError as error:
        return _failure(error.code, str(error))
    response = RedirectResponse(address, 303)
    set_cookie(request, response, cookie_name(request, COOKIE), sealed, LOGIN_SECONDS)
    return response


@router.get("/callback")
async def come_back(request: Request) -> Response:
    """Begin a session for who comes from the provider; it leads to the page, whatever was asked for."""
    from carellama.store.accounts import oidc_account

    accounts, provider = _provider_of(request)
    sealed, query = request.cookies.get(cookie_name(request, COOKIE), ""), dict(request.query_params)
    try:
        who = await accounts.call_provider(lambda: provider.finish(query, sealed, _redirect_uri(request)))
        role = accounts.options.oidc_role
        account = await accounts.ask(lambda: oidc_account(accounts.database, who.issuer, who.subject, who.name, role))
        response = await begin_session(request, account, RedirectResponse("/", 303))
    except OidcError as error:
        response = _failure(error.code, str(error))
    except (Rejected, InvalidRequest) as error:
        response = _failure("disabled" if error.code == "login_failed" else "failed", str(error))
    drop_cookie(request, response, cookie_name(request, COOKIE))
    return response


def _provider_of(request: Request) -> tuple[Accounts, OidcProvider]:
    accounts: Accounts = request.app.state.accounts
    if accounts.provider is None:
        raise InvalidRequest("this page has no OpenID Connect provider", None, "not_found", 404)
    return accounts, accounts.provider


def _redirect_uri(request: Request) -> str:
    """Where the provider sends the browser; it has to know this address, so that a forged Host leads nowhere."""
    host = request.headers.get("host", "")
    return f"{request.scope['scheme']}://{host}{PLACE}"


def _failure(code: str, reason: str) -> Response:
    log.warning("a login by OpenID Connect failed (%s): %s", code, reason)
    status, english, chinese = FAILURES[code]
    return HTMLResponse(PAGE.format(english=english, chinese=chinese), status)
