"""Codes and numbers that belong to somebody though no list knows their word: 档案编号370200483917, NG-24-03361.

    list(codes("Cytology NG-24-03361"))   # [("RECORD_NUMBER", 9, 20, 0.35)]

Any word for number with five digits or more behind it, and any code of letters and digits that stands alone; the codes
of things stay: models, batches, medicines, genes, trials, sources.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from carellama.privacy.medical_context import ALIASES
from carellama.privacy.normalize import pattern
from carellama.privacy.numbers import DAY, UNIT

Found = tuple[str, int, int, float]

_CODE = r"(?P<value>(?=[A-Z\-/]{0,8}[0-9*])(?:[A-Z]{1,8}[\-/ ]?)?[0-9A-Z*]+(?:[\-/][0-9A-Z*]+){0,5})(?![A-Za-z0-9.%])"
# Any word that ends in "number" or "no.": who a number is of cannot be seen, but that it is one of somebody's.
_NUMBERED = (
    pattern(
        r"(?<![批型货文信符代色准床楼房标刊栋本])(?<!注册)(?<!备案)(?<!许可)(?:编\s?[号码]|[证卡单件户册次]\s?号码?|序列号|号码?|[码号]|"
        r"(?<![A-Za-z])ID|(?<![A-Za-z])id|条码|代码|流水)"
        rf"\s{{0,2}}[\"']?(?:[:=#]|是|为|\()?\s{{0,3}}[\"']?{_CODE}"
    ),
    pattern(
        r"(?<!lot )(?<!cat )(?<!cat\. )(?<!catalogue )(?<!batch )(?<!model )(?<!part )(?<!catalog "
        r")(?<!version )(?<!room )(?<!bed )(?<!icd )(?<!cpt )(?<!grant )"
        r"(?<!trial )(?<!atc )(?<!cas )(?<!zip )(?<!page )(?<!protocol )(?<!loinc )(?<!ndc )(?<!snomed )"
        r"\b(?:no\b\.?|nos\b\.?|nr\b\.?|number|num\b\.?|#|id|ident(?:ifier)?|ref(?:erence)?|serial(?: "
        r"(?:no\.?|number|num))?(?: of(?: the)? \w+)?|s/?n|code|acct\.?|acc\.?|rec\.?|enc\.?|adm\.?|"
        r"req\.?|spec\.?|hosp\.?|chart|claim|case|file|tag|barcode|tracking|confirmation)"
        rf"\s{{0,2}}[\"']?(?:[:=#]|is|was|no\.?)?\s{{0,3}}[\"']?{_CODE}",
        re.IGNORECASE,
    ),
)


# A code that stands alone: letters and five digits or more, in groups. Who has one belongs to somebody, unless the
# word before says that it is of a thing.
_FREE = pattern(
    r"(?<![A-Za-z0-9.\-/_@#&=?+:%])(?=[A-Z0-9\-/]*[A-Z])(?=(?:[A-Z\-/]*[0-9]){5})(?![0-9.]+(?:E|"
    r"X10)[0-9])(?!(?:[A-Z]\d){3})[A-Z0-9]+(?:[\-/][A-Z0-9]+){0,5}(?![A-Za-z0-9_@=.%]|[\-/][A-Za-z0-9])"
)
_THING = pattern(
    r"(?:model|cat(?:alog(?:ue)?)?|lot|batch|version|type|part|product|item|grant|trial|protocol|"
    r"registration|registered|isbn|issn|pmid|doi|icd(?:-?1[01])?|atc|cas|cpt|"
    r"loinc|snomed|ndc|variant|mutation|gene|snp|strain|plasmid|clone|antibody|accession|geo|"
    r"figure|fig|table|ref|standard|iso|astm|reg|"
    r"型号|批号|货号|别名|代号|化合物|试剂|规格|文号|准字|字号|标准|备案|注册证?|登记号|版本|编码为|基因|突变|位点|菌株|代码|基金|项目|课题|条例|专利|"
    r"许可证?)[号\w]{0,2}[.:：#\s]{0,3}(?:no|number)?[.:：#\s]{0,3}$",
    re.IGNORECASE,
)
_KNOWN_CODE = pattern(
    r"(?:FY|NCT|PMC|CHICTR|ISRCTN|EUCTR|RS|NM_?|GSE|GSM|SRR|PRJNA|CVCL|CHEMBL|DB|HMDB|GO|HP|OMIM|"
    r"ORPHA|COVID|SARS|PM|H1N|B1|CD|IL|DSM|GB|YY|ISO|GCP)-?\d|[HZSJTBF]\d{8}$|\d{1,3}M?[A-Z]{1,2}-[A-Z]|[A-Z]\d{2}[.X]?\d*$"
)
_MEASURED = pattern(  # 10000U, TAT1500-3000U, BP150-160/90, IQ120-129, G3P1010, pages P295-P296, T1N0M0
    r"(?:[A-Z]{1,6}-?)?\d+(?:[\-/]\d+)*(?:U|IU|KU|MU|EU|D|DA|KDA?|E|MG|UG|MCG|NG|ML|DL|G|L|KG|CM|MM|MIN|H|HZ|KHZ|MHZ|C|F|S|W|V|MV|X|Y|M)(?:/[A-Z0-9]+)*|"
    r"[A-Z]{1,6}\d{1,3}-\d{1,3}(?:/\d{1,3}(?:-\d{1,3})?)?|[A-Z]{1,6}\d{1,3}/\d{1,3}(?:-\d{1,3}/\d{1,3})?|"
    r"(?:CA-?\d{2,3}|CA15-3|CEA|AFP|PSA|SCC|NSE|TSH|FT3|FT4|T3|T4|ALT|AST|GGT|ALP|LDH|CK-?MB|CK|HBA1C|WBC|RBC|PLT|HGB|HCT|MCV|"
    r"NEUT|CRP|ESR|PCT|BNP|PRO-?BNP|NT-PROBNP|LDL-?C?|HDL-?C?|TG|TC|GLU|CREA?|BUN|UA|HCG|FSH|LH|PRL|AMH|INR|PTT?|APTT|FIB|"
    r"HB[VSCE][A-Z]*(?:-DNA)?|HCV(?:-RNA)?|HPV\d{0,2}|EBV(?:-DNA)?|CMV(?:-DNA)?|TP|ALB|TBIL|DBIL|TBA|CD\d{1,2}|IG[GMAED]\d?|"
    r"BMI|BP|HR|RR|HCO3|LVEF|EF|EGFR|IL-?\d{0,2}|TNF|MMSE|MOCA|GCS|IQ|SPO2|PAO2|PACO2|FEV1?|FVC|PEF)-?\d+(?:[\-/]\d+)?|"
    r"G\d{1,2}P\d{1,4}(?:A\d+)?(?:L\d+)?|P\d+-P?\d+|\d+(?:COPY|COPIES|IU|CFU|PFU|CELLS?)/?\d*|\d+-[A-Z]+\d+"
)
_SOURCE = pattern(r"文章编号|论文编号|PMID|NCT\d|ISBN|ISSN|PMID|PMC\d|DOI|国药|ChiCTR|ISRCTN|[HZSJ]\d{8}$|GB/?T")


def codes(plain: str) -> Iterator[Found]:
    """Yield the codes in a folded text that has digits: (kind, start, end, score)."""
    yield from _numbered(plain)
    yield from _free(plain)


def _free(plain: str) -> Iterator[Found]:
    for match in _FREE.finditer(plain):
        if sum(map(str.isdigit, match[0])) < 5 or len(match[0]) < 7 or _MEASURED.fullmatch(match[0]):
            continue
        if (
            _KNOWN_CODE.match(match[0])
            or _SOURCE.search(plain, max(0, match.start() - 4), match.end())
            or _THING.search(plain, max(0, match.start() - 24), match.start())
            or ALIASES.search(plain, max(0, match.start() - 160), match.start())
        ):
            continue
        if UNIT.match(plain, match.end()) or re.match(r"\d{2,4}[\-/]\d{1,2}[\-/]\d{1,2}", match[0]):
            continue
        yield "RECORD_NUMBER", *match.span(), 0.35


def _numbered(plain: str) -> Iterator[Found]:
    for form in _NUMBERED:
        for match in form.finditer(plain):
            value, end = match["value"], match.end("value")
            digits = sum(character.isdigit() for character in value)
            if (
                digits < 5
                or DAY.fullmatch(value)
                or UNIT.match(plain, end)
                or _SOURCE.search(plain, max(0, match.start() - 4), match.end())
                or not (value.isupper() or re.fullmatch(r"[\d\-/*]+", value))
            ):
                continue
            yield "RECORD_NUMBER", match.start("value"), end, 0.4
