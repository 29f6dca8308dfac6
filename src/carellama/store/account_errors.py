"""What a person may do wrong with accounts, each with its `code`; all else is a `UserError` of the database."""

from __future__ import annotations

from typing import ClassVar

from carellama.errors import UserError


class AccountError(UserError):
    """An account, a name, a password or an invitation that cannot be; the message is for the person."""

    code: ClassVar[str] = "invalid_account"


class NameTaken(AccountError):
    """Another account has the name."""

    code = "name_taken"


class LastAdmin(AccountError):
    """It would leave accounts without an admin who can log in."""

    code = "last_admin"


class AccountNotFound(AccountError):
    """There is no such account, or it was forgotten."""

    code = "account_not_found"


class InvitationNotFound(AccountError):
    """There is no such invitation, or it was used, or its time is over."""

    code = "invitation_not_found"


class LoginFailed(AccountError):
    """The name or the password is wrong, or the account is disabled; which of them is not said."""

    code = "login_failed"

    def __init__(self) -> None:
        super().__init__("the name or the password is wrong, or the account is disabled")


class LoginLocked(AccountError):
    """Too many wrong passwords: `retry_after` seconds until a login is looked at again."""

    code = "login_locked"

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"too many wrong passwords; try again in {retry_after:.0f} s")
        self.retry_after = retry_after
