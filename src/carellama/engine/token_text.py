r"""The texts of single tokens, of which some are only a part of a character: bytes that are no text yet.

    token_text("<0xE6>", "\ufffd")      # "\udce6": the byte E6, escaped as PEP 383 has it, so that nothing is lost
    raw_bytes("\udce6"), shown("\udce6")           # b"\xe6", "\ufffd"
    raw_bytes("\ufffd")                            # None: who told of the token knew only that it is no text

`TokenLogprob` has its texts so. The other way round, `told_text` reads them from a server's answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from carellama.engine.detokenizer import REPLACEMENT_CHARACTER

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")  # SentencePiece: a token for each byte
SURROGATE = re.compile("[\ud800-\udfff]")
NAMED_BYTES = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)")  # OpenAI's name of such a token in /v1/completions


@cache
def _byte_alphabet() -> dict[str, int]:
    """The characters that byte-level vocabularies write for bytes (GPT-2, `bytes_to_unicode`)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + at): byte for at, byte in enumerate(others)}


def token_text(piece: str | None, decoded: str) -> str:
    """Return the text of a token by its name in the vocabulary and what the decoder makes of it."""
    if REPLACEMENT_CHARACTER not in decoded or not piece:
        return decoded
    if found := BYTE_PIECE.fullmatch(piece):
        return _escaped(bytes([int(found[1], 16)]))
    alphabet = _byte_alphabet()
    if not alphabet.keys() >= set(piece):
        return decoded
    return _escaped(bytes(alphabet[letter] for letter in piece))


def told_text(text: str, told: Sequence[int] | None = None) -> str:
    """Return the text of a token that a server tells of, with its `bytes` where the server knows these."""
    if named := NAMED_BYTES.fullmatch(text):
        return _escaped(bytes.fromhex(named[1].replace("\\x", "")))
    text = SURROGATE.sub(REPLACEMENT_CHARACTER, text)
    if REPLACEMENT_CHARACTER in text and told and bytes(told) != text.encode():
        return _escaped(bytes(told))
    return text


def raw_bytes(text: str) -> bytes | None:
    """Return the bytes of a token; None where they are not known."""
    return None if REPLACEMENT_CHARACTER in text else text.encode("utf-8", "surrogateescape")


def shown(text: str) -> str:
    """Return the text of a token as people see it, U+FFFD for what is no character."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if SURROGATE.search(text) else text


def named(text: str) -> str:
    r"""Return the name of a token in /v1/completions: `bytes:\xe6` for a part of a character, as OpenAI has it."""
    raw = raw_bytes(text)
    if raw is None or not SURROGATE.search(text):
        return text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _escaped(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
