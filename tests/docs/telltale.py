"""The `telltale` command as a module, for what forks it."""

from __future__ import annotations

from infra.cli import telltale

telltale(prog_name="telltale")
