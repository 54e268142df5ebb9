"""Named values of the installation in the database, such as the fingerprint of the secret key."""

from __future__ import annotations

from postroom.store.noun import Noun


class StoredSettings(Noun):
    def get(self, name: str) -> str | None:
        return self._tx.value(str, "read_setting", name=name)

    def set(self, name: str, value: str) -> None:
        self._tx.change("write_setting", name=name, value=value)

    def set_once(self, name: str, value: str) -> str:
        """Set what is not set yet; return its value."""
        self._tx.change("add_setting", name=name, value=value)
        found = self.get(name)
        assert found is not None
        return found

    def forget(self, name: str) -> None:
        self._tx.change("forget_setting", name=name)
