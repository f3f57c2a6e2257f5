"""Exact mode: the theorems over the rational numbers, where nothing is rounded and every verdict is a proof.

- ``rationals``, ``mdp``, ``problem``: inputs as fractions; floats are rationalised openly.
- ``elimination``, ``backend``, ``linear``, ``definite``: fraction-free linear algebra (or python-flint).
- ``polynomials``, ``roots``: on which side of the unit circle or the imaginary axis the eigenvalues lie.
- ``solutions``, ``stability``, ``theorem1``, ``theorem2``, ``optimality``: the theorems.

Seconds for theorem 1 and theorem 2, three successors a row, small fractions: with 160 rows and 40 features 13
and 6 in Python, 6 and 0.4 with python-flint; with 80 and 20, below 0.5 each. They grow with about the fifth
power of the size: beyond 200 rows or 48 features (250 and 60 with python-flint) a problem is refused.

Sizes are checked, digits are not. Floats without simple fractions beside them (a measured chain, random
features) have denominators of about 100 bits a row, all different: a dense chain of such floats with 80 rows
and 20 features took 37 seconds for theorem 1 and 15 for theorem 2 with python-flint, on busy cores.
Round such inputs to fractions first ("0.123"), or use floats (``exact=False``).

The modules are imported by their names; what users need is in ``theory`` itself.
"""
