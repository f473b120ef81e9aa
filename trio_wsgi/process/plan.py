"""What is served, and how: what a configuration comes down to, for a process to serve by.

Law: it is written down for workers and for a new program, and checked when it is read: a Config is made anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from trio_wsgi.config import SETTINGS, Config, make_config
from trio_wsgi.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Plan:
    """What is served, and how: all workers of one start or reload have the same.

    Args:
        reference: of the application; None where mounts are all there is.
        home: the directory that the program was started in; the configuration's `chdir` counts from there.
        umask: that the program was started with; it counts where the configuration has none.
        files: that the configuration was read from, or would be if they were there; absolute.
    """

    reference: str | None
    config: Config
    home: str
    umask: int
    files: tuple[str, ...] = ()


def check_supervised(plan: Plan) -> None:
    """Refuse, by a ConfigError, a plan that no supervisor which runs can follow: one without workers."""
    if plan.config.workers == 0:
        why = "what runs cannot do without its supervisor"
        raise ConfigError("workers", why, "stop it, and start it anew")


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """What `plan_from_json` makes the same plan of: of the settings, those that are not at their default."""
    values = {name: getattr(plan.config, name) for name in SETTINGS}
    changed = {name: value for name, value in values.items() if value != SETTINGS[name].default}
    return {field.name: getattr(plan, field.name) for field in fields(plan)} | {"config": changed}


def plan_from_json(value: Mapping[str, Any]) -> Plan:
    """The plan that was written down.

    Raises:
        ConfigError: a setting that is unknown here.
        KeyError, TypeError: it is none.
    """
    return Plan(**{**value, "config": make_config(value["config"]), "files": tuple(value["files"])})
