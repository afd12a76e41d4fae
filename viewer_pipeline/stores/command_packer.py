"""Commands in the format of Redis's protocol, by hiredis."""

from __future__ import annotations

from typing import Any

import hiredis
import redis


class CommandPacker:
    """The `command_packer` of redis-py's connections. As theirs, but it looks at no argument in Python.

    A batch to settle has a hundred keys: of 100 000 counters that saves 20 of 450 ms.
    """

    def pack(self, *command: str | bytes | float) -> list[bytes]:
        """Return a command as it is sent. Its name may have two words. Raises DataError for a value of another type."""
        words = str(command[0], "ascii") if isinstance(command[0], bytes) else str(command[0])
        try:
            words_apart: Any = (*words.split(), *command[1:]) if " " in words else command
            return [hiredis.pack_command(words_apart)]
        except TypeError as error:
            raise redis.DataError(f"{words}: {error}") from error
