"""Everyday and medical English words that are written with a capital in titles, lists and headings, and are no names.

    "committee" in ORDINARY

They are asked for where a name is told by its capital alone; written for this project, sorted, not complete.
"""

from __future__ import annotations

ORDINARY = frozenset(
    """
    take ethics
    abdomen abdominal abnormal abstract account acquired adolescent adult advice advise agency alcoholic alive
    allergic allergies allergy ambulance anaemia anemia ankle answer answers anxiety anxious anyone anything
    arterial artery arthritis assessment assistant associated asthma asthmatic attached attachment attending
    atypical author authority available back background bacterial bay bed best better big bilateral billing
    biopsy block blood board body bone booster brain breast building bye bypass calcium came cancer capsule
    capsules carcinoma cardiology catheter cause causes cc cell cells central cervical chapter charge chart
    chest chief chloride city claim claims classic classical code colon comes comment comments committee
    comparison conclusion conclusions conference confused congenital control controlled council count county
    course covid-19 cream creatinine critical daily dead deceased deep dental depression dermatology desk
    development diabetes diabetic diet dietician diffuse directive director discussion distal divorced document
    dorsal double draft drain drinks drops due duration ear early ears eats ebola echo eight elbow elderly else
    enclosed endoscopy entrance epilepsy evaluation everything ex eye eyes factor factors failure faithfully
    fall falls fast fasting fat father's federal feel feeling feels fellow fiber figure film final findings fire
    five floor flu fluid fluids focal folder food foot form former forms forum four fracture free front full
    fungal fw fwd gel generalist geriatric gets getting global glucose goal goals goes going goodbye got
    government graft guideline guidelines gynecology haemoglobin hair half hand happy head healthy heart height
    help hemoglobin hepatitis herbal herpes high hip home home-based hope hoping hospice hourly hugs human
    hydrocortisone hypertension hypertensive idiopathic ill illegible imaging impression indication induced
    infant infection infections influenza inhaler injection injury inpatient insurance intake intensive
    interested intern internet introduction item items joint junior keto kidney kingdom knee knowing known knows
    laboratory large late lateral lead left-sided let letter leukaemia leukemia likely line little liver lives
    living lobby local look looking lotion love low lumbar lung lungs lupus lymphoma made magnesium main make
    makes malaria manager married mask maternity measles medial medic mediterranean meeting mellitus methods
    middle-aged migraine mind ministry mixed monthly mother's mouth multiple mumps muscle nasal natural nearby
    neck need needs negative neonate nerve neurology newborn nhs nine nobody non nonsmoker normal nose note
    nothing nutrition obesity objective obstetric office officer ointment oncology one online onset oral order
    orders outpatient output ovarian overleaf oxygen paediatric page pages palliative paramedic parking part
    parts pathology payment pediatric pediatrics pelvic pelvis penicillin people peripheral person persons pet
    pharmacy phosphate physio plan planning plans plasma platelet platelets pneumonia poison police policy polio
    positive possible post postpartum potassium practice practitioner precaution precautions pregnant pressure
    primary private probable program project prostate protein protocol proximal psychiatry psychology public
    publisher pulse put question questions rabies radiology re real recent reception rectal ref reference
    registrar rehab rehabilitation related replies reply republic required research residence resident retired
    review right-sided risk rounds rubella sad salt saturation scan scans scared scrub secondary section
    security see seeing seizure seizures senior sepsis serum seven severity shingles short shot shots shoulder
    sick signed sincerely single six skin sleeps slow small smoker smokes social sodium solution somebody
    someone something specialist spine spray stable staff state stent stroke strong student study subject sugar
    sulfa summary superficial supplement surgery surgical symptom symptoms syrup table teams technique teen
    teenager teeth temperature ten tertiary tetanus therapist think thinks thoracic thread three throat times
    tired toddler tooth topic topical total tower town training trauma trial trust trying tube tumor tumour
    twice twin twins two typical ultrasound uncontrolled unilateral united unlikely unsigned unstable urine
    urology uses using uterine vaccine vaccines valve vegan vein venous ventral verified version village viral
    visitors vitamin volume waiting walks want wants water weak website weekly weight went widowed wing wish
    wishes worker works world worried worse worst wound wrist xr yours zip zoster
    """.split()
)
