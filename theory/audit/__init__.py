"""The bridge: a trained agent's embeddings, values and predictions on a tabular MDP, judged by the theorems.

``export`` reads what the agent hands over, ``setting`` is what all parts share, each part is one module
(``value``, ``returns``, ``acting``, ``linearity``, ``probe``, ``relaxing``, ``labelling``, ``noise``), and
``assemble`` puts them into the ``report``. How to get the arrays out of an agent is not known here.
"""

from theory.audit.assemble import audit_embeddings
from theory.audit.export import Export, mdp_number, read_export
from theory.audit.report import AuditReport

__all__ = ["AuditReport", "Export", "audit_embeddings", "mdp_number", "read_export"]
