"""What Django's registry knows of the app: a name, and a label that clashes with no other."""

from __future__ import annotations

from django.apps import AppConfig


class TrioWSGIConfig(AppConfig):  # type: ignore[misc]  # Django has no types
    """An app without models; it brings one command."""

    name = "trio_wsgi.integrations.django"
    label = "trio_wsgi"
