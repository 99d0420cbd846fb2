"""One attempt at an exercise: the learner's answer, used with care, and the sentence that says what is wrong with it.

A check calls the learner's function through `Attempt`, which gives it copies, ends it when it runs for ever, and turns
whatever it raises into a line that helps. Nothing that a learner writes makes a check raise.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import inspect
import math
import reprlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np

SECONDS = 10.0  # for one call: generous on a slow machine, short for one who waits


@dataclass(frozen=True)
class Verdict:
    """Whether an answer passed, and the line to show for it."""

    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed


class NotYet(Exception):
    """The answer is not right yet. The message names the mistake, and is shown to the learner."""


class TookTooLong(BaseException):
    """Ends a call that does not end. Not an Exception, so that `except Exception` in the answer lets it through."""


def expect(condition: bool, mistake: str) -> None:
    """Raise NotYet(mistake) unless `condition` holds."""
    if not condition:
        raise NotYet(mistake)


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TookTooLong inside the block once `seconds` are over, and again until the block ends."""
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():

        def ring(*_: object) -> None:
            raise TookTooLong

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.2)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        return
    # Windows has no such timer, and a signal reaches the main thread only. This way cannot end a call inside C.
    thread, over = ctypes.c_ulong(threading.get_ident()), threading.Event()

    def interrupt() -> None:
        wait = seconds
        while not over.wait(wait):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TookTooLong))
            wait = 0.2

    watch = threading.Thread(target=interrupt, daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


def same(first: Any, second: Any) -> bool:
    """Equal to the last bit, through lists, dicts, arrays, tensors and modules."""
    if type(first) is not type(second):
        return False
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if hasattr(first, "state_dict"):
        return same(dict(first.state_dict()), dict(second.state_dict()))
    if hasattr(first, "shape"):
        one, other = _array(first), _array(second)
        return one.shape == other.shape and one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)
    if hasattr(first, "__dict__") and not callable(first):
        return same(vars(first), vars(second))
    return callable(first) or bool(first == second) or first != first


def _array(value: Any) -> np.ndarray:
    """numpy's view of an array, a tensor (on any device, with or without a gradient) or nested lists."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    return np.asarray(value)


def short(value: Any) -> str:
    """A value as a learner would recognise it, in at most about 60 characters."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if isinstance(value, Real):
        number = float(value)
        return f"{number:,.0f}" if number.is_integer() and abs(number) < 1e15 else f"{number:.6g}"
    if hasattr(value, "shape") and tuple(value.shape):
        return f"an array of shape {list(value.shape)}"
    if hasattr(value, "shape") and hasattr(value, "item"):
        return f"{_array(value).item():.6g}"
    if isinstance(value, Mapping):
        return f"a dict of {len(value)} {'entry' if len(value) == 1 else 'entries'}"
    if type(value) in (list, tuple):
        inside = ", ".join(map(short, value[:6])) + (", ..." if len(value) > 6 else "")
        if len(inside) < 60:
            return f"[{inside}]" if isinstance(value, list) else f"({inside})"
        return f"a {type(value).__name__} of {len(value)} things"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"the function {value.__name__}"
    if hasattr(value, "state_dict") or type(value).__repr__ is object.__repr__ or hasattr(value, "__next__"):
        return _a(type(value).__name__)
    return reprlib.repr(value)


def _a(noun: str) -> str:
    return f"{'an' if noun[:1] in 'AEIOaeio' else 'a'} {noun}"


def _kind(value: Any) -> str:
    """A value and, where one cannot see it, what it is: 'eight', a str."""
    shown = short(value)
    return shown if value is None or shown.startswith(("a ", "an ", "the ")) else f"{shown}, {_a(type(value).__name__)}"


def _call(function: Callable, args: tuple[Any, ...]) -> str:
    """A call as a line of text: arrays by their shape, and with their names, which say which is which."""
    name = getattr(function, "__name__", "your function")
    try:
        names = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    except (TypeError, ValueError):
        names = []
    named = len(names) >= len(args) and any(tuple(getattr(arg, "shape", ())) for arg in args)
    parts = []
    for at, arg in enumerate(args):
        shape = tuple(getattr(arg, "shape", ()))
        if named and shape:
            parts.append(f"{names[at]} {list(shape)}")
        else:
            parts.append(f"{names[at]}={short(arg)}" if named else short(arg))
    return f"{name}({', '.join(parts)})"


def _first_line(error: BaseException) -> str:
    """What an error says, in a line: torch's can be pages long."""
    line = str(error).strip().split("\n")[0]
    return line if len(line) <= 160 else line[:157] + "..."


def is_stub(answer: Any) -> bool:
    """Whether an answer still has the three dots of its stub in it."""
    return answer is ... or (isinstance(answer, tuple | list) and any(map(is_stub, answer)))


@dataclass
class Attempt:
    """A learner's answer to exercise `name`, and the ways in which a check may look at it."""

    name: str
    answer: Any
    given: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = SECONDS

    def __call__(
        self,
        *args: Any,
        may_change: bool = False,
        may_be_none: bool = False,
        of: Callable | None = None,
        **kwargs: Any,
    ) -> Any:
        """What the learner's function (or `of`, one of several) returns for copies of `args`.

        With `may_change` it gets the arguments themselves, for functions that are meant to change them; with
        `may_be_none` None is a result. Raises NotYet when it raises, does not end, changes an argument, returns
        nothing, or is still the stub.
        """
        function = self.answer if of is None else of
        name = getattr(function, "__name__", self.name)
        if not callable(function):
            raise NotYet(
                f'pass the function itself, without brackets: practice.check("{self.name}", {self.name}). '
                f"This is {_kind(function)}."
                if of is None
                else f"pass the functions themselves, without brackets. One of them is {_kind(function)}."
            )
        if isinstance(function, type) and of is None:
            raise NotYet(f"{name} is a class here. Write a function: def {name}(...), with a return.")
        if not may_change:
            args, kwargs = copy.deepcopy(args), copy.deepcopy(kwargs)
            pristine = copy.deepcopy(args)
        shown = _call(function, args)
        try:
            with at_most(self.seconds):
                result = function(*args, **kwargs)
        except TookTooLong:
            raise NotYet(
                f"{shown} did not end within {self.seconds:g} seconds. Is there a loop that never stops?"
            ) from None
        except KeyboardInterrupt:
            raise
        except RecursionError:
            raise NotYet(f"{shown} calls itself for ever: nothing ends the recursion.") from None
        except BaseException as error:
            if "ellipsis" in str(error):
                raise NotYet(f"there are still three dots in {name}: put your own answer in their place.") from None
            line = f": {_first_line(error)}" if str(error) else ""
            raise NotYet(f"{shown} raised {type(error).__name__}{line}") from None
        if is_stub(result):
            raise NotYet(f"there are still three dots in what {name} returns: put your own answer in their place.")
        if not may_change and not same(args, pristine):
            raise NotYet(
                f"{name} changes its input: what it was given is not the same afterwards. Work on a copy, or make a "
                "new array instead of writing into the old one."
            )
        if result is None and not (may_change or may_be_none):
            raise NotYet(f"{name} returns None: is there a return? (print shows a value, and gives nothing back.)")
        return result

    # --- what a result must be, before it can be right ----------------------------------------------------------------

    def number(self, value: Any, what: str = "the result") -> float:
        """`value` as one float. Raises NotYet for what is no single, finite number."""
        if hasattr(value, "shape") and math.prod(value.shape) == 1:
            value = _array(value).reshape(()).item()
        if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
            if value is None:
                raise NotYet(f"{what} is None, and it should be one number: is a return missing?")
            raise NotYet(f"{what} is {_kind(value)}; it should be one number.")
        if not math.isfinite(value):
            raise NotYet(f"{what} is {value}: something was divided by zero, or grew without end.")
        return float(value)

    def whole(self, value: Any, what: str = "the result") -> int:
        """`value` as an int. Raises NotYet for a fraction (3.0 passes: it is whole)."""
        number = self.number(value, what)
        if number != int(number):
            raise NotYet(f"{what} is {number:g}, and this can only be a whole number.")
        return int(value) if isinstance(value, Integral) else int(number)

    def array(self, value: Any, shape: tuple[int, ...], what: str = "the result") -> np.ndarray:
        """`value` as a numpy array of that shape, whatever it is made of. Raises NotYet, naming both shapes."""
        try:
            found = _array(value)
            if found.dtype.kind not in "biufc":
                raise TypeError
        except Exception:
            why = " Are the brackets of a call missing?" if inspect.isroutine(value) else ""
            raise NotYet(f"{what} is {_kind(value)}; it should be an array of shape {list(shape)}.{why}") from None
        if found.shape != tuple(shape):
            hint = " It is transposed." if found.shape == tuple(shape)[::-1] and len(shape) == 2 else ""
            raise NotYet(f"{what} has the shape {list(found.shape)}; it should be {list(shape)}.{hint}")
        if not np.isfinite(found).all():
            raise NotYet(f"{what} holds a number that is not finite.")
        return found

    def several(self, value: Any, count: int, what: str = "the result") -> tuple[Any, ...]:
        """`value` as a tuple of `count` things. Raises NotYet otherwise."""
        if isinstance(value, np.ndarray) and value.ndim == 1:
            value = tuple(value)
        if not isinstance(value, tuple | list) or len(value) != count:
            raise NotYet(f"{what} should be {count} things, separated by commas; it is {short(value)}.")
        return tuple(value)

    # --- and whether it is ----------------------------------------------------------------------------------------

    def agree(
        self,
        got: Any,
        right: Any,
        mistakes: Mapping[str, Any] | None = None,
        case: str = "",
        tolerance: float = 1e-6,
        otherwise: str = "",
    ) -> None:
        """Raise NotYet unless `got` equals `right` (relative tolerance; 0 for exactly).

        `mistakes` is a sentence -> the value that this mistake would give: the first that fits is what the learner
        reads. One that gives the right value in this case proves nothing and is passed over. `otherwise` is for a
        mistake that nobody foresaw, where the usual line, which names the right value, would be the solution.
        """
        if close(got, right, tolerance):
            return
        for sentence, value in (mistakes or {}).items():
            if not close(value, right, tolerance) and close(got, value, max(tolerance, 1e-9)):
                raise NotYet(sentence)
        if otherwise:
            raise NotYet(otherwise)
        where = f"for {case.rstrip(' ,:')}: " if case else ""
        if np.shape(_array(right)):
            raise NotYet(f"{where}the shape fits, but the numbers differ, by up to {_gap(got, right):.3g}.")
        raise NotYet(f"{where}it gives {short(got)}; it should be {short(right)}.")


def close(got: Any, right: Any, tolerance: float = 1e-6) -> bool:
    """Same shape and equal within a relative tolerance (of the largest entry, for arrays)."""
    one, other = _array(got), _array(right)
    if one.shape != other.shape:
        return False
    if tolerance == 0:
        return bool(np.array_equal(one, other))
    room = tolerance * max(float(np.abs(other).max(initial=0.0)), 1e-30)
    return bool(np.all(np.abs(one.astype(complex) - other.astype(complex)) <= room))


def _gap(got: Any, right: Any) -> float:
    return float(np.abs(_array(got).astype(float) - _array(right).astype(float)).max())
