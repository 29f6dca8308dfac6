"""Everyday and medical English words that are written with a capital in titles, lists and headings, and are no names.

    "committee" in ORDINARY

They are asked for where a name is told by its capital alone; written for this project, sorted, not complete.
"""

from __future__ import annotations

ORDINARY = frozenset(
    """
    abdomen abdominal abnormal account acquired adolescent adult advice advise agency alcoholic allergic
    allergies allergy ambulance anaemia anemia ankle answer answers anxiety anyone anything arterial artery
    arthritis assessment assistant associated asthma asthmatic attached attachment attending authority back
    bacterial bay bed best better big bilateral billing biopsy block blood board body bone booster brain breast
    building bypass calcium came cancer capsule capsules carcinoma cardiology catheter cause causes cc cell
    cells central cervical chapter charge chart chest chief chloride city claim claims code colon comes comment
    comments committee conference congenital control controlled council count county course covid-19 cream
    creatinine critical daily deep dental depression dermatology desk diabetes diabetic diet diffuse directive
    director distal document dorsal double draft drain drops due duration ear early ears ebola echo elbow
    elderly enclosed endoscopy entrance epilepsy evaluation everything ex eye eyes factor factors failure
    faithfully fall falls fast fasting fat federal feel feeling feels fellow fiber figure film final fire floor
    flu fluid fluids focal folder food foot form former forms forum fracture free front full fungal fw fwd gel
    generalist geriatric gets getting global glucose goal goals goes going got government graft gynecology
    haemoglobin hair half hand happy head healthy heart height help hemoglobin hepatitis herbal herpes high hip
    home home-based hoping hospice hourly human hydrocortisone hypertension hypertensive idiopathic ill imaging
    induced infant infection infections influenza inhaler injection injury inpatient insurance intake intensive
    intern internet item items joint junior keto kidney kingdom knee knowing known knows laboratory large late
    lateral lead left-sided let letter leukaemia leukemia likely line little liver living lobby look looking
    lotion low lumbar lung lungs lupus lymphoma made magnesium main make makes malaria manager mask maternity
    measles medial medic mediterranean meeting mellitus middle-aged migraine mind ministry mixed monthly mouth
    multiple mumps muscle nasal natural neck need needs negative neonate nerve neurology newborn nhs nobody non
    normal nose note nothing nutrition obesity obstetric office officer ointment oncology online onset oral
    order orders outpatient output ovarian overleaf oxygen paediatric page pages palliative paramedic parking
    part parts pathology payment pediatric pediatrics pelvic pelvis penicillin people peripheral person persons
    pet pharmacy phosphate plan planning plans plasma platelet platelets pneumonia poison police policy polio
    positive possible post postpartum potassium practice practitioner precaution precautions pregnant pressure
    primary private probable program project prostate protein protocol proximal psychiatry psychology public
    pulse put question questions rabies radiology re real recent reception rectal ref reference registrar rehab
    rehabilitation related replies reply republic research residence resident review right-sided risk rounds
    rubella sad salt saturation scan scans scrub secondary section security see seeing seizure seizures senior
    sepsis serum severity shingles short shot shots shoulder sick signed sincerely single skin slow small smoker
    social sodium solution somebody someone something specialist spine spray stable staff state stent stroke
    strong student study subject sugar sulfa summary superficial supplement surgery surgical symptom symptoms
    syrup table teams teen teenager teeth temperature tertiary tetanus think thinks thoracic thread throat times
    tired toddler tooth topic topical total tower town training trauma trial trust trying tube tumor tumour
    twice twin twins ultrasound uncontrolled unilateral united unlikely unsigned unstable urine urology using
    uterine vaccine vaccines valve vegan vein venous ventral verified version village viral vitamin volume
    waiting want wants water weak website weekly weight went wing worker world worse worst wound wrist xr yours
    zip zoster
    """.split()
)
