"""Sluice's own HTTP interface; docs/api.md describes it."""
