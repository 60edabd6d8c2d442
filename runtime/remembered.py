"""A session that answers a question it has heard before from memory: the clean teacher, compared again and again."""

from __future__ import annotations

from kdguard.export.tasks import Image
from kdguard.runtime.session import RestorationSession


class RememberedSession:
    """Restores every image once, and keeps all answers as long as it lives."""

    def __init__(self, session: RestorationSession) -> None:
        self.card, self.large = session.card, session.large
        self._session = session
        self._answers: dict[tuple[tuple[int, ...], bytes], Image] = {}

    @property
    def provider(self) -> str:
        """As the session's."""
        return self._session.provider

    @property
    def kernels(self) -> str:
        """As the session's."""
        return self._session.kernels

    def release(self) -> None:
        """Give a large model's memory back; the answers stay."""
        self._session.release()

    def restore(self, degraded: Image) -> Image:
        """One image [H, W, C] in [0, 1]; callers must not write into the answer."""
        key = (degraded.shape, degraded.tobytes())
        if key not in self._answers:
            self._answers[key] = self._session.restore(degraded)
        return self._answers[key]
