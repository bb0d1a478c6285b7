"""What each error means, when it comes up on a cluster and here, and how to recover from it in code.

`explain` takes a class, an instance or a name and gives an `Explanation`; `hint` recognises the two mistakes that
people make when they raise and when they catch an error. Kind, codes, signature and base classes are asked of the
installed SDK; the words are written by hand, keyed by class name, and a test fails when it has a class without words.
"""

from __future__ import annotations

from flyte_notebook.catalogue.clauses import clause_that_never_fires, hint
from flyte_notebook.catalogue.explanation import Explanation
from flyte_notebook.catalogue.lookup import explain, names
from flyte_notebook.catalogue.mistakes import classic_mistake

__all__ = ["Explanation", "classic_mistake", "clause_that_never_fires", "explain", "hint", "names"]
