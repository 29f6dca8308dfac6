"""The tables of the database.

Times are seconds since 1970 (UTC), days are whole ones since then. A table that holds anything of a person has a column
`account_id`: `accounts.forget_account` deletes by it. A column of words has `info=PRIVATE`: it is written by
`cipher.seal`, and `carellama store encrypt` encrypts it.

A change here needs a migration (migrations/versions) with the same change; tests/test_store_migrations.py compares.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, String, Table, Text

PRIVATE = {"private": True}
ID = String(22)  # secrets.token_urlsafe(16)
HASH = String(64)  # SHA-256 in hex
METADATA = MetaData()

# Its version, 2, keeps a CareLlama from before alembic from writing into this database; it is looked at by no other.
SCHEMA = Table("carellama_schema", METADATA, Column("version", Integer, nullable=False))
KEYS = Table(
    "carellama_keys",
    METADATA,
    Column("id", String(8), primary_key=True),
    Column("hash", HASH, nullable=False),  # of the secret
    Column("name", String(200), nullable=False),
    Column("scopes", String(200), nullable=False),  # comma separated
    Column("requests_per_minute", Integer),  # limits that are NULL do not limit
    Column("concurrent", Integer),
    Column("tokens_per_day", BigInteger),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("revoked", Float),
)
REQUESTS = Table(  # those begun within a minute, and those that run
    "carellama_requests",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("key_id", String(8), nullable=False),
    Column("started", Float, nullable=False),
    Column("lease_until", Float, nullable=False),  # 0: it has ended
    Index("carellama_requests_started", "key_id", "started"),
    Index("carellama_requests_lease", "key_id", "lease_until"),
)
USAGE = Table(
    "carellama_usage",
    METADATA,
    Column("key_id", String(8), primary_key=True),
    Column("day", Integer, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),  # those of ended requests, and what the running ones may use
    Column("last_used", Float, nullable=False),
)
ACCOUNTS = Table(
    "carellama_accounts",
    METADATA,
    Column("id", ID, primary_key=True),
    Column("name", String(64), nullable=False),  # NFKC
    Column("name_key", String(255), nullable=False, unique=True),  # the name without case
    Column("password", String(255)),  # argon2id; NULL: logs in by OpenID Connect
    Column("role", String(16), nullable=False),
    Column("created", Float, nullable=False),
    Column("last_login", Float),
    Column("disabled", Float),
    Column("issuer", String(255), nullable=False),  # of OpenID Connect; "": an account of our own
    Column("identity", HASH, unique=True),  # of issuer and subject
)
SESSIONS = Table(
    "carellama_sessions",
    METADATA,
    Column("token_hash", HASH, primary_key=True),
    Column("account_id", ID, nullable=False, index=True),
    Column("created", Float, nullable=False),
    Column("last_seen", Float, nullable=False),
    Column("idle_seconds", Float, nullable=False),
    Column("address", String(64), nullable=False),
)
INVITATIONS = Table(  # the open ones: one that was accepted is deleted
    "carellama_invitations",
    METADATA,
    Column("id", ID, primary_key=True),
    Column("token_hash", HASH, nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("account_id", ID, index=True),  # whose password it sets; NULL: it makes an account
    Column("created_by", ID, nullable=False),  # an account, or "": the command line
)
LOGIN_ATTEMPTS = Table(
    "carellama_login_attempts",
    METADATA,
    Column("subject", HASH, primary_key=True),  # of a name or an address
    Column("count", Integer, nullable=False),  # since `started`
    Column("started", Float, nullable=False),
    Column("locks", Integer, nullable=False),
    Column("locked_until", Float, nullable=False),
)
CONVERSATIONS = Table(
    "carellama_conversations",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("account_id", ID, nullable=False, index=True),
    Column("body", Text, nullable=False, info=PRIVATE),  # JSON as the page made it
    Column("created", Float, nullable=False),
    Column("changed", Float, nullable=False, index=True),
)
MESSAGES = Table(
    "carellama_messages",
    METADATA,
    Column("conversation_id", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("account_id", ID, nullable=False, index=True),
    Column("position", Integer, nullable=False),
    Column("body", Text, nullable=False, info=PRIVATE),
)
DRAFTS = Table(
    "carellama_drafts",
    METADATA,
    Column("account_id", ID, primary_key=True),
    Column("place", String(64), primary_key=True),  # a conversation, or where a new one is begun
    Column("body", Text, nullable=False, info=PRIVATE),
    Column("changed", Float, nullable=False),
)
FEEDBACK = Table(  # what persons thought of answers, without identifiers
    "carellama_feedback",
    METADATA,
    Column("id", ID, primary_key=True),
    Column("account_id", ID, index=True),  # NULL: of nobody known
    Column("created", Float, nullable=False),
    Column("body", Text, nullable=False, info=PRIVATE),
)
ERASURES = Table(  # accounts that were forgotten: no backup brings them back
    "carellama_erasures",
    METADATA,
    Column("id", ID, primary_key=True),
    Column("erased", Float, nullable=False),
)
STORE_INFO = Table(
    "carellama_store_info",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
