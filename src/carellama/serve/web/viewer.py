"""Who looks at the page: what a request may see of the model.

if viewer_of(request) == "researcher": ...
"""

from __future__ import annotations

from fastapi import Request

from carellama.config.serve import Profile
from carellama.serve.api.routes.context import context_of
from carellama.serve.web.accounts.service import PROFILES
from carellama.serve.web.accounts.session_auth import AccountCaller


def viewer_of(request: Request) -> Profile:
    """Return the profile of who asks: that of the account's role, or the page's."""
    caller = context_of(request)[1].caller
    viewer: Profile = request.app.state.page.viewer
    return PROFILES[caller.account.role] if isinstance(caller, AccountCaller) else viewer
