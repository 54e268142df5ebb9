"""The admin token among the issued keys: an earlier one may be put in force again."""

from __future__ import annotations

from typing import Final

from postroom.store.noun import Noun

PLACE: Final = "admin_token"  # setting: where the token in force is to be found


class AdminTokens(Noun):
    def forget_place(self) -> None:
        """Let the next start make a token: the one before cannot be recognised any more."""
        self._tx.settings.forget(PLACE)

    def restore(self, digest: bytes) -> bool:
        """Put an earlier admin token in force again; False where there was none with this digest."""
        self._tx.note_keys_changed()
        self._tx.change("forget_admin_token_stopped", digest=digest)
        return bool(self._tx.change("restore_admin_token", digest=digest))
