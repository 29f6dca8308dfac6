"""What alembic runs around the steps: on the connection, and in the transaction, that it is handed."""

from alembic import context

from carellama.store.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table="carellama_revision",
    render_as_batch=True,  # SQLite changes columns only by copying the table
)
with context.begin_transaction():
    context.run_migrations()
