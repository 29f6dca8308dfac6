"""Accounts and what they keep: sessions, invitations, conversations, drafts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables, and bar the CareLlama from before alembic."""
    op.execute("UPDATE carellama_schema SET version = 2")
    _accounts()
    _conversations()
    op.create_table(
        "carellama_store_info",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )


def _accounts() -> None:
    op.create_table(
        "carellama_accounts",
        sa.Column("id", sa.String(22), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("name_key", sa.String(255), nullable=False, unique=True),
        sa.Column("password", sa.String(255)),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("last_login", sa.Float),
        sa.Column("disabled", sa.Float),
        sa.Column("issuer", sa.String(255), nullable=False),
        sa.Column("identity", sa.String(64), unique=True),
    )
    op.create_table(
        "carellama_sessions",
        sa.Column("token_hash", sa.String(64), primary_key=True),
        sa.Column("account_id", sa.String(22), nullable=False, index=True),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("last_seen", sa.Float, nullable=False),
        sa.Column("idle_seconds", sa.Float, nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
    )
    op.create_table(
        "carellama_invitations",
        sa.Column("id", sa.String(22), primary_key=True),
        sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Column("account_id", sa.String(22), index=True),
        sa.Column("created_by", sa.String(22), nullable=False),
    )
    op.create_table(
        "carellama_login_attempts",
        sa.Column("subject", sa.String(64), primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("locks", sa.Integer, nullable=False),
        sa.Column("locked_until", sa.Float, nullable=False),
    )


def _conversations() -> None:
    op.create_table(
        "carellama_conversations",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("account_id", sa.String(22), nullable=False, index=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("changed", sa.Float, nullable=False, index=True),
    )
    op.create_table(
        "carellama_messages",
        sa.Column("conversation_id", sa.String(64), primary_key=True),
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("account_id", sa.String(22), nullable=False, index=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "carellama_drafts",
        sa.Column("account_id", sa.String(22), primary_key=True),
        sa.Column("place", sa.String(64), primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("changed", sa.Float, nullable=False),
    )
    op.create_table(
        "carellama_erasures",
        sa.Column("id", sa.String(22), primary_key=True),
        sa.Column("erased", sa.Float, nullable=False),
    )
