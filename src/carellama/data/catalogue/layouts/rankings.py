"""Layouts of answers that were ranked: preference pairs."""

from __future__ import annotations

from carellama.data.catalogue.layout import Layout

LAYOUTS: dict[str, Layout] = {}
