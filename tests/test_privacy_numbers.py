"""Numbers survive de-identification: doses, ranges, lab values, formulas and temperatures come out as they went in."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carellama.privacy.deidentify import Deidentifier

MASK = Deidentifier()
SURROGATE = Deidentifier(mode="surrogate", secret=b"s")

NUMBER = st.one_of(
    st.integers(0, 999).map(str),
    st.decimals("0.01", "399.99", places=1).map(str),
    st.decimals("0.01", "39.99", places=2).map(str),
)
UNITS = (
    "mg g ml μg ug mcg IU U 片 粒 袋 支 ℃ ° % mmHg mmol/L g/L U/L U/ml ng/ml pg/mL μmol/L mIU/L ×10⁹/L *10^9/L "
    "10^12/L kg cm "
    "mm 次/分 次/min bpm 岁 周 天 个月 小时 mg/kg mg/d ml/h 万单位 度 级 分 kPa mEq/L fl"
).split()
JOINS = ["-", "~", "～", "—", "–", "至", " - ", "/", "*", "×", "+"]
VALUE = st.one_of(
    st.tuples(NUMBER, st.sampled_from(UNITS)).map("".join),
    st.tuples(NUMBER, st.just(" "), st.sampled_from(UNITS)).map("".join),
    st.tuples(NUMBER, st.sampled_from(JOINS), NUMBER, st.sampled_from(UNITS)).map("".join),
    st.tuples(st.sampled_from(["<", ">", "≤", "≥", "±", "约", "="]), NUMBER, st.sampled_from(UNITS)).map("".join),
)
LABS = (
    "IgM IgG IgA IgE CA125 CA199 CA15-3 CEA AFP PSA TSH FT3 FT4 T3 T4 ALT AST GGT ALP HbA1c WBC RBC PLT Hb HGB "
    "NEUT CRP "
    "hs-CRP ESR PCT BNP NT-proBNP LDL-C HDL-C TG TC GLU Cr BUN UA K Na Cl Ca pH PaO2 PaCO2 HCO3 SpO2 BP HR RR T "
    "BMI CD4 CD8 "
    "hCG β-HCG E2 P4 FSH LH AMH INR D-二聚体 HBV-DNA HPV16 EF LVEF eGFR 支原体IgM 肺炎衣原体IgG 白细胞 血红蛋白 "
    "血小板 血压 体温 心率 "
    "血糖 肌酐 尿酸 总胆红素 谷丙转氨酶 DMARDs NSAIDs"
).split()
LAB = st.tuples(st.sampled_from(LABS), st.sampled_from(["", " ", ":", "：", "=", " 为"]), st.one_of(VALUE, NUMBER)).map(
    "".join
)
FIXED = st.sampled_from(
    """1~2片|38~39℃|5*10mg|3×10⁹/L|<0.5 μg/mL|H₂O|pH<7.35|2.5–5 mg q8h|1_000|35.5.35.9.36.3|36.5.37.2|IgM0.08|
    血压120/80|BP 140/90mmHg|BP150-160/90|心率80次/分|q12h|0.9%氯化钠250ml|CA125 35.2U/ml|CD4 350|COVID-19|B超|26+3周|
    孕26+3周|G2P1|G3P1010|G2P1A0L1|T1N0M0|pT2N1M0|HPV16|HBV-DNA 7.593E+4|1.25E+05IU/ml|10000U|2000~4000U|TAT1500-3000U|
    P<0.05|OR 1.35 (95% CI 1.10-1.66)|R-CHOP|PM2.5|5-FU|HER2|C5-6|L4/L5|L4-5|T12|V1-V6|II-III级|3/6级|4/6|2级|
    ASA III|EF 55%|NYHA II|GCS 15|Apgar 9-10-10|
    5.0×4.2×3.1cm|1.2*0.8*0.6cm|12,000/µL|1,500 kcal|1:1000|1:64|1∶80|20/20|0.8/1.0|1/2片|半片|1.5倍|bid|tid|qid|prn|
    阿莫西林0.5g tid|头孢克肟50mg bid|布洛芬混悬液5ml|甲强龙40mg ivgtt|5%葡萄糖500ml|维生素D3 400IU|B12 500μg|
    泰诺林3.5ml|
    hs-cTnT 14ng/L|25(OH)D 18.5|37.8度|38度5|39°C|98.6°F|T 37.2|R 20|P 88|SpO2 98%|FiO2 0.21|PEEP 5|2型糖尿病|1型|
    NCT01234567|ICD-10 E11.9|E11.9|J18.901|K21.0|国药准字H20013062|批号20230518|DSM-5|CYP2C19*2|c.35delG|p.V600E|
    rs1801133|
    9:30|14:05|2023年|2024-01-15|2020.3.27|第3天|3/52|2/7|Day 3|1 tab po bid x 7 days|500 mg PO q6h|0.5-1 mg IV|
    10 mL/kg/h|
    80-100 bpm|112/68|temp 101.4|37.5-38.2|1.0-1.5 mg/dL|7.35-7.45|4,000-11,000|135–145 mmol/L""".replace(
        "\n", ""
    ).split("|")
).map(str.strip)
CARRIERS = [
    "患者目前{}，继续观察。",
    "建议{}，{}，一周后复查。",
    "化验单上写着{} {}，请问严重吗？",
    "医生给开了药，{}，吃了三天。",
    "结果：{}；{}；{}。",
    "{}",
    "昨天{}今天{}，孩子没精神。",
    "Take {} and come back if {} persists.",
    "Her results were {}, {} and {}.",
    "Labs: {} | {}",
    "1. {}\n2. {}",
    "给药方案（{}）是否合适",
]


@given(st.data(), st.sampled_from(CARRIERS))
@settings(max_examples=300)
def test_numbers_of_medicine_come_out_as_they_went_in(data, carrier):
    """D4: lab values, doses and temperatures were masked as accounts and network addresses."""
    text = carrier.format(*(data.draw(st.one_of(FIXED, LAB, VALUE)) for _ in range(carrier.count("{}"))))
    assert MASK(text) == (text, {})
    assert SURROGATE(text) == (text, {})


def test_a_dose_beside_identifiers_stays():
    text = "患者王小明，电话13800138000，体温35.5.35.9.36.3，布洛芬5*10mg，IgM0.08，1~2片。"
    masked, counts = MASK(text)
    assert masked == "患者[NAME_1]，电话[PHONE_1]，体温35.5.35.9.36.3，布洛芬5*10mg，IgM0.08，1~2片。"
    assert counts == {"NAME": 1, "PHONE": 1}


@pytest.mark.parametrize("text", ["ID号 s_7", "单用NSAIDs治疗1~2个月", "早期使用DMARDs125治疗", "糖尿病DM2型120天"])
def test_letters_within_a_word_are_no_word_for_account(text):
    """D4: ID of NSAIDs, DM of DMARDs and Ig of IgM were read as words for an account."""
    assert MASK(text) == (text, {})
