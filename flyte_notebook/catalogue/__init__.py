"""The meaning of each error, when it is raised on a cluster and here, and how to recover from it in code.

`explain` takes a class, an instance or a name and gives an `Explanation`; `hint` recognises two typical mistakes in
raising and catching an error. Kind, codes, signature and base classes are read from the installed SDK; the texts are
written by hand, by class name, and a test fails for a class without a text.
"""

from __future__ import annotations

from flyte_notebook.catalogue.clauses import clause_that_never_fires, hint
from flyte_notebook.catalogue.explanation import Explanation
from flyte_notebook.catalogue.lookup import explain, names
from flyte_notebook.catalogue.mistakes import classic_mistake

__all__ = ["Explanation", "classic_mistake", "clause_that_never_fires", "explain", "hint", "names"]
