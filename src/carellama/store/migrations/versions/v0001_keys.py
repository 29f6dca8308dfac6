"""API keys and what was used of them: the tables of the CareLlama from before alembic."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    schema = op.create_table("carellama_schema", sa.Column("version", sa.Integer, nullable=False))
    op.bulk_insert(schema, [{"version": 1}])
    op.create_table(
        "carellama_keys",
        sa.Column("id", sa.String(8), primary_key=True),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("scopes", sa.String(200), nullable=False),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("concurrent", sa.Integer),
        sa.Column("tokens_per_day", sa.BigInteger),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("expires", sa.Float),
        sa.Column("revoked", sa.Float),
    )
    op.create_table(
        "carellama_requests",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("key_id", sa.String(8), nullable=False),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("lease_until", sa.Float, nullable=False),
    )
    op.create_index("carellama_requests_started", "carellama_requests", ["key_id", "started"])
    op.create_index("carellama_requests_lease", "carellama_requests", ["key_id", "lease_until"])
    op.create_table(
        "carellama_usage",
        sa.Column("key_id", sa.String(8), primary_key=True),
        sa.Column("day", sa.Integer, primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("last_used", sa.Float, nullable=False),
    )
