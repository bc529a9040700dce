"""A crash at every line, as far as others can see it: before or after any call of a collaborator."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any


class Crash(BaseException):
    """The process is gone. Nothing in the product catches it."""


class Fuse:
    """Blows at the n-th call that passes, before or after it has its effect."""

    def __init__(self, at: int, *, after: bool) -> None:
        self._left = at
        self._after = after
        self.blown = False

    def call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.blown:
            raise Crash  # the process is gone for its other threads, too
        self._left -= 1
        if self._left == 0 and not self._after:
            self._blow()
        result = method(*args, **kwargs)
        if self._left == 0 and self._after:
            self._blow()
        return result

    def _blow(self) -> None:
        self.blown = True
        raise Crash


class Hooked:
    """A collaborator whose named methods are called by way of `call`, which gets them and their arguments; everything else is its own."""

    def __init__(self, target: Any, call: Callable[..., Any], *methods: str) -> None:
        self._target = target
        self._call = call
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        return partial(self._call, attribute) if name in self._methods else attribute


class Fused(Hooked):
    """A collaborator whose named methods go through a fuse."""

    def __init__(self, target: Any, fuse: Fuse, *methods: str) -> None:
        super().__init__(target, fuse.call, *methods)


def every_crash(most: int = 200) -> Iterator[Fuse]:
    """A fuse for each call, before and after, until one survives what it is used for."""
    for after in (False, True):
        for at in range(1, most):
            fuse = Fuse(at, after=after)
            yield fuse
            if not fuse.blown:
                break
        else:
            raise AssertionError("there is no end of calls")
