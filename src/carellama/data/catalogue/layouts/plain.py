"""Layouts of plain text, for pretraining."""

from __future__ import annotations

from carellama.data.catalogue.layout import Layout

LAYOUTS: dict[str, Layout] = {}
