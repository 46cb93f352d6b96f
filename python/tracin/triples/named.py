"""A triple as people name it: by labels, by names, or by ids."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from tracin.errors import InputError, quote
from tracin.triples.dictionaries import argument_of
from tracin.triples.form import TRIPLE
from tracin.triples.labels import Labels
from tracin.triples.likeness import difference, folded, folded_labels, near_misses
from tracin.triples.read import Triple

ID = re.compile(r"[0-9]{1,18}")


def named_triple(
    texts: Sequence[str],
    entity_to_id: Mapping[str, int],
    relation_to_id: Mapping[str, int],
    labels: Labels | None = None,
    numeric: bool = False,
    called: str = "triple",
) -> Triple:
    """The ids of head, relation and tail, each of which is a label, else the name of one, else an id.

    Args:
        texts: head, relation, tail.
        entity_to_id, relation_to_id: label -> id.
        labels: has the names.
        numeric: texts are ids only.
        called: what errors call the triple.

    Raises:
        InputError: for a text that is none of these, or the name of several.

    Example:
        >>> named_triple(("aspirin", "treats", "17"), entities, relations, Labels(..., node_names={20: "aspirin"}))
        (20, 3, 17)
    """
    entity_name = None if labels is None or labels.node_names is None else labels.entity_name
    relation_name = None if labels is None else labels.relation_name
    head, relation, tail = (
        _id_of(text, f"{called}: {place} {quote(text)}", kind, ids, None if numeric else name, numeric)
        for text, place, (kind, ids, name) in zip(
            texts,
            TRIPLE,
            (
                ("entity", entity_to_id, entity_name),
                ("relation", relation_to_id, relation_name),
                ("entity", entity_to_id, entity_name),
            ),
            strict=True,
        )
    )
    return head, relation, tail


def _id_of(
    text: str, told: str, kind: str, ids: Mapping[str, int], name: Callable[[int], str] | None, numeric: bool
) -> int:
    if not numeric and text in ids:
        return ids[text]
    found = [] if name is None else [label for label, number in ids.items() if name(number) == text]
    if len(found) == 1:
        return ids[found[0]]
    if found:
        raise InputError(f"{told} is the name of {len(found)}, {quote(found[0])} and others; give the label of one")
    if ID.fullmatch(text) and int(text) < len(ids):
        return int(text)
    argument, called = argument_of(kind)
    last = f"an id from 0 to {len(ids) - 1}"
    if numeric:
        raise InputError(f"{told} is not {last} of {called}", argument, called)
    like = folded_labels(ids).get(folded(text))
    hint = f"; it has {quote(like)}, which differs {difference(text, like)}" if like is not None else ""
    if like is None:
        known = chain(ids, () if name is None else map(name, ids.values()))
        near = [quote(label) for label in near_misses(text, known)]
        hint = f"; is it {' or '.join(near)}?" if near else ""
    names = "" if name is None else "nor the name of one, "
    raise InputError(f"{told} is not in {called} ({len(ids)} labels), {names}nor {last}{hint}", argument, called)
