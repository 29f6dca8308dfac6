"""Layouts of exam questions."""

from __future__ import annotations

from carellama.data.catalogue.layout import Layout

LAYOUTS: dict[str, Layout] = {}
