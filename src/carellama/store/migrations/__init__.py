"""The steps from one version of the tables to the next, in alembic's form; `carellama.store.schema` runs them."""
