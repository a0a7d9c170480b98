"""The sources by their kind. Each kind is loaded where it is used."""

from __future__ import annotations

from sage_inference.config.settings import SourceSettings
from sage_inference.discovery.source import Source


def source_of(settings: SourceSettings) -> Source:
    """The source that ``settings`` describe. It is not asked yet."""
    if settings.file is not None:
        from sage_inference.discovery.file import FileSource

        return FileSource(settings)
    if settings.dns is not None:
        from sage_inference.discovery.dns import DnsSource

        return DnsSource(settings)
    from sage_inference.discovery.ray import RaySource

    return RaySource(settings)
