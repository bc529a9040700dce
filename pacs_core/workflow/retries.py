"""When something is tried again that could not be done. Pure."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Retries:
    """Delays that double, from the first one up to a longest; nothing is tried again that is too old."""

    first: timedelta
    longest: timedelta
    give_up_after: timedelta

    def after(self, attempts: int, age: timedelta) -> timedelta | None:
        """How long to wait after so many attempts at something that is so old; None to give up."""
        if age > self.give_up_after:
            return None
        return self.delay(attempts)

    def delay(self, attempts: int) -> timedelta:
        """How long to wait after so many attempts."""
        return min(self.first * (1 << min(attempts - 1, 30)), self.longest)
