"""Epochs that fail one after the other."""

from __future__ import annotations


class FailedEpochs:
    """Counts how many epochs in a row needed a rollback; the same epoch counts once, however often it is tried.

    Parameters
    ----------
    limit : int
        Failed epochs in a row that are too many, at least 1.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError("at least one epoch has to fail before that is too many")
        self.limit = limit
        self.length = 0
        self._last: int | None = None

    def failed(self, epoch: int) -> bool:
        """Take note of a failure in an epoch; True where the streak has reached its limit.

        Parameters
        ----------
        epoch : int
            Whole epochs that lay behind the failing step.
        """
        if epoch != self._last:
            follows = self._last is not None and epoch == self._last + 1
            self.length = self.length + 1 if follows else 1
            self._last = epoch
        return self.length >= self.limit
