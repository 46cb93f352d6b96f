"""Unpickling that runs nothing: values stay values, everything else becomes an inert record.

The base is the standard library's Unpickler written in Python. The one in C allocates as many places as an index in
the file claims, and it calls what the file names; here every opcode that could call or import is replaced.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

from tracin.errors import quote

MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # Python 2's names, in use up to pickle protocol 2
# What pickles of models name of the standard library; any other name of it is there to run something.
DATA_MODULES = {
    "_codecs",
    "argparse",
    "collections",
    "contextlib",  # of modules that torch.compile wrapped
    "copyreg",
    "datetime",
    "decimal",
    "enum",
    "functools",
    "pathlib",
    "types",
}
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
    "long",
    "object",
    "range",
    "set",
    "slice",
    "str",
    "tuple",
}
unframer, Stopped = pickle._Unframer, pickle._Stop  # type: ignore[attr-defined]
READ_BYTES = 1 << 20
# A model's file has thousands of parts, one with the labels of 5 million entities 15 million steps (18 s).
MAX_STEPS = 30_000_000
MAX_PARTS = 1_000_000
MAX_NESTING = 500
SCALARS = (str, bytes, int, float, bool, type(None))
# Those of protocol 2 and later that values are made of. The others read numbers of any length, extension registries,
# buffers from elsewhere, and old text forms.
OPCODES = """
    PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET NONE NEWTRUE NEWFALSE
    BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINSTRING BINSTRING SHORT_BINUNICODE BINUNICODE BINUNICODE8
    SHORT_BINBYTES BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE EMPTY_LIST APPEND APPENDS EMPTY_DICT
    SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET GLOBAL STACK_GLOBAL REDUCE BUILD NEWOBJ NEWOBJ_EX BINPERSID BYTEARRAY8
""".split()
PART_OPCODES = """
    MARK TUPLE1 TUPLE2 TUPLE3 TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET FROZENSET GLOBAL STACK_GLOBAL
    REDUCE NEWOBJ NEWOBJ_EX
""".split()


class UnsafePickle(pickle.UnpicklingError):
    """A pickle that names code which no data needs; the message says which."""


class OversizedPickle(pickle.UnpicklingError):
    """A pickle of more parts, steps or levels than any model's; the message says of which."""


class Foreign:
    """A class or function that a pickle names, or what a call of it would have made; nothing of it was imported.

    Args:
        name: "module.name" of the class or function.
        arguments: of the call.
    """

    __slots__ = ("name", "arguments", "state", "entries")  # a file may hold a million

    def __init__(self, name: str, arguments: object = ()) -> None:
        self.name = name
        self.arguments = arguments
        self.state: object = None  # what the object's own code would have restored itself from
        self.entries: dict[Any, Any] | None = None  # of a class that is a kind of dict

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The state, as far as it names attributes."""
        return self.state if isinstance(self.state, dict) else {}


class OrderedItems(dict[Any, Any]):
    """An OrderedDict of a pickle, with the attributes that were set on it (torch's `_metadata` of a state dict)."""

    __slots__ = ("state",)

    def __init__(self, items: Any = ()) -> None:
        super().__init__(items)
        self.state: object = None


class SafeUnpickler(pickle._Unpickler):
    """Reads one pickle into None, bool, int, float, str, bytes, tuple, list, dict, set and `Foreign`.

    Items that a pickle appends or adds to a `Foreign` are dropped. The result may contain itself. Work and memory are
    bounded: MAX_STEPS, MAX_PARTS, MAX_NESTING.

    Args:
        file: open at the beginning of the pickle; left at its end.
        functions: "module.name" -> what is called instead, with whatever arguments the file has.
        persistent_load: called with the file's persistent ids, which are whatever the file has.
    """

    stack: list[Any]  # these are the base's
    metastack: list[Any]
    _file_read: Callable[..., Any]
    _file_readline: Callable[..., Any]
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
        self.functions = {
            "collections.OrderedDict": _ordered_dict,
            "collections.defaultdict": _default_dict,
            "builtins.set": _set,
            **(functions or {}),
        }
        self._persistent_load = persistent_load
        self.parts = 0

    def load(self) -> Any:
        """The value of the pickle, as deep as MAX_NESTING."""
        value = self._load()
        _check_nesting(value)
        return value

    def _load(self) -> Any:
        frames = unframer(self._read_pieces, self._file_readline)
        self._unframer = frames
        self.read, self.readinto, self.readline = frames.read, frames.readinto, frames.readline
        self.metastack, self.stack, self.proto = [], [], 0
        self.append = self.stack.append
        dispatch, read = self.dispatch, frames.read
        try:
            for _ in range(MAX_STEPS):
                code = read(1)
                if not code:
                    raise EOFError
                dispatch[code[0]](self)  # type: ignore[arg-type]
        except Stopped as stop:
            return stop.value
        raise OversizedPickle(f"its pickle has more than {MAX_STEPS:,} steps")

    def _read_pieces(self, count: int) -> bytes:
        """Allocates what the file has, not what it claims."""
        if count <= READ_BYTES:
            return bytes(self._file_read(count))
        pieces = []
        while count > 0 and (piece := self._file_read(min(count, READ_BYTES))):
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

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
        if isinstance(self.stack[-1], (Foreign, OrderedItems)):
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
        target = self.stack[-1]
        if isinstance(target, Foreign):
            target.entries = {} if target.entries is None else target.entries
            target = target.entries
        if isinstance(target, dict):
            target.update(zip(_hashable(items[::2]), items[1::2], strict=True))

    def load_additems(self) -> None:
        items = self.pop_mark()
        if isinstance(self.stack[-1], set):
            self.stack[-1].update(_hashable(items))

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(_hashable(items)))

    def load_bytearray8(self) -> None:
        self.load_binbytes8()  # the base's method allocates as much as the file claims


def _ordered_dict(*arguments: Any) -> OrderedItems:
    pairs = _emptied(*arguments)
    return OrderedItems(zip(_hashable([key for key, _ in pairs]), [value for _, value in pairs], strict=True))


def _default_dict(*factory: Any) -> OrderedItems:
    return OrderedItems()


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


def _check_nesting(value: Any) -> None:
    """By the shortest way to every part: what contains itself ends too."""
    layer, seen = [value], {id(value)}
    for _ in range(MAX_NESTING):
        below = []
        for part in (part for whole in layer for part in _parts_of(whole) if isinstance(part, NESTED)):
            if id(part) not in seen:
                seen.add(id(part))
                below.append(part)
        if not below:
            return
        layer = below
    raise OversizedPickle(f"its pickle is nested deeper than {MAX_NESTING} levels")


NESTED = (dict, list, tuple, set, frozenset, Foreign)


def _parts_of(whole: Any) -> Iterable[Any]:
    if isinstance(whole, Foreign):
        return whole.arguments, whole.state, whole.entries
    if isinstance(whole, dict):
        return (*whole.values(), whole.state) if isinstance(whole, OrderedItems) else whole.values()
    return whole if isinstance(whole, (list, tuple, set, frozenset)) else ()


def _counted(method: Callable[[SafeUnpickler], None]) -> Callable[[SafeUnpickler], None]:
    def load(self: SafeUnpickler) -> None:
        self.parts += 1
        if self.parts > MAX_PARTS:
            raise OversizedPickle(f"its pickle has more than {MAX_PARTS:,} lists, tuples, dictionaries and objects")
        method(self)

    return load


def _methods() -> dict[int, Callable[..., Any]]:
    methods = {}
    for name in OPCODES:
        code = getattr(pickle, name)[0]
        method = getattr(SafeUnpickler, pickle._Unpickler.dispatch[code].__name__)
        methods[code] = _counted(method) if name in PART_OPCODES else method
    return methods


SafeUnpickler.dispatch = _methods()
