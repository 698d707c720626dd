"""Puts the code of a changed source file into the functions of a module that is already imported."""

import gc
import inspect
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType

Pair = tuple[CodeType, CodeType]
Functions = dict[tuple[str, str], list[FunctionType]]


def functions() -> Functions:
    """All functions that there are now, by file and qualified name: to be called before `gc.freeze`."""
    found: Functions = defaultdict(list)
    for each in gc.get_objects():
        if isinstance(each, FunctionType):
            found[each.__code__.co_filename, each.__code__.co_qualname].append(each)
    return found


def swap(known: Functions, path: Path, before: str, after: str) -> bool:
    """Give a module's functions the code of another source, wherever they are referred to.

    Args:
        known: what `functions` gave after the import.
        path: the module's file, as its code objects name it.
        before: the source that was imported.
        after: the other source.
    Returns:
        whether that was all: False, with nothing changed, where code differs that ran at the import.
    """
    old, new = (compile(source, str(path), "exec", dont_inherit=True) for source in (before, after))
    pairs = changed(old, new)
    if pairs is None:
        return False
    found = [(function, code) for was, code in pairs for function in _alike(known, was)]
    if {id(code) for _, code in found} != {id(code) for _, code in pairs}:
        return False
    for function, code in found:
        function.__code__ = code
    return True


def changed(old: CodeType, new: CodeType) -> list[Pair] | None:
    """The outermost functions whose code differs; None where code outside of functions does."""
    if _shell(old) != _shell(new):
        return None
    found: list[Pair] = []
    for was, now in zip(_inner(old), _inner(new), strict=True):
        if not was.co_flags & inspect.CO_OPTIMIZED:  # the body of a class
            deeper = changed(was, now)
            if deeper is None:
                return None
            found += deeper
        elif not _is_same(was, now):
            found.append((was, now))
    return found


def _is_same(a: CodeType, b: CodeType) -> bool:
    return _shell(a) == _shell(b) and all(map(_is_same, _inner(a), _inner(b)))


def _inner(code: CodeType) -> list[CodeType]:
    return [each for each in code.co_consts if isinstance(each, CodeType)]


def _shell(code: CodeType) -> tuple[object, ...]:
    """What a code object does, without the code objects inside it and without its lines."""
    # repr: 1, 1.0 and True are equal
    consts = [None if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return code.co_code, consts, code.co_names, code.co_varnames, code.co_exceptiontable


def _alike(known: Functions, code: CodeType) -> Iterator[FunctionType]:
    for each in known.get((code.co_filename, code.co_qualname), []):
        found = each.__code__
        if found.co_code == code.co_code and found.co_freevars == code.co_freevars:
            yield each
