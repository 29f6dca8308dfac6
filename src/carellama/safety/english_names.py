"""English names of persons: after a marker (Name:), a title (Dr), in a sentence (my name is), under a letter.

    list(names("Seen by Dr. Jane Doe today"))   # [("NAME", 12, 20, 0.8)]

A name that stands alone in a sentence is found only when its first name is a frequent one and an age, a date of
birth or a degree follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from carellama.safety.name_lists import EPONYM_AFTER, FIRST_NAMES, LAST_NAMES, NOT_NAMES_EN
from carellama.safety.ordinary_words import ORDINARY
from carellama.safety.spelling import pattern

Found = tuple[str, int, int, float]

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
_MARKED = pattern(rf"{_STRONG}{_IS}(?P<value>{_LOOSE})", re.IGNORECASE)
_BY = pattern(
    rf"\b(?:(?i:signed|dictated|reviewed|seen|examined|referred|treated|accompanied|interviewed|"
    rf"assessed|admitted|operated on|performed|counsell?ed|discharged|witnessed|"
    rf"prescribed|ordered|verified|written|brought in|cared for|delivered) (?i:by)|(?i:next of kin|"
    rf"emergency contact|contact person|guardian|attending|nok|c/o|attn|on behalf of|care of|"
    rf"spoke (?:with|to))(?i: is)?) (?P<value>{_NAME})"
)
_LABEL = pattern(
    rf"\b(?:Patient|Pt|Doctor|Nurse|Physician|Mother|Father|Wife|Husband|Provider|Client|"
    rf"PATIENT|pt|patient)\s?[:\-] ?(?P<value>{_NAME}|{_LOOSE})(?=$|[\n,.;(|]| \d| - | / )"
)
_TITLE = pattern(
    rf"(?<![A-Za-z])(?P<title>(?i:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Professor|Messrs|Mme|Rev))"
    rf"(?:\.\s?| {{1,2}})(?P<value>(?:{_SPACED})|{_NAME}|(?:[a-z]\. ?)?[a-z]{{2,}}(?: [a-z]+)?)"
)
_TITLE_WORD = pattern(
    rf"\b(?:Doctor|Nurse|Sister|Matron|Midwife|Surgeon|Professor|Sir|Uncle|Aunt|Auntie|Pastor|"
    rf"Father)\s(?P<value>{_NAME})"
)
_SAID = pattern(
    r"\b(?:(?:my|his|her|their|the patient's|patient's|whose) (?:full |first |last |real )?name"
    r"(?: is(?: spel(?:led|t))?|'s|:| was)|name's|i am called|i'm called|call me"
    r"|(?:(?:who is|he is|she is|son|daughter|baby|"
    r"boy|girl|man|woman|patient|husband|wife|friend) (?:named|called)))"
    rf" ?(?P<value>{_LOOSE})",
    re.IGNORECASE,
)
_I_AM = pattern(rf"\b(?:(?i:i am|i'm|im|this is|it's|it is|here is)) (?P<value>{_NAME})(?P<after>[^\n]{{0,12}})")
_KIN = pattern(
    r"(?:\b(?i:my|his|her|their|our|the|patient's|the patient's|by|with|from|to|and) |"
    r"(?:^|[.;\n] ?)(?=[A-Z]))(?i:mother|father|mom|mum|dad|husband|"
    r"wife|son|daughter|sister|brother|partner|fianc[eé]e?|boyfriend|girlfriend|"
    r"uncle|aunt|cousin|nephew|niece|grandmother|grandfather|grandma|grandpa|friend|neighbou?r|carer|"
    r"caregiver|baby|child|kid|spouse|roommate|colleague|patient|twins?),? "
    rf"\(?(?P<value>{_NAME})"
)
_SIGN_OFF = pattern(
    r"(?:^|[\n.!?,] ?)(?:(?:best|kind|warm|with|kindest|many)? ?(?:regards|wishes)|(?:yours "
    r")?(?:sincerely|faithfully|truly|respectfully)|(?:many )?thanks(?: again| in advance)?|thank you|signed|"
    r"cheers|yours|love|take care|best)(?: yours)?[,.!\-]{0,2}\s{1,3}[\-~]?\s?"
    rf"(?P<value>{_LOOSE})\s*(?=$|[\n.,(\-])",
    re.IGNORECASE,
)
_GREETING = pattern(
    rf"\b(?i:dear|hi|hello|hey|good morning|good afternoon|good evening|attention|thanks|thank "
    rf"you)[, ] ?(?P<value>{_NAME})(?=\s?[,!.:\n\-]|$)"
)
_DEGREE = pattern(
    rf"(?P<value>(?:{_W}|{_I})(?: (?:{_W}|{_I})){{1,3}}),? (?:M\.?D\.?|R\.?N\.?|N\.?P\.?|PA-C|MBBS|D\.?O\.|"
    rf"FRCS|FRCP|MRCP|MRCGP|Ph\.?D\.?|DDS|DNP|FACC|FACS|LCSW|CRNA|Pharm\.?D\.?|LPN|MS|"
    rf"MBChB)(?![A-Za-z])"
)
_AGED = pattern(
    rf"(?<![A-Za-z'’\-])(?P<value>(?:{_W})(?: (?:{_W}|{_I})){{1,2}})(?=,? ?\(?(?:is |was )?(?:an? |"
    rf"aged? )?\d{{1,3}}(?:[ \-]?(?:y\b|yo\b|y/o|yrs?\b|years?)|,|\)|[MF]\b)|,? \(?(?i:dob|d\.o\.b|"
    rf"born|aged|mrn|ssn|nhs|date of birth)\b|,? (?i:was (?:admitted|seen|discharged|referred|brought|"
    rf"born)|lives at|lives in|residing|phone|tel|called (?:to|from)|presented))"
)
_PATIENT = pattern(
    rf"\b(?:[Pp]atient|[Pp]t|PATIENT|[Cc]lient|[Rr]esident|[Mm]ember|[Bb]aby|[Nn]urse|[Cc]ontact|"
    rf"[Ww]itness|[Ii]nformant|[Aa]ttending|[Dd]octor|[Pp]hysician|[Ss]urgeon|[Cc]onsultant|"
    rf"[Tt]herapist),? (?P<value>{_NAME})"
)
_CALL = pattern(
    rf"\b(?i:call|ask for|contact|tell|told|text|e-?mail|inform|notify|notified|with|for|by|from|visit|thank) "
    rf"(?P<value>{_NAME})(?= (?i:at|on|about|that|to|in|from|who|if|when|for|and|by|is|was)\b|'s |[.,;!?)]|$)"
)
_HERE = pattern(
    rf"(?:\bI, |^|[,.!\n] ?)(?P<value>{_NAME})(?=,? (?i:here|speaking|calling|consent|declare|agree|"
    rf"hereby|authori[sz]e|give|the undersigned|request|confirm))"
)
_RE = pattern(
    rf"\b(?i:re|regarding|concerning|subject|to|from|cc)\s?:\s?(?P<value>{_NAME})(?P<after>,? "
    rf"\(?(?i:dob|d\.o\.b|born|mrn|aged?|nhs|\d))?"
)
_ROLE = pattern(  # Scribe: Ilse Brandt
    rf"(?<=er|or|st|an|nt|ee|be|eg|ns):\s{{1,3}}(?P<value>(?:{_W}|{_I})(?: (?:{_W}|{_I})){{1,2}})"
    r"(?=$|[\n,.;(|])"
)
_LOWER = pattern(r"\b(?:pt|patient|client)\.? (?P<value>[a-z]+ [a-z]{2,})")
_BARE_KIN = pattern(
    r"\b(?i:mother|father|mom|mum|dad|husband|wife|son|daughter|sister|brother|partner|uncle|aunt|"
    r"cousin|friend) (?P<value>[A-Z][a-z]+)"
)
_YEARS_OLD = pattern(
    rf"(?<![A-Za-z'’\-])(?P<value>(?:{_W})(?: (?:{_W}|{_I})){{1,2}})(?= (?:is|was) an? \d{{1,3}}[ \-]|"
    rf",? \(?(?:dob|DOB|MRN)\b|, an? \d{{1,3}}[ \-]year)"
)
_LAST_FIRST = pattern(rf"^\s*(?P<value>(?:{_W}), (?:{_W})(?: {_I})?)(?=\s*(?:$|\n|\(|DOB|MRN|\d))", re.MULTILINE)
_STOP_AT = pattern(
    r"(?:,? )(?:(?i:dob|mrn|age|sex|gender|date|phone|tel|id|male|female|born|address|and|is|was|has|"
    r"who|with|the|on|at|in|from|for|ssn|nhs|room|ward|md|email|e-mail|cell|mobile|my|i|i'm|we|but|"
    r"please|or|of|by|to|dr|mr|mrs|ms|years?|aged?|relationship|ext)\b|an?\b)"
)


_BODIES = pattern(
    r" (?:Committee|Board|Council|Team|Department|Clinic|Therapy|Authority|Trust|Agency|Group|Unit|Panel)\b", re.I
)
_TELLS = pattern(
    r",? ?\(|,? (?:is|was|dob|d\.o\.b|born|mrn|nhs|ssn|lives|aged?|an?|date of birth)\b|, ?\d\d\b", re.IGNORECASE
)
_GREETED = pattern(r"(?:hi|hello|hey|all|everyone|morning|evening|afternoon|doctor|there)[,.! ]{1,3}$", re.IGNORECASE)
_TRADE = pattern(
    r"(?:ologists?|iatrists?|icians?|(?:rapist|tist|macist|alist)s?|itis|osis|emia|oma|itus|ectomy|"
    r"ology|therapy|virus)$|\d"
)
_ORDINARY = pattern(  # endings of words that are no names, unless the lists know them
    r"(?:tions?|sions?|ments?|ness|ities|ity|ances?|ences?|ical|ular|ous|able|ible|ing|ed|ism|ology|"
    r"graphy|scopy|plasty|pathy|mycin|cillin|olol|pril|sartan|statin|azole|idine|control|ward|clinic|team)$"
)


def names(plain: str) -> Iterator[Found]:
    """Yield the names in a folded text with Latin letters: (kind, start, end, score)."""
    for match in _MARKED.finditer(plain):
        short = match[0].lower().startswith(("to", "from", "re", "cc"))
        yield from _cut(plain, match, loose=not short, score=0.85)
    for match in _CALL.finditer(plain):
        words = match["value"].split()
        if _known_word(words[0]) or (
            _looks_named(words) and re.match(r" (?:is|was|who|about|that)\b|'s", plain[match.end() :])
        ):
            yield from _cut(plain, match, score=0.65, all_names=True)
    for form, score in (
        (_BY, 0.8),
        (_TITLE_WORD, 0.75),
        (_GREETING, 0.7),
        (_DEGREE, 0.8),
        (_YEARS_OLD, 0.7),
        (_LAST_FIRST, 0.6),
    ):
        for match in form.finditer(plain):
            yield from _cut(plain, match, score=score)
    for match in _LABEL.finditer(plain):
        if len(match["value"].split()) > 1 and (
            match["value"].istitle() or match["value"].isupper() or _known(match["value"])
        ):
            yield from _cut(plain, match, score=0.75, all_names=True, loose=_known(match["value"]))
    for match in _TITLE.finditer(plain):
        lower = match["value"].islower()
        if not lower or _known(match["value"]):
            yield from _cut(plain, match, score=0.8, loose=lower, known=lower)
    for match in _SAID.finditer(plain):
        named = "name" not in match[0].lower() or match[0].lower().find("named") >= 0
        yield from _cut(plain, match, loose=not named or _known_word(match["value"].split()[0]), score=0.85)
    for match in _I_AM.finditer(plain):
        first, *rest = match["value"].split()
        if (
            _known_word(first)
            or (
                not rest
                and not match["value"].isupper()
                and _GREETED.search(plain, max(0, match.start() - 16), match.start())
                and re.match(r",? (?:and|from|a|an|i|i'm|i've)\b|[,.]", match["after"], re.IGNORECASE)
            )
            or (
                not rest
                and re.match(r" (?:again|here|speaking|calling)\b|, ?\d{2}\b(?! ?(?:mg|ml|days|weeks))", match["after"])
            )
            or (
                rest
                and not match["value"].isupper()
                and re.match(r"$|[ ,.!]*(?:$|\d|from|and|here|again|calling|speaking|a |an )|[,.]", match["after"])
            )
        ):
            yield from _cut(plain, match, score=0.7, all_names=True)
    yield from _in_sentences(plain)


def _in_sentences(plain: str) -> Iterator[Found]:
    """Yield the names behind roles, relatives, greetings and at the end of letters."""
    for match in _ROLE.finditer(plain) if ":" in plain else ():
        if _looks_named(match["value"].split()):
            yield from _cut(plain, match, score=0.7)
    for match in _LOWER.finditer(plain):
        if match["value"].split()[0] in FIRST_NAMES:
            yield from _cut(plain, match, score=0.65, loose=True)
    for form in (_HERE, _RE):
        for match in form.finditer(plain):
            if _known(match["value"]) or match[0].startswith("I, ") or (form is _RE and match["after"]):
                yield from _cut(plain, match, score=0.7, all_names=True)
    for match in _KIN.finditer(plain):
        yield from _cut(plain, match, score=0.7, all_names=True)
    for match in _SIGN_OFF.finditer(plain):
        if len(match["value"].split()) <= 3:
            loose = _known_word(match["value"].split()[0])
            yield from _cut(plain, match, score=0.7, loose=loose, all_names=True)
    for match in _BARE_KIN.finditer(plain):
        if match["value"].lower() in FIRST_NAMES:
            yield "NAME", *match.span("value"), 0.65
    for form in (_AGED, _PATIENT):
        for match in form.finditer(plain):
            words = match["value"].split()
            if (
                words[0].lower().strip(",.") in FIRST_NAMES
                or (len(words) > 1 and words[-1].lower().strip(",.") in LAST_NAMES)
                or (_looks_named(words) and (form is _PATIENT or _TELLS.match(plain, match.end())))
            ):
                yield from _cut(plain, match, score=0.7, all_names=True)


def _known_word(word: str) -> bool:
    word = word.lower().strip(".,'’")
    return (word in FIRST_NAMES or word in LAST_NAMES) and word not in NOT_NAMES_EN


def _ordinary(bare: str) -> bool:
    """Whether a word in lower case is an everyday one by the list or its ending, and no known name."""
    if bare in ORDINARY:
        return True
    return bool(len(bare) > 4 and _ORDINARY.search(bare) and bare not in FIRST_NAMES and bare not in LAST_NAMES)


def _looks_named(words: list[str]) -> bool:
    """Whether two capitalised words or more may be an unknown name: none of them is an ordinary one."""
    bare = [word.lower().strip(".,'’") for word in words]
    return len(words) > 1 and all(
        word not in NOT_NAMES_EN
        and not _TRADE.search(word)
        and not _ordinary(word)
        and not (len(text) > 1 and text.isupper())
        for word, text in zip(bare, words, strict=True)
    )


def _known(text: str) -> bool:
    return any(_known_word(word) for word in text.split())


def _cut(
    plain: str, match: re.Match[str], *, score: float, loose: bool = False, all_names: bool = False, known: bool = False
) -> Iterator[Found]:
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
            (bare in NOT_NAMES_EN and not (end and capital and bare in LAST_NAMES))
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
    if len(bare_text.strip(".")) < 2 or (re.match(EPONYM_AFTER, plain[start + len(bare_text) :], re.IGNORECASE)):
        return
    if all_names and len(bare_text) < 3:
        return
    if bare_text.isupper() and len(bare_text) < 5 and " " not in bare_text and not _known_word(bare_text):
        return
    yield "NAME", start, start + len(bare_text), score
