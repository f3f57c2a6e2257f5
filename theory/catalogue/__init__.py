"""Problems with known outcomes: where TD, rollouts and bounds do what one expects, and where not.

:func:`names` lists them, :func:`load` gives a problem with its source and what must come out, and
:func:`run_all` computes all of it again, or with ``exact=True`` proves it. The problems are in
``problems.json``; what is measured is in ``measures`` and ``exact_measures``, how it is compared in
``outcomes`` and ``proofs``. Every condition of a report that can fail has an entry here that shows why it
matters (``theory.problem_report``).
"""

from theory.catalogue.entries import Entry, load, names
from theory.catalogue.outcomes import check_entry, run_all
from theory.catalogue.proofs import prove_entry

__all__ = ["Entry", "check_entry", "load", "names", "prove_entry", "run_all"]
