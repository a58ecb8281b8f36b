"""The markup of :mod:`kdcmae.markup`, under the name that the report's modules import."""

from kdcmae.markup import Html, document, section, table, tag

__all__ = ["Html", "document", "section", "table", "tag"]
