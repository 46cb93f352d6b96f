"""Unpickling that runs nothing: values stay values, everything else becomes an inert record.

The base is the standard library's Unpickler written in Python. The one in C allocates as many places as an index in
the file claims, and it calls what the file names; here every opcode that could call or import is replaced.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any

from tracin.errors import quote

MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # Python 2's names, in use up to pickle protocol 2
# What pickles of models name of the standard library; any other name of it is there to run something.
DATA_MODULES = {"_codecs", "argparse", "collections", "copyreg", "datetime", "decimal", "enum", "functools", "pathlib"}
DATA_BUILTINS = {
    "bool",
    "bytearray",
    "bytes",
    "complex",
    "dict",
    "float",
    "frozenset",
    "getattr",
    "int",
    "list",
    "object",
    "range",
    "set",
    "slice",
    "str",
    "tuple",
}
SCALARS = (str, bytes, int, float, bool, type(None))
# Those of protocol 2 and later that values are made of. The others read numbers of any length, extension registries,
# buffers from elsewhere, and old text forms.
OPCODES = """
    PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET NONE NEWTRUE NEWFALSE
    BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINSTRING BINSTRING SHORT_BINUNICODE BINUNICODE BINUNICODE8
    SHORT_BINBYTES BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE EMPTY_LIST APPEND APPENDS EMPTY_DICT
    SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET GLOBAL STACK_GLOBAL REDUCE BUILD NEWOBJ NEWOBJ_EX BINPERSID BYTEARRAY8
""".split()


class UnsafePickle(pickle.UnpicklingError):
    """A pickle that names code which no data needs; the message says which."""


class Foreign:
    """A class or function that a pickle names, or what a call of it would have made; nothing of it was imported.

    Args:
        name: "module.name" of the class or function.
        arguments: of the call.
    """

    def __init__(self, name: str, arguments: object = ()) -> None:
        self.name = name
        self.arguments = arguments
        self.state: object = None  # what the object's own code would have restored itself from

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The state, as far as it names attributes."""
        return self.state if isinstance(self.state, dict) else {}


class SafeUnpickler(pickle._Unpickler):
    """Reads one pickle into None, bool, int, float, str, bytes, tuple, list, dict, set and `Foreign`.

    Items that a pickle adds to a `Foreign` are dropped. The result may contain itself, and it may be nested deeper than
    Python's recursion limit.

    Args:
        file: open at the beginning of the pickle; left at its end.
        functions: "module.name" -> what is called instead, with whatever arguments the file has.
        persistent_load: called with the file's persistent ids, which are whatever the file has.
    """

    stack: list[Any]  # these four are the base's
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    load_binbytes8: Callable[[], None]

    def __init__(
        self,
        file: IO[bytes],
        functions: Mapping[str, Callable[..., Any]] | None = None,
        persistent_load: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self.functions = {"collections.OrderedDict": _ordered_dict, "builtins.set": _set, **(functions or {})}
        self._persistent_load = persistent_load

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent_load is None:
            raise pickle.UnpicklingError("a persistent id where none is expected")
        return self._persistent_load(pid)

    def find_class(self, module: str, name: str) -> Foreign:
        module = MODULES.get(module, module)
        root = module.partition(".")[0]
        data = root in DATA_MODULES or (module == "builtins" and name in DATA_BUILTINS)
        if root in sys.stdlib_module_names and not data:
            raise UnsafePickle(f"it names {quote(f'{module}.{name}')}, which runs code and has no place in a model")
        return Foreign(f"{module}.{name}")

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], arguments)

    def load_newobj(self) -> None:
        self.load_reduce()

    def load_newobj_ex(self) -> None:
        self.stack.pop()  # keyword arguments
        self.load_reduce()

    def call(self, what: object, arguments: Any) -> Any:
        if type(arguments) is not tuple:
            raise pickle.UnpicklingError("a call without a tuple of arguments")
        name = what.name if isinstance(what, Foreign) else type(what).__name__
        return self.functions[name](*arguments) if name in self.functions else Foreign(name, arguments)

    def load_build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Foreign):
            self.stack[-1].state = state

    def load_append(self) -> None:
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list[Any]) -> None:  # key, value, key, value, ...
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(zip(_hashable(items[::2]), items[1::2], strict=True))

    def load_additems(self) -> None:
        items = self.pop_mark()
        if isinstance(self.stack[-1], set):
            self.stack[-1].update(_hashable(items))

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(_hashable(items)))

    def load_bytearray8(self) -> None:
        self.load_binbytes8()  # the base's method allocates as much as the file claims


def _ordered_dict(*arguments: Any) -> dict[Any, Any]:
    pairs = _emptied(*arguments)
    return dict(zip(_hashable([key for key, _ in pairs]), [value for _, value in pairs], strict=True))


def _set(*arguments: Any) -> set[Any]:
    return set(_hashable(_emptied(*arguments)))


def _emptied(items: Any = None) -> list[Any]:
    """The one list of items that older protocols give a call; emptied, so that a shared list makes one object only."""
    if items is None:
        return []
    if type(items) is not list:
        raise pickle.UnpicklingError("items that are not a list")
    taken = items.copy()
    items.clear()
    return taken


def _hashable(keys: list[Any]) -> list[Any]:
    """Keys without tuples in tuples: Python hashes those by recursion in C, and shared ones in exponential time."""

    def simple(key: object) -> bool:
        return isinstance(key, (*SCALARS, Foreign))

    if not all(simple(key) or (type(key) is tuple and all(map(simple, key))) for key in keys):
        raise pickle.UnpicklingError("keys are neither text nor numbers")
    return keys


def _methods() -> dict[int, Callable[..., Any]]:
    codes = (getattr(pickle, name)[0] for name in OPCODES)
    return {code: getattr(SafeUnpickler, pickle._Unpickler.dispatch[code].__name__) for code in codes}


SafeUnpickler.dispatch = _methods()
