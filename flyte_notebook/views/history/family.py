"""The tree of calls in a run, also for wrong names of parents, and how callers handled an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flyte_notebook.core.outcome import Failure, Success

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flyte_notebook.history import Action, Run


class Family:
    """The actions of a run by caller.

    ``roots`` are those without a known caller. Every action is reached from one of them exactly once, also where the
    callers' names go round in a circle: the first action of the circle is then a root.
    """

    def __init__(self, run: Run) -> None:
        self._ended_by = run.failure
        self._actions = tuple(run.actions)  # a running run adds to its list
        outcome = self._actions[0].outcome if self._actions else None
        self._succeeded = run.failure is None and isinstance(outcome, Success)
        by_name = {action.name: action for action in self._actions}
        called: dict[str, list[Action]] = {}
        self.roots: list[Action] = []
        for action in self._actions:
            if action.parent is None or action.parent not in by_name:
                self.roots.append(action)
            else:
                called.setdefault(action.parent, []).append(action)
        self._by_name = by_name
        self._children: dict[int, list[Action]] = {}
        reached: set[int] = set()
        for root in tuple(self.roots):
            self._reach(root, called, reached)
        for action in self._actions:
            if id(action) not in reached:
                self.roots.append(action)
                self._reach(action, called, reached)

    def _reach(self, root: Action, called: dict[str, list[Action]], reached: set[int]) -> None:
        reached.add(id(root))
        waiting = [root]
        while waiting:
            action = waiting.pop()
            children = [child for child in called.get(action.name, []) if id(child) not in reached]
            reached.update(map(id, children))
            self._children[id(action)] = children
            waiting += children

    def children(self, action: Action) -> Sequence[Action]:
        """Return the actions that one called, in start order."""
        return self._children.get(id(action), ())

    def was_caught(self, action: Action) -> bool:
        """Whether the caller went on after this action failed: its caller succeeded, or the whole run did."""
        if not isinstance(action.outcome, Failure):
            return False
        caller = self._by_name.get(action.parent or "")
        if caller is None or caller is action:
            return False
        return isinstance(caller.outcome, Success) or self._succeeded

    def then(self, action: Action) -> str:
        """Return how the failure of an action was handled, in a few words; empty where that is not known."""
        if self.was_caught(action):
            return "caught"
        failure, ended = action.outcome, self._ended_by
        if isinstance(failure, Failure) and ended is not None and failure.worker == ended.worker:
            return "ended the run" if len(self._actions) > 1 else ""
        return ""
