"""English names of persons that something says to be one: a marker (Name:), a title (Dr), my name is, a letter's end.

    list(names("Seen by Dr. Jane Doe today"))   # [("NAME", 12, 20, 0.8)]

Names that stand in a sentence are found in `names_en_prose`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from carellama.privacy.kinds import Span
from carellama.privacy.names_en_prose import is_listed
from carellama.privacy.normalize import compile_pattern
from carellama.privacy.rules import fragment_pattern
from carellama.privacy.word_lists import english

_W = (
    r"[A-ZÀ-ÞĀ-ſ](?:['’][A-Z])?[a-zà-ÿĀ-ſẠ-ỹ]+(?:['’\-][A-Z]?[a-zà-ÿĀ-ſẠ-ỹ]+)*(?:[A-Z][a-z]+)?|"
    r"[A-Z]{2,}(?:['\-][A-Z]+)*|Mc[A-Z][a-z]+"
)
_I = r"[A-Z]\.?(?![A-Za-z])"
_PARTICLE = r"(?:(?:de|del|de la|da|dos|di|van|van der|van den|von|bin|bint|ibn|al|el|la|le|st\.?|ter|ten)[ \-])"
_NAME = rf"{_PARTICLE}?(?:{_W}|{_I})(?: ?,? {{1,2}}{_PARTICLE}?(?:{_W}|{_I})){{0,3}}"
_LOOSE = r"[A-Za-zÀ-ÿĀ-ſẠ-ỹ][A-Za-zÀ-ÿĀ-ſẠ-ỹ'’\-]*\.?(?: ?,? {1,2}[A-Za-zÀ-ÿĀ-ſẠ-ỹ][A-Za-zÀ-ÿĀ-ſẠ-ỹ'’\-]*\.?){0,3}"
_SPACED = r"[A-Z](?: [A-Z]){2,12}(?![A-Za-z])"  # S M I T H
_IS = r"[\"']?(?: ?\([^()\n]{0,14}\))?\s{0,3}(?:[:=|#]{1,2}|-(?= ))\s{0,3}[\"']?"
_STRONG = (
    r"(?<![A-Za-z])(?:(?:patient|pt|client|full|first|last|middle|given|family|maiden|legal|preferred|"
    r"mother|father|guardian|parent|spouse|"
    r"husband|wife|emergency contact|contact|doctor|physician|provider|insured|subscriber|policy ?holder|cardholder|"
    r"carer|caregiver|member|customer|child|baby|next of kin|nurse|signatory|print)(?:'s)?[ "
    r"_]?(?:full |first |last )?names?|names?|surname|forename|"
    r"name of (?:the )?(?:patient|client|doctor|provider|insured|guardian|parent|child|applicant)|next "
    r"of kin|nok|emergency contact|contact person|guardian|attn|signed(?: by)?|signature|dictated "
    r"by|transcribed by|reported by|"
    r"reviewed by|verified by|prepared by|completed by|witness(?:ed by)?|attending(?: physician| "
    r"doctor)?|referring (?:physician|doctor|provider)|primary care (?:physician|provider|doctor)|"
    r"referred by|seen by|examined by|ordered by|admitted by|treated by|operated by|performed by|"
    r"requested by|consultant|pcp|gp|surgeon|anaesthetist|anesthesiologist|radiologist|pathologist|"
    r"midwife|caregiver|carer|insured|"
    r"policy ?holder|subscriber|accompanied by|informant|interpreter|social worker|case manager|"
    r"assistant|resident|intern|fellow|registrar|technician|sonographer|(?:physio)?therapist|dietitian|"
    r"pharmacist|counsell?or|teacher|employer|author|sender|recipient|applicant|claimant|employee|"
    r"student|donor|deceased|(?:health ?care )?proxy|power of attorney|poa|witness(?:ed)?|scrub nurse|"
    r"house officer|mother|father|spouse|husband|wife|partner|son|daughter|sister|brother|friend|"
    r"neighbou?r|primary contact|contact|assessor|examiner|reader|investigator|coordinator|trainee|"
    r"supervisor|owner|tenant|landlord|driver)"
)
_MARKED = compile_pattern(rf"{_STRONG}{_IS}(?P<value>{_LOOSE})", re.IGNORECASE)
_TITLE = compile_pattern(
    rf"(?<![A-Za-z])(?P<title>(?i:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Professor|Messrs|Mme|Rev))"
    rf"(?:\.\s?| {{1,2}})(?P<value>(?:{_SPACED})|{_NAME}|(?:[a-z]\. ?)?[a-z]{{2,}}(?: [a-z]+)?)"
)
_SAID = compile_pattern(
    r"\b(?:(?:my|his|her|their|the patient's|patient's|whose) (?:full |first |last |real )?name"
    r"(?: is(?: spel(?:led|t))?|'s|:| was)|name's|i am called|i'm called|call me"
    r"|(?:(?:who is|he is|she is|son|daughter|baby|"
    r"boy|girl|man|woman|patient|husband|wife|friend) (?:named|called)))"
    rf" ?(?P<value>{_LOOSE})",
    re.IGNORECASE,
)
_SIGN_OFF = compile_pattern(
    r"(?:^|[\n.!?,] ?)(?:(?:best|kind|warm|with|kindest|many)? ?(?:regards|wishes)|(?:yours "
    r")?(?:sincerely|faithfully|truly|respectfully)|(?:many )?thanks(?: again| in advance)?|thank you|signed|"
    r"cheers|yours|love|take care|best)(?: yours)?[,.!\-]{0,2}\s{1,3}[\-~]?\s?"
    rf"(?P<value>{_LOOSE})\s*(?=$|[\n.,(\-])",
    re.IGNORECASE,
)


_NAME_LINE = re.compile(r"[A-Z][\w.'\-]*(?:,? [A-Z][\w.'\-]*){1,3}\s*(?:\n|$)")  # nothing else stands in the line
_STOP_AT = compile_pattern(
    r"(?:,? )(?:(?i:dob|mrn|age|sex|gender|date|phone|tel|id|male|female|born|address|and|is|was|has|"
    r"who|with|the|on|at|in|from|for|ssn|nhs|room|ward|md|email|e-mail|cell|mobile|my|i|i'm|we|but|"
    r"please|or|of|by|to|dr|mr|mrs|ms|years?|aged?|relationship|ext)\b|an?\b)"
)
_BODIES = compile_pattern(
    r" (?:Committee|Board|Council|Team|Department|Clinic|Therapy|Authority|Trust|Agency|Group|Unit|Panel)\b", re.I
)
_TRADE = compile_pattern(
    r"(?:ologists?|iatrists?|icians?|(?:rapist|tist|macist|alist)s?|itis|osis|emia|oma|itus|ectomy|"
    r"ology|therapy|virus)$|\d"
)
_ORDINARY = compile_pattern(  # endings of words that are no names, unless the lists know them
    r"(?:tions?|sions?|ments?|ness|ities|ity|ances?|ences?|ical|ular|ous|able|ible|ing|ed|ism|ology|"
    r"graphy|scopy|plasty|pathy|mycin|cillin|olol|pril|sartan|statin|azole|idine|control|ward|clinic|team)$"
)


def names(plain: str) -> Iterator[Span]:
    """Yield the names in a folded text with Latin letters: (kind, start, end, score)."""
    for match in _MARKED.finditer(plain):
        if not _is_speech(plain, match.start("value")):
            yield from _cut(plain, match, loose=True, score=0.85)
    for match in _TITLE.finditer(plain):
        lower = match["value"].islower()
        if not lower or _known(match["value"]):
            yield from _cut(plain, match, score=0.8, loose=lower, known=lower)
    for match in _SAID.finditer(plain):
        named = "name" not in match[0].lower() or "named" in match[0].lower()
        yield from _cut(plain, match, loose=not named or _known_word(match["value"].split()[0]), score=0.85)
    for match in _SIGN_OFF.finditer(plain):
        if len(match["value"].split()) <= 3:
            yield from _cut(plain, match, score=0.7, loose=_known_word(match["value"].split()[0]), all_names=True)


def _is_speech(plain: str, start: int) -> bool:
    """Whether what somebody says begins here, and not a name: Assistant: Hm, I think."""
    first = re.match(r"[^\s,.!?]*", plain[start : start + 40])
    return bool(
        fragment_pattern("prose_en", "SPEAKER").search(plain, max(0, start - 16), start)
        and not (first and is_listed(first[0]))
        and not _NAME_LINE.match(plain, start)
    )


def _known_word(word: str) -> bool:
    word = word.lower().strip(".,'’")
    return (word in english().first_names or word in english().last_names) and word not in english().not_names


def _ordinary(bare: str) -> bool:
    """Whether a word in lower case is an everyday one by the list or its ending, and no known name."""
    if bare in english().ordinary:
        return True
    return bool(
        len(bare) > 4
        and _ORDINARY.search(bare)
        and bare not in english().first_names
        and bare not in english().last_names
    )


def _known(text: str) -> bool:
    return any(_known_word(word) for word in text.split())


def _cut(
    plain: str, match: re.Match[str], *, score: float, loose: bool = False, all_names: bool = False, known: bool = False
) -> Iterator[Span]:
    """Yield the name at the beginning of the group `value`: its words up to the first that is no name.

    `loose` takes words in lower case; `all_names` drops it when its first word is no name, or the whole is one
    frequent word; `known` asks each word to be in the lists.
    """
    start = match.start("value")
    value = match["value"]
    if stop := _STOP_AT.search(value):
        value = value[: stop.start()]
    if _BODIES.search(value):
        return
    end = 0
    for word in re.finditer(r"[^ ,]+", value):
        if not end and re.fullmatch(r"(?:de|del|da|dos|di|van|von|der|den|bin|ibn|al|el|la|le|ter|ten)", word[0]):
            continue
        bare = word[0].lower().strip(".,'’")
        bare = re.sub(r"['’]s$", "", bare)
        capital = word[0][0].isupper()
        if (
            (bare in english().not_names and not (end and capital and bare in english().last_names))
            or _TRADE.search(bare)
            or (not end and _ordinary(bare))
            or not bare
            or (not capital and not loose and not (end and re.match(r"(?:al|el|ul|bin|abu)-[A-Z]", word[0])))
            or (known and len(bare) > 1 and not _known_word(bare))
        ):
            if not (end and re.fullmatch(_PARTICLE.replace(r"[ \-]", ""), word[0])):
                break
            continue
        end = word.end()
    if not end or (end == 1 and not plain[start].isupper()):
        return
    text = value[:end].rstrip(" ,")
    if text.endswith(("'s", "’s")):
        text = text[:-2]
    bare_text = text.rstrip(".") if not re.search(r"(?: |^)[A-Z]\.$", text) else text
    if len(bare_text.strip(".")) < 2 or (
        fragment_pattern("prose_en", "EPONYM_CONTEXT", re.IGNORECASE).match(plain, start + len(bare_text))
    ):
        return
    if (
        (all_names and len(bare_text) < 3)
        or bare_text.lower() in english().phrases
        or plain.startswith("_", start + len(bare_text))
    ):
        return
    if fragment_pattern("prose_en", "MACHINE", re.IGNORECASE).match(plain, start + len(bare_text)):
        return
    if bare_text.isupper() and len(bare_text) < 5 and " " not in bare_text and not _known_word(bare_text):
        return
    yield "NAME", start, start + len(bare_text), score
