"""Which training triples look wrong, and what a training set says twice."""

from tracin.auditing.audit import Audit, audit, audit_subject

__all__ = ["Audit", "audit", "audit_subject"]
