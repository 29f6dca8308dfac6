"""Layouts of conversations of several turns between patients and doctors."""

from __future__ import annotations

from carellama.data.catalogue.layout import Layout

LAYOUTS: dict[str, Layout] = {}
