"""A command that runs a process of the service: an error that ends its start is a line of the service's log too."""

from __future__ import annotations

from typing import Any

import click

from postroom.cli.exits import words_of
from postroom.core.errors import ConfigError, PostroomError


class ServiceCommand(click.Command):
    """With a JSON format an operator finds each failed start on standard output, where all other lines are."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            self._tell(error.format_message())
            raise

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (PostroomError, ConfigError) as error:
            self._tell(str(error))
            raise
        except OSError as error:
            self._tell(words_of(error)[0])
            raise
        except Exception:
            from postroom.runtime.failed_start import ensure_log

            ensure_log()  # the entry point logs it with its traceback
            raise

    def _tell(self, words: str) -> None:
        from postroom.runtime.failed_start import tell_failed_start

        tell_failed_start("notify run" if self.name == "run" else str(self.name), words)
