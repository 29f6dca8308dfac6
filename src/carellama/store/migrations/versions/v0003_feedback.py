"""Feedback: what persons thought of answers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "carellama_feedback",
        sa.Column("id", sa.String(22), primary_key=True),
        sa.Column("account_id", sa.String(22), index=True),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
