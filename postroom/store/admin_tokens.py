"""The admin token among the issued keys: an earlier one may be put in force again."""

from __future__ import annotations

from postroom.store.noun import Noun


class AdminTokens(Noun):
    def restore(self, digest: bytes) -> bool:
        """Put an earlier admin token in force again; False where there was none with this digest."""
        self._tx.note_keys_changed()
        return bool(self._tx.change("restore_admin_token", digest=digest))
