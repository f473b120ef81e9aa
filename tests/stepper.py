"""Cancel at every step: a Trio instrument that cancels a scope when the loop has run its k-th step.

A step is one task running from one checkpoint to the next. What a test does for itself is not counted: only the tasks
that are children of a nursery of the one that is cancelled, however deep.
"""

from __future__ import annotations

import trio


class CancelsAtStep(trio.abc.Instrument):
    """Cancels `scope` before the step number `at` of the tasks below `root`; arm it when the steps shall count.

    Args:
        scope: what is cancelled.
        root: the task whose descendants are counted.
        at: 1 for the first step; 0 for never, to count them.
    """

    def __init__(self, scope: trio.CancelScope, root: trio.lowlevel.Task, at: int) -> None:
        self._scope = scope
        self._root = root
        self._at = at
        self.armed = False
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """trio.abc.Instrument: a task is about to run."""
        if self.armed and self._is_below(task):
            self.steps += 1
            if self.steps == self._at:
                self._scope.cancel()

    def _is_below(self, task: trio.lowlevel.Task) -> bool:
        above: trio.lowlevel.Task | None = task
        while above is not None:
            if above is self._root:
                return True
            above = None if above.parent_nursery is None else above.parent_nursery.parent_task
        return False
