"""SafeUnpickler against pickles written by hand: nothing runs, nothing grows, values come back as they were."""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
import time
import tracemalloc
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest

from tracin.safe_pickle import Foreign, OversizedPickle, SafeUnpickler, UnsafePickle


def load(content: bytes) -> Any:
    return SafeUnpickler(io.BytesIO(content)).load()


def text(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(value)) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()


def program(*parts: bytes, protocol: int = 4) -> bytes:
    return pickle.PROTO + bytes([protocol]) + b"".join(parts) + pickle.STOP


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_values_come_back(protocol: int) -> None:
    shared = ["x", 2.5]
    value = {
        "none": None,
        "truth": [True, False],
        "numbers": [0, -1, 255, 65535, -(2**31), 2**62, -(2**200), 1e-300],
        "text": ["", "nœud", "x" * 300],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "shared": [shared, shared],
        7: {"nested": {}},
        "ordered": OrderedDict([("b", 1), ("a", 2)]),
        ("a", 1): "tuple as key",
        "many": list(range(3000)),
        **({"bytes": [b"", b"z" * 300]} if protocol > 2 else {}),  # made by calls before
        **({"sets": [{1, "a"}, frozenset({2})]} if protocol > 3 else {}),
    }
    result = load(pickle.dumps(value, protocol))
    assert result == value
    assert list(result["ordered"]) == ["b", "a"]
    assert result["shared"][0] is result["shared"][1]


def test_bytearray_becomes_bytes() -> None:
    assert load(pickle.dumps(bytearray(b"abc"), 5)) == b"abc"


def test_objects_become_records() -> None:
    path = load(pickle.dumps(Path("/a/b"), 2))
    assert isinstance(path, Foreign) and path.name.startswith("pathlib") and path.arguments == ("/", "a", "b")
    made = load(
        program(
            name("kge.config", "Config"),
            pickle.EMPTY_TUPLE,
            pickle.NEWOBJ,
            pickle.EMPTY_DICT,
            text("options"),
            pickle.EMPTY_DICT,
            pickle.SETITEM,
            pickle.BUILD,
        )
    )
    assert (made.name, made.attributes, made.arguments) == ("kge.config.Config", {"options": {}}, ())


# hostile pickles

COMMAND = [text("touch sprung"), pickle.TUPLE1]
CODE = {
    "system": [name("os", "system"), *COMMAND, pickle.REDUCE],
    "system of python 2's posix": [name("posix", "system"), *COMMAND, pickle.REDUCE],
    "eval": [name("builtins", "eval"), *COMMAND, pickle.REDUCE],
    "eval of python 2": [name("__builtin__", "eval"), *COMMAND, pickle.REDUCE],
    "by name in a string": [text("os"), text("system"), pickle.STACK_GLOBAL, *COMMAND, pickle.REDUCE],
    "named only": [name("subprocess", "Popen")],
    "new object": [name("subprocess", "Popen"), *COMMAND, pickle.NEWOBJ],
    "new object with keywords": [name("subprocess", "Popen"), *COMMAND, pickle.EMPTY_DICT, pickle.NEWOBJ_EX],
    "importer": [name("importlib", "import_module"), *COMMAND, pickle.REDUCE],
    "method caller": [name("operator", "methodcaller"), *COMMAND, pickle.REDUCE],
}


@pytest.mark.parametrize("case", CODE)
def test_code_is_refused_by_name(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafePickle, match="'(os|posix|builtins|subprocess|importlib|operator)\\..*runs code"):
        load(program(*CODE[case]))
    assert list(tmp_path.iterdir()) == []


def test_calls_through_records_stay_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """getattr, and modules that import os, lead nowhere: a record is not the thing."""
    monkeypatch.chdir(tmp_path)
    torch_os = [name("torch.serialization", "os"), text("system"), pickle.TUPLE2]
    for opcodes in (
        [name("builtins", "getattr"), *torch_os, pickle.REDUCE, *COMMAND, pickle.REDUCE],
        [text("torch"), text("os.system"), pickle.STACK_GLOBAL, *COMMAND, pickle.REDUCE],
        [name("numpy.testing", "runstring"), text("raise SystemExit"), pickle.EMPTY_DICT, pickle.TUPLE2, pickle.REDUCE],
        [
            name("pykeen.models", "ConvE"),
            pickle.EMPTY_TUPLE,
            pickle.NEWOBJ,
            text("__class__"),
            text("x"),
            pickle.SETITEM,
            text("y"),
            pickle.APPEND,
            pickle.MARK,
            text("z"),
            pickle.ADDITEMS,
            *COMMAND,
            pickle.BUILD,
        ],
    ):
        assert isinstance(load(program(*opcodes)), Foreign)
    assert list(tmp_path.iterdir()) == []


def test_extension_registry_is_closed() -> None:
    copyreg.add_extension("os", "system", 240)
    try:
        with pytest.raises(KeyError):
            load(program(pickle.EXT1, b"\xf0"))
    finally:
        copyreg.remove_extension("os", "system", 240)


CLAIMS = {  # a pickle that claims gigabytes, and its value; none where it must fail
    "memo": (program(pickle.EMPTY_LIST, pickle.LONG_BINPUT, struct.pack("<I", 2**31 - 1)), [[]]),  # 2^32 places in C
    "frame": (program(pickle.FRAME, struct.pack("<Q", 10**10), pickle.NONE), [None]),
    "bytearray": (program(pickle.BYTEARRAY8, struct.pack("<Q", 10**10), b"x", protocol=5), []),
    "bytes": (program(pickle.BINBYTES8, struct.pack("<Q", 10**10), b"x"), []),
    "text": (program(pickle.BINUNICODE8, struct.pack("<Q", 10**10), b"x"), []),
    "number": (program(pickle.LONG4, struct.pack("<i", 2**31 - 1), b"x"), []),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_claimed_sizes_allocate_nothing(case: str) -> None:
    content, value = CLAIMS[case]
    tracemalloc.start()
    try:
        if value:
            assert [load(content)] == value
        else:
            with pytest.raises((pickle.UnpicklingError, EOFError, KeyError)):
                load(content)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("arguments", [[pickle.EMPTY_LIST], [pickle.EMPTY_TUPLE, pickle.TUPLE1]])
def test_calls_take_a_tuple_and_items_a_list(arguments: list[bytes]) -> None:
    with pytest.raises(pickle.UnpicklingError, match="without a tuple of arguments|not a list"):
        load(program(name("collections", "OrderedDict"), *arguments, pickle.REDUCE))


@pytest.mark.parametrize("protocol", [2, 4])
def test_sets(protocol: int) -> None:
    assert load(pickle.dumps({"some": {"a", 1}, "none": set()}, protocol)) == {"some": {"a", 1}, "none": set()}
    with pytest.raises(pickle.UnpicklingError, match="keys are neither"):
        load(pickle.dumps({((1, 2), 3)}, protocol))


def test_ordered_dicts_of_one_shared_list_do_not_multiply() -> None:
    pairs = [pickle.EMPTY_LIST, pickle.BINPUT, b"\0", text("k"), pickle.NONE, pickle.TUPLE2, pickle.APPEND]
    again = [pickle.BINGET, b"\0", pickle.TUPLE1, pickle.REDUCE]
    ordered = name("collections", "OrderedDict")
    first = [ordered, *pairs, pickle.TUPLE1, pickle.REDUCE]
    assert load(program(*first, ordered, *again, pickle.TUPLE2)) == ({"k": None}, {})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda key: [pickle.EMPTY_DICT, *key, pickle.NONE, pickle.SETITEM],
        lambda key: [pickle.EMPTY_DICT, pickle.MARK, *key, pickle.NONE, pickle.SETITEMS],
        lambda key: [pickle.EMPTY_SET, pickle.MARK, *key, pickle.ADDITEMS],
        lambda key: [pickle.MARK, *key, pickle.FROZENSET],
    ],
    ids=["item", "items", "set", "frozenset"],
)
@pytest.mark.parametrize(
    "key",
    [
        [pickle.EMPTY_TUPLE, *[pickle.TUPLE1] * 100_000],
        [pickle.EMPTY_TUPLE, *[pickle.DUP, pickle.TUPLE2] * 100],
        [pickle.EMPTY_LIST],
    ],
    ids=["deep", "doubled", "list"],
)
@pytest.mark.slow
def test_keys_that_hash_by_recursion_are_refused(wrap: Any, key: list[bytes]) -> None:
    with pytest.raises(pickle.UnpicklingError, match="keys are neither text nor numbers"):
        load(program(*wrap(key)))


NESTED = {
    "lists": lambda depth: [pickle.EMPTY_LIST] * depth + [pickle.APPEND] * (depth - 1),
    "tuples": lambda depth: [pickle.EMPTY_TUPLE, *[pickle.TUPLE1] * depth],
    "marks": lambda depth: [pickle.MARK] * depth + [pickle.TUPLE] * depth,
    "dictionaries": lambda depth: [
        pickle.EMPTY_DICT,
        *[pickle.BININT1 + b"\0" + pickle.EMPTY_DICT] * depth,
        *[pickle.SETITEM] * depth,
    ],
    "calls": lambda depth: [pickle.EMPTY_TUPLE, *[pickle.TUPLE1 + name("a", "b") + pickle.POP] * depth],
    "records": lambda depth: [
        *[name("a", "b") + pickle.EMPTY_TUPLE + pickle.NEWOBJ] * depth,
        *[pickle.BUILD] * (depth - 1),
    ],
}


@pytest.mark.parametrize("kind", NESTED)
def test_nesting_has_a_limit(kind: str) -> None:
    load(program(*NESTED[kind](400)))
    with pytest.raises(OversizedPickle, match="is nested deeper than 500 levels"):
        load(program(*NESTED[kind](5000)))


def test_what_contains_itself_ends() -> None:
    itself = load(program(pickle.EMPTY_LIST, pickle.BINPUT, b"\0", pickle.BINGET, b"\0", pickle.APPEND))
    assert itself[0] is itself


@pytest.mark.parametrize("kind", NESTED)
@pytest.mark.slow
def test_a_million_parts_are_refused_before_they_fill_the_memory(kind: str) -> None:
    content = program(*NESTED[kind](1_500_000))
    start = time.process_time()
    with pytest.raises(OversizedPickle, match="has more than 1,000,000 lists, tuples, dictionaries and objects"):
        load(content)
    assert time.process_time() - start < 30  # 1 to 5 s


def test_steps_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracin.safe_pickle.MAX_STEPS", 1000)
    load(program(*[pickle.NONE] * 900))
    with pytest.raises(OversizedPickle, match="more than 1,000 steps"):
        load(program(*[pickle.NONE] * 1100))


def test_ordered_dict_keeps_its_attributes() -> None:
    state = OrderedDict(a=1)
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    for protocol in (2, 4):
        result = load(pickle.dumps(state, protocol))
        assert result == {"a": 1} and result.state == {"_metadata": {"": {"version": 1}}}


def test_entries_of_other_kinds_of_dictionaries() -> None:
    made = load(
        program(name("x", "AttributeDict"), pickle.EMPTY_TUPLE, pickle.NEWOBJ, text("lr"), pickle.NONE, pickle.SETITEM)
    )
    assert made.entries == {"lr": None} and made.attributes == {}
    counts: defaultdict[str, int] = defaultdict(int, a=1)
    assert load(pickle.dumps(counts, 4)) == {"a": 1}


def test_persistent_ids_need_a_reader() -> None:
    with pytest.raises(pickle.UnpicklingError, match="persistent id"):
        load(program(text("x"), pickle.BINPERSID))


@pytest.mark.parametrize("cut", range(1, 40))
def test_truncated_pickles_raise(cut: int) -> None:
    content = pickle.dumps({"a": [1, 2.5, "text"], "b": (None, {"c": b"x"})}, 4)
    assert len(content) > 40
    with pytest.raises((pickle.UnpicklingError, EOFError, IndexError, struct.error)):
        load(content[:-cut])
